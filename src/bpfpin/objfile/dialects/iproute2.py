"""Maps defined by iproute2's `struct bpf_elf_map` in section `maps`, and its tail calls.

The structure has 36 bytes (include/bpf_elf.h of iproute2); older, shorter ones are extended with
zeros. A map of maps refers to its inner maps by their `id`; each inner map gives the index that it
fills (`inner_idx`).

A program in section `ID/KEY` fills entry KEY of the program array with that id. The name of the
section does not give a program type. The kernel lets programs of one type only into an array, so
such a program gets the type of the programs that use the array.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from bpfpin.btf.btf import Btf
from bpfpin.errors import ObjectFileError
from bpfpin.map_traits import traits_of
from bpfpin.objfile.dialects import struct_form
from bpfpin.objfile.dialects.struct_form import Fields
from bpfpin.objfile.dialects.symbols import map_type, slot_fault
from bpfpin.objfile.elf.file import Elf
from bpfpin.objfile.elf.section import ProgramKind
from bpfpin.spec import Dialect, MapSpec, Pinning, ProgramSpec
from bpfpin.uapi import ProgramType

_NO_INDEX = 0xFFFFFFFF
_PINNINGS = {0: Pinning.NONE, 1: Pinning.OBJECT_NAMESPACE, 2: Pinning.GLOBAL_NAMESPACE}
# iproute2 knows the type from its command line (`tc filter … bpf`, `ip link … xdp`), not the file.
_DEFAULT = ProgramType.SCHED_CLS  # what iproute2 is mostly used for


def maps_of(elf: Elf, definitions: Sequence[Fields], btf: Btf | None) -> list[MapSpec]:
    """Return the maps in the order of *definitions*; `ObjectFileError` with symbol and offset."""
    maps = [_map(elf, btf, definition) for definition in definitions]
    return [_with_inner(elf, spec, maps) for spec in maps]


def _map(elf: Elf, btf: Btf | None, definition: Fields) -> MapSpec:
    symbol, section = definition.symbol, definition.section
    key_size, value_size = definition["key_size"], definition["value_size"]
    key, value = struct_form.annotated_types(
        btf, symbol.name, key_size=key_size, value_size=value_size
    )
    # Every other number is a key of the file bpf_pinning of iproute2.
    pinning = _PINNINGS.get(definition["pinning"], Pinning.FILE)
    index = definition["inner_idx"]
    return MapSpec(
        symbol.name,
        map_type(elf, section, symbol, number=definition["type"]),
        key_size=key_size,
        value_size=value_size,
        max_entries=definition["max_entries"],
        map_flags=definition["map_flags"],
        pinning=pinning,
        pinning_id=definition["pinning"] if pinning is Pinning.FILE else 0,
        key=key,
        value=value,
        dialect=Dialect.BPF_ELF_MAP,
        section=section.name,
        section_index=section.index,
        offset=symbol.value,
        id=definition["id"],
        inner_id=definition["inner_id"],
        inner_index=-1 if index == _NO_INDEX else index,
        note=definition.note,
    )


def _with_inner(elf: Elf, spec: MapSpec, maps: list[MapSpec]) -> MapSpec:
    """Return *spec* with its inner maps, if it is a map of maps and they are in this object."""
    if not traits_of(spec.type).holds_maps or not spec.inner_id:
        return spec
    # The template is the first one: all inner maps must be alike for the kernel.
    inner = [m for m in maps if m.id == spec.inner_id and not traits_of(m.type).holds_maps]
    initial = tuple((m.inner_index, m.name) for m in inner if m.inner_index >= 0)
    for index, _ in initial:
        if fault := slot_fault(elf, spec, index):
            raise fault
    return dataclasses.replace(spec, inner=inner[0] if inner else None, initial=initial)


def link_tail_calls(
    elf: Elf, maps: Sequence[MapSpec], programs: Sequence[tuple[ProgramSpec, ProgramKind]]
) -> tuple[list[MapSpec], list[ProgramSpec]]:
    """Put the programs of `ID/KEY` sections into their arrays, and give them a type.

    As in iproute2, a program whose array does not exist is left out of it; its note says so.

    Args:
        elf: The file, for errors.
        maps: All maps of the object.
        programs: All programs, each with the kind that its section gives.

    Returns:
        The maps and the programs.

    Raises:
        ObjectFileError: The map with that id is not a program array, the index is out of range, or
            two programs fill the same index.
    """
    # iproute2 finds arrays by id alone; several maps may have the id 0, the default.
    filled = {spec.name: spec for spec in maps}
    plain = [program for program, kind in programs if kind.tail_call is None]
    typed = []
    for program, kind in programs:
        if kind.tail_call is None:
            typed.append(program)
            continue
        array_id, index = kind.tail_call
        array = _array(elf, filled.values(), program, array_id)
        if array is None:
            typed.append(_typed(_unplaced(program), "", plain))
            continue
        filled[array.name] = _with_entry(elf, array, index, program)
        typed.append(_typed(program, array.name, plain))
    return list(filled.values()), typed


def _array(
    elf: Elf, maps: Iterable[MapSpec], program: ProgramSpec, array_id: int
) -> MapSpec | None:
    matches = [spec for spec in maps if spec.id == array_id]
    arrays = [spec for spec in matches if traits_of(spec.type).holds_programs]
    if arrays:
        return arrays[0]
    # 0 is the id of a definition that sets none, so a map of another type may have it as well.
    if not matches or not array_id:
        return None
    what = f"{matches[0].name} is of type {matches[0].type.name.lower()}, not prog_array"
    raise _error(elf, program, f"fills the map with id {array_id}, but {what}")


def _unplaced(program: ProgramSpec) -> ProgramSpec:
    note = f"{program.section_note}, and no map has that id: no tail call reaches it"
    return program.with_changes(section_note=note)


def _with_entry(elf: Elf, array: MapSpec, index: int, program: ProgramSpec) -> MapSpec:
    # iproute2 would get E2BIG from the kernel here.
    if fault := slot_fault(elf, array, index):
        raise fault
    before = dict(array.initial).get(index)
    if before is not None:
        raise _error(elf, program, f"fills index {index} of {array.name}, as {before} does")
    return dataclasses.replace(array, initial=(*array.initial, (index, program.name)))


def _typed(program: ProgramSpec, array: str, plain: Sequence[ProgramSpec]) -> ProgramSpec:
    """Return *program* with the type of the programs that use *array*, or of all other programs."""
    if program.type is not ProgramType.UNSPEC:
        return program
    known = [candidate for candidate in plain if candidate.type is not ProgramType.UNSPEC]
    callers = [candidate for candidate in known if _uses(candidate, array)] or known
    if len({candidate.type for candidate in callers}) != 1:
        note = f"{program.section_note}; taken to be {_word(_DEFAULT)}, iproute2's usual type"
        return program.with_changes(type=_DEFAULT, section_note=note)
    # bpf_prog_map_compatible() in kernel/bpf/core.c compares these as well.
    attach_types = {candidate.expected_attach_type for candidate in callers}
    flags = {candidate.program_flags for candidate in callers}
    kind = callers[0].type
    return program.with_changes(
        type=kind,
        expected_attach_type=attach_types.pop() if len(attach_types) == 1 else None,
        program_flags=flags.pop() if len(flags) == 1 else 0,
        section_note=f"{program.section_note}; taken to be {_word(kind)} like {callers[0].name}",
    )


def _uses(program: ProgramSpec, array: str) -> bool:
    return any(
        reference.target == array
        for function in program.functions
        for reference in function.references
    )


def _word(kind: ProgramType) -> str:
    return kind.name.lower()


def _error(elf: Elf, program: ProgramSpec, what: str) -> ObjectFileError:
    return elf.error(f"{program.name} {what}", section=program.section, symbol=program.name)
