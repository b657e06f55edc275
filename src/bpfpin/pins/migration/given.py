"""The layout of a value without BTF, as the user gives it: `u64 packets; u32 drops[4]; u32 _`."""

from __future__ import annotations

import re
from typing import Final

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Array, Int, IntEncoding, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import UsageError

_MEMBER: Final = re.compile(r"(?P<type>[us](?:8|16|32|64)|char)\s+(?P<name>\w+)(\[(?P<n>\d+)\])?")


def layout_type(text: str, size: int, *, about: str = "the layout") -> TypeRef:
    """Return the structure that *text* describes, laid out as C does, *size* bytes of it.

    Its members are `u8` to `u64`, `s8` to `s64` and `char`, and arrays of them, divided by `;`.
    `UsageError` for anything else, or if the members do not take *size* bytes.
    """
    types, members, end, widest = BtfBuilder(), [], 0, 1
    index = types.add(Int("unsigned int", 4, 32))
    for word in filter(None, map(str.strip, text.split(";"))):
        found = _MEMBER.fullmatch(word)
        if found is None:
            raise UsageError(f"{about}: {word!r} is none of u8 … u64, s8 … s64, char and a name")
        kind = _number(found["type"])
        type_id, length = types.add(kind), int(found["n"] or 1)
        if found["n"]:
            type_id = types.add(Array(type_id, index, length))
        end = -(-end // kind.size) * kind.size
        members.append(Member(found["name"], type_id, 8 * end))
        end, widest = end + kind.size * length, max(widest, kind.size)
    whole = -(-end // widest) * widest
    if whole != size:
        raise UsageError(f"{about}: its members take {whole} bytes, the map's values {size}")
    last = types.add(Struct("", size, tuple(members)))
    return Btf.parse(types.build()).ref(last)


def _number(word: str) -> Int:
    if word == "char":
        return Int("char", 1, 8, IntEncoding.SIGNED | IntEncoding.CHAR)
    bits = int(word[1:])
    encoding = IntEncoding.SIGNED if word[0] == "s" else IntEncoding(0)
    return Int(word, bits // 8, bits, encoding)
