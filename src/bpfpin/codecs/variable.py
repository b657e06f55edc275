"""Global variables of an object: where each is in its section, and what its bytes mean."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.codecs.codec import BytesCodec, Codec, MisfitError, bounds
from bpfpin.codecs.of_btf import codec

_INTEGER_SIZES = frozenset({1, 2, 4, 8})


class UntypedCodec(BytesCodec):
    """A variable of which only the size is known: an unsigned integer of 1, 2, 4 or 8 bytes."""

    def decode(self, data: Any, at: int = 0) -> Any:
        """Return the integer, bytes for another size."""
        raw = super().decode(data, at)
        return int.from_bytes(raw, "little") if self.size in _INTEGER_SIZES else raw

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take an integer, also a negative one, or just as many bytes."""
        if not isinstance(value, int) or self.size not in _INTEGER_SIZES:
            super().encode_into(value, data, at)
            return
        bits = 8 * self.size
        low, high = bounds(bits, is_signed=True)[0], bounds(bits, is_signed=False)[1]
        if not low <= value <= high:
            raise MisfitError(ValueError, f"{value} does not fit into {bits} bits")
        data[at : at + self.size] = (value % (1 << bits)).to_bytes(self.size, "little")


@dataclass(frozen=True)
class VariableSpec:
    """A global variable: *size* bytes at byte *offset* of data section *section*.

    *type* is its BTF type, None where the object has none. *contents* is what it starts with.
    """

    name: str
    section: str
    offset: int
    size: int
    type: TypeRef | None = field(default=None, repr=False)
    contents: bytes = b""

    @cached_property
    def codec(self) -> Codec:
        """How its bytes read; as plain bytes where the type does not have the variable's size."""
        if self.type is None:
            return UntypedCodec(self.size)
        is_whole = self.type.size == self.size  # an array without a length takes more than its type
        return codec(self.type, self.size) if is_whole else BytesCodec(self.size)

    @property
    def value(self) -> Any:
        """What it starts with; `ValueError` where its bytes are not known (big-endian objects)."""
        if len(self.contents) != self.size:
            raise ValueError(f"{self.name}: what it starts with is not known")
        return self.codec.decode(self.contents)

    @property
    def type_name(self) -> str:
        """Its type as one line of C; empty if that is unknown."""
        return c_type(self.type) if self.type else ""

    @property
    def end(self) -> int:
        """The byte of the section behind it."""
        return self.offset + self.size

    def with_contents_of(self, section: bytes) -> VariableSpec:
        """Return a copy that starts with what the bytes of its section say."""
        return dataclasses.replace(self, contents=section[self.offset : self.end])


def by_name(variables: Iterable[VariableSpec]) -> dict[str, VariableSpec]:
    """Return the variables by what tells each from all others.

    That is its name; `SECTION:NAME` where several sections have one of that name, and
    `SECTION:NAME@OFFSET` where one section has several.
    """
    listed = list(variables)
    plain = Counter(each.name for each in listed)
    in_section = Counter((each.section, each.name) for each in listed)
    found = {}
    for each in listed:
        name = each.name if plain[each.name] == 1 else f"{each.section}:{each.name}"
        if in_section[each.section, each.name] > 1:
            name += f"@{each.offset}"
        found[name] = each
    return found


def key_of(variables: Mapping[str, VariableSpec], name: str) -> str:
    """Return the key in what `by_name` made for a *name*, which may have its section before it.

    `LookupError` says what there is.
    """
    if name in variables:
        return name
    section, _, bare = name.rpartition(":")
    fits = [
        key
        for key, each in variables.items()
        if each.name == bare and section in ("", each.section)
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise LookupError(f"{len(fits)} variables are named {name!r}: {', '.join(fits)}")
    raise LookupError(f"no variable {name!r}; there are: {', '.join(variables) or 'none'}")
