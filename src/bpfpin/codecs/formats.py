"""Formats of members: addresses, ports, times, hexadecimal, text.

| `Format` | applies to | decoded as | also accepts |
|---|---|---|---|
| `IPV4`, `IPV6`, `IP` | 4, 16, 4 or 16 bytes | `"10.0.0.1"` | `ipaddress` objects, `int` |
| `MAC` | 6 bytes | `"02:00:00:00:00:01"` | `int` |
| `PORT` | 2 bytes in network order | `int`: 443 | |
| `NS` | integers of 4 or 8 bytes | `Nanoseconds`, an `int` | `"5 ms"` |
| `HEX` | integers; other types as bytes | `"0x1f"`; `"0a00"` | `int` |
| `TEXT` | bytes, arrays of bytes | `str` | |
| `PREFIX` | whole keys of LPM tries | `"10.0.0.0/24"` | `ipaddress` objects, the structure |

All accept bytes as they are in memory, too. If a format does not fit an array as a whole, it is
applied to the elements.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any, Final

from bpfpin.codecs.codec import BytesCodec, Codec, MisfitError, ScalarCodec, TextCodec
from bpfpin.codecs.number import BitsCodec, BoolCodec, MappedCodec
from bpfpin.codecs.prefix import prefix_codec
from bpfpin.codecs.record import ArrayCodec

# re.ASCII: `\d` would match the digits of every script, and int() accept them.
_TIME = re.compile(r"\s*(\d+)(?:\.(\d+))?\s*(ns|us|ms|s)\s*", re.ASCII)
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_NS_SIZES = frozenset({4, 8})
_MAC_SIZE = 6
_PORT_SIZE = 2


class Format(Enum):
    """How a member of a key or value is decoded, for `formats=` of `Map.from_pin` and others.

    A format may also be given as its value, such as `"ipv4"`.

    Attributes:
        IPV4: 4 bytes in network order as `"10.0.0.1"`.
        IPV6: 16 bytes as `"2001:db8::1"`.
        IP: `IPV4` or `IPV6`, depending on the size.
        MAC: 6 bytes as `"02:00:00:00:00:01"`.
        PORT: 2 bytes in network order as an `int`.
        NS: An integer of 4 or 8 bytes as `Nanoseconds`; accepts texts such as `"5 ms"`.
        HEX: An integer as `"0x1f"`; the bytes of other types as `"0a00"`.
        TEXT: Bytes, or an array of bytes, as `str` without trailing NULs.
        PREFIX: A whole key of an LPM trie as `"10.0.0.0/24"`.
    """

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IP = "ip"
    MAC = "mac"
    PORT = "port"
    NS = "ns"
    HEX = "hex"
    TEXT = "text"
    PREFIX = "prefix"


class FormatRules(dict[str, Format]):
    """Formats by rule `TYPE NAME`, two `fnmatch` patterns; a rule applies where it fits."""


AUTO: Final = FormatRules(
    {
        "in_addr *": Format.IPV4,
        "in6_addr *": Format.IPV6,
        # Sparse's __be types say that a number is in network order; the name then tells its
        # meaning.
        "__be32 *addr*": Format.IP,
        "__be32 *ip*": Format.IP,
        "__be32 src*": Format.IP,
        "__be32 dst*": Format.IP,
        "__be16 *port*": Format.PORT,
        "__be16 source*": Format.PORT,
        "__be16 dest*": Format.PORT,
        # `__u8` is a typedef of `unsigned char`, which its array has as the last name.
        "unsigned char *ip*": Format.IP,
        "unsigned char *addr*": Format.IP,
        "unsigned char *mac*": Format.MAC,
        "unsigned char eth*": Format.MAC,
        "unsigned char *_eth*": Format.MAC,
        "unsigned char h_dest": Format.MAC,
        "unsigned char h_source": Format.MAC,
        "unsigned char addr": Format.MAC,
        "unsigned char key": Format.MAC,
        "unsigned char value": Format.MAC,
        "*mac* *": Format.MAC,
        "*eth*addr* *": Format.MAC,
        "__be32 key": Format.IP,
        "__be32 value": Format.IP,
        "__be16 key": Format.PORT,
        "__be16 value": Format.PORT,
        "lpm_trie key": Format.PREFIX,
        # `u64` and `__u64` end in `unsigned long long`. Times of bpf_ktime_get_ns() are named like
        # this.
        "*long* *_ns": Format.NS,
    }
)

"""Formats for members whose type and name are a reliable sign of their meaning.

Use it as `formats=AUTO` or `formats=AUTO | {"saddr": "ipv4"}`. The type `lpm_trie` stands for the
keys of LPM tries.
"""


class Nanoseconds(int):
    """A number of nanoseconds, which `str` shows as seconds: `1.000000002 s`.

    It is an `int`: in JSON, `repr`, comparisons and arithmetic it is the number of nanoseconds.
    Values of members with `Format.NS` have this type. `Nanoseconds(5_000_000)` makes one from an
    `int`.
    """

    def __str__(self) -> str:
        seconds, rest = divmod(abs(self), _UNITS["s"])
        return f"{'-' if self < 0 else ''}{seconds}.{rest:09d} s"


def parse_ns(text: str) -> int:
    """Return the nanoseconds of a text such as `1.000000002 s`, `5 ms`, `20us` or `7 ns`.

    Raises:
        ValueError: The text is not a time, or not a whole number of nanoseconds.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a time such as '5 ms'; the units are {', '.join(_UNITS)}"
        )
    whole, fraction, unit = match[1], match[2] or "", match[3]
    # Integers throughout: a float has 53 bits, which is 104 days of nanoseconds.
    number, rest = divmod(int(whole + fraction) * _UNITS[unit], int("1" + "0" * len(fraction)))
    if rest:
        raise ValueError(f"{text!r} is not a whole number of nanoseconds")
    return number


def formatted(plain: Codec, form: Format) -> Codec | None:
    """Return the codec for the values of *plain* in format *form*; None if it does not fit."""
    # Formats apply to the type in memory, not to an enumeration's names or another format.
    bare = plain.origin if isinstance(plain, MappedCodec) else plain
    if not isinstance(bare, ArrayCodec):
        return _MAKERS[form](bare)
    # An array of one integer stays a list of one; `u8 addr[1]` may still be bytes as a whole.
    if bare.length == 1 and not _is_byte(bare.element):
        return _elements(bare, form)
    return _MAKERS[form](bare) or _elements(bare, form)


def _elements(plain: ArrayCodec, form: Format) -> Codec | None:
    element = formatted(plain.element, form)
    return ArrayCodec(element, plain.length, factory=plain.factory) if element else None


def _over_bytes(
    origin: Codec, shown: Callable[[bytes], Any], taken: Callable[[Any, int], bytes]
) -> Codec:
    size = origin.size

    def raw(value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        try:
            return taken(value, size)
        except (OSError, OverflowError, ValueError) as error:
            raise MisfitError(ValueError, f"{value!r} does not fit: {error}") from error

    return MappedCodec(BytesCodec(size), shown, raw, origin=origin)


def _address(family: socket.AddressFamily, title: str, plain: Codec) -> Codec | None:
    size = 4 if family is socket.AF_INET else 16
    if plain.size != size or not _is_whole_bytes(plain):
        return None

    def taken(value: Any, size: int) -> bytes:
        if isinstance(value, str):
            return _packed(family, value, title)
        if isinstance(packed := getattr(value, "packed", None), bytes):  # of ipaddress
            return packed
        # A number is the address as people count it, in network order, whatever the member's type
        # is.
        return _integer(value, f"an {title} address").to_bytes(size, "big")

    return _over_bytes(plain, lambda raw: socket.inet_ntop(family, raw), taken)


def _packed(family: socket.AddressFamily, text: str, title: str) -> bytes:
    try:
        # Not inet_aton(), which takes `10.1` for 10.0.0.1: an incomplete address is a typing error.
        return socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise MisfitError(ValueError, f"{text!r} is not an {title} address") from None


def _mac(plain: Codec) -> Codec | None:
    if plain.size != _MAC_SIZE or isinstance(plain, BitsCodec):
        return None
    return _over_bytes(plain, lambda raw: raw.hex(":"), _mac_bytes)


def _mac_bytes(value: Any, size: int) -> bytes:
    if not isinstance(value, str):
        return _integer(value, "a MAC address").to_bytes(size, "big")
    parts = re.split("[:-]", value)
    if len(parts) != size or not all(re.fullmatch("[0-9A-Fa-f]{1,2}", part) for part in parts):
        raise MisfitError(ValueError, f"{value!r} is not a MAC address like 02:00:00:00:00:01")
    return bytes(int(part, 16) for part in parts)


def _port(plain: Codec) -> Codec | None:
    if plain.size != _PORT_SIZE or not _is_whole_bytes(plain):
        return None
    # int.from_bytes() is big-endian if nothing else is said: network order.
    return _over_bytes(plain, int.from_bytes, _port_bytes)


def _port_bytes(value: Any, size: int) -> bytes:
    number = _integer(value, "a port")
    if not 0 <= number < 1 << 16:
        raise MisfitError(ValueError, f"{number} is not a port (0 to 65535)")
    return number.to_bytes(size, "big")


def _nanoseconds(plain: Codec) -> Codec | None:
    # Smaller integers cannot be times: two bytes of nanoseconds are 65 microseconds.
    if plain.size not in _NS_SIZES or not _is_integer(plain) or isinstance(plain, BitsCodec):
        return None
    return MappedCodec(plain, Nanoseconds, _ns_number)


def _ns_number(value: Any) -> Any:
    try:
        return parse_ns(value) if isinstance(value, str) else _from_memory(value)
    except ValueError as error:
        raise MisfitError(ValueError, str(error)) from None


def _hex(plain: Codec) -> Codec | None:
    if _is_integer(plain):
        return MappedCodec(plain, hex, _hex_number)
    if isinstance(plain, ArrayCodec) and not _is_byte(plain.element):
        return None  # `formatted` then tries the elements
    return None if isinstance(plain, BitsCodec) else _over_bytes(plain, bytes.hex, _hex_bytes)


def _hex_number(value: Any) -> Any:
    if not isinstance(value, str):
        return _from_memory(value)
    try:
        return int(value, 16)
    except ValueError:
        raise MisfitError(ValueError, f"{value!r} is not a hexadecimal number") from None


def _hex_bytes(value: Any, _size: int) -> bytes:
    if not isinstance(value, str):
        raise MisfitError(TypeError, f"hexadecimal digits or bytes were expected, not {value!r}")
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise MisfitError(ValueError, f"{value!r} is not hexadecimal") from None


def _text(plain: Codec) -> Codec | None:
    is_array = isinstance(plain, ArrayCodec) and _is_byte(plain.element)
    return TextCodec(plain.size) if is_array or isinstance(plain, BytesCodec) else None


def _ip(plain: Codec) -> Codec | None:
    return _MAKERS[Format.IPV4](plain) or _MAKERS[Format.IPV6](plain)


def _integer(value: Any, what: str) -> int:
    if not hasattr(value, "__index__"):
        raise MisfitError(TypeError, f"{what} was expected, not {value!r}")
    return int(value)


def _from_memory(value: Any) -> Any:
    # Bytes are always those in memory, so the little-endian order of the machine applies.
    return int.from_bytes(value, "little") if isinstance(value, bytes) else value


def _is_integer(plain: Codec) -> bool:
    if isinstance(plain, BoolCodec):
        return False
    return isinstance(plain, BitsCodec) or (
        isinstance(plain, ScalarCodec) and plain.letter in "bBhHiIqQ"
    )


def _is_whole_bytes(plain: Codec) -> bool:
    """Whether the bytes may be an address: an integer, an array or a structure, not a bit-field."""
    if isinstance(plain, ScalarCodec):
        return _is_integer(plain)
    return not isinstance(plain, BitsCodec) or plain.is_whole


def _is_byte(plain: Codec) -> bool:
    return isinstance(plain, ScalarCodec) and plain.letter in "bB"


_MAKERS: Final[Mapping[Format, Callable[[Codec], Codec | None]]] = {
    Format.IPV4: partial(_address, socket.AF_INET, "IPv4"),
    Format.IPV6: partial(_address, socket.AF_INET6, "IPv6"),
    Format.IP: _ip,
    Format.MAC: _mac,
    Format.PORT: _port,
    Format.NS: _nanoseconds,
    Format.HEX: _hex,
    Format.TEXT: _text,
    Format.PREFIX: prefix_codec,
}
