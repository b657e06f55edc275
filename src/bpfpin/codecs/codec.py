"""Bytes of keys and values to Python values and back.

| C | Python |
|---|---|
| integers, pointers | `int`; `_Bool` is `bool` |
| enumerations | the name as `str`, `int` where no name fits; `raw`: always `int` |
| `float`, `double` | `float` |
| `char[N]` | `str` without the NULs at its end, what is no UTF-8 as surrogates; `raw`: `bytes` |
| other arrays | `list` |
| `struct`, data section | `dict` by member; those of unnamed members stand beside the others |
| `union` | `dict` of every member; for writing, any that do not contradict each other |
| locks, timers, what else is the kernel's (`kernel_owned.py`) | left out; zeros when written |
| no type known | `bytes` |

In keys a structure is a `Record`, a dict that can be hashed, and an array is a tuple. Writing wants
every member that takes room, fills padding with zeros and refuses with `ValueError` or `TypeError`
what does not fit, naming the member. What else values can look like is in `formats.py`.
"""

from __future__ import annotations

import functools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from bpfpin.errors import Portable

Buffer = bytes | bytearray | memoryview
FLOATS = "efd"


class MisfitError(Portable):
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
    """Reads and writes values of *size* bytes.

    Where the struct module unpacks a value as one item, *letter* says which one and *shown* what
    becomes of it (None: nothing). *has_lock*: there is a `bpf_spin_lock` inside.
    """

    size: int
    letter: str = ""
    shown: Callable[[Any], Any] | None = None
    has_lock: bool = False
    is_reversible: bool = True
    """Whether what is read is written as the same bits, of those in `mask`."""

    @functools.cached_property
    def mask(self) -> int:
        """The bits that are read, of all bytes as one little-endian number; others are padding."""
        return (1 << 8 * self.size) - 1

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
        self.letter = f"{size}s"

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


class CharsCodec(BytesCodec):
    """`char[N]` as it is: all of its bytes."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take text, or bytes, that is not longer than the array; no NUL at the end is needed."""
        if not isinstance(value, str | bytes):
            raise MisfitError(TypeError, f"a text was expected, not {value!r}")
        raw = value.encode(errors="surrogateescape") if isinstance(value, str) else value
        if len(raw) > self.size:
            raise MisfitError(ValueError, f"{len(raw)} bytes of text, {self.size} at most")
        data[at : at + len(raw)] = raw


def text_of(raw: bytes) -> str:
    """Return the text up to the NULs at the end; what is no UTF-8 becomes surrogates."""
    return raw.rstrip(b"\0").decode(errors="surrogateescape")


class TextCodec(CharsCodec):
    """`char[N]` as text."""

    shown = staticmethod(text_of)

    def decode(self, data: Buffer, at: int = 0) -> str:  # type: ignore[override]  # text is what bytes of char are
        """Return the text."""
        return text_of(bytes(data[at : at + self.size]))


class ScalarCodec(Codec):
    """A number that the struct module knows by one letter."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self._form = struct.Struct("<" + letter)
        self.size = self._form.size
        self.is_reversible = letter not in FLOATS  # -0.0 equals 0.0, and NaN may change its bits

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the number."""
        return self._form.unpack_from(data, at)[0]

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return all numbers at once."""
        if stride == self.size and self.letter != "e":  # no memoryview has halves
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
    if not hasattr(value, "__index__") and letter not in FLOATS:
        return MisfitError(TypeError, f"an integer was expected, not {value!r}")
    if not hasattr(value, "__float__"):
        return MisfitError(TypeError, f"a number was expected, not {value!r}")
    low, high = bounds(8 * size, is_signed=letter.islower())
    reach = "" if letter in FLOATS else f" ({low} to {high})"
    return MisfitError(ValueError, f"{value!r} does not fit into {8 * size} bits{reach}")


def bounds(bits: int, *, is_signed: bool) -> tuple[int, int]:
    """Return the least and the greatest integer of *bits* bits."""
    if is_signed:
        return -(1 << bits - 1), (1 << bits - 1) - 1
    return 0, (1 << bits) - 1
