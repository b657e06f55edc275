"""Fills the descriptors of maps into a linked program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bpfpin.errors import UsageError
from bpfpin.insn import Instruction, signed32
from bpfpin.spec import Reference, ReferenceKind
from bpfpin.uapi import PseudoSource

_MAP_VALUE = int(PseudoSource.MAP_VALUE)
_MAP_FD = int(PseudoSource.MAP_FD)


def fill(
    instructions: Sequence[Instruction],
    references: Iterable[Reference],
    descriptors: Mapping[str, int],
) -> tuple[Instruction, ...]:
    """Return *instructions* with each map reference replaced by its map's descriptor.

    A reference into a value carries its offset in the second slot. `UsageError` if *descriptors*
    lacks a map.
    """
    filled = list(instructions)
    for reference in references:
        if reference.target not in descriptors:
            raise UsageError(f"the program uses map {reference.target!r}, which was not given")
        is_value = reference.kind == ReferenceKind.MAP_VALUE
        at = reference.index
        low, high = filled[at : at + 2]
        source = _MAP_VALUE if is_value else _MAP_FD
        fd = descriptors[reference.target]
        filled[at] = Instruction(low.opcode, low.dst, source, low.offset, fd)
        offset = signed32(reference.addend)
        filled[at + 1] = Instruction(high.opcode, high.dst, high.src, high.offset, offset)
    return tuple(filled)
