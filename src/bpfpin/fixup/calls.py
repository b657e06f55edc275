"""Links a program: its functions one after the other, calls and function addresses filled in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from bpfpin import insn
from bpfpin.errors import UsageError
from bpfpin.insn import INSN_SIZE, LD_IMM64, Code, encode, fill
from bpfpin.spec import FunctionSpec, LineInfo, ProgramSpec, Reference, ReferenceKind
from bpfpin.uapi import PseudoCall, PseudoSource

_SOURCES = {
    ReferenceKind.CALL: int(PseudoCall.CALL),
    ReferenceKind.FUNCTION: int(PseudoSource.FUNC),
}
_FUNCTIONS = tuple(_SOURCES)  # compared, for hashing the members of an enum is slow
_MAP_VALUE = int(PseudoSource.MAP_VALUE)
_MAP_FD = int(PseudoSource.MAP_FD)
_FILLED = (ReferenceKind.MAP, ReferenceKind.MAP_VALUE)


@dataclass(frozen=True)
class LinkedProgram:
    """One run of instructions; all indices count its slots.

    *references* are those to maps, still to be filled. *functions* (index and BTF id of each) and
    *lines* are empty unless every function has them: the kernel takes all or none.
    """

    instructions: Code
    references: tuple[Reference, ...]
    functions: tuple[tuple[int, int], ...]
    lines: tuple[LineInfo, ...]


def link(program: ProgramSpec) -> LinkedProgram:
    """Put the entry function first, then one copy of each function that it can reach.

    The exception callback is among them: the kernel finds it by its BTF.
    """
    functions = _reachable(program)
    if len(functions) == 1 and not _calls(functions[0]):
        return _alone(functions[0])
    sizes = [len(function.instructions) for function in functions]
    bases = dict(
        zip(
            [function.name for function in functions],
            accumulate(sizes, initial=0),
            strict=False,  # the last sum is the program's length
        )
    )
    placed = [(bases[function.name], function) for function in functions]
    return LinkedProgram(
        instructions=Code(b"".join([_code(each, base, bases) for base, each in placed])),
        references=tuple(left for base, each in placed for left in _map_references(each, base)),
        functions=_function_info(placed),
        lines=_line_info(placed),
    )


def _calls(function: FunctionSpec) -> list[str]:
    return [target for _, kind, target, _ in function.references if kind in _FUNCTIONS]


def _alone(function: FunctionSpec) -> LinkedProgram:
    """Return the one function as it is, which most programs are."""
    placed = [(0, function)]
    code = Code(encode(function.instructions))
    return LinkedProgram(code, function.references, _function_info(placed), _line_info(placed))


def _reachable(program: ProgramSpec) -> list[FunctionSpec]:
    known = {function.name: function for function in program.functions}
    # The callback comes last, as libbpf has it; nothing in the code refers to it.
    callback = [program.exception_callback] if program.exception_callback else []
    waiting = [*callback, program.functions[0].name]
    found: dict[str, FunctionSpec] = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in known:
            raise UsageError(
                f"program {program.name} calls {name}, which is not among its functions"
            )
        found[name] = known[name]
        waiting += reversed(_calls(known[name]))
    return list(found.values())


def _code(function: FunctionSpec, base: int, bases: Mapping[str, int]) -> bytes:
    """Return the function's instructions with the distances to other functions filled in."""
    code = bytearray(encode(function.instructions))
    for index, kind, target, _ in function.references:
        if kind not in _FUNCTIONS:
            continue
        distance = bases[target] - (base + index) - 1
        fill(code, index, imm=distance, src=_SOURCES[kind])
        if code[index * INSN_SIZE] == LD_IMM64:
            # The upper half of a function's address stays 0, whatever addend stood there.
            fill(code, index + 1, imm=0)
    return bytes(code)


def _map_references(function: FunctionSpec, base: int) -> Iterator[Reference]:
    for each in function.references:
        if each.kind not in _FUNCTIONS:
            yield each._replace(index=base + each.index) if base else each


def _function_info(placed: list[tuple[int, FunctionSpec]]) -> tuple[tuple[int, int], ...]:
    if not all(function.type_id for _, function in placed):
        return ()
    return tuple((base, function.type_id) for base, function in placed)


def _line_info(placed: list[tuple[int, FunctionSpec]]) -> tuple[LineInfo, ...]:
    # The kernel wants a line for the first instruction of every function.
    if not all(each.line_info and each.line_info[0].index == 0 for _, each in placed):
        return ()
    lines: list[LineInfo] = []
    for base, each in placed:
        lines += _moved(each.line_info, base) if base else each.line_info
    return tuple(lines)


def _moved(lines: Iterable[LineInfo], base: int) -> Iterator[LineInfo]:
    for line in lines:
        index = base + line.index
        yield LineInfo(index, line.file_name_offset, line.line_offset, line.line_column)


# Fills the descriptors of maps into a linked program.


def fill_maps(
    instructions: Sequence[insn.Instruction],
    references: Iterable[Reference],
    descriptors: Mapping[str, int],
) -> insn.Code:
    """Return *instructions* with each map reference replaced by its map's descriptor.

    A reference into a value carries its offset in the second slot. `UsageError` if *descriptors*
    lacks a map.
    """
    filled = bytearray(insn.encode(instructions))
    for reference in references:
        if reference.kind not in _FILLED:
            raise UsageError(
                f"the program takes {reference.target} from the kernel; load it with its object"
            )
        if reference.target not in descriptors:
            raise UsageError(f"the program uses map {reference.target!r}, which was not given")
        source = _MAP_VALUE if reference.kind is ReferenceKind.MAP_VALUE else _MAP_FD
        insn.fill(filled, reference.index, imm=descriptors[reference.target], src=source)
        insn.fill(filled, reference.index + 1, imm=reference.addend)
    return insn.Code(bytes(filled))
