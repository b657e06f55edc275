"""Keys with stray bits: nonzero padding, unused bits, NaN and -0.0.

A program that does not clear the padding of a key on its stack writes whatever was there. The
kernel hashes and compares all bytes, so such a key differs from the one with zeros, although both
decode to the same members. Decoding a key therefore keeps its bytes if encoding the value would not
give them again: the value belongs to a subclass with `key_bytes` and is encoded as these bytes.

Two such keys are equal if their bytes are equal, so that `dict(bpf_map)` has both. A plain dict is
equal to every key with the same members. Numbers and tuples with stray bits are not equal to plain
ones, because plain ones are hashed by their value.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bpfpin.codecs.codec import Buffer, Codec


class StrayBytes:
    """Base of keys that keep their bytes; the other base class is the type of the value."""

    key_bytes: bytes

    def __eq__(self, other: object) -> bool:
        # Keys of different Python types are different, even with the same bytes.
        if isinstance(other, StrayBytes):
            return type(self) is type(other) and self.key_bytes == other.key_bytes
        return type(other) is dict and bool(dict.__eq__(other, self))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.key_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return stray, (without_bytes(self), self.key_bytes)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, _memo: object) -> Any:
        return self


def stray(value: Any, key_bytes: bytes) -> Any:
    """Return a copy of *value* that keeps *key_bytes*."""
    # bool cannot be subclassed.
    base: Any = int if isinstance(value, bool) else type(value)
    kind = _stray_kind(base)
    made = getattr(kind, "_make", kind)(value)  # NamedTuples have `_make`
    made.key_bytes = key_bytes
    return made


@functools.cache
def _stray_kind(base: type) -> Any:
    return type(base.__name__, (StrayBytes, base), {"__repr__": base.__repr__})


def without_bytes(value: Any) -> Any:
    """Return *value* as the plain type; a value that keeps no bytes is returned itself."""
    if not isinstance(value, StrayBytes):
        return value
    base = type(value).__mro__[2]
    made: Any = getattr(base, "_make", base)  # NamedTuples have `_make`
    return made(value)


def key_bytes_of(value: Any) -> bytes | None:
    """Return the bytes that a key keeps; None for a plain key."""
    return value.key_bytes if isinstance(value, StrayBytes) else None


class KeyCodec(Codec):
    """Mix-in for codecs of keys (see `keeping_bytes`); values with stray bits keep their bytes."""

    plain_codec: Codec

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the key; as a subclass of its type if its bytes have stray bits."""
        raw = bytes(data[at : at + self.size])
        value = self.plain_codec.decode(raw)
        return stray(value, raw) if self._is_stray(value, raw) else value

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return the keys."""
        if not self.plain_codec.is_reversible or stride != self.size:
            return [self.decode(data, at) for at in range(0, len(data), stride)]
        values = self.plain_codec.decode_many(data, stride)
        # Stray bits are rare: one test of all keys together is cheaper than one test for each.
        if not has_unread(data, self.plain_codec):
            return values
        rows = zip(values, pieces(data, stride), strict=True)
        return [stray(value, raw) if self._is_stray(value, raw) else value for value, raw in rows]

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept a value of the plain codec, or a key that keeps its bytes."""
        raw = self._kept(value)
        if raw is None:
            self.plain_codec.encode_into(value, data, at)
        else:
            data[at : at + self.size] = raw

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a key."""
        return self._kept(value) or self.plain_codec.encode(value)

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all keys, back to back."""
        if any(isinstance(value, StrayBytes) for value in values):
            return b"".join(map(self.encode, values))
        return self.plain_codec.encode_many(values)

    def _kept(self, value: Any) -> bytes | None:
        """Return the bytes that *value* keeps, if it comes from a map with keys like these."""
        if not isinstance(value, StrayBytes) or len(value.key_bytes) != self.size:
            return None
        # A structure of another map may have the same size and different members.
        # repr() shows NaN and -0.0, which `==` does not tell apart.
        return value.key_bytes if repr(self.decode(value.key_bytes)) == repr(value) else None

    def _is_stray(self, value: Any, raw: bytes) -> bool:
        if int.from_bytes(raw, "little") & ~self.plain_codec.mask:
            return True
        if self.plain_codec.is_reversible:
            return False
        return not _is_plain(value) or self.plain_codec.encode(value) != raw


def keeping_bytes(plain: Codec) -> Codec:
    """Return a codec for keys like *plain* that keeps stray bits; *plain* itself if it has none.

    It is a subclass of *plain*'s class and has the same attributes, because other code checks the
    class of a codec.
    """
    if plain.is_reversible and plain.mask == whole_mask(plain.size):
        return plain
    made: Any = copy.copy(plain)
    made.__class__ = _key_codec_kind(type(plain))
    made.plain_codec = plain
    return made  # type: ignore[no-any-return]  # its class is made at run time


@functools.cache
def _key_codec_kind(kind: type[Codec]) -> type[Codec]:
    return type(f"Key{kind.__name__}", (KeyCodec, kind), {})


def reads_alike(codec: Codec, key: bytes) -> Callable[[bytes], bool]:
    """Return a function that says whether another key decodes to the same value as *key*."""
    if codec.is_reversible:
        wanted = int.from_bytes(key, "little") & codec.mask
        return lambda other: int.from_bytes(other, "little") & codec.mask == wanted
    text = repr(without_bytes(codec.decode(key)))
    return lambda other: repr(without_bytes(codec.decode(other))) == text


def whole_mask(size: int) -> int:
    """Return the mask of all bits of *size* bytes."""
    return (1 << 8 * size) - 1


def has_unread(data: Buffer, codec: Codec) -> bool:
    """Whether any of the keys in *data* has a bit set that *codec* does not decode."""
    unread = codec.mask ^ whole_mask(codec.size)
    if not unread:
        return False
    pattern = unread.to_bytes(codec.size, "little") * (len(data) // codec.size)
    return bool(int.from_bytes(data, "little") & int.from_bytes(pattern, "little"))


def pieces(data: Buffer, size: int) -> Iterator[bytes]:
    """Yield the keys in *data*, each as bytes."""
    return (bytes(data[at : at + size]) for at in range(0, len(data), size))


def _is_plain(value: Any) -> bool:
    """Whether no float in *value* is NaN, which equals nothing, or -0.0, which equals 0.0."""
    if isinstance(value, float):
        return value == value and not (value == 0 and math.copysign(1, value) < 0)  # noqa: PLR0124
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return True
