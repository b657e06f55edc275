"""What is wanted: frozen descriptions of maps, programs and objects, and the words to choose from.

Nothing here touches the kernel. A change makes a copy: `spec.with_map("flows", max_entries=8)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any, Self

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.errors import UsageError
from bpfpin.insn import Instruction
from bpfpin.uapi import AttachType, MapType, ProgramType


class XdpMode(Enum):
    """Where in the receive path an XDP program runs."""

    AUTO = "auto"  # native, and generic where the driver has none
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


class Hook(Enum):
    """A place where a program is attached, as it is typed after `--hook`.

    Its words are the kernel's: those of its attach type, where it has one.
    """

    XDP = "xdp"
    TCX_INGRESS = "tcx-ingress"
    TCX_EGRESS = "tcx-egress"
    TC_INGRESS = "tc-ingress"
    TC_EGRESS = "tc-egress"
    NETKIT_PRIMARY = "netkit-primary"
    NETKIT_PEER = "netkit-peer"
    CGROUP_INET_INGRESS = "cgroup-inet-ingress"
    CGROUP_INET_EGRESS = "cgroup-inet-egress"
    CGROUP_INET_SOCK_CREATE = "cgroup-inet-sock-create"
    CGROUP_INET_SOCK_RELEASE = "cgroup-inet-sock-release"
    CGROUP_SOCK_OPS = "cgroup-sock-ops"
    CGROUP_DEVICE = "cgroup-device"
    CGROUP_INET4_BIND = "cgroup-inet4-bind"
    CGROUP_INET6_BIND = "cgroup-inet6-bind"
    CGROUP_INET4_POST_BIND = "cgroup-inet4-post-bind"
    CGROUP_INET6_POST_BIND = "cgroup-inet6-post-bind"
    CGROUP_INET4_CONNECT = "cgroup-inet4-connect"
    CGROUP_INET6_CONNECT = "cgroup-inet6-connect"
    CGROUP_UNIX_CONNECT = "cgroup-unix-connect"
    CGROUP_UDP4_SENDMSG = "cgroup-udp4-sendmsg"
    CGROUP_UDP6_SENDMSG = "cgroup-udp6-sendmsg"
    CGROUP_UNIX_SENDMSG = "cgroup-unix-sendmsg"
    CGROUP_UDP4_RECVMSG = "cgroup-udp4-recvmsg"
    CGROUP_UDP6_RECVMSG = "cgroup-udp6-recvmsg"
    CGROUP_UNIX_RECVMSG = "cgroup-unix-recvmsg"
    CGROUP_INET4_GETPEERNAME = "cgroup-inet4-getpeername"
    CGROUP_INET6_GETPEERNAME = "cgroup-inet6-getpeername"
    CGROUP_UNIX_GETPEERNAME = "cgroup-unix-getpeername"
    CGROUP_INET4_GETSOCKNAME = "cgroup-inet4-getsockname"
    CGROUP_INET6_GETSOCKNAME = "cgroup-inet6-getsockname"
    CGROUP_UNIX_GETSOCKNAME = "cgroup-unix-getsockname"
    CGROUP_SYSCTL = "cgroup-sysctl"
    CGROUP_GETSOCKOPT = "cgroup-getsockopt"
    CGROUP_SETSOCKOPT = "cgroup-setsockopt"

    @property
    def attach_type(self) -> AttachType | None:
        """What BPF_LINK_CREATE is told; None for the hooks of classic tc, which have no links."""
        return AttachType.__members__.get(self.name)

    @property
    def is_cgroup(self) -> bool:
        """Whether it is a hook of a cgroup; all others are of a network device."""
        return self.name.startswith("CGROUP_")


class Dialect(Enum):
    """How the object file defines a map."""

    BTF = "btf"  # section .maps
    BPF_MAP_DEF = "bpf_map_def"
    BPF_ELF_MAP = "bpf_elf_map"
    DATA = "data"  # .rodata, .data, .bss


class Pinning(IntEnum):
    """Where the object file asks a map to be pinned."""

    NONE = 0
    BY_NAME = 1  # libbpf: <pin root>/NAME
    OBJECT_NAMESPACE = 2  # iproute2's pinning 1
    GLOBAL_NAMESPACE = 3  # iproute2's pinning 2
    FILE = 4  # iproute2: `pinning_id` is looked up in its bpf_pinning file


class ReferenceKind(Enum):
    """What an instruction refers to before it is fixed up."""

    MAP = "map"  # ld_imm64: the map's descriptor
    MAP_VALUE = "map_value"  # ld_imm64: an address in the first value of a data map
    CALL = "call"  # call: a subprogram
    FUNCTION = "function"  # ld_imm64: the address of a subprogram (a callback)


@dataclass(frozen=True, slots=True)
class Reference:
    """Instruction *index* (counted in slots within its function) refers to *target* by name.

    *addend* is the byte offset into the value for `MAP_VALUE`, 0 else.
    """

    index: int
    kind: ReferenceKind
    target: str
    addend: int = 0


@dataclass(frozen=True, slots=True)
class LineInfo:
    """The source line from instruction *index* of the function on; its strings are in the BTF."""

    index: int
    file_name_offset: int
    line_offset: int
    line_column: int  # line << 10 | column, as the kernel takes it


@dataclass(frozen=True)
class FunctionSpec:
    """One function of an object: its own instructions and what they refer to.

    *name* is unique among the functions of an object: a static function whose name occurs twice
    carries its place (`section:name`).
    """

    name: str
    section: str
    instructions: tuple[Instruction, ...]
    references: tuple[Reference, ...] = ()
    type_id: int = 0  # BTF_KIND_FUNC in the object's BTF; 0: none
    line_info: tuple[LineInfo, ...] = ()


@dataclass(frozen=True)
class MapSpec:
    """A map as it is wanted; sizes in bytes.

    *key* and *value* are the BTF types, None where the object has none. *contents* is what the one
    value of a data map starts with. *is_frozen* asks for BPF_MAP_FREEZE after it is filled.
    *section_index* and *offset* order the maps of an object as libbpf does (`--map idx:0=…`).
    *initial* are entries the file gives to a map of maps or of programs: index and symbol.
    """

    name: str
    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    map_extra: int = 0
    numa_node: int | None = None
    pinning: Pinning = Pinning.NONE
    pinning_id: int = 0
    key: TypeRef | None = None
    value: TypeRef | None = None
    inner: MapSpec | None = None
    initial: tuple[tuple[int, str], ...] = ()
    contents: bytes | None = field(default=None, repr=False)
    is_frozen: bool = False
    dialect: Dialect = Dialect.BTF
    section: str = ""
    section_index: int = 0
    offset: int = 0
    id: int = 0  # bpf_elf_map: `id`, referred to by `inner_id` and by ID/KEY sections
    inner_id: int = 0
    inner_index: int = -1  # bpf_map_def's inner index, bpf_elf_map's inner_idx

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def kernel_name(self) -> str:
        """The fifteen characters of the name that the kernel keeps; it takes [A-Za-z0-9_.] only."""
        return self.name[:15]


@dataclass(frozen=True)
class ProgramSpec:
    """A program as it is wanted: the entry function, and those it can reach through references.

    *functions* starts with the entry function. *hook* is where the section says it goes (None:
    nowhere, or the section names no direction). *attach_to* is the rest of a section name after its
    prefix (`kprobe/NAME`). *section_note* tells that the section's name was guessed at.
    """

    name: str
    type: ProgramType
    section: str
    functions: tuple[FunctionSpec, ...]
    license: str = ""
    expected_attach_type: AttachType | None = None
    attach_type: AttachType | None = None
    hook: Hook | None = None
    attach_to: str = ""
    program_flags: int = 0
    section_note: str = ""
    kernel_version: int = 0

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class ObjectSpec:
    """All that an object file asks for; maps in libbpf's order, by full ELF name."""

    maps: Mapping[str, MapSpec]
    programs: Mapping[str, ProgramSpec]
    btf: Btf | None = None
    license: str = ""
    path: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", MappingProxyType(dict(self.maps)))
        object.__setattr__(self, "programs", MappingProxyType(dict(self.programs)))

    def with_map(self, name: str, **changes: Any) -> Self:
        """Return a copy in which map *name* has other fields; `UsageError` if there is none."""
        changed = self._named("map", self.maps, name).with_changes(**changes)
        return dataclasses.replace(self, maps={**self.maps, name: changed})

    def with_program(self, name: str, **changes: Any) -> Self:
        """Return a copy in which program *name* has other fields; `UsageError` if there is none."""
        changed = self._named("program", self.programs, name).with_changes(**changes)
        return dataclasses.replace(self, programs={**self.programs, name: changed})

    def only_programs(self, *names: str) -> Self:
        """Return a copy with just these programs; the maps all stay."""
        kept = {name: self._named("program", self.programs, name) for name in names}
        return dataclasses.replace(self, programs=kept)

    def _named(self, kind: str, things: Mapping[str, Any], name: str) -> Any:
        if name in things:
            return things[name]
        there = ", ".join(things) or "none"
        raise UsageError(f"{self.path or 'the object'} has no {kind} {name!r}; it has: {there}")
