"""Asks for the privileges of a whole job before its first step, so that the answer names them."""

from __future__ import annotations

from bpfpin.errors import PermissionDeniedError
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.uapi import Cmd


def require_attach(job: str) -> None:
    """Raise `PermissionDeniedError` unless this thread may load programs and attach them."""
    missing = missing_capabilities(Cmd.LINK_CREATE)
    if missing:
        message = f"{job} needs {' and '.join(missing)}"
        raise PermissionDeniedError(message, missing=missing, errno=0)
