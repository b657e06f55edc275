"""Describes one program in full: figures of the verifier, functions, maps, and what keeps it."""

from __future__ import annotations

import pwd
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Function
from bpfpin.errors import BpfError
from bpfpin.host.named import open_program
from bpfpin.host.objects import HostObjects, contents, may_walk
from bpfpin.host.programs import HostPrograms, ProgramRow, memory_of, with_holders
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel import info as kernel_info
from bpfpin.objects.kernel.btf import map_btf
from bpfpin.objects.kernel.info import MapInfo, ProgramInfo
from bpfpin.objects.kernel.link_target import function_name
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.code import CodeFunction, ProgramCode, read_code
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass


@dataclass(frozen=True, slots=True)
class NamedFunction:
    """A function of a program with its name; `code` says where it is."""

    name: str
    code: CodeFunction


@dataclass(frozen=True, slots=True)
class ProgramDetails:
    """One program in full.

    Attributes:
        row: What a list shows of it.
        full_name: The name in its object; the kernel keeps 15 characters of it.
        user: The name of the user who loaded it; empty if the id has none.
        maps: The maps that it uses, except those that cannot be opened.
        functions: Its functions, the main one first.
        target: The function that a program of tracing, LSM or extension is made for.
        arrays: Ids of the program arrays that hold it for tail calls.
        has_lines: Whether the kernel has its lines of C.
        notes: Further facts, and the parts that this user may not see.
    """

    row: ProgramRow
    full_name: str
    user: str
    maps: tuple[MapInfo, ...]
    functions: tuple[NamedFunction, ...]
    target: str
    arrays: tuple[int, ...]
    has_lines: bool
    notes: tuple[str, ...]


def show_program(target: str, *, pin_root: Path) -> ProgramDetails:
    """Return the details of the program that *target* names, and what keeps it."""
    with open_program(target, pin_root) as program:
        info, code = program.info, read_code(program.fd)
        host = HostPrograms(pin_root)
        (row,) = with_holders([host.row(info, memory_of(program.fd))])
        functions = named_functions(info, code)
        notes = [*host.notes, *_notes(info, code)]
        return ProgramDetails(
            row,
            functions[0].name or info.name,
            _user(info.uid),
            _maps(info),
            functions,
            _target(info),
            tuple(_arrays(program, notes)),
            bool(code.lines),
            tuple(notes),
        )


def named_functions(info: ProgramInfo, code: ProgramCode) -> tuple[NamedFunction, ...]:
    """Return the functions of a program with their names in its BTF.

    Without BTF, the only one has the kernel's name of the program.
    """
    btf = program_btf(info)
    return tuple(
        NamedFunction(_name(btf, function.type_id) or (info.name if not number else ""), function)
        for number, function in enumerate(code.functions)
    )


def program_btf(info: ProgramInfo) -> Btf | None:
    """Return the types of a program; None if it has none, or they cannot be opened."""
    # Hidden from callers without CAP_SYS_ADMIN.
    with suppress(BpfError):
        return map_btf(info.btf_id) if info.btf_id else None
    return None


def _name(btf: Btf | None, type_id: int) -> str:
    if btf is None or not type_id:
        return ""
    kind = btf[type_id]
    return kind.name if isinstance(kind, Function) else ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user of a container, or one that was removed
        return ""


def _maps(info: ProgramInfo) -> tuple[MapInfo, ...]:
    infos = []
    for map_id in info.map_ids:
        with suppress(BpfError), Map.from_id(map_id, read_only=True) as bpf_map:
            infos.append(bpf_map.info)
    return tuple(infos)


def _target(info: ProgramInfo) -> str:
    # The object is 0 for an extension: its target is another program, whose link says it.
    if info.attach_btf_object_id and info.attach_btf_id:
        with suppress(BpfError):
            return function_name(info.attach_btf_object_id, info.attach_btf_id)
    return ""


def _arrays(program: Program, notes: list[str]) -> Iterator[int]:
    """Yield the ids of the program arrays that hold *program*."""
    if not may_walk():
        return
    arrays = {info.id: info for info in kernel_info.maps() if traits_of(info.type).holds_programs}
    objects = HostObjects(arrays)
    held = {
        element.map_id
        for element in contents(objects)
        if element.is_program and element.id == program.id
    }
    notes += objects.notes
    yield from sorted(held)


def _notes(info: ProgramInfo, code: ProgramCode) -> Sequence[str]:
    notes = []
    if not code.instructions:
        notes.append("its instructions and addresses are shown with CAP_SYSLOG only")
    if not info.is_gpl_compatible:
        notes.append("its license is not compatible with the GPL: some helpers refuse it")
    if info.ifindex:
        notes.append(f"offloaded to the device of ifindex {info.ifindex}")
    if info.recursion_misses:
        notes.append(f"{info.recursion_misses} runs were skipped: it was running on that CPU")
    return notes
