"""Fills the descriptors of maps into a linked program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from bpfpin.errors import UsageError
from bpfpin.insn import Instruction, signed32
from bpfpin.spec import Reference, ReferenceKind
from bpfpin.uapi import PseudoSource


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
        filled[at] = dataclasses.replace(
            filled[at],
            src=int(PseudoSource.MAP_VALUE if is_value else PseudoSource.MAP_FD),
            imm=descriptors[reference.target],
        )
        filled[at + 1] = dataclasses.replace(filled[at + 1], imm=signed32(reference.addend))
    return tuple(filled)
