"""What the damaged objects are made from: written ones with a bit of everything, and compiled."""

from __future__ import annotations

import struct

from bpfpin.btf.types import (
    Array,
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
from bpfpin.insn import CALL, Instruction, exit_, load_imm64, mov_imm
from support.elf_writer import R_BPF_64_32, ElfWriter
from support.objects import compiled

COMPILED = (
    "btf_maps",
    "callbacks",
    "core_kinds",
    "core_relocations",
    "elf_map_in_map",
    "elf_tail_calls_tc",
    "externs",
    "globals",
    "legacy_map_def",
    "old_names",
    "several_maps",
    "subprograms",
)


def seeds() -> dict[str, bytes]:
    """Return the objects by name; the compiled ones are skipped without clang."""
    written = {"old": old_object(), "typed": typed_object(), "relocated": relocated_object()}
    return written | {name: compiled(name, "clang").read_bytes() for name in COMPILED}


def old_object() -> bytes:
    """Return an object without types: both old dialects, data, calls, a tail call."""
    elf = ElfWriter()
    elf.license("GPL")
    elf.section("version", struct.pack("<I", 0x60100))
    old = elf.section("maps", struct.pack("<9I", 1, 4, 8, 16, 0, 7, 0, 0, 0))
    counts = elf.symbol("counts", old, size=36)
    old.data += struct.pack("<9I", 3, 4, 4, 2, 0, 9, 0, 0, 0)
    elf.symbol("jumps", old, value=36, size=36)
    data = elf.section(".data", struct.pack("<QQ", 1, 2))
    elf.symbol("total", data, value=8, size=8)
    bss = elf.section_symbol(elf.bss(".bss", 16))
    call = Instruction(CALL, src=1, imm=-1)
    program = elf.function("xdp", "main", [*load_imm64(1, 0), *load_imm64(2, 8), call, exit_()])
    elf.relocation(program, counts, at=0)
    elf.relocation(program, bss, at=2)
    helper = elf.function(".text", "helper", [mov_imm(0, 2), exit_()])
    elf.relocation(program, helper, at=4, type=R_BPF_64_32, addend=0)
    elf.function("9/1", "tail", [mov_imm(0, 2), exit_()])
    return elf.build()


def typed_object() -> bytes:
    """Return an object with maps in `.maps`, global variables, and every kind of type."""
    elf = ElfWriter()
    elf.license("GPL")
    maps = elf.symbol("flows", elf.section(".maps", bytes(32)), size=32)
    elf.symbol("limit", elf.section(".rodata", bytes(range(16))), value=0, size=4)
    bss = elf.bss(".bss", 64)
    elf.symbol("shared", bss, value=8, size=24)
    program = elf.function("tcx/ingress", "count", [*load_imm64(1, 0), mov_imm(0, 0), exit_()])
    elf.relocation(program, maps, at=0)
    builder = BtfBuilder(strings=b"\0tcx/ingress\0count.c\0return 0;\0")
    for kind in TYPES:
        builder.add(kind)
    elf.section(".BTF", builder.build())
    functions = struct.pack("<5I", 8, 1, 1, 0, 18)
    lines = struct.pack("<11I", 16, 1, 2, 0, 13, 21, 5 << 10, 16, 13, 21, 7 << 10)
    elf.section(".BTF.ext", ext(functions, lines))
    return elf.build()


def relocated_object() -> bytes:
    """Return an object with a CO-RE relocation of each kind."""
    elf = ElfWriter()
    elf.license("GPL")
    code = [mov_imm(1, 0) for _ in RELOCATIONS]
    elf.function("xdp", "main", [*code, exit_()])
    builder = BtfBuilder(strings=b"\0xdp\0000:0\0000\0000:1:2\0")  # at 1, 5, 9, 11
    for kind in (
        Int("unsigned int", 4, 32),
        Array(1, 1, 4),
        Struct("s", 20, (Member("x", 1, 0), Member("data", 2, 32))),
        Enum("e", 4, False, (Enumerator("A", 1), Enumerator("B", 2))),
        Modifier(ModifierKind.TYPEDEF, "s", 3),
    ):
        builder.add(kind)
    elf.section(".BTF", builder.build())
    records = b"".join(struct.pack("<4I", 8 * at, *each) for at, each in enumerate(RELOCATIONS))
    part = struct.pack("<3I", 16, 1, len(RELOCATIONS)) + records
    elf.section(".BTF.ext", ext(b"", b"", part))
    return elf.build()


RELOCATIONS = [  # type, path, kind
    (3, 5, 0),
    (3, 5, 1),
    (3, 11, 2),
    (3, 5, 3),
    (3, 5, 4),
    (3, 5, 5),
    (3, 9, 6),
    (3, 9, 7),
    (5, 9, 8),
    (3, 9, 9),
    (4, 9, 10),
    (4, 9, 11),
    (3, 9, 12),
    (3, 11, 0),
]
TYPES = (
    Int("unsigned int", 4, 32),  # 1
    Int("char", 1, 8, IntEncoding.SIGNED),
    Array(1, 1, 16),
    Pointer(3),
    Struct("key", 8, (Member("a", 1, 0), Member("low", 1, 32, 7), Member("high", 1, 39, 25))),
    Pointer(5),  # 6
    Array(2, 1, 8),
    Union("", 8, (Member("text", 7, 0), Member("number", 1, 0))),
    Struct("value", 16, (Member("", 8, 0), Member("colour", 10, 64), Member("f", 11, 96))),
    Enum("colour", 4, True, (Enumerator("RED", -1), Enumerator("BLUE", 1))),
    Float("float", 4),  # 11
    Modifier(ModifierKind.TYPEDEF, "value_t", 9),
    Modifier(ModifierKind.CONST, "", 12),
    Pointer(13),
    Struct(
        "",
        32,
        tuple(
            Member(name, kind, 64 * at)
            for at, (name, kind) in enumerate(
                (("type", 22), ("max_entries", 4), ("key", 6), ("value", 14))
            )
        ),
    ),
    Var("flows", 15, Linkage.GLOBAL),  # 16
    FunctionPrototype(1, (Parameter("ctx", 6), Parameter("", 0))),
    Function("count", 17, Linkage.GLOBAL),
    Var("limit", 1, Linkage.GLOBAL),
    Var("shared", 12, Linkage.GLOBAL),
    Array(1, 1, 1),  # 21
    Pointer(21),
    DataSection(".maps", 0, (SectionVariable(16, 0, 32),)),
    DataSection(".rodata", 0, (SectionVariable(19, 0, 4),)),
    DataSection(".bss", 0, (SectionVariable(20, 0, 16),)),
    Forward("gone", is_union=True),  # 26
    Pointer(26),
    DeclTag("tag", 9, 1),
    Modifier(ModifierKind.TYPE_TAG, "user", 1),
    Enum("wide", 8, False, (Enumerator("BIG", 1 << 40),), is_wide=True),
)


def ext(functions: bytes, lines: bytes, relocations: bytes = b"") -> bytes:
    """Return section `.BTF.ext` with these parts."""
    parts = (functions, lines, relocations)
    places, at = b"", 0
    for part in parts:
        places += struct.pack("<II", at, len(part))
        at += len(part)
    return struct.pack("<HBBI", 0xEB9F, 1, 0, 32) + places + b"".join(parts)
