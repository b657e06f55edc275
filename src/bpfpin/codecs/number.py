"""Codecs of numbers beyond those of the struct module: bit-fields, booleans, enumerations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bpfpin.btf.types import Enum, Int
from bpfpin.codecs.codec import Buffer, Codec, MisfitError, ScalarCodec, bounds

_NAMES_SHOWN = 16
_TRUTHS = frozenset({0, 1})


class BitsCodec(Codec):
    """An integer without a letter in the struct module: a bit-field, or one of 128 bits.

    It consists of *bits* bits from *bit_offset* on, in little-endian order; others are not changed.
    """

    def __init__(self, bits: int, *, bit_offset: int = 0, is_signed: bool = False) -> None:
        self._bits = bits
        self._shift = bit_offset
        self._is_signed = is_signed
        self.size = (bit_offset + bits + 7) // 8

    @functools.cached_property
    def mask(self) -> int:
        """The bits of the integer."""
        return ((1 << self._bits) - 1) << self._shift

    @property
    def bits(self) -> int:
        """The number of bits."""
        return self._bits

    @property
    def is_whole(self) -> bool:
        """Whether it fills its bytes, as an integer of 128 bits does."""
        return not self._shift and self._bits == 8 * self.size

    def decode(self, data: Buffer, at: int = 0) -> int:
        """Return the integer."""
        word = int.from_bytes(data[at : at + self.size], "little") >> self._shift
        value = word & ((1 << self._bits) - 1)
        # Sign extension by hand: Python integers have no width.
        negative = self._is_signed and value >> (self._bits - 1)
        return value - (1 << self._bits) if negative else value

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept an integer in range; the bits around it do not change."""
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


class OddCodec(BitsCodec):
    """An integer type of unusual width, or one that does not fill its bytes."""

    def __init__(self, kind: Int) -> None:
        super().__init__(kind.bits, bit_offset=kind.bit_offset, is_signed=kind.is_signed)
        self.size = kind.size


class BoolCodec(ScalarCodec):
    """`_Bool` of one byte; every byte but zero is true."""

    def __init__(self) -> None:
        super().__init__("?")
        # A byte of 2 is decoded as True and encoded as 1.
        self.is_reversible = False

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a boolean, 0 or 1."""
        data[at] = truth(value)

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all values, each checked: the struct module accepts any object."""
        return b"".join(map(self.encode, values))


def truth(value: Any) -> int:
    """Return 1 or 0 for a boolean or for these numbers; `MisfitError` for other values."""
    if not hasattr(value, "__index__") and type(value).__name__ != "bool_":  # bool_ is numpy's
        raise MisfitError(TypeError, f"true or false was expected, not {value!r}")
    # Other numbers are refused, although C takes them for true: 2 is more likely a mistake.
    if value not in {0, 1}:
        raise MisfitError(ValueError, f"{value!r} is neither true nor false (0 or 1)")
    return int(value)


class MappedCodec(Codec):
    """A codec that converts the values of *plain*: *shown* when decoding, *taken* when encoding.

    *origin* is the codec of the member without the conversion, by default *plain*.
    """

    def __init__(
        self,
        plain: Codec,
        shown: Callable[[Any], Any],
        taken: Callable[[Any], Any],
        *,
        origin: Codec | None = None,
    ) -> None:
        self.plain = plain
        self.origin = origin or plain
        self.size = plain.size
        # With the letter, a structure of such members stays one struct format (`record_codec`).
        self.letter = plain.letter
        self.has_lock = self.origin.has_lock
        self.is_reversible = plain.is_reversible
        self.mask = plain.mask
        self.shown: Callable[[Any], Any] = shown
        self._taken = taken

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the converted value."""
        return self.shown(self.plain.decode(data, at))

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return the converted values."""
        return list(map(self.shown, self.plain.decode_many(data, stride)))

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a converted value, or one of the plain codec."""
        self.plain.encode_into(self._taken(value), data, at)


def truths(bits: BitsCodec, *, is_key: bool = False) -> Codec:
    """Return the codec of booleans that are not one byte: bit-fields and wide `_Bool`."""
    return _key_truths(bits, bits) if is_key else MappedCodec(bits, bool, truth)


def bool_codec(*, is_key: bool = False) -> Codec:
    """Return the codec of `_Bool`; in keys a byte of 2 is the number 2, as 1 is a different key."""
    return _key_truths(ScalarCodec("B"), BoolCodec()) if is_key else BoolCodec()


def _key_truths(plain: Codec, origin: Codec) -> Codec:
    return MappedCodec(plain, _truth_or_number, _truth_number, origin=origin)


def _truth_or_number(number: int) -> int:
    return bool(number) if number in _TRUTHS else number


def _truth_number(value: Any) -> int:
    if hasattr(value, "__index__") and value not in _TRUTHS:
        return int(value)
    return truth(value)


class _Names(dict[int, str]):
    """Names by number; a number without a name stays a number."""

    def __missing__(self, number: int) -> int:
        return number


def enum_codec(kind: Enum, plain: Codec) -> MappedCodec:
    """Return the codec of an enumeration: names, or numbers without a name.

    *plain* is the codec of the number. If a number has several names, it decodes to the first one
    and all of them are accepted.
    """
    numbers = {enumerator.name: _stored(kind, enumerator.value) for enumerator in kind.values}
    names = _Names()
    for name, number in numbers.items():
        names.setdefault(number, name)  # in damaged BTF one name may occur twice: the last counts
    title = f"enum {kind.name}".rstrip()
    return MappedCodec(plain, names.__getitem__, lambda value: _number(value, numbers, title))


def _stored(kind: Enum, value: int) -> int:
    """Return the number that a variable of the enumeration has for an enumerator.

    Compilers before clang 15 mark every enumeration as unsigned and store 32 bits of each value,
    whatever the size of the type.
    """
    # The upper half of 64 bits is then unknown. The sign of the lower half is extended into it, so
    # that -1 has its name; a larger number decodes as a number.
    if kind.is_cut:
        value = value - (1 << 32) if value >> 31 == 1 else value
    low, high = bounds(8 * kind.size, is_signed=kind.is_signed)
    return value if low <= value <= high else value & ((1 << 8 * kind.size) - 1)


def _number(value: Any, numbers: Mapping[str, int], title: str) -> Any:
    if isinstance(value, str):
        if value in numbers:
            return numbers[value]
        more = ", …" if len(numbers) > _NAMES_SHOWN else ""
        names = ", ".join(list(numbers)[:_NAMES_SHOWN]) + more
        raise MisfitError(ValueError, f"{value!r} is not a name of {title}; the names are {names}")
    if not hasattr(value, "__index__"):
        raise MisfitError(TypeError, f"a name of {title} or an integer was expected, not {value!r}")
    return value
