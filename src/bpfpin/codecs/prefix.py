"""Keys of LPM tries as text: `10.0.0.1/24`, `2001:db8::/32`.

Such a key is a 32-bit length in the byte order of the machine, and an address in network order
(`struct bpf_lpm_trie_key_u8` of linux/bpf.h). Programs may define the structure themselves.
"""

from __future__ import annotations

import copy
import functools
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any, Final

from bpfpin.codecs.codec import BytesCodec, Codec, MisfitError, ScalarCodec
from bpfpin.codecs.number import MappedCodec
from bpfpin.codecs.record import ArrayCodec, RecordCodec

_LENGTH_SIZE: Final = 4
_FAMILIES: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_NAME: Final = "prefixlen"
# A plain integer is taken for an address only if its name says so: it may be any number.
_ADDRESS: Final = re.compile("addr|ip|data|net|src|dst|host|key|prefix", re.IGNORECASE)
_NETWORKS: Final = (
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Address,  # IPv4Interface is a subclass
    ipaddress.IPv6Address,
)


def is_prefix(codec: Codec) -> bool:
    """Whether keys of *codec* may be a length and an IPv4 or IPv6 address.

    For keys without a type, this depends on the size only, and is right for LPM tries only.
    """
    if codec.size - _LENGTH_SIZE not in _FAMILIES:
        return False
    return isinstance(codec, BytesCodec) or _has_length(codec)


def is_address_prefix(codec: Codec) -> bool:
    """Whether the bytes after the length are one address by type or name, or have no type."""
    if not is_prefix(codec):
        return False
    return isinstance(codec, BytesCodec) or _is_address(codec, _LENGTH_SIZE)


def _has_length(codec: Codec) -> bool:
    """Whether the first member, or the first one of a header structure, is the length."""
    if not isinstance(codec, RecordCodec) or not codec.parts or codec.parts[0].offset:
        return False
    first = codec.parts[0]
    is_length = first.name.startswith(_NAME) and first.codec.size == _LENGTH_SIZE
    return (is_length and isinstance(first.codec, ScalarCodec)) or _has_length(first.codec)


def _is_address(codec: Codec, at: int, name: str = "") -> bool:
    """Whether the bytes of *codec* from *at* on are exactly one address."""
    if isinstance(codec, RecordCodec):
        behind = [part for part in codec.parts if part.offset + part.codec.size > at]
        return len(behind) == 1 and all(
            _is_address(part.codec, at - part.offset, part.name) for part in behind
        )
    if at or codec.size not in _FAMILIES:
        return False
    # An array of 4 or 16 bytes after the length can be nothing but the address.
    is_number = isinstance(codec, ScalarCodec)
    return bool(_ADDRESS.search(name)) if is_number else isinstance(codec, _ADDRESS_KINDS)


_ADDRESS_KINDS: Final = (ArrayCodec, BytesCodec, MappedCodec)


def text_of_bytes(data: bytes) -> str:
    """Return the text of a key's bytes: `10.0.0.1/24`."""
    address = data[_LENGTH_SIZE:]
    length = int.from_bytes(data[:_LENGTH_SIZE], "little")
    return f"{socket.inet_ntop(_FAMILIES[len(address)], address)}/{length}"


def prefix_text(key: Any, codec: Codec) -> str:
    """Return the text of a key: `10.0.0.1/24`; *codec* is the key codec of the map."""
    return text_of_bytes(codec.encode(key))


def prefix_bytes(value: Any, size: int) -> bytes:
    """Return the *size* bytes of the key that a text, network, interface or address means.

    Without a length it is all bits; `ValueError`.
    """
    text = str(value)
    # A map has one size of keys, so a v4 prefix cannot be meant in a map of IPv6 addresses.
    family = _FAMILIES[size - _LENGTH_SIZE]
    bits = 8 * (size - _LENGTH_SIZE)
    address, slash, length_text = text.partition("/")
    length = int(length_text) if length_text.isdecimal() else bits
    if (slash and not length_text.isdecimal()) or length > bits:
        raise ValueError(f"{text!r}: the length of a prefix is a number from 0 to {bits}")
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        title = "IPv4" if family is socket.AF_INET else "IPv6"
        raise ValueError(f"{address!r} is not an {title} address") from None
    # Bits behind the prefix stay as typed: the kernel compares the first *length* bits only
    # (longest_prefix_match() of kernel/bpf/lpm_trie.c).
    return length.to_bytes(_LENGTH_SIZE, "little") + packed


def without_other_bits(key: bytes) -> bytes:
    """Return a key with the bits behind its prefix cleared: equal prefixes have equal bytes then.

    The kernel keeps these bits as they were written, and ignores them when it compares keys.
    """
    bits = 8 * (len(key) - _LENGTH_SIZE)
    surplus = max(0, bits - int.from_bytes(key[:_LENGTH_SIZE], "little"))
    address = int.from_bytes(key[_LENGTH_SIZE:], "big") >> surplus << surplus
    return key[:_LENGTH_SIZE] + address.to_bytes(bits // 8, "big")


def prefix_key(text: str, codec: Codec) -> Any:
    """Return the key for a text such as `10.0.0.1/24`; without a length, all bits are meant.

    Raises:
        ValueError: The text is not a prefix of the key's family.
    """
    return codec.decode(prefix_bytes(text, codec.size))


def is_written_prefix(value: Any) -> bool:
    """Whether *value* is text or an object of `ipaddress`."""
    return isinstance(value, (str, *_NETWORKS))


def prefix_codec(plain: Codec) -> Codec | None:
    """Return the codec that decodes prefix keys as text; None for other keys.

    It also accepts the values of *plain*.
    """
    if not is_prefix(plain):
        return None

    def taken(value: Any) -> bytes:
        if not is_written_prefix(value):
            data = bytearray(plain.size)
            plain.encode_into(value, data, 0)
            return bytes(data)
        return _bytes_or_misfit(value, plain.size)

    return MappedCodec(BytesCodec(plain.size), text_of_bytes, taken, origin=plain)


def taking_prefixes(plain: Codec) -> Codec:
    """Return a codec that decodes like *plain* and also accepts text and objects of `ipaddress`.

    It is a subclass of *plain*'s class and has the same attributes, because other code checks the
    class of a codec.
    """
    # A mapped codec is a format that the user chose, which accepts prefixes itself if it is one.
    if isinstance(plain, MappedCodec) or not is_prefix(plain):
        return plain
    made: Any = copy.copy(plain)
    # The copy keeps all attributes, and isinstance() checks against the codec's class still hold.
    made.__class__ = _prefix_kind(type(plain))
    return made  # type: ignore[no-any-return]  # its class is made at run time


class PrefixKeys(Codec):
    """Mix-in for codecs of LPM trie keys, which makes them accept prefixes as text."""

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Accept text, an object of `ipaddress`, or a value of the codec itself."""
        if is_written_prefix(value):
            data[at : at + self.size] = _bytes_or_misfit(value, self.size)
        else:
            super().encode_into(value, data, at)  # type: ignore[safe-super]  # the other base has it

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all keys."""
        if any(map(is_written_prefix, values)):
            return b"".join(map(self.encode, values))
        return super().encode_many(values)

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a key."""
        return Codec.encode(self, value) if is_written_prefix(value) else super().encode(value)


@functools.cache
def _prefix_kind(kind: type[Codec]) -> type[Codec]:
    return type(f"Prefix{kind.__name__}", (PrefixKeys, kind), {})


def _bytes_or_misfit(value: Any, size: int) -> bytes:
    try:
        return prefix_bytes(value, size)
    except ValueError as error:
        raise MisfitError(ValueError, str(error)) from None
