"""The kernel's reports of maps, programs, links and BTF (BPF_OBJ_GET_INFO_BY_FD), as records.

A number that this version has no name for, such as a newer type, stays an `int`.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from bpfpin.errors import IdNotFoundError
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import BtfInfoAnswer, LinkInfoAnswer, MapInfoAnswer, ProgInfoAnswer
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, LinkType, MapType, ProgramType

ID = "id:"
NAME = "name:"

# More maps than programs usually refer to; the kernel allows 64 (MAX_USED_MAPS).
_MAP_IDS = 64

Family = TypeVar("Family", bound=IntEnum)
Info = TypeVar("Info")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel reports of a map.

    Args:
        type: The type of the map.
        id: The id, unique on this host until it restarts.
        key_size: Size of a key in bytes.
        value_size: Size of a value in bytes; of a per-CPU map that of one CPU's value.
        max_entries: The most entries; of a ring buffer its size in bytes.
        map_flags: Flags of its creation, `MapFlag`.
        name: The name as the kernel keeps it, 15 characters at most.
        ifindex: The device that the map is offloaded to; 0 for none.
        btf_id: The id of the BTF that describes keys and values; 0 for none.
        btf_key_type_id: The keys' type in it; 0 for none.
        btf_value_type_id: The values' type in it; 0 for none.
        map_extra: A number whose meaning depends on the type: for a bloom filter the hash
            functions, for an arena its address.
        btf_vmlinux_id: For struct_ops: the id of the kernel's BTF; else 0.
        btf_vmlinux_value_type_id: For struct_ops: the kernel's type of the value; else 0.

    Kernel: `struct bpf_map_info` of include/uapi/linux/bpf.h.
    """

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
    btf_vmlinux_id: int = 0
    btf_vmlinux_value_type_id: int = 0


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel reports of a program.

    Args:
        type: The type of the program.
        id: The id, unique on this host until it restarts.
        tag: A hash of the instructions, in hexadecimal.
        name: The name as the kernel keeps it, 15 characters at most.
        map_ids: The ids of the maps that its instructions refer to.
        load_time_ns: When it was loaded, in nanoseconds since boot.
        uid: The user that loaded it.
        is_gpl_compatible: Whether its license is compatible with the GPL.
        ifindex: The device that it is offloaded to; 0 for none.
        btf_id: The id of its BTF; 0 for none.
        run_count: How often it ran while statistics were on (kernel.bpf_stats_enabled).
        run_time_ns: How long these runs took together, in nanoseconds.
        recursion_misses: Runs that were skipped because the program was running on that CPU.
        jited_size: Size of the machine code in bytes; 0 if it is interpreted.
        xlated_size: Size of the instructions in bytes, as the verifier left them.
        verified_instructions: Instructions that the verifier went through.
        attach_btf_object_id: For a program with a target: the id of the BTF object that describes
            the target; 0 for none.
        attach_btf_id: The target's type in it; 0 for none.

    Kernel: `struct bpf_prog_info` of include/uapi/linux/bpf.h.
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
    attach_btf_object_id: int = 0
    attach_btf_id: int = 0


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel reports of a link; fields that its type does not have are None.

    Args:
        type: The type of the link.
        id: The id, unique on this host until it restarts.
        program_id: The id of the program that it runs.
        ifindex: The device it is attached to; 0 if the device is gone.
        attach_type: The attach type.
        cgroup_id: The cgroup it is attached to; 0 if the cgroup is gone.
        netns_inode: The inode number of the network namespace it is attached to.
        map_id: The id of the map it belongs to (struct_ops, sockmap).
        target_id: For tracing and extension programs: the id of the program, or for a kernel
            function of the BTF object, that has the function.
        target_btf_id: For these: the id of the function in the BTF of *target_id*.

    Kernel: `struct bpf_link_info` of include/uapi/linux/bpf.h.
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
    target_btf_id: int | None = None

    @property
    def object_id(self) -> int:
        """The id of what it attaches: of the program, or of the table (struct_ops)."""
        is_table = self.type == LinkType.STRUCT_OPS
        return (self.map_id or 0) if is_table else self.program_id

    @property
    def is_attached(self) -> bool:
        """Whether its device, cgroup or network namespace still exists; True without one."""
        return 0 not in (self.ifindex, self.cgroup_id, self.netns_inode, self.object_id)


@dataclass(frozen=True, slots=True)
class Extension:
    """A program of type EXT that replaces a function of another program (freplace)."""

    id: int
    name: str

    def __str__(self) -> str:
        return f"{self.name or 'a program'} (id {self.id})"


@dataclass(frozen=True, slots=True)
class BtfInfo:
    """What the kernel reports of a BTF object; *is_kernel* is true for vmlinux and modules."""

    id: int
    size: int
    name: str
    is_kernel: bool


# The layout of the union in struct bpf_link_info (include/uapi/linux/bpf.h), by the link's type.
# `<` packs without padding; each structure here is free of holes up to the last field.
PLACES: dict[int, tuple[str, tuple[str, ...]]] = {
    LinkType.XDP: ("<I", ("ifindex",)),
    LinkType.TCX: ("<II", ("ifindex", "attach_type")),
    LinkType.NETKIT: ("<II", ("ifindex", "attach_type")),
    LinkType.CGROUP: ("<QI", ("cgroup_id", "attach_type")),
    LinkType.NETNS: ("<II", ("netns_inode", "attach_type")),
    LinkType.TRACING: ("<III", ("attach_type", "target_id", "target_btf_id")),
    LinkType.STRUCT_OPS: ("<I", ("map_id",)),
    LinkType.SOCKMAP: ("<II", ("map_id", "attach_type")),
}


def named(family: type[Family], number: int) -> Family | int:
    """Return the member of *family*, or the number itself if this version does not know it."""
    try:
        return family(number)
    except ValueError:
        return number


def map_info(fd: int) -> MapInfo:
    """Return the kernel's report of the map *fd*."""
    answer = MapInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    return MapInfo(
        type=named(MapType, answer.type),
        name=_text(answer.name),
        **{field: int(getattr(answer, field)) for field in _PLAIN_MAP_FIELDS},
    )


_PLAIN_MAP_FIELDS = tuple(set(MapInfo.__dataclass_fields__) - {"type", "name"})


def program_info(fd: int) -> ProgramInfo:
    """Return the kernel's report of the program *fd*."""
    # With room for the ids of the maps, which saves a second call for nearly all programs.
    ids = (ctypes.c_uint32 * _MAP_IDS)()
    answer = ProgInfoAnswer(nr_map_ids=_MAP_IDS, map_ids=ctypes.addressof(ids))
    bpf.obj_get_info_by_fd(fd, answer)
    count = answer.nr_map_ids
    return ProgramInfo(
        type=named(ProgramType, answer.type),
        id=answer.id,
        tag=bytes(answer.tag).hex(),
        name=_text(answer.name),
        map_ids=tuple(ids[:count]) if count <= _MAP_IDS else _map_ids(fd, count),
        load_time_ns=answer.load_time,
        uid=answer.created_by_uid,
        # A bit-field of one bit; the other bits of its word are reserved.
        is_gpl_compatible=bool(answer.gpl_compatible & 1),
        ifindex=answer.ifindex,
        btf_id=answer.btf_id,
        run_count=answer.run_cnt,
        run_time_ns=answer.run_time_ns,
        recursion_misses=answer.recursion_misses,
        jited_size=answer.jited_prog_len,
        xlated_size=answer.xlated_prog_len,
        verified_instructions=answer.verified_insns,
        attach_btf_object_id=answer.attach_btf_obj_id,
        attach_btf_id=answer.attach_btf_id,
    )


def program_id(fd: int) -> int:
    """Return the id of the program *fd*."""
    answer = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    return int(answer.id)


def _map_ids(fd: int, count: int) -> tuple[int, ...]:
    ids = (ctypes.c_uint32 * count)()
    answer = ProgInfoAnswer(nr_map_ids=count, map_ids=ctypes.addressof(ids))
    bpf.obj_get_info_by_fd(fd, answer)
    # The kernel reports how many maps there are now: BPF_PROG_BIND_MAP may have added one since the
    # count was read, and only *count* ids were copied.
    return tuple(ids[: min(count, answer.nr_map_ids)])


def link_info(fd: int) -> LinkInfo:
    """Return the kernel's report of the link *fd*."""
    answer = LinkInfoAnswer()
    bpf.obj_get_info_by_fd(fd, answer)
    form, names = PLACES.get(answer.type, ("<", ()))
    place: dict[str, int] = dict(zip(names, struct.unpack_from(form, answer.place), strict=True))
    if "attach_type" in place:
        place["attach_type"] = named(AttachType, place["attach_type"])
    return LinkInfo(named(LinkType, answer.type), answer.id, answer.prog_id, **place)


def btf_info(fd: int) -> BtfInfo:
    """Return the kernel's report of the BTF *fd*."""
    # Longer than any name of a module (MODULE_NAME_LEN); a name that does not fit is an error.
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
    """Yield the kernel's report of every map on the host, in the order of ids.

    A map that is freed meanwhile is left out.

    Returns:
        An iterator of `MapInfo`.

    Raises:
        PermissionDeniedError: CAP_SYS_ADMIN is missing.

    Kernel: BPF_MAP_GET_NEXT_ID, BPF_MAP_GET_FD_BY_ID (Linux 4.13).
    """
    return _infos(map_ids(), bpf.map_get_fd_by_id, map_info)


def programs() -> Iterator[ProgramInfo]:
    """Yield the kernel's report of every program on the host, in the order of ids.

    A program that is unloaded meanwhile is left out.

    Returns:
        An iterator of `ProgramInfo`.

    Raises:
        PermissionDeniedError: CAP_SYS_ADMIN is missing.

    Kernel: BPF_PROG_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID (Linux 4.13).
    """
    return _infos(program_ids(), bpf.prog_get_fd_by_id, program_info)


def links() -> Iterator[LinkInfo]:
    """Yield the kernel's report of every link on the host, in the order of ids.

    A link that goes away meanwhile is left out.

    Returns:
        An iterator of `LinkInfo`.

    Raises:
        PermissionDeniedError: CAP_SYS_ADMIN is missing.

    Kernel: BPF_LINK_GET_NEXT_ID, BPF_LINK_GET_FD_BY_ID (Linux 5.8).
    """
    return _infos(link_ids(), bpf.link_get_fd_by_id, link_info)


def extensions_of(program_ids: Collection[int]) -> dict[int, tuple[Extension, ...]]:
    """Return the programs that replace functions of each of these programs.

    They come in the order of the functions in BTF, in which libxdp's dispatcher calls them
    (`prog0`, `prog1` …). Raises `PermissionDeniedError` without CAP_SYS_ADMIN.
    """
    functions: dict[int, list[tuple[int, int]]] = {}
    for link in links():
        if link.type == LinkType.TRACING and link.target_id in program_ids:
            function = (link.target_btf_id or 0, link.program_id)
            functions.setdefault(link.target_id or 0, []).append(function)
    return {
        target: tuple(_extensions(program_id for _, program_id in sorted(replaced)))
        for target, replaced in functions.items()
    }


def _extensions(program_ids: Iterator[int]) -> Iterator[Extension]:
    for info in _infos(program_ids, bpf.prog_get_fd_by_id, program_info):
        # A program that traces another one (fentry, fexit) has a link of the same type.
        if info.type == ProgramType.EXT:
            yield Extension(info.id, info.name)


def listed(extensions: Sequence[Extension]) -> str:
    """Return the programs as part of a sentence: `a (id 4), b (id 5) and c (id 6)`."""
    *first, last = map(str, extensions)
    return f"{', '.join(first)} and {last}" if first else last


def _ids(next_id: Callable[[int], int | None]) -> Iterator[int]:
    # The next id above the last one: objects that come or go during the walk break nothing.
    object_id = next_id(0)
    while object_id is not None:
        yield object_id
        object_id = next_id(object_id)


def _infos(
    ids: Iterator[int], open_id: Callable[[int], int], read: Callable[[int], Info]
) -> Iterator[Info]:
    for object_id in ids:
        # Between the two calls the object may be freed: it is not on the host any more.
        with contextlib.suppress(IdNotFoundError), Descriptor(open_id(object_id)) as opened:
            yield read(opened.fileno())


def type_with_article(kind: MapType | int) -> str:
    """Return the name of a type of map for a sentence: `an array`, `a queue`."""
    name = type_name(kind)
    return f"{'an' if name[0] in 'aix' or name.startswith(('lpm_', 'lru_')) else 'a'} {name}"


def type_name(kind: MapType | int) -> str:
    """Return the kernel's name of a map type, in lower case."""
    return kind.name.lower() if isinstance(kind, MapType) else str(kind)
