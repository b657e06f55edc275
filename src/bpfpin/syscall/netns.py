"""Network namespaces of the calling thread: enter, leave, name, identify.

A name is a file that `ip netns add` mounts in /run/netns. Only the network namespace changes. So
bpffs stays visible, unlike in `ip netns exec`, which mounts a new /sys over it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpfpin.choices import similar
from bpfpin.errors import BpfError, NamespaceNotFoundError
from bpfpin.syscall.call import LIBC, checked
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor

NAMED = Path("/run/netns")
# setns(2) moves one thread; /proc/self would be the namespace of the main thread.
OWN = Path("/proc/thread-self/ns/net")
CLONE_NEWNET = 0x40000000


def path_of(name: str | Path) -> Path:
    """Return the file of a namespace: a name is one in /run/netns, a path stays as it is."""
    return Path(name) if os.sep in os.fspath(name) else NAMED / name


def names() -> list[str]:
    """Return the names of all named namespaces, sorted."""
    return sorted(entry.name for entry in NAMED.iterdir()) if NAMED.is_dir() else []


def is_namespace(name: str | Path) -> bool:
    """Whether the file is a namespace: if `ip netns add` is killed, it leaves an empty file."""
    try:
        # Files of namespaces are all in the one file system nsfs.
        return path_of(name).stat().st_dev == OWN.stat().st_dev
    except OSError:
        return False


def open_namespace(name: str | Path) -> Descriptor:
    """Open a namespace; `NamespaceNotFoundError` hints at similar names."""
    try:
        return Descriptor(os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise _with_names(
            syscall_error("open netns", error.errno or 0, target=str(name)), name
        ) from None


def _with_names(error: BpfError, name: str | Path) -> BpfError:

    if isinstance(error, NamespaceNotFoundError):
        near = similar(os.fspath(name), names()) or names()
        error.hint = f"there are: {', '.join(near)}" if near else "there are none in /run/netns"
    return error


@contextmanager
def enter(name: str | Path | None) -> Iterator[None]:
    """Run the block in namespace *name* (setns(2)); None: in the current one.

    Only this thread moves, and it always comes back.
    """
    if name is None:
        yield
        return
    # Opened before the move: afterwards `OWN` is the other namespace.
    with Descriptor(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)) as home:
        with open_namespace(name) as namespace:
            _move(namespace, str(name))
        try:
            yield
        finally:
            _move(home, "the namespace we came from")


def _move(namespace: Descriptor, target: str) -> None:
    # The kernel refuses a file of another kind of namespace, as the kind is given (EINVAL;
    # setns(2)).
    checked("setns", LIBC.setns(namespace.fileno(), CLONE_NEWNET), target=target)


def inode(name: str | Path | None = None) -> int:
    """Return the inode number that identifies a namespace; None: that of this thread."""
    if name is None:
        return OWN.stat().st_ino
    with open_namespace(name) as namespace:
        return os.fstat(namespace.fileno()).st_ino


def unshare() -> None:
    """Move this thread into a new network namespace that ends with it (unshare(2))."""
    checked("unshare", LIBC.unshare(CLONE_NEWNET), target="a new network namespace")
