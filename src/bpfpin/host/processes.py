"""Which processes have maps, programs and links open: one look at every descriptor (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bpfpin.host.users import DESCRIPTORS_MAX, PROC
from bpfpin.objects.kernel.object import ObjectKind

# What a descriptor is open on, and the line of its fdinfo that has the id.
_FIELDS: Final = {
    "anon_inode:bpf-map": (ObjectKind.MAP, "map_id"),
    "anon_inode:bpf-prog": (ObjectKind.PROGRAM, "prog_id"),
    "anon_inode:bpf-link": (ObjectKind.LINK, "link_id"),
    "anon_inode:bpf_link": (ObjectKind.LINK, "link_id"),
}

Held = tuple[ObjectKind, int]


@dataclass(frozen=True, slots=True)
class Holder:
    """A process and the objects it has open, each once, by kind and id.

    *is_elsewhere*: it is in another mount namespace, where it may see pins that we do not.
    """

    pid: int
    name: str
    held: tuple[Held, ...]
    is_elsewhere: bool = False


@dataclass
class Holders:
    """The processes found; *hidden* counts those that this user may not look into."""

    processes: list[Holder] = field(default_factory=list)
    hidden: int = 0
    is_cut: bool = False


def all_holders(*, proc: Path = PROC, descriptors_max: int = DESCRIPTORS_MAX) -> Holders:
    """Return the processes that have an object open, without this one and kernel threads.

    After *descriptors_max* descriptors the rest is left out: `is_cut`.
    """
    found, left, own = Holders(), descriptors_max, os.getpid()
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):  # noqa: PTH208
        if pid == own:
            continue
        process = f"{proc}/{pid}"
        try:
            descriptors = os.listdir(f"{process}/fd")  # noqa: PTH208  (names, not paths)
        except PermissionError:
            found.hidden += 1
            continue
        except OSError:  # ended meanwhile
            continue
        left -= len(descriptors)
        if left < 0:
            found.is_cut = True
            break
        if held := sorted(set(_held(process, descriptors)), key=lambda one: (one[0].value, one[1])):
            is_elsewhere = _mounts(process) != _mounts(f"{proc}/self")
            found.processes.append(Holder(pid, _command(process), tuple(held), is_elsewhere))
    return found


def _held(process: str, descriptors: list[str]) -> Iterator[Held]:
    for fd in descriptors:
        with suppress(OSError, ValueError, IndexError):  # closed meanwhile
            field_ = _FIELDS.get(os.readlink(f"{process}/fd/{fd}"))  # noqa: PTH115  (no path)
            if field_ is not None:
                yield field_[0], _id(f"{process}/fdinfo/{fd}", field_[1])


def _id(path: str, name: str) -> int:
    with open(path, encoding="ascii", errors="replace") as lines:  # noqa: PTH123  (fast)
        return int(next((line for line in lines if line.startswith(f"{name}:")), "").split()[-1])


def _mounts(process: str) -> str:
    try:
        return os.readlink(f"{process}/ns/mnt")  # noqa: PTH115  (no path)
    except OSError:
        return ""


def _command(process: str) -> str:
    try:
        return Path(process, "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return "ended meanwhile"
