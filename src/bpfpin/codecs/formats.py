"""Other ways to read members: addresses, ports, times, hexadecimal, text.

| `Format` | for | reads as | takes besides |
|---|---|---|---|
| `IPV4`, `IPV6`, `IP` | 4, 16, either number of bytes | `"10.0.0.1"` | `ipaddress`, its number |
| `MAC` | 6 bytes | `"02:00:00:00:00:01"` | the number |
| `PORT` | 2 bytes in network order | `int`: 443 | |
| `NS` | integers of 4 or 8 bytes | `Nanoseconds`, an `int` | `"5 ms"` |
| `HEX` | integers; all else by its bytes | `"0x1f"`; `"0a00"` | the integer |
| `TEXT` | bytes, arrays of such | `str` | |
| `PREFIX` | whole keys of LPM tries | `"10.0.0.0/24"` | `ipaddress`, the structure |

All take bytes as they are in memory, too. An array that a format does not fit as a whole is read
element by element.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_TIME = re.compile(r"\s*(\d+)(?:\.(\d+))?\s*(ns|us|ms|s)\s*", re.ASCII)
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


class Format(Enum):
    """How a member reads; see the table of the module."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IP = "ip"
    MAC = "mac"
    PORT = "port"
    NS = "ns"
    HEX = "hex"
    TEXT = "text"
    PREFIX = "prefix"


class Rules(dict[str, Format]):
    """Formats by rules `TYPE NAME`, patterns of `fnmatch`, which apply where they fit."""


AUTO: Final = Rules(
    {
        "in_addr *": Format.IPV4,
        "in6_addr *": Format.IPV6,
        "__be32 *addr*": Format.IP,
        "__be32 *ip*": Format.IP,
        "__be32 src*": Format.IP,
        "__be32 dst*": Format.IP,
        "__be16 *port*": Format.PORT,
        "__be16 source*": Format.PORT,
        "__be16 dest*": Format.PORT,
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
        "*long* *_ns": Format.NS,
    }
)
"""What types and names tell for sure enough; `lpm_trie` stands for the keys of such maps."""


class Nanoseconds(int):
    """Nanoseconds that print as seconds: `1.000000002 s`; JSON and arithmetic see the number."""

    def __str__(self) -> str:
        seconds, rest = divmod(abs(self), _UNITS["s"])
        return f"{'-' if self < 0 else ''}{seconds}.{rest:09d} s"


def parse_ns(text: str) -> int:
    """Return the nanoseconds that `1.000000002 s`, `5 ms`, `20us` or `7 ns` mean; `ValueError`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time such as '5 ms'; the units are {', '.join(_UNITS)}")
    whole, fraction, unit = match[1], match[2] or "", match[3]
    number, rest = divmod(int(whole + fraction) * _UNITS[unit], int("1" + "0" * len(fraction)))
    if rest:
        raise ValueError(f"{text!r} is no whole number of nanoseconds")
    return number
