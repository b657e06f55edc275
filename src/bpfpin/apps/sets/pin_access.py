"""Pins of a set that let more users in than the set was loaded for."""

from __future__ import annotations

import grp
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bpfpin.pins.manifest import Access
from bpfpin.pins.pinset import PinSet

_READ_AND_WRITE = 0o066  # of group and others
_DOES = {0o2: "write", 0o4: "read", 0o6: "read and write"}


@dataclass(frozen=True, slots=True)
class OpenPin:
    """A pin that is open to more than it should be, in words, and the mode it should have."""

    path: Path
    reason: str
    mode: int


def open_pins(found: PinSet) -> Iterator[OpenPin]:
    """Yield the pins of the set whose mode or group lets in whom its manifest does not name.

    Programs and links are nobody else's at all.
    """
    access = found.manifest.access if found.manifest else None
    for path in found.maps.values():
        yield from _too_open(path, access or Access())
    for path in (*found.programs.values(), *found.links.values()):
        yield from _too_open(path, Access())


def _too_open(path: Path, access: Access) -> Iterator[OpenPin]:
    try:
        status = path.lstat()
    except OSError:  # unloaded meanwhile, or not to be seen by this user
        return
    mode = stat.S_IMODE(status.st_mode)
    allowed = access.mode
    if access.gid is not None and status.st_gid != access.gid:
        allowed &= ~stat.S_IRWXG
    extra = mode & ~allowed & _READ_AND_WRITE
    if extra:
        yield OpenPin(path, f"mode {mode:04o} lets {_who(extra, status.st_gid)}", allowed)


def _who(extra: int, gid: int) -> str:
    group, others = _DOES.get(extra >> 3 & 6, ""), _DOES.get(extra & 6, "")
    if group == others:
        return f"group {_group_name(gid)} and everybody {group} it"
    said = {f"group {_group_name(gid)}": group, "everybody": others}
    return " and ".join(f"{who} {does} it" for who, does in said.items() if does)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
