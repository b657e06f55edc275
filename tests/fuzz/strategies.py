"""Objects and types that no compiler writes, put together by hypothesis from sound pieces."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    DeclTag,
    Enum,
    Enumerator,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
    Linkage,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    SectionVariable,
    Struct,
    Union,
    Var,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.insn import CALL, LD_IMM64, Instruction, exit_
from bpfpin.objfile.elf.file import SectionType
from fuzz.seeds import ext
from support.elf_writer import ElfWriter, NewSection, NewSymbol

U32_MAX = 0xFFFFFFFF
NAMES = st.sampled_from(("", "a", "b", "key", "value", "type", "values", "max_entries", "flows"))
SECTIONS = st.sampled_from(
    ("xdp", "tc", ".text", "maps", ".maps", ".data", ".rodata", ".bss", "license", "version", "9/1")
)
IDS = st.integers(0, 12) | st.sampled_from((U32_MAX, 1 << 20))
SMALL = st.integers(0, 64)
SIZES = SMALL | st.sampled_from((1 << 16, 1 << 30, 1 << 31, U32_MAX))
MEMBERS = st.lists(
    st.builds(Member, NAMES, IDS, st.integers(0, 512), st.integers(0, 64)), max_size=4
).map(tuple)
ENUMERATORS = st.lists(st.builds(Enumerator, NAMES, SMALL), max_size=4).map(tuple)
VARIABLES = st.lists(st.builds(SectionVariable, IDS, SIZES, SIZES), max_size=4).map(tuple)
PARAMETERS = st.lists(st.builds(Parameter, NAMES, IDS), max_size=4).map(tuple)
LINKAGES = st.sampled_from(Linkage)

KINDS: st.SearchStrategy[BtfType] = st.one_of(
    st.builds(Int, NAMES, SMALL, SMALL, st.sampled_from(IntEncoding)),
    st.builds(Float, NAMES, SMALL),
    st.builds(Pointer, IDS),
    st.builds(Array, IDS, IDS, SIZES),
    st.builds(Struct, NAMES, SIZES, MEMBERS),
    st.builds(Union, NAMES, SIZES, MEMBERS),
    st.builds(Enum, NAMES, SMALL, st.booleans(), ENUMERATORS, st.booleans()),
    st.builds(Forward, NAMES, st.booleans()),
    st.builds(Modifier, st.sampled_from(ModifierKind), NAMES, IDS),
    st.builds(Function, NAMES, IDS, LINKAGES),
    st.builds(FunctionPrototype, IDS, PARAMETERS),
    st.builds(Var, NAMES, IDS, LINKAGES),
    st.builds(DataSection, SECTIONS, SIZES, VARIABLES),
    st.builds(DeclTag, NAMES, IDS, st.integers(-1, 4)),
)
INSTRUCTIONS = st.builds(
    Instruction,
    st.sampled_from((0, CALL, LD_IMM64, 0x61, 0x63, 0xB7, 0x95)),
    st.integers(0, 10),
    st.integers(0, 6),
    st.integers(-(1 << 15), (1 << 15) - 1),
    st.integers(-8, 8),
)
WORDS = st.lists(st.integers(0, U32_MAX) | SMALL, max_size=24).map(
    lambda words: struct.pack(f"<{len(words)}I", *words)
)


@st.composite
def btf_blobs(draw: st.DrawFn) -> bytes:
    """Draw a table of up to twelve types that name each other at will."""
    builder = BtfBuilder()
    for kind in draw(st.lists(KINDS, max_size=12)):
        try:
            builder.add(kind)
        except (ValueError, struct.error):
            builder.add(Pointer(0))  # its numbers have no place in the form
    return builder.build()


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Draw a whole file: sections, functions, symbols, relocations, types, debug records."""
    elf = ElfWriter()
    elf.license("GPL")
    places = [_section(draw, elf) for _ in range(draw(st.integers(0, 4)))]
    functions = [_function(draw, elf) for _ in range(draw(st.integers(0, 3)))]
    symbols = [*functions, *(_symbol(draw, elf, places) for _ in range(draw(st.integers(0, 4))))]
    for _ in range(draw(st.integers(0, 4)) if symbols and functions else 0):
        place, symbol = draw(st.sampled_from(functions)), draw(st.sampled_from(symbols))
        kind = draw(st.sampled_from((1, 2, 10, 99)))
        elf.relocation(place, symbol, at=draw(st.integers(0, 6)), type=kind)
    if draw(st.booleans()):
        elf.section(".BTF", draw(btf_blobs()))
        elf.section(".BTF.ext", draw(WORDS.map(lambda words: ext(b"", words)) | WORDS))
    return elf.build()


def _section(draw: st.DrawFn, elf: ElfWriter) -> NewSection:
    name = draw(SECTIONS)
    if draw(st.booleans()):
        return elf.bss(name, draw(st.integers(0, 4096)))
    kind = draw(st.sampled_from((SectionType.PROGBITS, SectionType.STRTAB, 0x70000000)))
    return elf.section(name, draw(WORDS), type=kind)


def _function(draw: st.DrawFn, elf: ElfWriter) -> NewSymbol:
    code = draw(st.lists(INSTRUCTIONS, max_size=6))
    return elf.function(draw(SECTIONS), draw(NAMES), [*code, exit_()], binding=draw(_BINDINGS))


def _symbol(draw: st.DrawFn, elf: ElfWriter, places: list[NewSection]) -> NewSymbol:
    section = draw(st.sampled_from([None, *places]))
    return elf.symbol(
        draw(NAMES),
        section,
        value=draw(SMALL),
        size=draw(SMALL),
        type=draw(st.integers(0, 4)),
        binding=draw(_BINDINGS),
    )


_BINDINGS = st.integers(0, 2)
