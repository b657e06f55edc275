"""A BTF type table, read from a blob; each type is decoded on first use.

The blob comes from an object file or from the kernel (`/sys/kernel/btf/vmlinux`, or
`BPF_OBJ_GET_INFO_BY_FD`). The format is described in the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import field
from itertools import accumulate
from typing import Self, TypeVar, cast

from bpfpin.btf.decode import Words, decode, malformed, scan
from bpfpin.btf.layout import MAX_DEPTH, size_of
from bpfpin.btf.names import NameIndex, StringFinder, flavoured
from bpfpin.btf.types import BtfType, Modifier, Void
from bpfpin.records import dataclass
from bpfpin.uapi import BTF_MAGIC, BTF_MAX_NAME_OFFSET, BTF_VERSION

_OVERLAPS = 4  # total length of decoded strings, as a multiple of the section's size
_SMALL_BYTES = 1 << 16  # a string section up to this size is decoded at once
HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, _len, str_off, _len
_MAGIC_OF_BIG_ENDIAN = 0x9FEB
_VOID = Void()
_KIND_MASK = 0x1F  # of the info word, from bit 24 on
_LISTED_BYTES = 1 << 18  # most types of a table up to this size are read
_Kind = TypeVar("_Kind")


class Strings(dict[int, str]):
    """A string section as a dict from offset to string; each string is decoded once.

    In a table with a *base* the offsets continue where those of the base end. The class is a dict
    because the lookup of a decoded name then runs no Python code.
    """

    def __init__(self, data: bytes, base: Strings | None) -> None:
        super().__init__()
        self.data = data
        self.end: int = len(data) + (base.end if base is not None else 0)
        self._base = base
        self.first = base.end if base is not None else 0  # offset of the first own string
        self._bytes_read = 0

    def __missing__(self, offset: int) -> str:
        if self._base is not None and offset < self.first:
            return self._base[offset]
        if not self and len(self.data) <= _SMALL_BYTES and self.data.isascii():
            self._read_all()
        text = self.get(offset)
        if text is None:
            text = self[offset] = self._read(offset)
        return text

    def read_all(self) -> None:
        """Decode every string at once, which is faster if most of them are needed."""
        if self._base is not None:
            self._base.read_all()
        if self.data.isascii():
            self._read_all()

    def _read_all(self) -> None:
        texts = self.data.decode("ascii").split("\0")[:-1]
        offsets = accumulate([len(text) + 1 for text in texts], initial=self.first)
        self.update(zip(offsets, texts, strict=False))  # the last offset is the section's end

    def _read(self, offset: int) -> str:
        start = offset - self.first
        if not 0 <= start < len(self.data):
            raise malformed(f"there is no string at {offset:#x} of {self.end:#x} bytes")
        end = self.data.index(0, start)  # `check_strings` made sure of a zero byte at the end
        # Strings may share tails. A hostile file could name every tail of one long string, and the
        # decoded strings would need memory quadratic in the size of the file.
        self._bytes_read += end - start
        if self._bytes_read > _OVERLAPS * len(self.data):
            raise malformed(f"the strings overlap too much, at {offset:#x}")
        return self.data[start:end].decode(errors="backslashreplace")


def check_strings(data: bytes, *, has_base: bool) -> None:
    """Raise `ObjectFileError` unless *data* is a valid string section.

    It starts and ends with a zero byte and is not too large. The section of a table with a base may
    be empty, and its first byte may be part of a string.
    """
    # The rules are those of btf_parse_str_sec() in kernel/bpf/btf.c.
    if has_base and not data:
        return
    if not data or data[-1] or (data[0] and not has_base):
        raise malformed("the string section does not start and end with a zero byte", offset=16)
    if len(data) - 1 > BTF_MAX_NAME_OFFSET:
        raise malformed(f"the string section takes {len(data)} bytes, too many", offset=20)


class Btf:
    """The types of one object or of the kernel, by id; id 0 is void.

    A table with a *base* (that of a kernel module) numbers its types and strings after those of the
    base.
    """

    def __init__(self, types: bytes, strings: bytes, *, base: Btf | None, first_byte: int) -> None:
        """Index the types of sections that were checked before; `parse` checks a blob.

        Args:
            types: The type section.
            strings: The string section.
            base: The table that this one extends; None for a table of its own.
            first_byte: Offset of the type section in the blob, for error messages.
        """
        self._base = base
        self._first_id = len(base) if base else 1
        self._types = types
        words = memoryview(types).cast("I")
        # Indexing a list is twice as fast as a memoryview; the kernel's types would take 30 MB.
        self._words: Words = words.tolist() if len(types) <= _LISTED_BYTES else words
        self._starts = scan(self._words, first_id=self._first_id, first_byte=first_byte)
        self._texts: Strings = Strings(strings, base._texts if base else None)
        self._string = self._texts.__getitem__
        self._decoded: dict[int, BtfType] = {}
        self._stripped: dict[int, int] = {}
        self._names: NameIndex | None = None
        self._finder: StringFinder | None = None
        self._flavoured: dict[str, list[int]] | None = None

    @classmethod
    def parse(cls, data: bytes, *, base: Btf | None = None) -> Self:
        """Read a BTF blob: check the header and find the start of each type.

        The contents of a type are checked when it is decoded; `check.check` decodes and checks all.

        Args:
            data: Header, type section and string section.
            base: The table that this one extends, such as that of vmlinux for a kernel module.

        Returns:
            The table.

        Raises:
            ObjectFileError: The bytes are not valid BTF; it names section and offset. Nothing else
                is raised, whatever the bytes are.
        """
        header_size, *sections = _header(data)
        types = _part(data, header_size, sections[0], sections[1], what="type")
        strings = _part(data, header_size, sections[2], sections[3], what="string")
        first_byte = header_size + sections[0]
        if (header_size + sections[0]) % 4 or len(types) % 4:
            raise malformed(
                f"the type section is not made of aligned 4-byte words: {len(types)} bytes",
                offset=8,
            )
        check_strings(strings, has_base=base is not None)
        return cls(types, strings, base=base, first_byte=first_byte)

    def __len__(self) -> int:
        """Return the number of types, void and those of the base included."""
        return self._first_id + len(self._starts)

    def __getitem__(self, type_id: int) -> BtfType:
        """Return the type *type_id*; `ObjectFileError` if there is none or it is malformed."""
        kind = self._decoded.get(type_id)
        if kind is None:
            kind = self._decoded[type_id] = self._decode(type_id)
        return kind

    def _decode(self, type_id: int) -> BtfType:
        if not 0 <= type_id < len(self):
            raise malformed(f"there is no type {type_id}; there are {len(self)}, from 0 on")
        if type_id >= self._first_id:
            return decode(self._words, self._starts[type_id - self._first_id], self._string)
        return self._base[type_id] if self._base else _VOID

    def encoded(self, first: int, end: int | None = None) -> bytes:
        """Return the bytes of type *first*, or of the types from *first* up to *end* (exclusive).

        The ids are those of this table; types of the base cannot be asked for.
        """
        start, stop = (self._start(i) for i in (first, first + 1 if end is None else end))
        return self._types[4 * start : 4 * stop]

    def _start(self, type_id: int) -> int:
        return self._starts[type_id - self._first_id] if type_id < len(self) else len(self._words)

    def adopt(self, other: Btf, *, but: Collection[int]) -> None:
        """Copy the decoded types and strings of *other*, which differs at the ids *but* only."""
        self._texts.update(other._texts)
        self._decoded = {i: kind for i, kind in other._decoded.items() if i not in but}

    def types(self) -> list[BtfType]:
        """Return all types in the order of their ids, void first."""
        return [self[type_id] for type_id in self.ids()]

    def ids(self) -> range:
        """Return the ids of all types, 0 (void) included."""
        return range(len(self))

    @property
    def first_id(self) -> int:
        """The first id of this table; ids below it are those of the base, or void."""
        return self._first_id

    @property
    def type_words(self) -> int:
        """The size of this table's type section, in words of 32 bits."""
        return len(self._words)

    def kinds(self, first: int) -> list[int]:
        """Return the numbers (`BtfKind`) of the kinds of the types from id *first* on.

        No type is decoded.
        """
        inherited = self._base.kinds(first) if self._base and first < self._first_id else []
        words, starts = self._words, self._starts[max(first - self._first_id, 0) :]
        return inherited + [words[at + 1] >> 24 & _KIND_MASK for at in starts]

    def read_strings(self) -> None:
        """Decode every string of the table and its base, for a reader of most of the types."""
        self._texts.read_all()

    def string(self, offset: int) -> str:
        """Return the string at byte *offset*; the strings of the base have the first offsets."""
        return self._texts[offset]

    @property
    def strings(self) -> bytes:
        """The bytes of the string section; types and line infos refer to offsets in it."""
        return self._texts.data

    def find(self, name: str, *kinds: type[BtfType]) -> int | None:
        """Return the lowest id of a type with this name.

        Args:
            name: Name of the type, without `struct` or `union`.
            kinds: Classes of `btf.types` to accept; none: any. `Modifier` stands for typedefs and
                for all other modifiers.

        Returns:
            The id; None if there is no such type.
        """
        base_id = self._base.find(name, *kinds) if self._base else None
        if base_id is not None:
            return base_id
        for type_id in self._named(name.encode()):
            if not kinds or isinstance(self[type_id], kinds):
                return type_id
        return None

    def flavours(self, essential: str) -> list[int]:
        """Return the ids of this table, without its base, named *essential* or *essential*___ANY.

        No type is decoded. The first call indexes the names (20 ms for those of the kernel).
        """
        if self._flavoured is None:
            self._flavoured = self._flavoured_offsets()
        offsets = self._flavoured.get(essential, ())
        ids = self._named(essential.encode())
        return sorted([*ids, *(i for offset in offsets for i in self._index.at(offset))])

    def _named(self, name: bytes) -> list[int]:
        """Return the ids of this table with that name, which may be the tail of a longer string.

        A type of this table may take its name from the strings of the base.
        """
        offsets = self._offsets_of(name)
        return sorted([type_id for offset in offsets for type_id in self._index.at(offset)])

    def _offsets_of(self, name: bytes) -> list[int]:
        # The base may use the string for a member only, so all its strings are searched, not just
        # the names of its types.
        inherited = self._base._strings_finder.search(name) if self._base else []
        return inherited + self._strings_finder.offsets(name)

    @property
    def _strings_finder(self) -> StringFinder:
        if self._finder is None:
            first, used = self._texts.first, self._index.offsets
            self._finder = StringFinder(self.strings, first=first, used=used)
        return self._finder

    def _flavoured_offsets(self) -> dict[str, list[int]]:
        by_name = dict(self._base._flavoured_offsets()) if self._base else {}
        for name, starts in flavoured(self.strings).items():
            by_name[name] = [
                *by_name.get(name, ()),
                *(self._texts.first + start for start in starts),
            ]
        return by_name

    @property
    def _index(self) -> NameIndex:
        if self._names is None:
            words = self._words
            offsets = [words[at] for at in self._starts]
            self._names = NameIndex(offsets, first_id=self._first_id)
        return self._names

    def to_bytes(self) -> bytes:
        """Return the blob that BPF_BTF_LOAD takes: header, types, strings."""
        return blob(self._types, self.strings)

    def strip(self, type_id: int) -> int:
        """Return the id of the type under typedefs, const, volatile, restrict and type tags.

        Args:
            type_id: The id of the type to start from.

        Raises:
            ObjectFileError: More than 32 of them, for instance in a cycle.
        """
        known = self._stripped.get(type_id)
        if known is not None:
            return known
        stripped = type_id
        for _ in range(MAX_DEPTH + 1):
            kind = self[stripped]
            if not isinstance(kind, Modifier):
                self._stripped[type_id] = stripped
                return stripped
            stripped = kind.type_id
        raise malformed(
            f"type {type_id} has more than {MAX_DEPTH} typedefs and qualifiers, or a cycle"
        )

    def ref(self, type_id: int) -> TypeRef:
        """Return a reference: *type_id* together with this table."""
        return TypeRef(self, type_id)


@dataclass(frozen=True, slots=True)
class TypeRef:
    """A reference to one type of one table.

    Attributes:
        btf: The table.
        id: The id of the type in the table.
    """

    btf: Btf = field(repr=False)
    id: int

    @property
    def type(self) -> BtfType:
        """The type itself; it may be a typedef or a qualifier."""
        return self.btf[self.id]

    @property
    def stripped(self) -> BtfType:
        """The type under typedefs and qualifiers."""
        return self.btf[self.btf.strip(self.id)]

    @property
    def size(self) -> int:
        """Bytes of a value; `ObjectFileError` for types without a size, such as functions."""
        return size_of(self.btf, self.id)

    @property
    def name(self) -> str:
        """The name of the type itself; empty for pointers, arrays and unnamed types."""
        return self.type.name


def blob(types: bytes, strings: bytes) -> bytes:
    """Return header, *types* and *strings* as one blob."""
    sizes = (0, len(types), len(types), len(strings))
    return HEADER.pack(BTF_MAGIC, BTF_VERSION, 0, HEADER.size, *sizes) + types + strings


def _header(data: bytes) -> tuple[int, int, int, int, int]:
    if len(data) < HEADER.size:
        raise malformed(f"{len(data)} bytes are too few for BTF, whose header takes {HEADER.size}")
    magic, version, flags, *sections = HEADER.unpack_from(data)
    # Big-endian object files were swapped before (`objfile/elf/byte_order.py`), so this is a file
    # of raw BTF.
    if magic == _MAGIC_OF_BIG_ENDIAN:
        raise malformed("the BTF is big-endian; only little-endian is read", offset=0)
    if magic != BTF_MAGIC:
        raise malformed(f"not BTF: it starts with {magic:#06x}, not {BTF_MAGIC:#06x}", offset=0)
    if version != BTF_VERSION or flags:
        raise malformed(
            f"BTF version {version}, flags {flags:#x}; only version 1 is read", offset=2
        )
    if not HEADER.size <= sections[0] <= len(data):
        raise malformed(f"the BTF header claims {sections[0]} of {len(data)} bytes", offset=4)
    return cast("tuple[int, int, int, int, int]", tuple(sections))


def _part(data: bytes, header_size: int, start: int, size: int, *, what: str) -> bytes:
    end = header_size + start + size
    if end > len(data):
        raise malformed(f"the {what} section ends at {end:#x}, the BTF at {len(data):#x}", offset=8)
    return bytes(data[header_size + start : end])
