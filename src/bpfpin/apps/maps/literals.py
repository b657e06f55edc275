"""What people write in one word for a few bytes: numbers, addresses, devices, verdicts."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Final

from bpfpin.codecs.codec import BytesCodec
from bpfpin.codecs.prefix import is_prefix, prefix_key
from bpfpin.errors import UsageError
from bpfpin.uapi import XdpAction

HEX: Final = "hex:"

_TRUTHS: Final = {"true": 1, "false": 0}
_IFINDEX_BYTES: Final = 4
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}")

Literal = Callable[[str, int], bytes | None]
"""Returns the bytes, as many as asked for, that a word stands for; None if it is no such word."""


def number(text: str) -> int | None:
    """Return the integer that *text* is (`7`, `-7`, `0x1f`, `true`), None if it is none."""
    try:
        return _TRUTHS[text] if text in _TRUTHS else int(text, 0)
    except ValueError:
        return None


def hex_bytes(text: str, size: int, *, what: str = "value") -> bytes:
    """Return the bytes of `hex:0a00…`; `UsageError` unless there are *size* of them."""
    try:
        data = bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise UsageError(f"{what} {text!r} is not hexadecimal after {HEX!r}") from None
    if len(data) != size:
        raise UsageError(f"{what} {text!r} has {len(data)} bytes; the map's takes {size}")
    return data


def address(text: str, size: int) -> bytes | None:
    """Return the bytes of an IPv4, IPv6 or MAC address as packets carry them."""
    data = bytes.fromhex(re.sub("[:-]", "", text)) if _MAC.fullmatch(text) else _ip(text)
    return data if data is not None and len(data) == size else None


def prefix(text: str, size: int) -> bytes | None:
    """Return the key of an LPM trie for `10.0.0.1/24`; an address alone is a prefix of all bits."""
    codec = BytesCodec(size)
    try:
        return bytes(prefix_key(text, codec)) if is_prefix(codec) else None
    except ValueError:
        return None


def device(text: str, size: int) -> bytes | None:
    """Return the ifindex of a device of this network namespace; what follows it is zero."""
    if size < _IFINDEX_BYTES:
        return None
    try:
        return socket.if_nametoindex(text).to_bytes(size, "little")
    except (OSError, ValueError):
        return None


def verdict(text: str, size: int) -> bytes | None:
    """Return the number of `XDP_DROP` and its like in *size* bytes."""
    found = XdpAction.__members__.get(text)
    return int(found).to_bytes(size, "little") if found is not None and size else None


def action(text: str, size: int) -> bytes | None:
    """Return the number of `XDP_DROP`, `drop` and its like, in any case, in *size* bytes."""
    name = text.upper()
    return verdict(name, size) or verdict(f"XDP_{name}", size)


def _ip(text: str) -> bytes | None:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return None


_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


def escaped(text: str) -> str:
    r"""Return *text* without surrogates: a byte that is no UTF-8 as `\xff`.

    A backslash that begins what looks like one becomes `\x5c`, so that `unescaped` gives *text*.
    """
    text = _ESCAPE.sub(lambda match: rf"\x5cx{match[1]}", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(map(_escaped_surrogate, text))
    return text


def _escaped_surrogate(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # as the error handler "surrogateescape" keeps a byte
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else character


def unescaped(text: str) -> bytes:
    """Return the bytes that a text with escapes of `escaped` stands for."""
    raw = text.encode(errors="surrogateescape")
    return _ESCAPE_BYTES.sub(lambda match: bytes.fromhex(match[1].decode()), raw)


_ESCAPE_BYTES = re.compile(_ESCAPE.pattern.encode())


def is_escaped(text: str) -> bool:
    """Whether `unescaped` has something to do."""
    return bool(_ESCAPE.search(text))


FORMS: Final[dict[Literal, str]] = {
    address: "an address",
    prefix: "10.0.0.1/24",
    device: "a device",
    verdict: "XDP_PASS",
    action: f"a verdict ({', '.join(one.name for one in XdpAction)})",
}
"""How the help of an error names each."""
