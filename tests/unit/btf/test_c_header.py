"""Types as a C header: what it says compiles, and has the layout of the BTF it was made of."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bpfpin.btf.btf import Btf, blob
from bpfpin.btf.c_header import CHeader
from bpfpin.btf.layout import size_of
from bpfpin.btf.types import (
    Array,
    BtfType,
    DeclTag,
    Enum,
    Enumerator,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    Member,
    Modifier,
    ModifierKind,
    Parameter,
    Pointer,
    Struct,
    Union,
    Var,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import ObjectFileError
from bpfpin.objfile.reader import read_btf
from support.bombs import at_once
from support.btf_tables import S32, U8, U32, U64, table

VMLINUX = Path("/sys/kernel/btf/vmlinux")
ZIG = (sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding")
COMPILERS = {"zig": ZIG, "clang": ("clang", "-target", "bpfel")}
# Shapes that need more than a list of members.
SHAPES = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
typedef unsigned long long u64; typedef _Bool bool; typedef __int128 i128;
struct forward; union forward_union; enum color { RED, GREEN = 7, BLUE = -3 };
struct bits { u32 a : 3; u32 b : 29; u32 : 5; u32 c : 7; u64 d : 40; u8 e : 1; bool f : 1; };
struct tight { u8 a; u64 b; u16 c : 9; u32 d : 30; } __attribute__((packed));
struct wide_unit { u8 a; u32 b : 30; u8 c; };
struct lined { u8 first; u64 second __attribute__((aligned(64))); u8 third; }
    __attribute__((aligned(64)));
struct holes { struct lined *pointer; struct { u8 x; u64 y; } inner; u8 last; i128 big; };
union larger { u8 bytes[5]; u32 number; } __attribute__((aligned(32)));
struct has_larger { u8 a; union larger larger; };
struct nested { int kind; union { struct { u8 a; u16 b; }; struct { u64 c; } named; };
    enum { LEFT, RIGHT } side; };
enum tiny { TINY_A, TINY_B } __attribute__((packed));
enum big { BIG = 0x123456789abcULL, BIGGEST = ~0ULL };
enum least { LEAST = -0x7fffffffffffffffLL-1 };
enum top { TOP = 0xffffffff };
struct enums { enum tiny tiny; enum big big; enum least least; enum top top;
    enum color color : 5; };
typedef int (*callback)(struct forward *, const char *, ...);
typedef void function(struct enums);
typedef struct list list_t;
struct list { list_t *next, **others; callback call; function *plain;
    callback *(*table[3][2])(void);
    void (*const fixed)(int (*)(void)); const char *const volatile name; int (*rows)[4]; };
typedef struct { u32 value; union forward_union *to; } unnamed_t;
struct flexible { u32 count; unnamed_t items[]; };
struct empty {}; struct zero { struct empty nothing; u8 last[0]; };
struct grid { u16 cells[2][3]; struct list rows[2]; float f; double d; };
struct tail { u64 a; u8 b; }; struct after_tail { struct tail t; u8 c; } __attribute__((packed));
struct padded { u8 a; struct after_tail b; } __attribute__((aligned(4)));
"""


@pytest.fixture(params=list(COMPILERS))
def compiler(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command of each compiler that is here."""
    command = COMPILERS[request.param]
    if request.param == "zig" and importlib.util.find_spec("ziglang") is None:
        pytest.skip("needs ziglang, which comes with the development dependencies")
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}: apt install {command[0]}")
    return command


def made(compiler: tuple[str, ...], source: str, folder: Path, *options: str) -> Path:
    """Return the object that *source* compiles to, without a warning."""
    path = folder / "source.c"
    path.write_text(source)
    words = [*compiler, "-g", "-O1", "-Wall", "-Werror", *options, "-c", path.name, "-o", "made.o"]
    caches = {"ZIG_LOCAL_CACHE_DIR": str(folder), "ZIG_GLOBAL_CACHE_DIR": str(folder)}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | caches
    )
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "made.o"


def header(btf: Btf) -> str:
    text = CHeader(btf)
    text.add_all()
    return text.text()


def tagged(btf: Btf) -> Iterator[tuple[str, int]]:
    """Yield each structure, union and enumeration with a name, as C writes it."""
    words = {Struct: "struct", Union: "union", Enum: "enum"}
    for type_id in btf.ids():
        kind = btf[type_id]
        if isinstance(kind, (Struct, Union, Enum)) and kind.name:
            yield f"{words[type(kind)]} {kind.name}", type_id


def variables(names: list[str]) -> str:
    """Return C with a variable of each type, so that the compiler writes all of them down."""
    # Behind a pointer, clang 14 leaves some of them out; values of some are large.
    return "".join(f"{name} v{number}[0];\n" for number, name in enumerate(names))


def target_of(btf: Btf, number: int) -> int:
    """Return the id of the type of variable *number* of `variables`."""
    variable = btf.find(f"v{number}", Var)
    assert variable is not None
    array = btf[btf[variable].type_id]  # type: ignore[union-attr]  # a Var
    assert isinstance(array, Array)
    return array.element_id


def layout(btf: Btf, type_id: int) -> object:
    """Return size and members of a type, those of unnamed types inside it too."""
    kind = btf[btf.strip(type_id)]
    if isinstance(kind, Enum):
        # Before version 15 clang wrote all enumerations as unsigned, with 32 bits a number.
        return kind.size, [value.value & 0xFFFFFFFF for value in kind.values]
    assert isinstance(kind, (Struct, Union))
    return type(kind), kind.size, [part(btf, member) for member in kind.members]


def part(btf: Btf, member: Member) -> object:
    kind = btf[btf.strip(member.type_id)]
    is_inline = isinstance(kind, (Struct, Union)) and not kind.name
    inner = layout(btf, member.type_id) if is_inline else shape(btf, member.type_id)
    return member.name, member.bit_offset, member.bitfield_size, inner


def shape(btf: Btf, type_id: int, depth: int = 8) -> object:
    """Return a type without its members: kinds from the outside in, sizes, names."""
    kind = btf[type_id]
    if depth == 0:
        return "…"
    match kind:
        case Array():
            return "array", kind.length, shape(btf, kind.element_id, depth - 1)
        case Pointer():
            return "pointer", shape(btf, kind.type_id, depth - 1)
        case Modifier():
            return kind.kind.name, kind.name, shape(btf, kind.type_id, depth - 1)
        case FunctionPrototype():
            parameters = [shape(btf, it.type_id, depth - 1) for it in kind.parameters]
            return "function", shape(btf, kind.return_id, depth - 1), parameters
        case Struct() | Union() | Forward():
            return kind.name
        case Enum():
            return kind.name, kind.size
        case Int() | Float():  # gcc and clang name them by words in another order
            return size_of(btf, type_id)
    return type(kind).__name__


def test_every_shape_comes_back_as_it_was(compiler: tuple[str, ...], tmp_path: Path) -> None:
    names = [line.split("{")[0] for line in SHAPES.replace(";", ";\n").splitlines()]
    tags = [name.strip() for name in names if name.strip().startswith(("struct", "union", "enum"))]
    tags = [tag for tag in dict.fromkeys(tags) if tag.count(" ") == 1 and f"{tag} {{" in SHAPES]
    tags += ["unnamed_t", "callback", "list_t"]
    source = read_btf(made(compiler, SHAPES + variables(tags), tmp_path))

    again = read_btf(made(compiler, header(source) + variables(tags), tmp_path))

    assert len(tags) == 25
    for number, tag in enumerate(tags):
        first, second = target_of(source, number), target_of(again, number)
        assert shape(again, second) == shape(source, first), tag
        if isinstance(source[source.strip(first)], (Struct, Union, Enum)):
            assert layout(again, second) == layout(source, first), tag


def offsets(btf: Btf, tag: str, kind: Struct | Union) -> Iterator[str]:
    yield f'_Static_assert(sizeof({tag}) == {kind.size}, "{tag}");'
    for member in kind.members:
        if member.name and not member.bitfield_size:
            place = f"__builtin_offsetof({tag}, {member.name})"
            yield f'_Static_assert({place} == {member.bit_offset // 8}, "{tag} {member.name}");'


@pytest.fixture(scope="module")
def kernel() -> Btf:
    if not VMLINUX.exists():
        pytest.skip(f"needs the kernel's types: {VMLINUX}")
    return Btf.parse(VMLINUX.read_bytes())


@pytest.mark.slow
def test_the_kernels_types_have_the_kernels_layout(
    kernel: Btf, compiler: tuple[str, ...], tmp_path: Path
) -> None:
    """Sizes and offsets of all structures are asserted in C; bit-fields are read back as BTF."""
    tags = dict(tagged(kernel))
    text = CHeader(kernel)
    text.add_all()
    names = {type_id: text.name_of(type_id) for type_id in tags.values()}
    records = [
        (names[it], kind) for it in tags.values() if isinstance(kind := kernel[it], (Struct, Union))
    ]
    fields = [it for it in tags.values() if has_bit_fields(kernel[it])]
    asserts = [line for tag, kind in records for line in offsets(kernel, tag, kind)]
    functions = "\n".join(text.functions())
    source = "\n".join([text.text(), functions, *asserts, variables([names[it] for it in fields])])

    again = read_btf(made(compiler, source, tmp_path, "-Wno-unused-value"))

    assert len(asserts) > 1000
    assert len(fields) > 50
    for number, type_id in enumerate(fields):
        assert layout(again, target_of(again, number)) == layout(kernel, type_id), names[type_id]


def has_bit_fields(kind: BtfType) -> bool:
    return isinstance(kind, (Struct, Union)) and any(it.bitfield_size for it in kind.members)


# Tables that no compiler writes, or only for a kernel.


def struct(name: str, size: int, *members: Member) -> Struct:
    return Struct(name, size, members)


def typedef(name: str, type_id: int) -> Modifier:
    return Modifier(ModifierKind.TYPEDEF, name, type_id)


def test_equal_names_get_the_mark_of_a_flavour() -> None:
    text = header(
        table(
            U32,
            struct("same", 4, Member("a", 1, 0)),
            struct("same", 8, Member("a", 1, 0), Member("b", 1, 32)),
            Union("same", 4, (Member("c", 1, 0),)),
            Enum("one", 4, False, (Enumerator("FIRST", 1),)),
            Enum("two", 4, False, (Enumerator("FIRST", 2),)),
            typedef("word", 1),
            typedef("word", 2),
            typedef("__builtin_va_list", 1),
        )
    )

    for part in (
        *("struct same {", "struct same___2 {", "union same___3 {", "FIRST = 1", "FIRST___2 = 2"),
        *("typedef unsigned int word;", "typedef struct same word___2;"),
        "typedef unsigned int __builtin_va_list___2;",
    ):
        assert part in text


def test_a_declaration_and_its_definition_have_one_name() -> None:
    """A forward declaration beside a definition is of the same structure for C."""
    text = header(
        table(
            Forward("node"),
            Pointer(1),
            struct("owner", 8, Member("first", 2, 0)),
            struct("node", 8, Member("next", 5, 0)),
            Pointer(4),
        )
    )

    assert text.count("struct node;") == 1
    assert "struct node {\n\tstruct node *next;\n};" in text
    assert "___2" not in text


def test_names_that_are_not_c_become_words() -> None:
    text = header(
        table(U32, struct("Vec<u8>", 4, Member("0", 1, 0)), struct("int", 4, Member("for", 1, 0)))
    )

    assert "struct Vec_u8_ {\n\tunsigned int _0;\n};" in text
    assert "struct int_ {\n\tunsigned int for_;\n};" in text


def test_integers_without_a_name_in_c_are_written_by_size(
    compiler: tuple[str, ...], tmp_path: Path
) -> None:
    text = header(
        table(
            Int("ssizetype", 8, 64),
            Int("u3", 4, 3),
            Float("long double", 16),
            Int("bool", 1, 8),
            struct(
                "odd", 40, *(Member(f"m{it}", it, at) for it, at in ((1, 0), (2, 64), (3, 128)))
            ),
        )
    )

    assert "unsigned long m1;\n\tunsigned int m2 : 3;" in text
    made(compiler, f'{text}_Static_assert(__builtin_offsetof(struct odd, m3) == 16, "");', tmp_path)


def test_members_that_overlap_are_left_out_and_the_size_stays(
    compiler: tuple[str, ...], tmp_path: Path
) -> None:
    sizes = {"struct variant": 12, "union shifted": 7, "union secret": 5, "struct secret___2": 3}
    text = header(
        table(
            U32,
            struct("variant", 12, Member("a", 1, 0), Member("b", 1, 16)),
            Union("shifted", 7, (Member("a", 1, 8),)),
            Union("secret", 5, ()),
            struct("secret", 3),
        )
    )

    assert text.count("C cannot write their offsets */") == len(sizes)
    asserts = [f'_Static_assert(sizeof({tag}) == {size}, "");' for tag, size in sizes.items()]
    made(compiler, text + "".join(asserts), tmp_path)


def test_type_tags_stay_with_what_they_tag(compiler: tuple[str, ...], tmp_path: Path) -> None:
    text = header(
        table(
            U32,
            Modifier(ModifierKind.TYPE_TAG, "rcu", 1),
            Pointer(2),
            Modifier(ModifierKind.TYPE_TAG, "address_space(1)", 0),
            Pointer(4),
            struct("tags", 16, Member("tagged", 3, 0), Member("arena", 5, 64)),
        )
    )

    assert 'unsigned int __attribute__((btf_type_tag("rcu"))) *tagged;' in text
    assert "void __attribute__((address_space(1))) *arena;" in text
    made(compiler, f"{text} struct tags *v;", tmp_path)


def test_functions_for_programs_are_declared() -> None:
    btf = table(
        U32,
        struct("task", 4, Member("pid", 1, 0)),
        Pointer(2),
        FunctionPrototype(3, (Parameter("task", 3), Parameter("", 0))),
        Function("bpf_task_acquire", 4),
        DeclTag("bpf_kfunc", 5),
        Function("other", 4),
    )
    text = CHeader(btf)

    lines = text.functions()

    assert lines == [
        "extern struct task *bpf_task_acquire(struct task *, ...) "
        '__attribute__((weak, section(".ksyms")));'
    ]
    assert "struct task;" in text.text()


def test_the_types_of_modules_come_behind_those_of_the_kernel() -> None:
    base = table(U32, struct("shared", 4, Member("a", 1, 0)), struct("unused", 4))
    first = on(base, struct("own", 4, Member("s", 2, 0)))
    second = on(base, struct("own", 8, Member("s", 2, 0), Member("t", 2, 32)))

    text = CHeader(first)
    text.add_all(own=True)
    text.extend(second)
    text.add_all(own=True)

    assert text.text().count("struct shared {") == 1
    assert "unused" not in text.text()
    assert "struct own {\n\tstruct shared s;\n};" in text.text()
    assert "struct own___2 {\n\tstruct shared s;\n\tstruct shared t;\n};" in text.text()


def on(base: Btf, kind: BtfType) -> Btf:
    """Return a table with one type that goes on where *base* ends."""
    builder = BtfBuilder(strings=base.strings)
    builder.add(kind)
    alone = Btf.parse(builder.build())
    data = blob(alone.encoded(1), alone.strings[len(base.strings) :])
    return Btf.parse(data, base=base)


@pytest.mark.parametrize(
    "types",
    [
        [struct("loop", 4, Member("self", 1, 0))],
        [struct("a", 4, Member("b", 2, 0)), struct("b", 4, Member("a", 1, 0))],
        [typedef("t", 1)],
        [Array(1, 1, 1), struct("a", 4, Member("b", 1, 0))],
        [Pointer(2), typedef("t", 1)],
        [Function("f", 1), struct("a", 4, Member("b", 1, 0))],
        [Forward("f"), struct("a", 4, Member("b", 1, 0))],
        [Int("odd", 3, 24), struct("a", 3, Member("b", 1, 0))],
        [*(struct(f"n{it}", 4, Member("next", it + 2, 0)) for it in range(300)), U32],
        [U8, *(typedef(f"t{it}", it + 1) for it in range(300)), typedef("last", 301)][::-1],
        [U64, *(Pointer(it + 1) for it in range(300)), typedef("last", 301)],
        [S32, Enum("e", 3, False, ()), struct("a", 3, Member("b", 2, 0))],
    ],
)
def test_what_c_cannot_say_is_refused_or_written(types: list[BtfType]) -> None:
    """Whatever a table holds, there is a header or our error, and no other one."""
    btf = table(*types)

    with at_once(), suppress(ObjectFileError):
        header(btf)


def test_a_small_file_makes_no_giant_header() -> None:
    """Each unnamed structure has the one before it twice."""
    types: list[BtfType] = [U8]
    types += [
        struct("", 1 << it, Member("a", it, 0), Member("b", it, 8 << it - 1)) for it in range(1, 29)
    ]
    types.append(typedef("bomb", len(types)))

    with at_once(), pytest.raises(ObjectFileError, match="too large"):
        header(table(*types))
