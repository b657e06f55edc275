"""Types of a table as a C header: every definition in an order that compiles, as in a vmlinux.h.

Sizes and offsets in C are those of the BTF on the 64-bit BPF machine: padding is written as unnamed
bit-fields, `packed` and `aligned` where the members alone would lie elsewhere. BTF does not store
alignment, so a type may be less aligned in the header than it is in the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bpfpin.btf.btf import Btf
from bpfpin.btf.c_layout import BYTE, FLOATS, INTS, CLayout, CLayouts, below, padding
from bpfpin.btf.decode import malformed
from bpfpin.btf.types import (
    Array,
    BtfType,
    DeclTag,
    Enum,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    IntEncoding,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    Struct,
    Union,
    Void,
)
from bpfpin.uapi import BtfKind

MAX_NESTING = 128  # of types that have to be written before others; the kernel needs 20
_KFUNC = "bpf_kfunc"  # the tag of a function of the kernel that programs may call
# An unnamed structure is written at each use. A small file of unnamed structures, each with two
# members of the next one, would make a header that grows by a factor of two for each level.
_REPEATS = 4
_SPARE_LINES = 1 << 16

_DEFINITIONS = frozenset(
    {BtfKind.STRUCT, BtfKind.UNION, BtfKind.ENUM, BtfKind.ENUM64, BtfKind.TYPEDEF}
)
_ENUMS = frozenset({BtfKind.ENUM, BtfKind.ENUM64})
_QUALIFIERS = {
    ModifierKind.CONST: "const",
    ModifierKind.VOLATILE: "volatile",
    ModifierKind.RESTRICT: "restrict",
}
_TAG_KEYWORDS = {Struct: "struct", Union: "union", Enum: "enum"}
# gcc names integers by words in any order. Other names (`ssizetype`, those of Rust) are not C.
_INT_SIZES = {
    "char": 1,
    "signed char": 1,
    "unsigned char": 1,
    "short int": 2,
    "short unsigned int": 2,
    "unsigned short": 2,
    "short": 2,
    "int": 4,
    "unsigned int": 4,
    "long int": 8,
    "long unsigned int": 8,
    "long": 8,
    "unsigned long": 8,
    "long long int": 8,
    "long long unsigned int": 8,
    "long long": 8,
    "unsigned long long": 8,
    "__int128": 16,
    "__int128 unsigned": 16,
    "unsigned __int128": 16,
    "_Bool": 1,
}
_MODES = {1: "byte", 2: "HI", 4: "SI", 8: "DI"}  # of GCC's attribute `mode`
_ADDRESS_SPACE = re.compile(r"address_space\([0-9]+\)")
_NOT_IN_WORDS = re.compile(r"[^A-Za-z0-9_]")
_C_WORDS = frozenset(
    (
        *("auto", "break", "case", "char", "const", "continue", "default", "do", "double"),
        *("else", "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long"),
        *("register", "restrict", "return", "short", "signed", "sizeof", "static", "struct"),
        *("switch", "typedef", "typeof", "union", "unsigned", "void", "volatile", "while", "asm"),
    )
)
# On BPF, clang's own type of this name has another size than the one of the kernel's machine.
_TAKEN = ("__builtin_va_list",)


class CHeader:
    """A C header under construction.

    Types are added by id; those that they need are written before them. Each is written once. Types
    with equal names get `___2`, `___3` … behind the name, which CO-RE ignores.
    """

    def __init__(self, btf: Btf) -> None:
        """Begin a header with types of *btf*."""
        self._btf = btf
        self._blocks: list[str] = []
        # Ids that were written: as they are, or only declared, as behind a pointer.
        self._complete: set[int] = set()
        self._named: set[int] = set()
        self._open: set[tuple[int, bool]] = set()  # being written
        self._inline_enums: set[int] = set()
        # The two name spaces of C that matter here: tags, and typedefs with enumerators. A tag that
        # was only declared so far belongs to no id.
        self._tags: dict[str, tuple[str, int | None]] = {}
        self._ordinary: set[str] = set(_TAKEN)
        self._names: dict[int, str] = {}
        self._declared: set[str] = set()
        self._declarators: dict[int, tuple[str, str]] = {}
        self._layouts = CLayouts(btf)
        self._lines_left = self._limit(btf)

    def extend(self, btf: Btf) -> None:
        """Go on with types of *btf*, another table on the base of the first one.

        So the types of several kernel modules come into one header: their ids overlap, names do
        not.
        """
        first = btf.first_id
        for ids in (self._complete, self._named, self._inline_enums):
            ids.difference_update([type_id for type_id in ids if type_id >= first])
        self._names = below(first, self._names)
        self._declarators = below(first, self._declarators)
        self._layouts = self._layouts.with_table(btf)
        self._btf = btf
        self._lines_left += self._limit(btf)

    @staticmethod
    def _limit(btf: Btf) -> int:
        return _REPEATS * btf.type_words + _SPARE_LINES

    def add_all(self, *, own: bool = False) -> None:
        """Add every type that has a name, and unnamed enumerations.

        With *own* the types of the table's base are added only where others need them.
        """
        first = self._btf.first_id if own else 1
        self._btf.read_strings()
        kinds = self._btf.kinds(first)
        for type_id, kind in enumerate(kinds, first):
            if kind in _DEFINITIONS and type_id not in self._complete:
                self._add(type_id)
        written = self._complete | self._inline_enums
        for type_id, kind in enumerate(kinds, first):
            if kind in _ENUMS and type_id not in written:
                self._define_unnamed_enum(type_id)

    def add(self, type_ids: Iterable[int]) -> None:
        """Add the types *type_ids* and what they need."""
        for type_id in type_ids:
            self._need(type_id, is_complete=True)

    def functions(self) -> list[str]:
        """Return declarations of the kernel's functions that programs may call (kfuncs).

        The types that they need are added.
        """
        lines: dict[str, str] = {}
        first = self._btf.first_id
        for type_id, kind in enumerate(self._btf.kinds(first), first):
            tag = self._btf[type_id] if kind == BtfKind.DECL_TAG else None
            if not isinstance(tag, DeclTag) or tag.name != _KFUNC or tag.component != -1:
                continue
            function = self._btf[tag.type_id]
            if isinstance(function, Function) and function.name.isidentifier():
                self._need(function.type_id, is_complete=False)
                text = self._declare(function.type_id, function.name, "")
                lines[function.name] = f'extern {text} __attribute__((weak, section(".ksyms")));'
        return list(lines.values())

    def text(self) -> str:
        """Return the definitions so far, a blank line between any two."""
        return "\n".join(self._blocks)

    def name_of(self, type_id: int) -> str:
        """Return the name that a type with a name has in the header: `struct workspace___2`."""
        return self._names[type_id]

    # The order of definitions. C needs a definition before a value of the type, and a
    # declaration before a pointer to it; typedefs and enumerations cannot be declared only.

    def _add(self, type_id: int) -> None:
        kind = self._btf[type_id]
        if isinstance(kind, Modifier):
            self._need(type_id, is_complete=False)
        elif kind.name:
            self._need(type_id, is_complete=True)

    def _need(self, type_id: int, *, is_complete: bool) -> None:
        written = self._complete if is_complete else self._named
        if type_id in written:
            return
        kind = self._btf[type_id]
        if isinstance(kind, (Struct, Union)):
            self._need_record(type_id, kind, is_complete=is_complete)
            return
        if isinstance(kind, Forward):
            self._declare_tag(type_id, kind)
        elif isinstance(kind, Enum):
            if kind.name:
                self._define_enum(type_id, kind)
        elif isinstance(kind, (Modifier, Pointer, Array, FunctionPrototype)):
            self._need_target(type_id, kind, is_complete=is_complete)
        written.add(type_id)

    def _need_target(
        self,
        type_id: int,
        kind: Modifier | Pointer | Array | FunctionPrototype,
        *,
        is_complete: bool,
    ) -> None:
        """Write what a type that refers to others needs, and a typedef itself."""
        self._enter(type_id, is_complete)
        if isinstance(kind, Pointer):
            self._need(kind.type_id, is_complete=False)
        elif isinstance(kind, Array):
            # C does not allow arrays of declared types, not even behind a pointer.
            self._need(kind.element_id, is_complete=True)
        elif isinstance(kind, FunctionPrototype):
            for referred in (kind.return_id, *(part.type_id for part in kind.parameters)):
                self._need(referred, is_complete=False)
        elif kind.kind is not ModifierKind.TYPEDEF:
            self._need(kind.type_id, is_complete=is_complete)
        else:
            self._need_typedef(type_id, kind)
            if is_complete:
                self._need(kind.type_id, is_complete=True)
        self._open.discard((type_id, is_complete))

    def _need_typedef(self, type_id: int, kind: Modifier) -> None:
        # `typedef struct list list_t` comes before `struct list`, which may have a `list_t *`.
        if type_id not in self._named:
            self._need(kind.type_id, is_complete=False)
            self._define_typedef(type_id, kind)
            self._named.add(type_id)

    def _need_record(self, type_id: int, kind: Struct | Union, *, is_complete: bool) -> None:
        if kind.name and not is_complete:
            self._declare_tag(type_id, kind)
            self._named.add(type_id)
            return
        self._enter(type_id, is_complete)
        for member in kind.members:
            if member.type_id not in self._complete:
                self._need(member.type_id, is_complete=True)
        if kind.name:
            self._define_record(type_id, kind)
        self._open.discard((type_id, is_complete))
        self._complete.add(type_id)
        self._named.add(type_id)

    def _enter(self, type_id: int, is_complete: bool) -> None:
        if (type_id, is_complete) in self._open:
            raise malformed(f"type {type_id} contains itself, which C cannot express")
        if len(self._open) >= MAX_NESTING:
            raise malformed(f"type {type_id} is nested more than {MAX_NESTING} deep")
        self._open.add((type_id, is_complete))

    # Names.

    def _tag(self, type_id: int, kind: Struct | Union | Enum | Forward) -> str:
        """Return keyword and name, `struct task_struct`; each id has a name of its own."""
        text = self._names.get(type_id)
        if text is None:
            keyword = _keyword(kind)
            owner = None if isinstance(kind, Forward) else type_id
            name = self._free_tag(keyword, _word(kind.name), owner)
            text = self._names[type_id] = f"{keyword} {name}"
        return text

    def _free_tag(self, keyword: str, name: str, owner: int | None) -> str:
        for candidate in _candidates(name):
            used, used_by = self._tags.get(candidate, (keyword, None))
            if used == keyword and (used_by is None or owner is None):
                self._tags[candidate] = (keyword, used_by if owner is None else owner)
                return candidate
        raise AssertionError("candidates do not end")

    def _ordinary_name(self, name: str) -> str:
        word = _word(name)
        if word in self._ordinary:
            word = next(text for text in _candidates(word) if text not in self._ordinary)
        self._ordinary.add(word)
        return word

    # Definitions.

    def _write(self, text: str) -> None:
        self._blocks.append(text + "\n")

    def _declare_tag(self, type_id: int, kind: Struct | Union | Forward) -> None:
        text = self._tag(type_id, kind)
        if text not in self._declared:
            self._declared.add(text)
            self._write(f"{text};")

    def _define_record(self, type_id: int, kind: Struct | Union) -> None:
        text = self._tag(type_id, kind)
        self._declared.add(text)
        self._write(f"{text} {self._body(type_id, kind, '')};")

    def _define_enum(self, type_id: int, kind: Enum) -> None:
        self._complete.add(type_id)
        self._named.add(type_id)
        self._write(f"{self._tag(type_id, kind)} {self._enumerators(kind, '')};")

    def _define_unnamed_enum(self, type_id: int) -> None:
        kind = self._btf[type_id]
        self._complete.add(type_id)
        if isinstance(kind, Enum) and not kind.name and kind.values:
            self._write(f"enum {self._enumerators(kind, '')};")

    def _define_typedef(self, type_id: int, kind: Modifier) -> None:
        name = self._names[type_id] = self._ordinary_name(kind.name)
        self._write(f"typedef {self._declare(kind.type_id, name, '')};")

    # Declarations: what stands before the name, and what stands after it.

    def _declare(self, type_id: int, name: str, indent: str) -> str:
        before, after = self._declarator(type_id, indent)
        return f"{before}{name}{after}" if name else before.rstrip() + after

    def _declarator(self, type_id: int, indent: str) -> tuple[str, str]:
        parts = self._declarators.get(type_id)
        return parts or self._new_declarator(type_id, indent)

    def _new_declarator(self, type_id: int, indent: str) -> tuple[str, str]:
        left, right, is_pointer = "", "", False
        qualifiers: list[str] = []
        at = type_id
        for _ in range(MAX_NESTING):
            kind = self._btf[at]
            if isinstance(kind, Modifier) and kind.kind is not ModifierKind.TYPEDEF:
                word = _QUALIFIERS.get(kind.kind) or _type_tag(kind.name)
                if word not in qualifiers:
                    qualifiers.append(word)
                at = kind.type_id
            elif isinstance(kind, Pointer):
                left = f"*{' '.join(qualifiers)} {left}" if qualifiers else f"*{left}"
                qualifiers, is_pointer, at = [], True, kind.type_id
            elif isinstance(kind, (Array, FunctionPrototype)):
                if is_pointer:
                    left, right, is_pointer = f"({left}", f"{right})", False
                if isinstance(kind, Array):
                    right, at = f"{right}[{kind.length}]", kind.element_id
                else:
                    # A qualified function is not C; the qualifiers of its result are its own.
                    right, at, qualifiers = (
                        right + self._parameters(kind, indent),
                        kind.return_id,
                        [],
                    )
            else:
                break
        else:
            raise malformed(f"type {type_id} is nested more than {MAX_NESTING} deep")
        plain = [word for word in qualifiers if word != "restrict"]
        base, is_fixed = self._base(at, kind, indent)
        tags = [word for word in plain if word.startswith("__")]
        words = [word for word in plain if word not in tags]
        parts = f"{' '.join([*words, base, *tags])} {left}", right
        if is_fixed and "{" not in right:
            self._declarators[type_id] = parts
        return parts

    def _base(self, type_id: int, kind: BtfType, indent: str) -> tuple[str, bool]:
        """Return the name of the type, or its unnamed body; whether each use has the same text."""
        if isinstance(kind, Modifier):  # a typedef
            return self._names[type_id], True
        if isinstance(kind, (Struct, Union, Enum, Forward)):
            if kind.name:
                return self._tag(type_id, kind), True
            if isinstance(kind, Enum):
                self._inline_enums.add(type_id)
                return f"enum {self._enumerators(kind, indent)}", False
            if not isinstance(kind, Forward):
                return f"{_keyword(kind)} {self._body(type_id, kind, indent)}", False
        if isinstance(kind, Void):
            return "void", True
        if isinstance(kind, Int):
            return _int_name(kind), True
        if isinstance(kind, Float) and kind.size in FLOATS:
            return FLOATS[kind.size], True
        if isinstance(kind, Float):
            # BPF compilers have no other floating-point numbers.
            return f"struct {{ unsigned char bytes[{kind.size}]; }}", True
        raise malformed(
            f"type {type_id} ({type(kind).__name__} {kind.name!r}) is not a type of values"
        )

    def _parameters(self, kind: FunctionPrototype, indent: str) -> str:
        texts = [
            "..." if not part.type_id and not part.name else self._declare(part.type_id, "", indent)
            for part in kind.parameters
        ]
        return f"({', '.join(texts) or 'void'})"

    def _enumerators(self, kind: Enum, indent: str) -> str:
        """Return the braces of an enumeration, with the attributes that its size needs."""
        if not kind.values:
            # C has no enumeration without names.
            names = [(self._ordinary_name(f"{kind.name or 'enum'}___empty"), 0)]
        else:
            names = [(self._ordinary_name(name), value) for name, value in kind.values]
        self._spend(len(names))
        least, most = min(value for _, value in names), max(value for _, value in names)
        # Clang and gcc choose int, unsigned int, long or unsigned long, the first that fits.
        is_wide = least < -(1 << 31) or most >= 1 << (31 if least < 0 else 32)
        lines = [f"{indent}\t{name} = {_number(value, is_wide)}," for name, value in names]
        natural = 8 if is_wide else 4
        mode = "" if kind.size == natural else f" __attribute__((mode({_mode(kind)})))"
        return "\n".join(["{", *lines, f"{indent}}}{mode}"])

    def _spend(self, lines: int) -> None:
        self._lines_left -= lines
        if self._lines_left < 0:
            raise malformed("its unnamed types are used so often that a header would be too large")

    # Members, at the offsets of the BTF.

    def _body(self, type_id: int, kind: Struct | Union, indent: str) -> str:
        layout = self._layouts.of(type_id, kind)
        self._spend(len(kind.members) + 1)
        inner = indent + "\t"
        if layout.is_plain:  # most of them
            lines = [self._member(name, type_id, inner) for name, type_id, _, _ in kind.members]
        elif layout.is_opaque:
            lines = [f"{inner}/* its members are not known, or C cannot write their offsets */"]
            lines.append(f"{inner}unsigned char ___bytes[{kind.size}];")
        elif isinstance(kind, Union):
            lines = [self._union_member(member, inner) for member in kind.members]
        else:
            lines = list(self._placed(kind.members, layout, 8 * kind.size, inner))
        end = f"{indent}}}" + (" __attribute__((packed))" if layout.is_packed else "")
        if layout.is_aligned:
            end += f" __attribute__((aligned({layout.align // 8})))"
        return "\n".join(["{", *lines, end])

    def _member(self, name: str, type_id: int, indent: str, bits: int = 0) -> str:
        before, after = self._declarators.get(type_id) or self._declarator(type_id, indent)
        tail = f" : {bits};" if bits else ";"
        if name:
            return f"{indent}{before}{_word(name)}{after}{tail}"
        return f"{indent}{before.rstrip()}{after}{tail}"

    def _union_member(self, member: Member, indent: str) -> str:
        bits = member.bitfield_size or self._layouts.sizes[member.type_id][2]
        return self._member(member.name, member.type_id, indent, bits)

    def _placed(
        self, members: Iterable[Member], layout: CLayout, end: int, indent: str
    ) -> Iterator[str]:
        """Yield the lines of a structure, with padding where C would not leave any."""
        at = 0
        is_packed, sizes = layout.is_packed, self._layouts.sizes
        for member in members:
            name, type_id, offset, bitfield_size = member
            size, align, own_bits = sizes[type_id]
            bits = bitfield_size or own_bits
            if bits:
                if at != offset:
                    yield from padding(at, offset, layout.align, indent)
                at = offset + bits
            else:
                align = BYTE if is_packed else align
                if -(-at // align) * align != offset:
                    yield from padding(at, offset, layout.align, indent)
                at = offset + size
            yield self._member(name, type_id, indent, bits)
        if -(-at // layout.align) * layout.align < end:
            yield from padding(at, end, layout.align, indent)


def _keyword(kind: Struct | Union | Enum | Forward) -> str:
    if isinstance(kind, Forward):
        return "union" if kind.is_union else "struct"
    return _TAG_KEYWORDS[type(kind)]


def _word(name: str) -> str:
    """Return *name* as an identifier of C."""
    if name.isidentifier() and name.isascii() and name not in _C_WORDS:
        return name
    word = _NOT_IN_WORDS.sub("_", name)
    return f"{word}_" if word in _C_WORDS else f"_{word}" if not word or word[0].isdigit() else word


def _candidates(name: str) -> Iterator[str]:
    """Yield the name, and then the name with numbers behind the mark of a flavour."""
    yield name
    number = 2
    while True:
        yield f"{name}___{number}"
        number += 1


def _type_tag(name: str) -> str:
    # pahole writes attributes other than btf_type_tag as a tag with the attribute's text.
    if _ADDRESS_SPACE.fullmatch(name):
        return f"__attribute__(({name}))"
    text = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'__attribute__((btf_type_tag("{text}")))' if text.isprintable() else ""


def _int_name(kind: Int) -> str:
    if kind.encoding & IntEncoding.BOOL and kind.size == 1:
        return "_Bool"
    if _INT_SIZES.get(kind.name) == kind.size:
        return kind.name
    word = INTS.get(kind.size)
    if word is None:
        raise malformed(f"integer {kind.name!r} takes {kind.size} bytes")
    return f"{'signed' if kind.is_signed else 'unsigned'} {word}"


def _number(value: int, is_wide: bool) -> str:
    if not is_wide:
        return str(value)
    # The least number cannot be written as one: C reads a minus sign and a number too large.
    if value == -(1 << 63):
        return "-9223372036854775807LL - 1"
    return f"{value}ULL" if value >= 1 << 63 else f"{value}LL"


def _mode(kind: Enum) -> str:
    if kind.size not in _MODES:
        raise malformed(f"enumeration {kind.name!r} takes {kind.size} bytes")
    return _MODES[kind.size]
