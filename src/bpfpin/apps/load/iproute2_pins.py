"""Where `tc` and `ip` keep the pins of `struct bpf_elf_map`, so that we share maps with them.

Facts from iproute2's lib/bpf_legacy.c (6.1; a build with libbpf asks the same functions): below the
mount point of bpffs each kind of program has a directory, and all but the first are symlinks to it
(`xdp -> tc`) unless they were made as directories before. In it, pinning 1 is a directory named by
the SHA-1 of the object file, pinning 2 is `globals`; the other numbers are looked up in a table of
directories below the mount point. A number that is not in the table asks for no pin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from bpfpin.pins import names
from bpfpin.spec import MapSpec, ObjectSpec, Pinning
from bpfpin.syscall import fs
from bpfpin.uapi import ProgramType

# Where distributions put iproute2's tables; newer ones keep an untouched copy below /usr.
TABLES: Final = (
    Path("/etc/iproute2/bpf_pinning"),
    Path("/usr/share/iproute2/bpf_pinning"),
    Path("/usr/lib/iproute2/bpf_pinning"),
)
GLOBALS: Final = "globals"
_OWN_NUMBERS = frozenset({0, 1, 2})
_FIRST = "tc"
_DIRECTORIES = {
    ProgramType.XDP: "xdp",
    ProgramType.LWT_IN: "ip",
    ProgramType.LWT_OUT: "ip",
    ProgramType.LWT_XMIT: "ip",
    ProgramType.LWT_SEG6LOCAL: "ip",
}


def pin_path(
    spec: ObjectSpec, wanted: MapSpec, *, pin_root: Path, tables: Iterable[Path] = TABLES
) -> Path | None:
    """Return where iproute2 pins map *wanted* of object *spec*; None where it would not.

    The object's own directory cannot be known of an object that was read from bytes, or whose file
    changed meanwhile.
    """
    mount_point = _mount_point(pin_root)
    name = names.map_pin_name(wanted.name)
    if wanted.pinning is Pinning.FILE:
        subpath = custom_directories(tables).get(wanted.pinning_id)
        return mount_point / subpath / name if subpath else None
    directory = mount_point / _directory(spec, mount_point)
    if wanted.pinning is Pinning.GLOBAL_NAMESPACE:
        return directory / GLOBALS / name
    digest = _object_hash(spec)
    return directory / digest / name if digest else None


def custom_directories(tables: Iterable[Path] = TABLES) -> dict[int, PurePosixPath]:
    """Return the directories below bpffs by pinning number, from the first table that exists.

    A line is `NUMBER DIRECTORY`, `#` begins a comment. As in iproute2 the numbers 0 to 2 are its
    own, the last line of a number counts, and reading ends at a line that is neither; a directory
    that leads out of bpffs counts as such a line.
    """
    table = next((table for table in tables if table.is_file()), None)
    text = table.read_text(errors="surrogateescape") if table else ""
    found: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        number, directory = _entry(words)
        if directory is None:
            break
        if number not in _OWN_NUMBERS:
            found[number] = directory
    return found


def _entry(words: list[str]) -> tuple[int, PurePosixPath | None]:
    try:
        number, directory = int(words[0], 0), PurePosixPath(words[1].lstrip("/"))
    except (ValueError, IndexError):
        return 0, None
    return number, None if ".." in directory.parts else directory


def _mount_point(pin_root: Path) -> Path:
    """Return where the bpffs of *pin_root* is mounted; *pin_root* itself where none is."""
    place = pin_root
    while place.parent.is_dir() and fs.is_bpffs(place.parent):
        place = place.parent
    return place


def _directory(spec: ObjectSpec, mount_point: Path) -> str:
    types = {program.type for program in spec.programs.values()}
    own = _DIRECTORIES.get(types.pop(), _FIRST) if len(types) == 1 else _FIRST
    place = mount_point / own
    return own if place.is_dir() and not place.is_symlink() else _FIRST


def _object_hash(spec: ObjectSpec) -> str:
    try:
        data = Path(spec.path).read_bytes()
    except OSError:
        return ""
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        return ""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
