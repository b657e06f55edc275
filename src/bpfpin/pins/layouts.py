"""The types of a map's key and value, kept beside its pin for readers without BTF by id.

The text of `layouts~/MAP` is base64 of a BTF blob; what does not fit goes on in `MAP~1`, `MAP~2` ….
The blob's last type is a union whose members `key` and `value` are the two.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterator
from typing import Final

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.check import check
from bpfpin.btf.types import Member, Union
from bpfpin.btf.write import BtfBuilder, subset
from bpfpin.errors import ObjectFileError
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import TEXT_SIZE_MAX
from bpfpin.pins.names import map_pin_name

CHUNK_SIZE: Final = TEXT_SIZE_MAX // 4 * 4  # so that each text is base64 by itself
CHUNKS_MAX: Final = 256


def write(directory: Directory, name: str, *, key: TypeRef | None, value: TypeRef | None) -> None:
    """Store the types of map *name* in *directory*; nothing if it has none."""
    blob = encode(key, value)
    text = base64.b64encode(blob).decode()
    chunks = [text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE)]
    for part, chunk in zip(_parts(name), chunks, strict=False):
        directory.write_text(part, chunk)


def read(directory: Directory, name: str) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the types of map *name*'s key and value; None where there is none or it is damaged."""
    texts: list[str] = []
    for part in _parts(name):
        if not directory.has(part):
            break
        texts.append(directory.read_text(part))
    try:
        return decode(base64.b64decode("".join(texts), validate=True))
    except (ObjectFileError, binascii.Error):
        return None, None


def encode(key: TypeRef | None, value: TypeRef | None) -> bytes:
    """Return the blob for two types; empty if there are none."""
    named = [(name, ref) for name, ref in (("key", key), ("value", value)) if ref is not None]
    if not named:
        return b""
    blob, ids = subset([ref for _, ref in named])
    types = Btf.parse(blob)
    builder = BtfBuilder()
    for type_id in types.ids()[1:]:
        builder.add(types[type_id])
    members = tuple(Member(name, id_, 0) for (name, _), id_ in zip(named, ids, strict=True))
    builder.add(Union("", max(ref.size for _, ref in named), members))
    return builder.build()


def decode(blob: bytes) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the key's and the value's type from a blob; `ObjectFileError` if it is damaged."""
    if not blob:
        return None, None
    types = Btf.parse(blob)
    check(types)
    last = types[len(types) - 1]
    members = last.members if isinstance(last, Union) else ()
    found = {member.name: types.ref(member.type_id) for member in members}
    return found.get("key"), found.get("value")


def _parts(name: str) -> Iterator[str]:
    pin = map_pin_name(name)
    yield pin
    yield from (f"{pin}~{number}" for number in itertools.islice(itertools.count(1), CHUNKS_MAX))
