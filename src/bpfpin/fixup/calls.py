"""Linking of a program: its functions are joined, and calls and map descriptors filled in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from bpfpin import insn
from bpfpin.errors import UsageError
from bpfpin.insn import INSN_SIZE, LD_IMM64, Code, encode, fill
from bpfpin.records import dataclass
from bpfpin.spec import FunctionSpec, LineInfo, ProgramSpec, Reference, ReferenceKind
from bpfpin.uapi import PseudoCall, PseudoSource

_SOURCES = {
    ReferenceKind.CALL: int(PseudoCall.CALL),
    ReferenceKind.FUNCTION: int(PseudoSource.FUNC),
}
_FUNCTIONS = tuple(_SOURCES)  # a tuple: comparing enum members is faster than hashing them
_MAP_VALUE = int(PseudoSource.MAP_VALUE)
_MAP_FD = int(PseudoSource.MAP_FD)
_FILLED = (ReferenceKind.MAP, ReferenceKind.MAP_VALUE)


@dataclass(frozen=True)
class LinkedProgram:
    """The instructions of a whole program; all indices count its slots.

    Attributes:
        instructions: The functions, one after the other.
        references: References to maps and externs, to be filled in.
        functions: First index and BTF id of each function; empty unless all functions have an id,
            because the kernel accepts `func_info` for all or none.
        lines: Source lines; empty unless all functions have them, for the same reason.
    """

    instructions: Code
    references: tuple[Reference, ...]
    functions: tuple[tuple[int, int], ...]
    lines: tuple[LineInfo, ...]


def link(program: ProgramSpec) -> LinkedProgram:
    """Return *program* linked: the entry function, then one copy of each function it can reach.

    The exception callback is included: the kernel finds it by its BTF.

    Raises:
        UsageError: A called function is not one of the program's functions.
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
        instructions=Code(b"".join([_code(function, base, bases) for base, function in placed])),
        references=tuple(
            reference for base, function in placed for reference in _map_references(function, base)
        ),
        functions=_function_info(placed),
        lines=_line_info(placed),
    )


def _calls(function: FunctionSpec) -> list[str]:
    return [target for _, kind, target, _ in function.references if kind in _FUNCTIONS]


def _alone(function: FunctionSpec) -> LinkedProgram:
    """Return a program of one function, the usual case, without copying its instructions."""
    placed = [(0, function)]
    code = Code(encode(function.instructions))
    return LinkedProgram(code, function.references, _function_info(placed), _line_info(placed))


def _reachable(program: ProgramSpec) -> list[FunctionSpec]:
    known = {function.name: function for function in program.functions}
    # The callback comes last, as in libbpf; no instruction refers to it.
    callback = [program.exception_callback] if program.exception_callback else []
    waiting = [*callback, program.functions[0].name]
    reached: dict[str, FunctionSpec] = {}
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        if name not in known:
            raise UsageError(
                f"program {program.name} calls {name}, which is not among its functions"
            )
        reached[name] = known[name]
        waiting += reversed(_calls(known[name]))
    return list(reached.values())


def _code(function: FunctionSpec, base: int, bases: Mapping[str, int]) -> bytes:
    """Return the function's code with the distances to other functions filled in."""
    code = bytearray(encode(function.instructions))
    for index, kind, target, _ in function.references:
        if kind not in _FUNCTIONS:
            continue
        distance = bases[target] - (base + index) - 1  # counted from the next instruction
        fill(code, index, imm=distance, src=_SOURCES[kind])
        if code[index * INSN_SIZE] == LD_IMM64:
            # The upper half must not keep an addend that the compiler wrote there.
            fill(code, index + 1, imm=0)
    return bytes(code)


def _map_references(function: FunctionSpec, base: int) -> Iterator[Reference]:
    for reference in function.references:
        if reference.kind not in _FUNCTIONS:
            yield reference._replace(index=base + reference.index) if base else reference


def _function_info(placed: list[tuple[int, FunctionSpec]]) -> tuple[tuple[int, int], ...]:
    if not all(function.type_id for _, function in placed):
        return ()
    return tuple((base, function.type_id) for base, function in placed)


def _line_info(placed: list[tuple[int, FunctionSpec]]) -> tuple[LineInfo, ...]:
    # check_btf_line() in kernel/bpf/verifier.c requires a line for the first instruction of every
    # function.
    if not all(function.line_info and function.line_info[0].index == 0 for _, function in placed):
        return ()
    lines: list[LineInfo] = []
    for base, function in placed:
        lines += _moved(function.line_info, base) if base else function.line_info
    return tuple(lines)


def _moved(lines: Iterable[LineInfo], base: int) -> Iterator[LineInfo]:
    for line in lines:
        index = base + line.index
        yield LineInfo(index, line.file_name_offset, line.line_offset, line.line_column)


def fill_maps(
    instructions: Sequence[insn.Instruction],
    references: Iterable[Reference],
    descriptors: Mapping[str, int],
) -> insn.Code:
    """Return *instructions* with the descriptors of maps filled in.

    A reference to a map's value has the offset in the value in its second slot.

    Args:
        instructions: The linked program.
        references: Its references to maps.
        descriptors: File descriptors by name of the map.

    Returns:
        The code for BPF_PROG_LOAD.

    Raises:
        UsageError: *descriptors* lacks a map, or a reference is to an extern.
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
