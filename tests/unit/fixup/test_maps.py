"""Descriptors of maps in a program's instructions."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.fixup.calls import fill_maps
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.spec import Reference, ReferenceKind
from bpfpin.uapi import PseudoSource

# What compilers leave in the immediate does not matter: the second load holds an addend.
CODE = (*load_imm64(1, 0), *load_imm64(2, 24), mov_imm(0, 2), exit_())
COUNTS = Reference(0, ReferenceKind.MAP, "counts")
VARIABLE = Reference(2, ReferenceKind.MAP_VALUE, ".bss", 24)


def test_a_map_becomes_its_descriptor_and_a_variable_also_its_offset() -> None:
    filled = fill_maps(CODE, [COUNTS, VARIABLE], {"counts": 7, ".bss": 9})

    assert filled[:2] == load_imm64(1, 7, src=PseudoSource.MAP_FD)
    assert filled[2:4] == load_imm64(2, 24 << 32 | 9, src=PseudoSource.MAP_VALUE)
    assert filled[4:] == CODE[4:]


def test_a_section_symbols_addend_does_not_stay_in_a_map_reference() -> None:
    filled = fill_maps(load_imm64(1, 1 << 40 | 20), [COUNTS], {"counts": 7})

    assert filled == load_imm64(1, 7, src=PseudoSource.MAP_FD)


def test_a_map_that_was_not_given_is_named() -> None:
    with pytest.raises(UsageError, match="uses map 'counts', which was not given"):
        fill_maps(CODE, [COUNTS], {".bss": 9})
