"""Names in bpffs: the reversible encoding, and the names of the parts of a pin set.

bpffs refuses names with a dot (EPERM, bpf_lookup() of kernel/bpf/inode.c). `/` separates the
components of a path. `~` marks names of this tool: it is in no C identifier, so they never meet the
name of a map or a program. `@` separates a network namespace from a device. All of these are
encoded as `%xx`; no device has a `%` in its name (net/core/dev.c takes it only as `%d`, which it
replaces by a number), so that it is free as the escape character.

What each of the folders and marks means is in the docstring of module `transaction`.
"""

from __future__ import annotations

import os
import re
from typing import Final

from bpfpin.errors import PinNameError
from bpfpin.hints import Argument, Fix, Placeholder

LOCK_DIRECTORY: Final = "bpfpin~"  # in the pin root: the lock, and records of several sets
# In each generation:
PROGRAMS: Final = "programs~"  # pins of the programs
LINKS: Final = "links~"  # pins of the links, by hook
SLOTS: Final = "slots~"  # pins of the arrays of stubs, by hook, and of maps of gates, by program
LAYOUTS: Final = "layouts~"  # symlinks: BTF of each map's key and value
OBJECTS: Final = "objects~"  # symlinks: the ids of all objects that the set pinned
MANIFEST: Final = "manifest~"  # a symlink: JSON about the whole set
FOLDS: Final = "folds~"  # pins of old maps, and of the programs that move their contents
# Only during a change:
PREVIOUS: Final = "previous~"  # pins of the programs that the hooks run until the switch
COMMIT: Final = "commit~"  # the change is committed: recovery rolls forward
ABORT: Final = "abort~"  # a hook refused: recovery rolls back
FOLDING: Final = "folding~"  # contents of maps are being moved: no roll-back any more
SHARED: Final = "shared~"  # what the exchange of shared names needs, and its reversal
UNSHARED: Final = "unshared~"  # symlinks: the shared names to remove
TARGETS: Final = "targets~"  # a symlink: the token of the common record of several sets
SWITCHED: Final = "switched~"  # the hooks of several sets are switched: no roll-back any more
CONFIRM: Final = "confirm~"  # the change is on trial
STAGE_SUFFIX: Final = "~stage"

PARTS: Final = frozenset({OBJECTS, PROGRAMS, LINKS, SLOTS, LAYOUTS, FOLDS})
"""The directories of a generation; the next generation has them too."""

MARKS: Final = frozenset({PREVIOUS, COMMIT, ABORT, FOLDING, SWITCHED, SHARED, UNSHARED, CONFIRM})
"""The directories of a change or a trial in a generation; the next generation does not get them."""

TEXTS: Final = frozenset({MANIFEST, TARGETS})
"""The symlinks of a generation, and of a stage."""

NAME_LENGTH_MAX: Final = 255  # NAME_MAX, in bytes

_SPECIAL = frozenset(b"%.~@/ \x7f") | frozenset(range(0x20))
_ESCAPE = re.compile(rb"%([0-9a-f]{2})")
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DATA_SECTION = re.compile(r"\.(?:rodata|data|bss|kconfig)(?:[A-Za-z0-9_.$-]*)", re.ASCII)


def encode(part: str) -> str:
    """Encode *part* for use in a name in bpffs; `PinNameError` if it is empty or too long."""
    raw = os.fsencode(part)
    if not raw:
        raise PinNameError("a name in bpffs cannot be empty")
    encoded = b"".join(b"%%%02x" % byte if byte in _SPECIAL else bytes((byte,)) for byte in raw)
    return _checked(os.fsdecode(encoded))


def decode(text: str) -> str:
    """Undo `encode`; other characters stay as they are."""
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
    """Return the name of the pin of map *name*: the name itself, or encoded for a data section.

    Raises `PinNameError` for any other name: changed to fit, it could equal another map's name.
    """
    if _C_IDENTIFIER.fullmatch(name):
        return _checked(name)
    if _DATA_SECTION.fullmatch(name):
        return encode(name)
    raise PinNameError(f"map name {name!r} cannot be pinned: it is not a C identifier")


def program_pin_name(name: str) -> str:
    """Return the name of the pin of a program; `PinNameError` unless it is a C identifier."""
    if _C_IDENTIFIER.fullmatch(name):
        return _checked(name)
    raise PinNameError(f"program name {name!r} cannot be pinned: it is not a C identifier")


def link_pin_name(hook: str, program: str | None = None, target: str | None = None) -> str:
    """Return the name of the pin of the link at *hook*.

    *program* is given if the hook has several, *target* if that program has several targets there.
    """
    parts = [hook, *([program] if program else []), *([encode(target)] if target else [])]
    return _checked("~".join(parts))


def hook_of_link(name: str) -> str:
    """Return the hook that `link_pin_name` was given."""
    return name.partition("~")[0]


def fold_pin_name(map_pin: str, number: int, part: str) -> str:
    """Return the name of the pin of one part of fold *number* of a map (module `folds`)."""
    return _checked(f"{map_pin}~{number}~{part}")


def aside_name(prefix: str, name: str, suffix: str = "") -> str:
    """Return the name to which an entry of others moves; *name* is cut where that is too long."""
    # In bytes: the kernel counts these, and a character takes up to four.
    room = NAME_LENGTH_MAX - len(os.fsencode(prefix + suffix))
    return prefix + os.fsdecode(os.fsencode(name)[:room]) + suffix


def stage_name(set_directory: str) -> str:
    """Return the name of the directory in which the next generation of a set is built."""
    return _checked(set_directory + STAGE_SUFFIX)


def is_set_name(directory: str) -> bool:
    """Whether *directory* can be the name of a set: these contain no `~`, which is encoded."""
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
