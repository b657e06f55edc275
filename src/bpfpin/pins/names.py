"""Names in bpffs: one reversible encoding, and what a pin set calls its parts.

bpffs refuses names with a dot (EPERM), `/` separates components, and `~` and `@` stand for
something in our own names; `%` is refused in device names by the kernel and so is free to escape.
"""

from __future__ import annotations

import os
import re
from typing import Final

from bpfpin.errors import Argument, Fix, PinNameError, Placeholder

LOCK_DIRECTORY: Final = "bpfpin~"
PROGRAMS: Final = "programs~"
LINKS: Final = "links~"
LAYOUTS: Final = "layouts~"
OBJECTS: Final = "objects~"
MANIFEST: Final = "manifest~"
PREVIOUS: Final = "previous~"
COMMIT: Final = "commit~"
ABORT: Final = "abort~"
FOLDS: Final = "folds~"
FOLDING: Final = "folding~"
SHARED: Final = "shared~"
UNSHARED: Final = "unshared~"
CONFIRM: Final = "confirm~"
TARGETS: Final = "targets~"
SWITCHED: Final = "switched~"
STAGE_SUFFIX: Final = "~stage"

PARTS: Final = frozenset({OBJECTS, PROGRAMS, LINKS, LAYOUTS, FOLDS})
"""The directories of a generation; they go over into the next one."""

MARKS: Final = frozenset({PREVIOUS, COMMIT, ABORT, FOLDING, SWITCHED, SHARED, UNSHARED, CONFIRM})
"""The directories of a transaction or a trial in a generation; they never go over."""

TEXTS: Final = frozenset({MANIFEST, TARGETS})
"""The symlinks of a generation, and of a stage."""

NAME_LENGTH_MAX: Final = 255  # NAME_MAX, in bytes

_SPECIAL = frozenset(b"%.~@/ \x7f") | frozenset(range(0x20))
_ESCAPE = re.compile(rb"%([0-9a-f]{2})")
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DATA_SECTION = re.compile(r"\.(?:rodata|data|bss|kconfig)(?:[A-Za-z0-9_.$-]*)", re.ASCII)


def encode(part: str) -> str:
    """Return *part* as (a part of) one name in bpffs; `PinNameError` if none can be made of it."""
    raw = os.fsencode(part)
    if not raw:
        raise PinNameError("a name in bpffs cannot be empty")
    encoded = b"".join(b"%%%02x" % byte if byte in _SPECIAL else bytes((byte,)) for byte in raw)
    return _checked(os.fsdecode(encoded))


def decode(text: str) -> str:
    """Return what `encode` was given; what is no escape of ours stays as it is."""
    raw = _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), os.fsencode(text))
    return os.fsdecode(raw)


def set_name(device: str, netns: str | None = None) -> str:
    """Return the directory of the set of *device*, in network namespace *netns* if one is named."""
    return _checked(f"{encode(netns)}@{encode(device)}" if netns else encode(device))


def cgroup_set_name(path: str) -> str:
    """Return the directory of the set of a cgroup; *path* is below the cgroup2 mount."""
    return _checked("@" + encode(path.strip("/") or "/"))


def display_name(directory: str) -> str:
    """Return the name of a set as a user types it: `eth0.100`, `blue@eth0`."""
    return "@".join(decode(part) for part in directory.split("@"))


def map_pin_name(name: str) -> str:
    """Return the pin of map *name*: itself, or the encoded name of a data section.

    Raises `PinNameError` for any other name: a name made fit could meet another map's.
    """
    if _C_IDENTIFIER.fullmatch(name):
        return _checked(name)
    if _DATA_SECTION.fullmatch(name):
        return encode(name)
    raise PinNameError(f"map name {name!r} cannot be pinned: it is no C identifier")


def program_pin_name(name: str) -> str:
    """Return the pin of program *name*; `PinNameError` if it is no C identifier."""
    if _C_IDENTIFIER.fullmatch(name):
        return _checked(name)
    raise PinNameError(f"program name {name!r} cannot be pinned: it is no C identifier")


def link_pin_name(hook: str, program: str | None = None) -> str:
    """Return the pin of the link at *hook*; *program* is given where a hook has several."""
    return _checked(f"{hook}~{program}" if program else hook)


def hook_of_link(name: str) -> str:
    """Return the hook that `link_pin_name` was given."""
    return name.partition("~")[0]


def fold_pin_name(map_pin: str, number: int, part: str) -> str:
    """Return the pin of a part of the fold of a map; a map may have several, by number."""
    return _checked(f"{map_pin}~{number}~{part}")


def stage_name(set_directory: str) -> str:
    """Return where the next generation of a set is built."""
    return _checked(set_directory + STAGE_SUFFIX)


def is_set_name(directory: str) -> bool:
    """Whether a directory of the pin root could be a set: ours carry no bare `~`."""
    return "~" not in directory


def _checked(name: str) -> str:
    length = len(os.fsencode(name))
    if length <= NAME_LENGTH_MAX:
        return name
    raise PinNameError(
        f"{name[:40]!r}… is {length} bytes long in bpffs, where a name has at most"
        f" {NAME_LENGTH_MAX}",
        hint=Fix.of("choose a shorter one: ", Argument("name", Placeholder("NAME"))),
    )
