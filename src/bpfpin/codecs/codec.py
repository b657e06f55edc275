"""Conversion between the bytes of keys and values and Python values.

| C | Python |
|---|---|
| integers, pointers | `int`; `_Bool` is `bool` |
| enumerations | the name as `str`, `int` if no name fits; `raw`: always `int` |
| `float`, `double` | `float` |
| `char[N]` | `str` without trailing NULs, invalid UTF-8 as surrogates; `raw`: `bytes` |
| other arrays | `list` |
| `struct`, data section | `dict` by member; the members of unnamed members are included |
| `union` | `dict` of every member; for writing, any members that do not contradict each other |
| locks, timers and other kernel-owned members (`of_btf.py`) | left out; written as zeros |
| no type known | `bytes` |

In keys a structure is a `KeyRecord`, a dict that can be hashed, and an array is a tuple. For
writing, every member with a size must be given, and padding is filled with zeros. A value that does
not fit raises `ValueError` or `TypeError`, which name the member. Other representations are in
`formats.py`.
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
    """A value does not fit its type; each enclosing member adds its name to `path`."""

    def __init__(self, kind: type[ValueError] | type[TypeError], text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.path = ""

    def within(self, step: str) -> MisfitError:
        """Prefix the path with *step*, the name of the enclosing member, and return self."""
        self.path = step + self.path
        return self

    def final(self) -> ValueError | TypeError:
        """Return the error to raise to the caller: a `ValueError` or `TypeError`."""
        # The path starts with the step of the outermost member: `.name` or `[index]`.
        path = self.path.removeprefix(".")
        return self.kind(f"{path}: {self.text}" if path else self.text)


class Codec(ABC):
    """Decodes and encodes values of *size* bytes.

    If the struct module can unpack a value as one item, *letter* is the letter of its format, and
    *shown* converts the item into the value (None: it is the value). *has_lock* says whether the
    value contains a `bpf_spin_lock`.
    """

    size: int
    letter: str = ""
    shown: Callable[[Any], Any] | None = None
    has_lock: bool = False
    is_reversible: bool = True
    """Whether encoding a decoded value gives the same bits again, of those in `mask`."""

    @functools.cached_property
    def mask(self) -> int:
        """The decoded bits, in all bytes as one little-endian number; other bits are padding."""
        return (1 << 8 * self.size) - 1

    @abstractmethod
    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the value that starts at a byte.

        Args:
            data: The bytes of one or more values.
            at: The first byte of the value.
        """

    @abstractmethod
    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Write a value into bytes that are zero there.

        Args:
            value: The value.
            data: The bytes to write into.
            at: The first byte to write.

        Raises:
            MisfitError: The value does not fit.
        """

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
    """Bytes as they are, for values without a type."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.letter = f"{size}s"

    def decode(self, data: Buffer, at: int = 0) -> bytes:
        """Return a copy of the bytes."""
        return bytes(data[at : at + self.size])

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept bytes of exactly this size."""
        if not isinstance(value, bytes | bytearray | memoryview):
            name = type(value).__name__
            raise MisfitError(TypeError, f"no type is known here: give bytes, not {name}")
        if len(value) != self.size:
            raise MisfitError(ValueError, f"{len(value)} bytes, not {self.size}")
        data[at : at + self.size] = value


class CharsCodec(BytesCodec):
    """`char[N]` as bytes, NULs included."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept text or bytes up to the length of the array; a NUL at the end is not needed."""
        if not isinstance(value, str | bytes):
            raise MisfitError(TypeError, f"a text was expected, not {value!r}")
        raw = value.encode(errors="surrogateescape") if isinstance(value, str) else value
        if len(raw) > self.size:
            raise MisfitError(ValueError, f"{len(raw)} bytes of text, {self.size} at most")
        data[at : at + len(raw)] = raw


def text_of(raw: bytes) -> str:
    """Return the text without trailing NULs; invalid UTF-8 becomes surrogates (PEP 383)."""
    # Surrogates let the bytes survive a round trip; programs copy names from the kernel unchecked.
    return raw.rstrip(b"\0").decode(errors="surrogateescape")


class TextCodec(CharsCodec):
    """`char[N]` as text."""

    shown = staticmethod(text_of)

    def decode(self, data: Buffer, at: int = 0) -> str:  # type: ignore[override]  # bytes in CharsCodec
        """Return the text."""
        return text_of(bytes(data[at : at + self.size]))


class ScalarCodec(Codec):
    """A number with a letter of its own in the struct module."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        # With `<` there is no alignment: the offsets of BTF say where each number is.
        self._form = struct.Struct("<" + letter)
        self.size = self._form.size
        # -0.0 equals 0.0, and the bits of a NaN may change when Python handles it.
        self.is_reversible = letter not in FLOATS

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the number."""
        return self._form.unpack_from(data, at)[0]

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return all numbers at once."""
        if stride == self.size and self.letter != "e":  # memoryview.cast has no half floats
            # A cast reads numbers in the order of the machine, which is little-endian: bpfpin loads
            # no other objects.
            return memoryview(data).cast("B").cast(_letter(self.letter)).tolist()
        form = padded_form(self._form.format, stride - self.size)
        return [number for (number,) in form.iter_unpack(data)]

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a number in range; an integer type does not accept a float."""
        try:
            self._form.pack_into(data, at, value)
        except (struct.error, OverflowError) as error:
            raise _misfit_number(value, self.letter, self.size) from error

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all numbers at once."""
        try:
            return struct.pack(f"<{len(values)}{self.letter}", *values)
        except (struct.error, OverflowError):
            return super().encode_many(values)  # its error names the value that does not fit


@functools.cache
def padded_form(form: str, padding: int) -> struct.Struct:
    """Return *form* with *padding* bytes after it; cached, as compiling takes longer than use."""
    return struct.Struct(f"{form}{padding}x")


def _letter(letter: str) -> Any:
    """Return *letter* as Any: `memoryview.cast` wants a literal type, which mypy cannot derive."""
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
    """Return the smallest and the largest integer of *bits* bits."""
    if is_signed:
        return -(1 << bits - 1), (1 << bits - 1) - 1
    return 0, (1 << bits) - 1
