"""Bytes of keys and values to Python values and back.

| C | Python |
|---|---|
| integers, pointers, enumerations | `int`; `_Bool` is `bool` |
| `float`, `double` | `float` |
| `char[N]` | `str` without the NULs at its end; bytes that are no UTF-8 as surrogates |
| other arrays | `list` |
| `struct`, data section | `dict` by member; those of unnamed members stand beside the others |
| `union` | `dict` of every member; for writing, any that do not contradict each other |
| no type known | `bytes` |

In keys a structure is a `Record`, a dict that can be hashed, and an array is a tuple. Writing wants
every member, fills padding with zeros and refuses with `ValueError` or `TypeError` what does not
fit, naming the member.
"""

from __future__ import annotations

import functools
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

Buffer = bytes | bytearray | memoryview


class MisfitError(Exception):
    """A value does not fit its type; `path` grows on the way out of nested members."""

    def __init__(self, kind: type[ValueError] | type[TypeError], text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.path = ""

    def within(self, step: str) -> MisfitError:
        """Return the same one level further out."""
        self.path = step + self.path
        return self

    def final(self) -> ValueError | TypeError:
        """Return what the caller is told."""
        path = self.path.removeprefix(".")
        return self.kind(f"{path}: {self.text}" if path else self.text)


class Codec(ABC):
    """Reads and writes values of *size* bytes."""

    size: int

    @abstractmethod
    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the value that starts at byte *at*."""

    @abstractmethod
    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Write *value* into *data*, which is zero there; `MisfitError` if it does not fit."""

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return the values that start every *stride* bytes of *data*."""
        return [self.decode(data, at) for at in range(0, len(data), stride)]

    def encode(self, value: Any) -> bytes:
        """Return the bytes of *value*; `ValueError` or `TypeError` if it does not fit."""
        data = bytearray(self.size)
        try:
            self.encode_into(value, data, 0)
        except MisfitError as misfit:
            raise misfit.final() from None
        return bytes(data)

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all *values*, back to back."""
        return b"".join(map(self.encode, values))


class BytesCodec(Codec):
    """Bytes as they are, for what has no type."""

    def __init__(self, size: int) -> None:
        self.size = size

    def decode(self, data: Buffer, at: int = 0) -> bytes:
        """Return a copy of the bytes."""
        return bytes(data[at : at + self.size])

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take any bytes of just this size."""
        if not isinstance(value, bytes | bytearray | memoryview):
            name = type(value).__name__
            raise MisfitError(TypeError, f"no type is known here: give bytes, not {name}")
        if len(value) != self.size:
            raise MisfitError(ValueError, f"{len(value)} bytes, not {self.size}")
        data[at : at + self.size] = value


class TextCodec(BytesCodec):
    """`char[N]`: text up to the NULs at the end."""

    def decode(self, data: Buffer, at: int = 0) -> str:  # type: ignore[override]  # text is what bytes of char are
        """Return the text; bytes that are no UTF-8 become surrogates, so nothing is lost."""
        return super().decode(data, at).rstrip(b"\0").decode(errors="surrogateescape")

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take text, or bytes, that is not longer than the array; no NUL at the end is needed."""
        if not isinstance(value, str | bytes):
            raise MisfitError(TypeError, f"a text was expected, not {value!r}")
        raw = value.encode(errors="surrogateescape") if isinstance(value, str) else value
        if len(raw) > self.size:
            raise MisfitError(ValueError, f"{len(raw)} bytes of text, {self.size} at most")
        data[at : at + len(raw)] = raw


class ScalarCodec(Codec):
    """A number that the struct module knows by one letter."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self._form = struct.Struct("<" + letter)
        self.size = self._form.size

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the number."""
        return self._form.unpack_from(data, at)[0]

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return all numbers at once."""
        if stride == self.size:
            return memoryview(data).cast("B").cast(_letter(self.letter)).tolist()
        form = padded_form(self._form.format, stride - self.size)
        return [number for (number,) in form.iter_unpack(data)]

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take a number in range; a float where an integer is wanted does not fit."""
        try:
            self._form.pack_into(data, at, value)
        except (struct.error, OverflowError) as error:
            raise _misfit_number(value, self.letter, self.size) from error

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all numbers at once."""
        try:
            return struct.pack(f"<{len(values)}{self.letter}", *values)
        except (struct.error, OverflowError):
            return super().encode_many(values)  # says which one does not fit


@functools.cache
def padded_form(form: str, padding: int) -> struct.Struct:
    """Return the form with *padding* bytes behind it; compiling one takes longer than its use."""
    return struct.Struct(f"{form}{padding}x")


def _letter(letter: str) -> Any:
    """Return the letter for `memoryview.cast`, whose literal type mypy cannot see in a str."""
    return letter


def _misfit_number(value: Any, letter: str, size: int) -> MisfitError:
    if not hasattr(value, "__index__") and letter not in "fd":
        return MisfitError(TypeError, f"an integer was expected, not {value!r}")
    if not hasattr(value, "__float__"):
        return MisfitError(TypeError, f"a number was expected, not {value!r}")
    low, high = bounds(8 * size, is_signed=letter.islower())
    reach = "" if letter in "fd" else f" ({low} to {high})"
    return MisfitError(ValueError, f"{value!r} does not fit into {8 * size} bits{reach}")


def bounds(bits: int, *, is_signed: bool) -> tuple[int, int]:
    """Return the least and the greatest integer of *bits* bits."""
    if is_signed:
        return -(1 << bits - 1), (1 << bits - 1) - 1
    return 0, (1 << bits) - 1


class BitsCodec(Codec):
    """An integer that no letter of struct stands for: a bit-field, or 128 bits.

    Takes *bits* bits from *bit_offset* on, little-endian, and writes only those.
    """

    def __init__(self, bits: int, *, bit_offset: int = 0, is_signed: bool = False) -> None:
        self._bits = bits
        self._shift = bit_offset
        self._is_signed = is_signed
        self.size = (bit_offset + bits + 7) // 8

    def decode(self, data: Buffer, at: int = 0) -> int:
        """Return the integer."""
        word = int.from_bytes(data[at : at + self.size], "little") >> self._shift
        value = word & ((1 << self._bits) - 1)
        negative = self._is_signed and value >> (self._bits - 1)
        return value - (1 << self._bits) if negative else value

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take an integer in range; the bits around stay as they are."""
        if not hasattr(value, "__index__"):
            raise MisfitError(TypeError, f"an integer was expected, not {value!r}")
        low, high = bounds(self._bits, is_signed=self._is_signed)
        if not low <= value <= high:
            text = f"{value!r} does not fit into {self._bits} bits ({low} to {high})"
            raise MisfitError(ValueError, text)
        mask = ((1 << self._bits) - 1) << self._shift
        word = int.from_bytes(data[at : at + self.size], "little") & ~mask
        word |= (value.__index__() << self._shift) & mask
        data[at : at + self.size] = word.to_bytes(self.size, "little")
