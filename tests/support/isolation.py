"""Private mount and network namespaces for the whole test process.

Kernel and lab tests pin, mount and make devices; here they cannot meet the host's pins, nor leave
anything behind: all of it ends with the process.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(kind: str, target: Path) -> None:
    """Mount a fresh file system of *kind* on *target*."""
    subprocess.run(["mount", "-t", kind, kind, str(target)], check=True)


def umount(target: Path) -> None:
    """Unmount *target*; an error if something still uses it."""
    subprocess.run(["umount", str(target)], check=True)


def isolate() -> None:
    """Move this process into namespaces of its own, with a bpffs and an empty /run/netns.

    Pins are to end with the tests, which `load` has to be told (`BPFPIN_PRIVATE_MOUNT`).
    """
    os.environ["BPFPIN_PRIVATE_MOUNT"] = "1"
    _unshare(CLONE_NEWNS | CLONE_NEWNET)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    mount("tmpfs", Path("/run"))
    Path("/run/netns").mkdir()
    mount("bpf", Path("/sys/fs/bpf"))
    tracing = Path("/sys/kernel/tracing")
    if tracing.is_dir() and not (tracing / "events").exists():
        mount("tracefs", tracing)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
