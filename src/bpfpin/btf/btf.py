"""A table of types, read from a blob; nothing is decoded before it is asked for.

Works on files and on what the kernel reports (`/sys/kernel/btf/vmlinux`, `BPF_OBJ_GET_INFO_BY_FD`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Self, TypeVar, cast

from bpfpin.btf.decode import Words, decode, malformed, scan
from bpfpin.btf.layout import MAX_DEPTH, size_of
from bpfpin.btf.types import BtfType, Modifier, Void
from bpfpin.uapi import BTF_MAGIC, BTF_MAX_NAME_OFFSET, BTF_VERSION

HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, _len, str_off, _len
_MAGIC_OF_BIG_ENDIAN = 0x9FEB
_VOID = Void()
_OVERLAPS = 4
_Kind = TypeVar("_Kind")


class Btf:
    """The types of one object or of the kernel, by id; id 0 is void.

    A table with a *base* (a kernel module's) goes on where the ids and strings of the base end.
    """

    def __init__(self, types: bytes, strings: bytes, *, base: Btf | None, first_byte: int) -> None:
        self._base = base
        self._first_id = len(base) if base else 1
        self._first_string = base._end_of_strings if base else 0
        self._types = types
        self._words: Words = memoryview(types).cast("I")
        self._strings = strings
        self._starts = scan(self._words, first_id=self._first_id, first_byte=first_byte)
        self._texts: dict[int, str] = {}
        self._bytes_read = 0
        self._decoded: dict[int, BtfType] = {}
        self._by_name: dict[int, list[int]] | None = None

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
        _check_strings(strings, has_base=base is not None)
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
            return decode(self._words, self._starts[type_id - self._first_id], self.string)
        return self._base[type_id] if self._base else _VOID

    def encoded(self, type_id: int) -> bytes:
        """Return the bytes of a type of this table, not of its base, as they were read."""
        at = type_id - self._first_id
        ends = self._starts[at + 1 : at + 2] or [len(self._words)]
        return self._types[4 * self._starts[at] : 4 * ends[0]]

    def ids(self) -> range:
        """Return the ids of all types, 0 (void) included."""
        return range(len(self))

    def string(self, offset: int) -> str:
        """Return the string at byte *offset* of the string section; that of the base goes first."""
        if self._base is not None and offset < self._first_string:
            return self._base.string(offset)
        text = self._texts.get(offset)
        if text is None:
            text = self._texts[offset] = self._read_string(offset)
        return text

    def _read_string(self, offset: int) -> str:
        start = offset - self._first_string
        if not 0 <= start < len(self._strings):
            raise malformed(f"there is no string at {offset:#x} of {self._end_of_strings:#x} bytes")
        end = self._strings.index(0, start)  # the section ends with one
        # Strings may share tails; types that all name tails of one long string are a bomb.
        self._bytes_read += end - start
        if self._bytes_read > _OVERLAPS * len(self._strings):
            raise malformed(f"the strings overlap too much, at {offset:#x}")
        return self._strings[start:end].decode(errors="backslashreplace")

    @property
    def _end_of_strings(self) -> int:
        return self._first_string + len(self._strings)

    @property
    def strings(self) -> bytes:
        """The string section as it is; offsets into it are those of types and of line infos."""
        return self._strings

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

    def _named(self, name: bytes) -> list[int]:
        """Return the ids of this table called *name*; a name may be the tail of a longer string."""
        if self._by_name is None:
            self._by_name = self._index()
        found: list[int] = []
        at = self._strings.find(name + b"\0") if name else -1
        while at >= 0:
            found += self._by_name.get(at + self._first_string, [])
            at = self._strings.find(name + b"\0", at + 1)
        return sorted(found)

    def _index(self) -> dict[int, list[int]]:
        by_name: dict[int, list[int]] = {}
        words = self._words
        for type_id, at in enumerate(self._starts, self._first_id):
            by_name.setdefault(words[at], []).append(type_id)
        return by_name

    def to_bytes(self) -> bytes:
        """Return the blob that BPF_BTF_LOAD takes: header, types, strings."""
        return blob(self._types, self._strings)

    def strip(self, type_id: int) -> int:
        """Return the id under typedef, const, volatile, restrict and type tags.

        `ObjectFileError` if there are more than 32 of them, as in a cycle.
        """
        stripped = type_id
        for _ in range(MAX_DEPTH + 1):
            kind = self[stripped]
            if not isinstance(kind, Modifier):
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


def _check_strings(strings: bytes, *, has_base: bool) -> None:
    if has_base and not strings:
        return
    if not strings or strings[-1] or (strings[0] and not has_base):
        raise malformed("the string section does not start and end with a zero byte", offset=16)
    if len(strings) - 1 > BTF_MAX_NAME_OFFSET:
        raise malformed(f"the string section takes {len(strings)} bytes, too many", offset=20)
