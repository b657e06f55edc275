"""What is wanted: frozen descriptions of maps, programs and objects, and the words to choose from.

Nothing here touches the kernel. A change makes a copy: `spec.with_map("flows", max_entries=8)`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeVar

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.codecs.variable import VariableSpec, by_name, key_of
from bpfpin.errors import UsageError
from bpfpin.externs import ExternKind, ExternSpec
from bpfpin.hooks import Hook, XdpMode
from bpfpin.insn import Code, Instruction, encode, signed32
from bpfpin.uapi import AttachType, CoreRelocationKind, MapType, ProgramType, UpdateFlag

E = TypeVar("E", bound=Enum)


def flag_of(value: UpdateFlag | str) -> UpdateFlag:
    """Return the flag of a write to a map, which may be named: `noexist`, `exist`, `any`."""
    if isinstance(value, str):
        return choice_of(UpdateFlag, value, what="flag")
    return UpdateFlag(value)


def choice_of(kind: type[E], value: object, *, what: str) -> E:
    """Return the member of *kind* that *value* is, or names as it is typed: `native`, `tcx-egress`.

    The kernel's spelling (`TCX_EGRESS`) does as well. `UsageError`, which is a `ValueError`, lists
    the choices of *what* for anything else.
    """
    if isinstance(value, kind):
        return value
    members = {
        member.value if isinstance(member.value, str) else name.lower().replace("_", "-"): member
        for name, member in kind.__members__.items()
    }
    word = value.strip().lower().replace("_", "-") if isinstance(value, str) else ""
    if word in members:
        return members[word]
    near = difflib.get_close_matches(word, members, n=3)
    raise UsageError(
        f"there is no {what} {value!r}; there are: {', '.join(members)}",
        hint=f"near it: {', '.join(near)}" if near else "",
    )


__all__ = [
    "CoreRelocation",
    "Dialect",
    "ExternKind",
    "ExternSpec",
    "FunctionSpec",
    "Hook",
    "LineInfo",
    "MapSpec",
    "ObjectSpec",
    "Pinning",
    "ProgramSpec",
    "Reference",
    "ReferenceKind",
    "XdpMode",
]


class Dialect(Enum):
    """How the object file defines a map."""

    BTF = "btf"  # section .maps
    BPF_MAP_DEF = "bpf_map_def"
    BPF_ELF_MAP = "bpf_elf_map"
    DATA = "data"  # .rodata, .data, .bss
    STRUCT_OPS = "struct_ops"  # sections .struct_ops and .struct_ops.link


class Pinning(IntEnum):
    """Where the object file asks a map to be pinned."""

    NONE = 0
    BY_NAME = 1  # libbpf: <pin root>/NAME
    OBJECT_NAMESPACE = 2  # iproute2's pinning 1
    GLOBAL_NAMESPACE = 3  # iproute2's pinning 2
    FILE = 4  # iproute2: `pinning_id` is looked up in its bpf_pinning file
    UNKNOWN = 5  # `pinning_id` is a number that bpfpin knows no meaning of; loading asks for one


class ReferenceKind(Enum):
    """What an instruction refers to before it is fixed up."""

    MAP = "map"  # ld_imm64: the map's descriptor
    MAP_VALUE = "map_value"  # ld_imm64: an address in the first value of a data map
    CALL = "call"  # call: a subprogram
    FUNCTION = "function"  # ld_imm64: the address of a subprogram (a callback)
    EXTERN = "extern"  # ld_imm64: the address of what the kernel has
    EXTERN_CALL = "extern_call"  # call: a function of the kernel
    CONSTANT = "constant"  # ld_imm64: a number that who loads the object gives


class Reference(NamedTuple):
    """Instruction *index* (counted in slots within its function) refers to *target* by name.

    *addend* is the byte offset into the value for `MAP_VALUE`, 0 else.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    kind: ReferenceKind
    target: str
    addend: int = 0


class LineInfo(NamedTuple):
    """The source line from instruction *index* of the function on; its strings are in the BTF."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    file_name_offset: int
    line_offset: int
    line_column: int  # line << 10 | column, as the kernel takes it


@dataclass(frozen=True, slots=True)
class CoreRelocation:
    """Instruction *index* of the function depends on what a type is in the running kernel (CO-RE).

    *access* is the path into type *type_id* of the object's BTF, as the compiler wrote it: `0:1:2`.
    *kind* is the question.
    """

    index: int
    type_id: int
    access: str
    kind: CoreRelocationKind


@dataclass(frozen=True)
class FunctionSpec:
    """One function of an object: its own instructions and what they refer to.

    *name* is unique among the functions of an object: a static function whose name occurs twice
    carries its place (`section:name`). *constants* are the 64-bit loads of numbers that who loads
    the object gives: index and name; they are 0, or what `ObjectSpec.with_constant` put there.
    """

    name: str
    section: str
    instructions: Sequence[Instruction]
    references: tuple[Reference, ...] = ()
    type_id: int = 0  # BTF_KIND_FUNC in the object's BTF; 0: none
    line_info: tuple[LineInfo, ...] = ()
    relocations: tuple[CoreRelocation, ...] = ()
    constants: tuple[tuple[int, str], ...] = ()

    def with_constant(self, name: str, value: int) -> Self:
        """Return a copy in which the loads of constant *name* have the number *value*."""
        code = list(self.instructions)
        for index in [index for index, its_name in self.constants if its_name == name]:
            low, high = code[index : index + 2]
            code[index] = low._replace(imm=signed32(value))
            code[index + 1] = high._replace(imm=signed32(value >> 32))
        return dataclasses.replace(self, instructions=Code(encode(code)))


@dataclass(frozen=True)
class MapSpec:
    """A map as it is wanted; sizes in bytes.

    *key* and *value* are the BTF types, None where the object has none. *contents* is what the one
    value of a data map starts with. *is_frozen* asks for BPF_MAP_FREEZE after it is filled.
    *section_index* and *offset* order the maps of an object as libbpf does (`--map idx:0=…`).
    *initial* are entries the file gives to a map of maps or of programs: index and symbol; of
    struct_ops the byte of the member, and the program that it points to.
    *variables* are those of a data section, without contents.
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
    variables: tuple[VariableSpec, ...] = field(default=(), repr=False)
    dialect: Dialect = Dialect.BTF
    section: str = ""
    section_index: int = 0
    offset: int = 0
    id: int = 0  # bpf_elf_map: `id`, referred to by `inner_id` and by ID/KEY sections
    inner_id: int = 0
    inner_index: int = -1  # bpf_map_def's inner index, bpf_elf_map's inner_idx
    data_section: int = 0  # index of the section whose variables stand at the start of an arena
    note: str = ""  # what was guessed at, or is not obeyed, of its definition

    def __post_init__(self) -> None:
        if isinstance(self.type, str):
            object.__setattr__(self, "type", choice_of(MapType, self.type, what="type of map"))
        if isinstance(self.pinning, str):
            object.__setattr__(self, "pinning", choice_of(Pinning, self.pinning, what="pinning"))

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def kernel_name(self) -> str:
        """The fifteen characters of the name that the kernel keeps; it takes [A-Za-z0-9_.] only."""
        return re.sub(r"[^A-Za-z0-9_.]", "_", self.name)[:15]

    @property
    def is_optional(self) -> bool:
        """Whether it is made only by who asks for it: its section's name starts with `?`."""
        return self.section.startswith("?")


@dataclass(frozen=True)
class ProgramSpec:
    """A program as it is wanted: the entry function, and those it can reach through references.

    *functions* starts with the entry function. *hook* is where the section says it goes (None:
    nowhere, or the section names no direction). *attach_to* is the rest of a section name after its
    prefix (`kprobe/NAME`): the function or tracepoint that it attaches to. *exception_callback* is
    the one of *functions* that bpf_throw() ends in, "" if there is none. *section_note* tells
    that the section's name was guessed at. *ifindex* is the device that it is loaded for, where
    *program_flags* have `ProgramFlag.XDP_DEV_BOUND_ONLY`.
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
    exception_callback: str = ""
    program_flags: int = 0
    section_note: str = ""
    kernel_version: int = 0
    ifindex: int = 0

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def is_optional(self) -> bool:
        """Whether it is loaded only when it is named: its section's name starts with `?`."""
        return self.section.startswith("?")


@dataclass(frozen=True)
class ObjectSpec:
    """All that an object file asks for; maps in libbpf's order, by full ELF name.

    *kernel_btf* are the types that CO-RE fits the programs to; None: those of the running kernel.
    *externs* are, by name, what the running kernel is to fill in; *kernel_config* is a kernel's
    configuration for those of `.kconfig` (`CONFIG_HZ` -> `250`), None: that of the running one.
    *given_constants* are the constants that were given (`with_constant`). *is_big_endian* says for
    which machines it was compiled; on others it is described, without the contents of its data.
    """

    maps: Mapping[str, MapSpec]
    programs: Mapping[str, ProgramSpec]
    btf: Btf | None = None
    license: str = ""
    path: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    kernel_btf: Btf | None = field(default=None, repr=False)
    externs: Mapping[str, ExternSpec] = field(default_factory=dict)
    kernel_config: Mapping[str, str] | None = field(default=None, repr=False)
    given_constants: Mapping[str, int] = field(default_factory=dict)
    is_big_endian: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", MappingProxyType(dict(self.maps)))
        object.__setattr__(self, "programs", MappingProxyType(dict(self.programs)))

    @property
    def has_relocations(self) -> bool:
        """Whether a program has instructions that CO-RE is to fit to the kernel's types."""
        functions = [each for program in self.programs.values() for each in program.functions]
        return any(function.relocations for function in functions)

    def with_map(self, name: str, **changes: Any) -> Self:
        """Return a copy in which map *name* has other fields; `UsageError` if there is none."""
        changed = self._named("map", self.maps, name).with_changes(**changes)
        return dataclasses.replace(self, maps={**self.maps, name: changed})

    def with_program(self, name: str, **changes: Any) -> Self:
        """Return a copy in which program *name* has other fields; `UsageError` if there is none."""
        changed = self._named("program", self.programs, name).with_changes(**changes)
        return dataclasses.replace(self, programs={**self.programs, name: changed})

    @property
    def all_variables(self) -> tuple[VariableSpec, ...]:
        """The global variables of all maps, without contents; see `variables`."""
        return tuple(each for held in self.maps.values() for each in held.variables)

    @cached_property
    def variables(self) -> Mapping[str, VariableSpec]:
        """The global variables by name, static ones too, with type and what each starts with.

        A name that several sections have stands as `SECTION:NAME`.
        """
        contents = {name: held.contents or b"" for name, held in self.maps.items()}
        return by_name(each.with_contents_of(contents[each.section]) for each in self.all_variables)

    def with_variable(self, name: str, value: Any) -> Self:
        """Return a copy in which global variable *name* starts as *value*.

        For what stands in `.rodata` (`const volatile`) this is the only way: it cannot be written
        once the object is loaded. *value* is what a map's value of that type takes; `ValueError` or
        `TypeError` if it does not fit, `UsageError` if there is no such variable.
        """
        try:
            variable = self.variables[key_of(self.variables, name)]
        except LookupError as error:
            raise UsageError(f"{self.path or 'the object'} has {error.args[0]}") from None
        try:
            data = variable.codec.encode(value)
        except (ValueError, TypeError) as error:
            raise type(error)(f"variable {name}: {error}") from None
        contents = self.maps[variable.section].contents or b""
        changed = contents[: variable.offset] + data + contents[variable.end :]
        return self.with_map(variable.section, contents=changed)

    @property
    def constants(self) -> Mapping[str, int | None]:
        """The numbers that who loads the object gives, by name; None for those not given yet.

        Programs load them by symbols that the object does not define.
        """
        names = {
            name: None
            for program in self.programs.values()
            for function in program.functions
            for _, name in function.constants
        }
        return {name: self.given_constants.get(name) for name in names}

    def with_constant(self, name: str, value: int) -> Self:
        """Return a copy in which the programs load *value* as constant *name*.

        `UsageError` if no program loads such a constant, `ValueError` if it does not fit 64 bits.
        """
        if name not in self.constants:
            there = ", ".join(self.constants) or "none"
            raise UsageError(
                f"{self.path or 'the object'} has no constant {name!r}; it has: {there}"
            )
        if not -(1 << 63) <= value < 1 << 64:
            raise ValueError(f"constant {name}: {value} does not fit into 64 bits")
        programs = {
            each.name: each.with_changes(
                functions=tuple(it.with_constant(name, value) for it in each.functions)
            )
            for each in self.programs.values()
        }
        given = {**self.given_constants, name: value}
        return dataclasses.replace(self, programs=programs, given_constants=given)

    def only_programs(self, *names: str) -> Self:
        """Return a copy with just these programs; the maps all stay."""
        kept = {name: self._named("program", self.programs, name) for name in names}
        return dataclasses.replace(self, programs=kept)

    def _named(self, kind: str, things: Mapping[str, Any], name: str) -> Any:
        if name in things:
            return things[name]
        there = ", ".join(things) or "none"
        raise UsageError(f"{self.path or 'the object'} has no {kind} {name!r}; it has: {there}")
