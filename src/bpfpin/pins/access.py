"""Who else may open the maps of a set: its group and mode, and the directories on the way."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from bpfpin.errors import PinNotFoundError
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, Kind
from bpfpin.pins.manifest import Access
from bpfpin.pins.ownership import Entry, owner_of


def set_access(directory: Directory, access: Access) -> None:
    """Let those open the maps in *directory* whom *access* names; what is so already stays.

    Pins of others in it stay as they are.
    """
    owner = owner_of(directory)
    for name, kind in directory.kinds().items():
        if kind is Kind.PIN and owner.owns(directory, Entry("", name, kind)):
            set_map_access(directory, name, access)
    _open_directory(directory, access)
    for folder in (names.LAYOUTS, names.OBJECTS):
        with suppress(PinNotFoundError), directory.child(folder) as below:
            _open_directory(below, access)


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
