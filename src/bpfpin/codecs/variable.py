"""Global variables of an object: their position in the section, and their type."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import field
from functools import cached_property
from typing import Any

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import BytesCodec, Codec, MisfitError, bounds
from bpfpin.records import dataclass

_INTEGER_SIZES = frozenset({1, 2, 4, 8})


class UntypedCodec(BytesCodec):
    """A variable without a type: an unsigned integer of 1, 2, 4 or 8 bytes, else bytes."""

    def decode(self, data: Any, at: int = 0) -> Any:
        """Return the integer; bytes for any other size."""
        raw = super().decode(data, at)
        return int.from_bytes(raw, "little") if self.size in _INTEGER_SIZES else raw

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept an integer, which may be negative, or exactly as many bytes."""
        if not isinstance(value, int) or self.size not in _INTEGER_SIZES:
            super().encode_into(value, data, at)
            return
        # Without a type the sign is unknown, so both ranges are accepted.
        bits = 8 * self.size
        low, high = bounds(bits, is_signed=True)[0], bounds(bits, is_signed=False)[1]
        if not low <= value <= high:
            raise MisfitError(ValueError, f"{value} does not fit into {bits} bits")
        data[at : at + self.size] = (value % (1 << bits)).to_bytes(self.size, "little")


@dataclass(frozen=True)
class VariableSpec:
    """A global variable of an object file, as wanted: part of the one value of its section's map.

    Attributes:
        name: Its name in the source.
        section: The data section, which is also the name of the map: `.data`, `.bss`, `.rodata` ….
        offset: First byte in the section.
        size: Bytes.
        type: Its BTF type; None if the object has no BTF.
        contents: Its initial bytes; empty if they are not known.
    """

    name: str
    section: str
    offset: int
    size: int
    type: TypeRef | None = field(default=None, repr=False)
    contents: bytes = b""

    @cached_property
    def codec(self) -> Codec:
        """The codec of its bytes; plain bytes if the type and the variable differ in size."""
        from bpfpin.codecs.of_btf import codec  # noqa: PLC0415  (few commands read variables)

        if self.type is None:
            return UntypedCodec(self.size)
        is_whole = self.type.size == self.size  # an array without a length is larger than its type
        return codec(self.type, self.size) if is_whole else BytesCodec(self.size)

    @property
    def value(self) -> Any:
        """The initial value; `ValueError` if its bytes are not known (big-endian objects)."""
        if len(self.contents) != self.size:
            raise ValueError(f"{self.name}: the initial value is not known")
        return self.codec.decode(self.contents)

    @property
    def type_name(self) -> str:
        """The type as one line of C; empty if it is not known."""
        from bpfpin.btf.c_source import c_type  # noqa: PLC0415  (only for messages)

        return c_type(self.type) if self.type else ""

    @property
    def end(self) -> int:
        """The first byte of the section after the variable."""
        return self.offset + self.size

    def with_contents_of(self, section: bytes) -> VariableSpec:
        """Return a copy with its initial bytes, taken from those of the whole *section*."""
        return dataclasses.replace(self, contents=section[self.offset : self.end])


def by_name(variables: Iterable[VariableSpec]) -> dict[str, VariableSpec]:
    """Return the variables by unique name.

    That is `NAME`; `SECTION:NAME` if several sections have a variable of that name, and
    `SECTION:NAME@OFFSET` if one section has several (static variables of several functions).
    """
    listed = list(variables)
    plain = Counter(variable.name for variable in listed)
    in_section = Counter((variable.section, variable.name) for variable in listed)
    named = {}
    for variable in listed:
        # The shortest name that is unique: options and snapshots must find the same variable again.
        name = variable.name if plain[variable.name] == 1 else f"{variable.section}:{variable.name}"
        if in_section[variable.section, variable.name] > 1:
            name += f"@{variable.offset}"
        named[name] = variable
    return named


def key_of(variables: Mapping[str, VariableSpec], name: str) -> str:
    """Return the key of *variables*, made by `by_name`, that *name* means.

    Args:
        variables: The variables by unique name.
        name: `NAME`, `SECTION:NAME`, or a key as it is.

    Returns:
        The key.

    Raises:
        LookupError: No variable, or more than one, has that name; the message lists them.
    """
    if name in variables:
        return name
    # The last colon: names of sections may contain one, names of variables in C cannot.
    section, _, bare = name.rpartition(":")
    matches = [
        key
        for key, variable in variables.items()
        if variable.name == bare and section in ("", variable.section)
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LookupError(f"{len(matches)} variables are named {name!r}: {', '.join(matches)}")
    raise LookupError(f"no variable {name!r}; there are: {', '.join(variables) or 'none'}")
