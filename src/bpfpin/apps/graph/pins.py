"""All pins of the host, of maps, programs and links: one walk over every mounted bpffs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from bpfpin.apps.pinned import BpffsWalk, bpffs_roots
from bpfpin.errors import BpfError, PermissionDeniedError
from bpfpin.objects.info import (
    LinkInfo,
    MapInfo,
    ProgramInfo,
    link_info,
    map_info,
    program_info,
)
from bpfpin.objects.kernel_object import ObjectKind
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import u32
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ObjectFlag

Info = TypeVar("Info")

_KINDS: Final = {
    "anon_inode:bpf-map": ObjectKind.MAP,
    "anon_inode:bpf-prog": ObjectKind.PROGRAM,
    # The kernel writes bpf_link where a link is made, bpf-link where one is opened.
    "anon_inode:bpf-link": ObjectKind.LINK,
    "anon_inode:bpf_link": ObjectKind.LINK,
}


class _IdAnswer(ctypes.Structure):
    """How the infos of maps, programs and links begin."""

    _fields_ = [*u32("type", "id")]


@dataclass(frozen=True, slots=True)
class Pin:
    """A name in bpffs, and the kind and id of what it names."""

    path: str
    kind: ObjectKind
    id: int


@dataclass
class Pins:
    """What the walk found, what the kernel says of each object by id, and what was left out."""

    pins: list[Pin] = field(default_factory=list)
    maps: dict[int, MapInfo] = field(default_factory=dict)
    programs: dict[int, ProgramInfo] = field(default_factory=dict)
    links: dict[int, LinkInfo] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def all_pins(pin_root: Path, *, with_infos: bool) -> Pins:
    """Find what is pinned below *pin_root* and in every other bpffs that is mounted here.

    *with_infos* asks the kernel about each object, too. Symbolic links are not followed;
    `notes` says what this user may not open, and where the walk ended at a limit.
    """
    found, walk = Pins(), BpffsWalk()
    for root in bpffs_roots(pin_root):
        for path in walk.files(root):
            _add(path, found, walk, with_infos=with_infos)
    found.notes += walk.notes()
    return found


def _add(path: str, found: Pins, walk: BpffsWalk, *, with_infos: bool) -> None:
    try:
        with Descriptor(_open(path)) as there:
            kind = _KINDS.get(os.readlink(f"/proc/self/fd/{there.fileno()}"))  # noqa: PTH115 (fast)
            if kind is None:
                return
            answer = _IdAnswer()
            bpf.obj_get_info_by_fd(there.fileno(), answer)
            if with_infos:
                _keep_info(there.fileno(), kind, found)
    except PermissionDeniedError:
        walk.unreadable.append(path)
    except BpfError:  # gone meanwhile
        return
    else:
        found.pins.append(Pin(path, kind, answer.id))


def _open(path: str) -> int:
    try:
        return bpf.obj_get(path)
    except PermissionDeniedError:
        # A map may be open to readers; programs and links know no such way.
        return bpf.obj_get(path, flags=ObjectFlag.RDONLY)


def _keep_info(fd: int, kind: ObjectKind, found: Pins) -> None:
    if kind is ObjectKind.MAP:
        _keep(found.maps, map_info, fd)
    elif kind is ObjectKind.PROGRAM:
        _keep(found.programs, program_info, fd)
    else:
        _keep(found.links, link_info, fd)


def _keep(infos: dict[int, Info], ask: Callable[[int], Info], fd: int) -> None:
    info = ask(fd)
    infos[info.id] = info  # type: ignore[attr-defined]  # all three have one
