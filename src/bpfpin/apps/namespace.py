"""The network namespace that a command works in."""

from __future__ import annotations

from contextlib import AbstractContextManager

from bpfpin.syscall import netns


def entered(name: str) -> AbstractContextManager[object]:
    """Enter network namespace *name* (of `ip netns`, or a path); the mounts stay as they are.

    Raises `NamespaceNotFoundError` if there is none, `PermissionDeniedError` without
    CAP_SYS_ADMIN. Stands on setns(2).
    """
    return netns.enter(name)
