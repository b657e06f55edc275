"""Specs: frozen descriptions of wanted maps, programs and objects, and the enums they use.

Nothing here uses the kernel. A change makes a copy: `spec.with_map("flows", max_entries=8)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import Enum, IntEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.names import kernel_name
from bpfpin.choices import choice_of
from bpfpin.codecs.variable import VariableSpec, by_name, key_of
from bpfpin.errors import UsageError
from bpfpin.externs import ExternKind, ExternSpec
from bpfpin.hooks import Hook, XdpMode
from bpfpin.insn import Code, Instruction, encode, signed32
from bpfpin.map_traits import traits_of
from bpfpin.records import dataclass
from bpfpin.uapi import AttachType, CoreRelocationKind, MapFlag, MapType, ProgramType

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
    """The way in which an object file defines a map."""

    BTF = "btf"  # section .maps
    BPF_MAP_DEF = "bpf_map_def"
    BPF_ELF_MAP = "bpf_elf_map"
    DATA = "data"  # .rodata, .data, .bss
    STRUCT_OPS = "struct_ops"  # sections .struct_ops and .struct_ops.link


class Pinning(IntEnum):
    """The pinning that an object file wants for a map."""

    NONE = 0
    BY_NAME = 1  # libbpf: <pin root>/NAME
    OBJECT_NAMESPACE = 2  # iproute2's pinning 1
    GLOBAL_NAMESPACE = 3  # iproute2's pinning 2
    FILE = 4  # iproute2: `pinning_id` is a key of its bpf_pinning file
    UNKNOWN = 5  # `pinning_id` has no known meaning; the user must choose when loading


class ReferenceKind(Enum):
    """The kind of object that an instruction refers to, before the reference is filled in."""

    MAP = "map"  # ld_imm64: the map's descriptor
    MAP_VALUE = "map_value"  # ld_imm64: an address in the first value of a data map
    CALL = "call"  # call: a subprogram
    FUNCTION = "function"  # ld_imm64: the address of a subprogram (a callback)
    EXTERN = "extern"  # ld_imm64: the address of a kernel symbol
    EXTERN_CALL = "extern_call"  # call: a function of the kernel
    CONSTANT = "constant"  # ld_imm64: a number given by the loader of the object


class Reference(NamedTuple):
    """A reference by name from an instruction to a map, function or extern.

    Attributes:
        index: Slot of the instruction in its function.
        kind: Kind of the target.
        target: Name of the target.
        addend: Byte offset in the value for `MAP_VALUE`; otherwise 0.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    kind: ReferenceKind
    target: str
    addend: int = 0


class LineInfo(NamedTuple):
    """The source line of instruction *index* and those that follow; its strings are in the BTF.

    Attributes:
        index: Slot of the instruction in its function.
        file_name_offset: Where the file name begins in the strings of the BTF.
        line_offset: Where the text of the line begins in the strings of the BTF.
        line_column: Line number and column in one number, as in struct bpf_line_info.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    file_name_offset: int
    line_offset: int
    line_column: int  # line << 10 | column, as in struct bpf_line_info


@dataclass(frozen=True, slots=True)
class CoreRelocation:
    """A CO-RE relocation: an instruction that depends on a type of the running kernel.

    Attributes:
        index: Slot of the instruction in its function.
        type_id: The type in the object's BTF.
        access: The path into that type, as the compiler wrote it: `0:1:2`.
        kind: The requested property, such as offset, size or existence.
    """

    index: int
    type_id: int
    access: str
    kind: CoreRelocationKind


@dataclass(frozen=True)
class FunctionSpec:
    """One function of an object: its instructions and their references.

    Attributes:
        name: Unique name; if static functions share a name, it includes the section
            (`section:name`).
        section: Section of the code.
        instructions: Its own instructions, without those of the functions that it calls.
        references: References to maps, functions and externs.
        type_id: Its BTF_KIND_FUNC in the object's BTF; 0: none.
        line_info: Source lines, sorted by instruction.
        relocations: CO-RE relocations.
        constants: Slot and name of each 64-bit load of a number that the loader of the object
            gives; the number is 0 until `ObjectSpec.with_constant` sets it.
    """

    name: str
    section: str
    instructions: Sequence[Instruction]
    references: tuple[Reference, ...] = ()
    type_id: int = 0
    line_info: tuple[LineInfo, ...] = ()
    relocations: tuple[CoreRelocation, ...] = ()
    constants: tuple[tuple[int, str], ...] = ()

    def with_constant(self, name: str, value: int) -> Self:
        """Return a copy in which the loads of constant *name* load the number *value*."""
        code = list(self.instructions)
        for index in [index for index, its_name in self.constants if its_name == name]:
            low, high = code[index : index + 2]
            code[index] = low._replace(imm=signed32(value))
            code[index + 1] = high._replace(imm=signed32(value >> 32))
        return dataclasses.replace(self, instructions=Code(encode(code)))


@dataclass(frozen=True)
class MapSpec:
    """The description of a wanted map.

    It comes from an object file, or you make one: `MapSpec("flows", "hash", 4, 8, 1024)`.
    `Map.create` makes the map.

    Attributes:
        name: Full name; the kernel keeps 15 characters (`kernel_name`).
        type: Map type, or its name: `MapType.HASH`, `"lru-hash"`.
        key_size: Bytes of a key.
        value_size: Bytes of a value.
        max_entries: Number of entries; bytes for ring buffers, pages for arenas.
        map_flags: Bits of `MapFlag`.
        map_extra: Extra number for some types, such as the hash functions of a Bloom filter.
        numa_node: NUMA node for the memory; None: any.
        pinning: The pinning that the object file wants.
        pinning_id: The number in the file for `Pinning.FILE` and `Pinning.UNKNOWN`.
        key: BTF type of the keys; None if the object has none.
        value: BTF type of the values; None if the object has none.
        inner: The inner map of a map of maps.
        initial: Initial entries of a map of maps or programs: index and symbol. For struct_ops:
            byte of the member and the program that it points to.
        contents: Initial bytes of the only value of a data map.
        entries: Entries that a new map is filled with before a program can see it: all keys, and
            all values, back to back. A set whose map has other entries gets a new map, and so the
            running programs see either all of the old ones or all of the new ones. None: it starts
            empty, and keeps what it has.
        slots: Inner maps that are made for a new map of maps: the key, and the definition of the
            inner map with its entries.
        is_frozen: Freeze the map (BPF_MAP_FREEZE) after filling it.
        variables: Variables of a data section, without contents.
        dialect: The way in which the object file defines it.
        section: Its section in the object file.
        section_index: Index of that section. With *offset* it orders the maps of an object like
            libbpf does (`--map idx:0=…`).
        offset: Byte of the definition in the section.
        id: `id` of a `bpf_elf_map`, which `inner_id` and sections `ID/KEY` refer to.
        inner_id: `inner_id` of a `bpf_elf_map`.
        inner_index: Index of the inner map (`bpf_map_def`), or in the outer map (`bpf_elf_map`).
        data_section: Index of the section whose variables are at the start of an arena; 0: none.
        note: Says which part of the definition was guessed or is ignored.
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
    entries: tuple[bytes, bytes] | None = field(default=None, repr=False)
    slots: tuple[tuple[bytes, MapSpec], ...] = field(default=(), repr=False)
    is_frozen: bool = False
    variables: tuple[VariableSpec, ...] = field(default=(), repr=False)
    dialect: Dialect = Dialect.BTF
    section: str = ""
    section_index: int = 0
    offset: int = 0
    id: int = 0
    inner_id: int = 0
    inner_index: int = -1
    data_section: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.type, str):
            object.__setattr__(self, "type", choice_of(MapType, self.type, what="type of map"))
        if isinstance(self.pinning, str):
            object.__setattr__(self, "pinning", choice_of(Pinning, self.pinning, what="pinning"))

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Args:
            changes: Fields of `MapSpec` with their new values.

        Returns:
            The copy.
        """
        return dataclasses.replace(self, **changes)

    @property
    def kernel_name(self) -> str:
        """The name for the kernel: 15 characters, all but letters, digits, `_` and `.` replaced."""
        return kernel_name(self.name)

    @property
    def is_optional(self) -> bool:
        """Whether it is created only if asked for: the name of its section starts with `?`."""
        return self.section.startswith("?")


@dataclass(frozen=True)
class ProgramSpec:
    """The description of a wanted program: its entry function and the functions that it reaches.

    Attributes:
        name: Name of the entry function.
        type: Program type.
        section: Section in the object file, which usually gives the type: `xdp`, `tcx/ingress`.
        functions: The entry function, then those that it reaches through references.
        license: License of the object; the kernel allows some helpers for GPL programs only.
        expected_attach_type: Attribute of BPF_PROG_LOAD; None: none.
        attach_type: Attach type for the attachment; None if the section does not give one.
        hook: Hook that the section gives; None if it gives none, or no direction.
        attach_to: The rest of a section name such as `kprobe/NAME`: a function or tracepoint.
        exception_callback: Name of the function that bpf_throw() ends in; "": none.
        program_flags: Bits of `ProgramFlag`.
        section_note: Says that the meaning of the section's name was guessed.
        kernel_version: The object's `version`, which old kernels require for kprobes.
        ifindex: Device that it is loaded for, with `ProgramFlag.XDP_DEV_BOUND_ONLY`; 0: none.
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
        """Return a copy with some fields changed.

        Args:
            changes: Fields of `ProgramSpec` with their new values.

        Returns:
            The copy.
        """
        return dataclasses.replace(self, **changes)

    @property
    def is_optional(self) -> bool:
        """Whether it is loaded only if asked for: the name of its section starts with `?`."""
        return self.section.startswith("?")


@dataclass(frozen=True)
class ObjectSpec:
    """The description of an object file; `read_object` returns it.

    Attributes:
        maps: Maps by full name, in libbpf's order.
        programs: Programs by name, in the order of the file.
        btf: Types of the object, as the kernel accepts them; None: none.
        license: Text of section `license`.
        path: Path of the file; empty if it was read from bytes.
        sha256: Hash of the file, in hexadecimal digits.
        notes: Remarks for the user about parts that were guessed or are ignored.
        kernel_btf: Types that CO-RE adapts the programs to; None: those of the running kernel.
        externs: Names that the running kernel fills in.
        kernel_config: Kernel configuration for externs of `.kconfig` (`CONFIG_HZ` -> `250`); None:
            that of the running kernel.
        given_constants: Constants set by `with_constant`.
        is_big_endian: It was compiled for big-endian machines: it is described without the contents
            of its data, and cannot be loaded.
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
        """Whether a program has CO-RE relocations."""
        return any(
            function.relocations
            for program in self.programs.values()
            for function in program.functions
        )

    def with_map(self, name: str, **changes: Any) -> Self:
        """Return a copy in which fields of a map are changed.

        Args:
            name: Name of the map.
            changes: Fields of `MapSpec` with their new values.

        Returns:
            The changed description.

        Raises:
            UsageError: There is no such map.
        """
        changed = self._named("map", self.maps, name).with_changes(**changes)
        return dataclasses.replace(self, maps={**self.maps, name: changed})

    def with_program(self, name: str, **changes: Any) -> Self:
        """Return a copy in which fields of a program are changed.

        Args:
            name: Name of the program.
            changes: Fields of `ProgramSpec` with their new values.

        Returns:
            The changed description.

        Raises:
            UsageError: There is no such program.
        """
        changed = self._named("program", self.programs, name).with_changes(**changes)
        return dataclasses.replace(self, programs={**self.programs, name: changed})

    @property
    def has_struct_ops(self) -> bool:
        """Whether the object has tables of functions that the kernel calls (struct_ops)."""
        return any(traits_of(spec.type).is_struct_ops for spec in self.maps.values())

    @property
    def linked_tables(self) -> dict[str, tuple[str, ...]]:
        """The tables of functions that a link registers, each with the names of its programs."""
        return {
            name: tuple(program for _, program in spec.initial)
            for name, spec in self.maps.items()
            if traits_of(spec.type).is_struct_ops and spec.map_flags & MapFlag.LINK and spec.initial
        }

    @property
    def tail_called(self) -> list[str]:
        """The programs that the object itself puts into program arrays, for tail calls."""
        arrays = [spec for spec in self.maps.values() if traits_of(spec.type).holds_programs]
        return [program for array in arrays for _, program in array.initial]

    @property
    def all_variables(self) -> tuple[VariableSpec, ...]:
        """The global variables of all maps, without contents; see `variables`."""
        return tuple(variable for spec in self.maps.values() for variable in spec.variables)

    @cached_property
    def variables(self) -> Mapping[str, VariableSpec]:
        """The global variables by name, static ones included, with type and initial contents.

        If several sections have a variable of that name, its key is `SECTION:NAME`.
        """
        contents = {name: spec.contents or b"" for name, spec in self.maps.items()}
        return by_name(
            variable.with_contents_of(contents[variable.section]) for variable in self.all_variables
        )

    def with_variable(self, name: str, value: Any) -> Self:
        """Return a copy in which a global variable has another initial value.

        Variables in `.rodata` (`const volatile`) can be set in this way only: they cannot be
        written after the object is loaded.

        Args:
            name: Name of the variable, or `SECTION:NAME`.
            value: Its initial value, in the form of a map's value of that type.

        Returns:
            The changed description.

        Raises:
            UsageError: There is no such variable.
            ValueError: The value does not fit the type of the variable.
            TypeError: The value is of the wrong type.
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
        """The constants that the loader of the object must give, by name; None: not given yet.

        Programs load them through symbols that the object does not define.
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

        Args:
            name: Name of the constant, one of `constants`.
            value: The number, signed or unsigned, of at most 64 bits.

        Returns:
            The changed description.

        Raises:
            UsageError: No program loads such a constant.
            ValueError: The number does not fit into 64 bits.
        """
        if name not in self.constants:
            known = ", ".join(self.constants) or "none"
            raise UsageError(
                f"{self.path or 'the object'} has no constant {name!r}; it has: {known}"
            )
        if not -(1 << 63) <= value < 1 << 64:
            raise ValueError(f"constant {name}: {value} does not fit into 64 bits")
        programs = {
            program.name: program.with_changes(
                functions=tuple(
                    function.with_constant(name, value) for function in program.functions
                )
            )
            for program in self.programs.values()
        }
        given = {**self.given_constants, name: value}
        return dataclasses.replace(self, programs=programs, given_constants=given)

    def only_programs(self, *names: str) -> Self:
        """Return a copy with these programs only; all maps stay.

        Args:
            names: Names of the programs.

        Returns:
            The changed description.

        Raises:
            UsageError: There is no such program.
        """
        kept = {name: self._named("program", self.programs, name) for name in names}
        return dataclasses.replace(self, programs=kept)

    def _named(self, kind: str, things: Mapping[str, Any], name: str) -> Any:
        if name in things:
            return things[name]
        known = ", ".join(things) or "none"
        raise UsageError(f"{self.path or 'the object'} has no {kind} {name!r}; it has: {known}")
