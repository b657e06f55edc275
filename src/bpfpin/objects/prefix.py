"""Keys of LPM tries as people write them: `10.0.0.1/24`, `2001:db8::/32`.

Such a key is a length of 32 bits, the processor's way round, and an address in network order
(`struct bpf_lpm_trie_key_u8` of linux/bpf.h); the structure may be the program's own.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from bpfpin.codecs.codec import BytesCodec, Codec, ScalarCodec
from bpfpin.codecs.record import RecordCodec

_LENGTH_SIZE: Final = 4
_FAMILIES: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_NAME: Final = "prefixlen"


def is_prefix(codec: Codec) -> bool:
    """Whether keys read by *codec* are a length and an address of IPv4 or IPv6.

    Of keys without a type, which only the size tells, that is true for an LPM trie alone.
    """
    if codec.size - _LENGTH_SIZE not in _FAMILIES:
        return False
    return isinstance(codec, BytesCodec) or _has_length(codec)


def _has_length(codec: Codec) -> bool:
    """Whether the first member, or that of a header at the start, is the length."""
    if not isinstance(codec, RecordCodec) or not codec.parts or codec.parts[0].offset:
        return False
    first = codec.parts[0]
    is_length = first.name.startswith(_NAME) and first.codec.size == _LENGTH_SIZE
    return (is_length and isinstance(first.codec, ScalarCodec)) or _has_length(first.codec)


def prefix_text(key: Any, codec: Codec) -> str:
    """Return the key as `10.0.0.1/24`; *codec* is that of the keys, `held.key_codec`."""
    data = codec.encode(key)
    address = data[_LENGTH_SIZE:]
    length = int.from_bytes(data[:_LENGTH_SIZE], "little")
    return f"{socket.inet_ntop(_FAMILIES[len(address)], address)}/{length}"


def prefix_key(text: str, codec: Codec) -> Any:
    """Return the key that `10.0.0.1/24` means, without a length all bits; `ValueError`."""
    family = _FAMILIES[codec.size - _LENGTH_SIZE]
    bits = 8 * (codec.size - _LENGTH_SIZE)
    address, slash, length_text = text.partition("/")
    length = int(length_text) if length_text.isdecimal() else bits
    if (slash and not length_text.isdecimal()) or length > bits:
        raise ValueError(f"{text!r}: the length of a prefix is a number from 0 to {bits}")
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        title = "IPv4" if family is socket.AF_INET else "IPv6"
        raise ValueError(f"{address!r} is no {title} address") from None
    return codec.decode(length.to_bytes(_LENGTH_SIZE, "little") + packed)
