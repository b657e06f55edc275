"""What the kernel reports of its objects (BPF_OBJ_GET_INFO_BY_FD), as frozen records.

A number for which this version knows no name stays a number.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from bpfpin.errors import IdNotFoundError
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import BtfInfoAnswer, LinkInfoAnswer, MapInfoAnswer, ProgInfoAnswer
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, LinkType, MapType, ProgramType

ID = "id:"
NAME = "name:"
KERNEL_NAME_LENGTH = 15

Family = TypeVar("Family", bound=IntEnum)
Info = TypeVar("Info")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """A map: sizes in bytes, *name* as the kernel keeps it (15 characters), BTF ids 0 for none."""

    type: MapType | int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    name: str
    ifindex: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    map_extra: int
    btf_vmlinux_id: int = 0  # of struct_ops: the kernel's own type of the value
    btf_vmlinux_value_type_id: int = 0


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A program; *tag* is the hash of its code, run times count while bpf statistics are on.

    *load_time_ns* is nanoseconds since boot, *run_time_ns* all runs together.
    """

    type: ProgramType | int
    id: int
    tag: str
    name: str
    map_ids: tuple[int, ...]
    load_time_ns: int
    uid: int
    is_gpl_compatible: bool
    ifindex: int
    btf_id: int
    run_count: int
    run_time_ns: int
    recursion_misses: int
    jited_size: int
    xlated_size: int
    verified_instructions: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link; what its type does not have is None. *ifindex* 0: the device is gone.

    *target_id* is the id of the program (of the BTF object, for a kernel function) whose function a
    tracing or extension program is attached to.
    """

    type: LinkType | int
    id: int
    program_id: int
    ifindex: int | None = None
    attach_type: AttachType | int | None = None
    cgroup_id: int | None = None
    netns_inode: int | None = None
    map_id: int | None = None
    target_id: int | None = None

    @property
    def is_attached(self) -> bool:
        """Whether its device or cgroup is still there, as far as links of its type have one."""
        return 0 not in (self.ifindex, self.cgroup_id)


@dataclass(frozen=True, slots=True)
class BtfInfo:
    """A BTF object; *size* of its blob in bytes, *is_kernel* for vmlinux and modules."""

    id: int
    size: int
    name: str
    is_kernel: bool


# How `place` of a link's info reads, after its type (linux/bpf.h, struct bpf_link_info).
PLACES: dict[int, tuple[str, tuple[str, ...]]] = {
    LinkType.XDP: ("<I", ("ifindex",)),
    LinkType.TCX: ("<II", ("ifindex", "attach_type")),
    LinkType.NETKIT: ("<II", ("ifindex", "attach_type")),
    LinkType.CGROUP: ("<QI", ("cgroup_id", "attach_type")),
    LinkType.NETNS: ("<II", ("netns_inode", "attach_type")),
    LinkType.TRACING: ("<II", ("attach_type", "target_id")),
    LinkType.STRUCT_OPS: ("<I", ("map_id",)),
    LinkType.SOCKMAP: ("<II", ("map_id", "attach_type")),
}


def named(family: type[Family], number: int) -> Family | int:
    """Return the member of *family*, or the number itself where the kernel is newer than we."""
    try:
        return family(number)
    except ValueError:
        return number


def map_info(fd: int) -> MapInfo:
    """Return what the kernel says of the map *fd*."""
    answer = MapInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    return MapInfo(
        type=named(MapType, answer.type),
        name=_text(answer.name),
        **{field: int(getattr(answer, field)) for field in _PLAIN_MAP_FIELDS},
    )


_PLAIN_MAP_FIELDS = tuple(set(MapInfo.__dataclass_fields__) - {"type", "name"})


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel says of the program *fd*."""
    answer = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    return ProgramInfo(
        type=named(ProgramType, answer.type),
        id=answer.id,
        tag=bytes(answer.tag).hex(),
        name=_text(answer.name),
        map_ids=_map_ids(fd, answer.nr_map_ids),
        load_time_ns=answer.load_time,
        uid=answer.created_by_uid,
        is_gpl_compatible=bool(answer.gpl_compatible & 1),
        ifindex=answer.ifindex,
        btf_id=answer.btf_id,
        run_count=answer.run_cnt,
        run_time_ns=answer.run_time_ns,
        recursion_misses=answer.recursion_misses,
        jited_size=answer.jited_prog_len,
        xlated_size=answer.xlated_prog_len,
        verified_instructions=answer.verified_insns,
    )


def program_id(fd: int) -> int:
    """Return the id of the program *fd*, in one call."""
    answer = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    return int(answer.id)


def _map_ids(fd: int, count: int) -> tuple[int, ...]:
    if not count:
        return ()
    ids = (ctypes.c_uint32 * count)()
    answer = ProgInfoAnswer(nr_map_ids=count, map_ids=ctypes.addressof(ids))
    bpf.obj_get_info_by_fd(fd, answer)
    return tuple(ids[: min(count, answer.nr_map_ids)])


def link_info(fd: int) -> LinkInfo:
    """Return what the kernel says of the link *fd*."""
    answer = LinkInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    form, names = PLACES.get(answer.type, ("<", ()))
    place: dict[str, int] = dict(zip(names, struct.unpack_from(form, answer.place), strict=True))
    if "attach_type" in place:
        place["attach_type"] = named(AttachType, place["attach_type"])
    return LinkInfo(named(LinkType, answer.type), answer.id, answer.prog_id, **place)


def btf_info(fd: int) -> BtfInfo:
    """Return what the kernel says of the BTF *fd*."""
    name = ctypes.create_string_buffer(64)
    answer = BtfInfoAnswer(name=ctypes.addressof(name), name_len=len(name))
    bpf.obj_get_info_by_fd(fd, answer)
    return BtfInfo(answer.id, answer.btf_size, _text(name.value), bool(answer.kernel_btf))


def fdinfo(fd: int) -> dict[str, str]:
    """Return the fields of /proc/self/fdinfo: `memlock` in bytes, `frozen`, and others."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


# All maps, programs and links of the host, by id (CAP_SYS_ADMIN).


def map_ids() -> Iterator[int]:
    """Yield the ids of all maps (BPF_MAP_GET_NEXT_ID)."""
    return _ids(bpf.map_get_next_id)


def program_ids() -> Iterator[int]:
    """Yield the ids of all programs (BPF_PROG_GET_NEXT_ID)."""
    return _ids(bpf.prog_get_next_id)


def link_ids() -> Iterator[int]:
    """Yield the ids of all links (BPF_LINK_GET_NEXT_ID)."""
    return _ids(bpf.link_get_next_id)


def maps() -> Iterator[MapInfo]:
    """Yield what the kernel reports of every map; one that goes away meanwhile is left out."""
    return _infos(map_ids(), bpf.map_get_fd_by_id, map_info)


def programs() -> Iterator[ProgramInfo]:
    """Yield what the kernel reports of every program; as `maps`."""
    return _infos(program_ids(), bpf.prog_get_fd_by_id, program_info)


def links() -> Iterator[LinkInfo]:
    """Yield what the kernel reports of every link; as `maps`."""
    return _infos(link_ids(), bpf.link_get_fd_by_id, link_info)


def _ids(next_id: Callable[[int], int | None]) -> Iterator[int]:
    found = next_id(0)
    while found is not None:
        yield found
        found = next_id(found)


def _infos(
    ids: Iterator[int], open_id: Callable[[int], int], read: Callable[[int], Info]
) -> Iterator[Info]:
    for object_id in ids:
        with contextlib.suppress(IdNotFoundError), Descriptor(open_id(object_id)) as there:
            yield read(there.fileno())


def type_with_article(kind: MapType | int) -> str:
    """Return the name of a type of map for a sentence: `an array`, `a queue`."""
    name = type_name(kind)
    return f"{'an' if name[0] in 'aix' or name.startswith(('lpm_', 'lru_')) else 'a'} {name}"


def type_name(kind: MapType | int) -> str:
    """Return the kernel's word for a map type, in lower case."""
    return kind.name.lower() if isinstance(kind, MapType) else str(kind)
