"""Codecs of BTF types, made once for each map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, NamedTuple

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import MAX_DEPTH, size_of
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    Enum,
    Float,
    Int,
    IntEncoding,
    Member,
    Modifier,
    ModifierKind,
    Pointer,
    SectionVariable,
    Struct,
    Union,
    Var,
)
from bpfpin.codecs.codec import BytesCodec, CharsCodec, Codec, ScalarCodec, TextCodec
from bpfpin.codecs.format_table import KEY, VALUE, FieldPath, FormatTable, type_names
from bpfpin.codecs.formats import Format
from bpfpin.codecs.number import BitsCodec, OddCodec, bool_codec, enum_codec, truths
from bpfpin.codecs.record import ArrayCodec, KeyRecord, Part, UnionCodec, record_codec
from bpfpin.errors import ObjectFileError
from bpfpin.records import dataclass

# Members that the kernel owns: locks, timers, and objects that programs put into maps. User space
# reads zeros there, and the kernel skips them when it copies a value from user space
# (`enum btf_field_type` and bpf_obj_memcpy() in include/linux/bpf.h). Codecs leave them out.
SPIN_LOCK: Final = "bpf_spin_lock"
# The kernel finds them by the name of the type, too (btf_get_field_type in kernel/bpf/btf.c).
KERNEL_STRUCTURES: Final = frozenset(
    {
        SPIN_LOCK,
        "bpf_res_spin_lock",
        "bpf_timer",
        "bpf_wq",
        "bpf_task_work",
        "bpf_list_head",
        "bpf_list_node",
        "bpf_rb_root",
        "bpf_rb_node",
        "bpf_refcount",
    }
)
# The type tags of pointers that only programs set. `uptr` is missing, because user space sets it.
KERNEL_POINTERS: Final = frozenset({"kptr", "kptr_untrusted", "percpu_kptr"})
# Letters of the struct module by size; lower case is signed.
LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
FLOAT_LETTERS = {2: "e", 4: "f", 8: "d"}

Formats = Mapping[str, Format | str] | FormatTable | None


def codec(
    ref: TypeRef | None,
    size: int,
    *,
    is_key: bool = False,
    raw: bool = False,
    formats: Formats = None,
    root: str = "",
) -> Codec:
    """Return the codec for values of a type.

    Args:
        ref: The type; None for bytes.
        size: Size of the map's keys or values in bytes.
        is_key: Make values that can be hashed.
        raw: Decode enumerations as numbers and char arrays as bytes.
        formats: As in `Map.from_pin`.
        root: The first name of the paths in *formats*, by default `key` or `value`.

    Returns:
        The codec.

    Raises:
        ObjectFileError: The type has another size than *size*, or no values (a function).
        ValueError: A format does not fit, or names a member that does not exist.
    """
    root = root or (KEY if is_key else VALUE)
    # Key and value of a map share one table, which then knows all keys that matched nothing.
    table = formats if isinstance(formats, FormatTable | None) else FormatTable(formats)
    if ref is None:
        made: Codec = untyped(BytesCodec(size), table, root)
    else:
        made = _Maker(ref.btf, is_key, is_raw=raw, table=table).in_format(ref.id, At(root, root))
    if made.size != size:
        name = ref.name if ref else ""
        raise ObjectFileError(f"type {name} takes {made.size} bytes, the map's {size}")
    if table and table is not formats:
        table.check_used()
    return made


def untyped(plain: Codec, table: FormatTable | None, root: str) -> Codec:
    """Return the codec of a whole key or value without a type, in its format."""
    return table.formatted(plain, FieldPath(root, root, ())) if table else plain


class At(NamedTuple):
    """The position in the type; *path* is empty if no format refers to members below it."""

    path: str
    name: str
    depth: int = 0

    def inner(self, name: str) -> At:
        """Return the position of a member; an unnamed member has the path of its structure."""
        path = f"{self.path}.{name}" if self.path and name else self.path
        return At(path, name or self.name, self.depth + 1)


@dataclass(frozen=True)
class _Maker:
    btf: Btf
    is_key: bool
    is_raw: bool
    table: FormatTable | None
    made: dict[tuple[int, str], Codec] = field(default_factory=dict)

    def in_format(self, type_id: int, at: At) -> Codec:
        """Return the codec of a member, an element or the whole value, in its format."""
        if self.table and not self.table.cares_for(at.path):
            at = at._replace(path="")
        return self._formatted(self.make(type_id, at), type_id, at)

    def _formatted(self, plain: Codec, type_id: int, at: At) -> Codec:
        if not self.table:
            return plain
        return self.table.formatted(
            plain, FieldPath(at.path, at.name, type_names(self.btf, type_id))
        )

    def make(self, type_id: int, at: At) -> Codec:
        if at.depth > MAX_DEPTH:
            raise ObjectFileError(f"type {type_id} is nested more than {MAX_DEPTH} deep")
        type_id = self.btf.strip(type_id)
        # The path is part of the key, because formats of members may differ from path to path.
        path = at.path if self.table else ""
        if (type_id, path) not in self.made:
            kind = self.btf[type_id]
            maker = MAKERS.get(type(kind))
            if maker is None:
                raise ObjectFileError(f"a {type(kind).__name__} has no values")
            # Damaged or hostile BTF may use one type many times on many levels; without this table
            # each use would be made again.
            self.made[type_id, path] = maker(self, kind, at)
        return self.made[type_id, path]

    def integer(self, kind: Int, _at: At) -> Codec:
        if kind.encoding & IntEncoding.BOOL:
            if kind.size == 1:
                return bool_codec(is_key=self.is_key)
            return truths(OddCodec(kind), is_key=self.is_key)
        letter = LETTERS.get(kind.size)
        if letter is None or kind.bits != 8 * kind.size or kind.bit_offset:
            return OddCodec(kind)
        return ScalarCodec(letter.lower() if kind.is_signed else letter)

    def enumeration(self, kind: Enum, _at: At) -> Codec:
        letter = LETTERS.get(kind.size)
        if letter is None:
            return BytesCodec(kind.size)
        return self._named(kind, ScalarCodec(letter.lower() if kind.is_signed else letter))

    def _named(self, kind: BtfType, number: Codec) -> Codec:
        if self.is_raw or not isinstance(kind, Enum):
            return number
        return enum_codec(kind, number)

    def floating(self, kind: Float, _at: At) -> Codec:
        letter = FLOAT_LETTERS.get(kind.size)
        return ScalarCodec(letter) if letter else BytesCodec(kind.size)

    def pointer(self, _kind: Pointer, _at: At) -> Codec:
        # Pointers have 8 bytes in BPF on every machine (see `btf.layout`).
        return ScalarCodec("Q")

    def array(self, kind: Array, at: At) -> Codec:
        element = self.btf[self.btf.strip(kind.element_id)]
        # `char[N]` is text by convention. `__u8[N]` is not: it holds addresses and the like.
        if isinstance(element, Int) and _is_char(element):
            return (CharsCodec if self.is_raw else TextCodec)(kind.length)
        inner = at._replace(depth=at.depth + 1)
        factory = tuple if self.is_key else list
        return ArrayCodec(self.make(kind.element_id, inner), kind.length, factory=factory)

    def structure(self, kind: Struct, at: At) -> Codec:
        parts = self._parts(kind, at)
        self._check_ends(parts, kind.size)
        codec = record_codec(parts, kind.size, factory=self._factory())
        # BPF_F_LOCK needs a bpf_spin_lock in the value (map_lookup_elem() in kernel/bpf/syscall.c).
        # The parts do not have it, because the kernel owns the lock.
        codec.has_lock |= any(is_spin_lock(self.btf, member.type_id) for member in kind.members)
        return codec

    def union(self, kind: Union, at: At) -> Codec:
        parts = self._parts(kind, at)
        self._check_ends(parts, kind.size)
        return UnionCodec(parts, kind.size, factory=self._factory())

    def section(self, kind: DataSection, at: At) -> Codec:
        parts = [
            self._variable(variable, at)
            for variable in kind.variables
            if not self._is_owned(variable.type_id)
        ]
        self._check_ends(parts, kind.size)
        return record_codec(parts, kind.size, factory=self._factory())

    def _is_owned(self, variable_id: int) -> bool:
        kind = self.btf[variable_id]
        return isinstance(kind, Var) and is_kernel_owned(self.btf, kind.type_id)

    def _variable(self, entry: SectionVariable, at: At) -> Part:
        kind = self.btf[entry.type_id]
        if not isinstance(kind, Var):
            raise ObjectFileError(f"type {entry.type_id} in a data section is not a variable")
        return Part(kind.name, entry.offset, self.in_format(kind.type_id, at.inner(kind.name)))

    def _parts(self, kind: Struct | Union, at: At) -> list[Part]:
        # Types of size 0 are not entered: a few bytes could nest them exponentially.
        members = kind.members if kind.size else ()
        return [
            self._part(member, at)
            for member in members
            if not is_kernel_owned(self.btf, member.type_id)
        ]

    def _check_ends(self, parts: list[Part], size: int) -> None:
        for part in parts:
            if part.offset + part.codec.size > size:
                raise ObjectFileError(
                    f"member {part.name} exceeds the {size} bytes of its structure"
                )

    def _part(self, member: Member, at: At) -> Part:
        offset, bit = divmod(member.bit_offset, 8)
        inner = at.inner(member.name)
        if member.bitfield_size or bit:
            made = self._formatted(self._bits(member, bit), member.type_id, inner)
        elif member.name:
            made = self.in_format(member.type_id, inner)
        else:
            made = self.make(member.type_id, inner)
        return Part(member.name, offset, made)

    def _bits(self, member: Member, bit: int) -> Codec:
        # Without BTF's kind flag, a bit-field is a member that does not start at a byte boundary.
        kind = self.btf[self.btf.strip(member.type_id)]
        bits = member.bitfield_size or 8 * size_of(self.btf, member.type_id)
        is_signed = isinstance(kind, Int | Enum) and kind.is_signed
        made = BitsCodec(bits, bit_offset=bit, is_signed=is_signed)
        is_bool = isinstance(kind, Int) and kind.encoding & IntEncoding.BOOL
        return truths(made, is_key=self.is_key) if is_bool else self._named(kind, made)

    def _factory(self) -> Callable[[Any], dict[str, Any]]:
        return KeyRecord if self.is_key else dict


def _is_char(kind: Int) -> bool:
    return kind.size == 1 and (kind.name == "char" or bool(kind.encoding & IntEncoding.CHAR))


MAKERS: dict[type[BtfType], Callable[[_Maker, Any, At], Codec]] = {
    Int: _Maker.integer,
    Enum: _Maker.enumeration,
    Float: _Maker.floating,
    Pointer: _Maker.pointer,
    Array: _Maker.array,
    Struct: _Maker.structure,
    Union: _Maker.union,
    DataSection: _Maker.section,
}


def is_kernel_owned(btf: Btf, type_id: int) -> bool:
    """Whether the kernel owns values of the type, or the elements if it is an array."""
    kind = _element(btf, type_id)
    if isinstance(kind, Struct):
        return kind.name in KERNEL_STRUCTURES
    return isinstance(kind, Pointer) and _tag(btf, kind) in KERNEL_POINTERS


def is_spin_lock(btf: Btf, type_id: int) -> bool:
    """Whether the type is `struct bpf_spin_lock`, which BPF_F_LOCK acquires."""
    kind = btf[btf.strip(type_id)]
    return isinstance(kind, Struct) and kind.name == SPIN_LOCK


def _element(btf: Btf, type_id: int) -> BtfType:
    kind = btf[btf.strip(type_id)]
    for _ in range(MAX_DEPTH):
        if not isinstance(kind, Array):
            break
        kind = btf[btf.strip(kind.element_id)]
    return kind


def _tag(btf: Btf, kind: Pointer) -> str:
    target = btf[kind.type_id]
    # `__kptr` and its relatives are type tags on the target of the pointer (bpf_helpers.h).
    is_tag = isinstance(target, Modifier) and target.kind is ModifierKind.TYPE_TAG
    return target.name if is_tag else ""
