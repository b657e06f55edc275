"""Fills the descriptors of maps into a linked program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bpfpin import insn
from bpfpin.errors import UsageError
from bpfpin.spec import Reference, ReferenceKind
from bpfpin.uapi import PseudoSource

_MAP_VALUE = int(PseudoSource.MAP_VALUE)
_MAP_FD = int(PseudoSource.MAP_FD)
_FILLED = (ReferenceKind.MAP, ReferenceKind.MAP_VALUE)


def fill(
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
