"""Who else may open the maps of a set: its group and mode, and the directories on the way."""

from __future__ import annotations

import os
import stat

from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Access


def set_access(directory: Directory, access: Access) -> None:
    """Let those open the maps in *directory* whom *access* names; what is so already stays."""
    for entry in directory.names():
        if stat.S_ISREG(directory.stat(entry).st_mode):
            set_map_access(directory, entry, access)
    _open_directory(directory, access)
    if directory.has(names.LAYOUTS):
        with directory.child(names.LAYOUTS) as layouts:
            _open_directory(layouts, access)


def set_map_access(directory: Directory, pin: str, access: Access) -> None:
    """Set group and mode of one pin."""
    there = directory.stat(pin)
    if access.gid is not None and there.st_gid != access.gid:
        directory.chown_group(pin, access.gid)
    if stat.S_IMODE(there.st_mode) != access.mode:
        directory.chmod(pin, access.mode)


def _open_directory(directory: Directory, access: Access) -> None:
    there = directory.status
    if access.gid is not None and there.st_gid != access.gid:
        os.fchown(directory.fileno(), -1, access.gid)
    if stat.S_IMODE(there.st_mode) != access.directory_mode:
        os.fchmod(directory.fileno(), access.directory_mode)
