"""A table of types, read from a blob; nothing is decoded before it is asked for.

Works on files and on what the kernel reports (`/sys/kernel/btf/vmlinux`, `BPF_OBJ_GET_INFO_BY_FD`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self, TypeVar, cast

from bpfpin.btf.decode import Words, decode, malformed, scan
from bpfpin.btf.layout import MAX_DEPTH, size_of
from bpfpin.btf.names import NameIndex, StringFinder, flavoured
from bpfpin.btf.types import BtfType, Modifier, Void
from bpfpin.uapi import BTF_MAGIC, BTF_MAX_NAME_OFFSET, BTF_VERSION

_OVERLAPS = 4
_SMALL_BYTES = 1 << 16  # a section this small is read as a whole
HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, _len, str_off, _len
_MAGIC_OF_BIG_ENDIAN = 0x9FEB
_VOID = Void()
_LISTED_BYTES = 1 << 18  # a table this small is mostly read as a whole
_Kind = TypeVar("_Kind")


# The string section of BTF, read by offset.


class Strings(dict[int, str]):
    """The strings by offset, each decoded once; a table with a *base* goes on where that ends.

    A dict, so that a name that is known costs no call.
    """

    def __init__(self, data: bytes, base: Strings | None) -> None:
        super().__init__()
        self.data = data
        self.end: int = len(data) + (base.end if base is not None else 0)
        self._base = base
        self.first = base.end if base is not None else 0  # empty before it is read
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

    def _read_all(self) -> None:
        texts = self.data.decode("ascii").split("\0")[:-1]
        offsets = accumulate([len(text) + 1 for text in texts], initial=self.first)
        self.update(zip(offsets, texts, strict=False))  # the last offset is the end

    def _read(self, offset: int) -> str:
        start = offset - self.first
        if not 0 <= start < len(self.data):
            raise malformed(f"there is no string at {offset:#x} of {self.end:#x} bytes")
        end = self.data.index(0, start)  # the section ends with one
        # Strings may share tails; types that all name tails of one long string are a bomb.
        self._bytes_read += end - start
        if self._bytes_read > _OVERLAPS * len(self.data):
            raise malformed(f"the strings overlap too much, at {offset:#x}")
        return self.data[start:end].decode(errors="backslashreplace")


def check_strings(data: bytes, *, has_base: bool) -> None:
    """Raise `ObjectFileError` unless *data* starts and ends with a zero byte, and is not too large.

    The section of a table with a base may be empty, and starts with a string.
    """
    if has_base and not data:
        return
    if not data or data[-1] or (data[0] and not has_base):
        raise malformed("the string section does not start and end with a zero byte", offset=16)
    if len(data) - 1 > BTF_MAX_NAME_OFFSET:
        raise malformed(f"the string section takes {len(data)} bytes, too many", offset=20)


class Btf:
    """The types of one object or of the kernel, by id; id 0 is void.

    A table with a *base* (a kernel module's) goes on where the ids and strings of the base end.
    """

    def __init__(self, types: bytes, strings: bytes, *, base: Btf | None, first_byte: int) -> None:
        self._base = base
        self._first_id = len(base) if base else 1
        self._types = types
        words = memoryview(types).cast("I")
        # A list is read twice as fast, but the kernel's types would fill 30 MB.
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
        """Read a BTF blob: checks the header and where each type starts.

        What a type names is checked when it is decoded; `check.check` does so for all of them.
        `ObjectFileError` with section and offset if the bytes are no BTF, and nothing else.
        """
        header_size, *places = _header(data)
        types = _part(data, header_size, places[0], places[1], what="type")
        strings = _part(data, header_size, places[2], places[3], what="string")
        first_byte = header_size + places[0]
        if (header_size + places[0]) % 4 or len(types) % 4:
            raise malformed(f"the type section is no whole number of words: {len(types)}", offset=8)
        check_strings(strings, has_base=base is not None)
        return cls(types, strings, base=base, first_byte=first_byte)

    def __len__(self) -> int:
        """Return the number of types, void and those of the base included."""
        return self._first_id + len(self._starts)

    def __getitem__(self, type_id: int) -> BtfType:
        """Return the type *type_id*; `ObjectFileError` if there is none or it is malformed."""
        found = self._decoded.get(type_id)
        if found is None:
            found = self._decoded[type_id] = self._decode(type_id)
        return found

    def _decode(self, type_id: int) -> BtfType:
        if not 0 <= type_id < len(self):
            raise malformed(f"there is no type {type_id}; there are {len(self)}, from 0 on")
        if type_id >= self._first_id:
            return decode(self._words, self._starts[type_id - self._first_id], self._string)
        return self._base[type_id] if self._base else _VOID

    def encoded(self, first: int, end: int | None = None) -> bytes:
        """Return the bytes of a type, or of those before *end*; of this table, not of its base."""
        start, stop = (self._start(i) for i in (first, first + 1 if end is None else end))
        return self._types[4 * start : 4 * stop]

    def _start(self, type_id: int) -> int:
        return self._starts[type_id - self._first_id] if type_id < len(self) else len(self._words)

    def adopt(self, other: Btf, *, but: Collection[int]) -> None:
        """Take over what *other* has decoded: the same table, with other types at the ids *but*."""
        self._texts.update(other._texts)
        self._decoded = {i: kind for i, kind in other._decoded.items() if i not in but}

    def types(self) -> list[BtfType]:
        """Return all types in the order of their ids, void first."""
        return [self[type_id] for type_id in self.ids()]

    def ids(self) -> range:
        """Return the ids of all types, 0 (void) included."""
        return range(len(self))

    def string(self, offset: int) -> str:
        """Return the string at byte *offset* of the string section; that of the base goes first."""
        return self._texts[offset]

    @property
    def strings(self) -> bytes:
        """The string section as it is; offsets into it are those of types and of line infos."""
        return self._texts.data

    def find(self, name: str, *kinds: type[BtfType]) -> int | None:
        """Return the first id whose type is called *name*, and is one of *kinds* if there are any.

        None if there is no such type. `Modifier` stands for typedefs and all other modifiers.
        """
        found = self._base.find(name, *kinds) if self._base else None
        if found is not None:
            return found
        for type_id in self._named(name.encode()):
            if not kinds or isinstance(self[type_id], kinds):
                return type_id
        return None

    def flavours(self, essential: str) -> list[int]:
        """Return the ids of this table, not of its base, called *essential* or *essential*___ANY.

        Nothing is decoded: the first call indexes the names (20 ms for the kernel's).
        """
        if self._flavoured is None:
            self._flavoured = self._flavoured_offsets()
        offsets = self._flavoured.get(essential, ())
        found = self._named(essential.encode())
        return sorted([*found, *(i for offset in offsets for i in self._index.at(offset))])

    def _named(self, name: bytes) -> list[int]:
        """Return the ids of this table called *name*; a name may be the tail of a longer string.

        The strings of the base are those of this table too.
        """
        offsets = self._offsets_of(name)
        return sorted([type_id for offset in offsets for type_id in self._index.at(offset)])

    def _offsets_of(self, name: bytes) -> list[int]:
        # A type here may be called as nothing but a member is in the base.
        inherited = self._base._strings_finder.search(name) if self._base else []
        return inherited + self._strings_finder.offsets(name)

    @property
    def _strings_finder(self) -> StringFinder:
        if self._finder is None:
            first, used = self._texts.first, self._index.offsets
            self._finder = StringFinder(self.strings, first=first, used=used)
        return self._finder

    def _flavoured_offsets(self) -> dict[str, list[int]]:
        found = dict(self._base._flavoured_offsets()) if self._base else {}
        for name, places in flavoured(self.strings).items():
            found[name] = [*found.get(name, ()), *(self._texts.first + at for at in places)]
        return found

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
        """Return the id under typedef, const, volatile, restrict and type tags.

        `ObjectFileError` if there are more than 32 of them, as in a cycle.
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
        """Return *type_id* together with this table."""
        return TypeRef(self, type_id)


@dataclass(frozen=True, slots=True)
class TypeRef:
    """One type of one table."""

    btf: Btf = field(repr=False)
    id: int

    @property
    def type(self) -> BtfType:
        """The type as it is stored, typedefs and qualifiers included."""
        return self.btf[self.id]

    @property
    def stripped(self) -> BtfType:
        """The type under typedefs and qualifiers."""
        return self.btf[self.btf.strip(self.id)]

    @property
    def size(self) -> int:
        """Bytes of a value; `ObjectFileError` for what has no size."""
        return size_of(self.btf, self.id)

    @property
    def name(self) -> str:
        """The name of the type as it is stored; empty for pointers, arrays and the unnamed."""
        return self.type.name


def blob(types: bytes, strings: bytes) -> bytes:
    """Return header, *types* and *strings* as one blob."""
    sizes = (0, len(types), len(types), len(strings))
    return HEADER.pack(BTF_MAGIC, BTF_VERSION, 0, HEADER.size, *sizes) + types + strings


def _header(data: bytes) -> tuple[int, int, int, int, int]:
    if len(data) < HEADER.size:
        raise malformed(f"{len(data)} bytes are too few for BTF, whose header takes {HEADER.size}")
    magic, version, flags, *places = HEADER.unpack_from(data)
    if magic == _MAGIC_OF_BIG_ENDIAN:
        raise malformed("the BTF is big-endian; only little-endian is read", offset=0)
    if magic != BTF_MAGIC:
        raise malformed(f"no BTF: it starts with {magic:#06x}, not {BTF_MAGIC:#06x}", offset=0)
    if version != BTF_VERSION or flags:
        raise malformed(
            f"BTF version {version}, flags {flags:#x}; only version 1 is read", offset=2
        )
    if not HEADER.size <= places[0] <= len(data):
        raise malformed(f"the BTF header claims {places[0]} of {len(data)} bytes", offset=4)
    return cast("tuple[int, int, int, int, int]", tuple(places))


def _part(data: bytes, header_size: int, start: int, size: int, *, what: str) -> bytes:
    end = header_size + start + size
    if end > len(data):
        raise malformed(f"the {what} section ends at {end:#x}, the BTF at {len(data):#x}", offset=8)
    return bytes(data[header_size + start : end])
