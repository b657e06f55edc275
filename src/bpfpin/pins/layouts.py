"""Keeps the types of a map's key and value beside its pin; `objects.layouts` knows their form."""

from __future__ import annotations

import base64
from typing import Final

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import PinNotFoundError
from bpfpin.objects.layouts import NO_TYPES, decode_texts, encode, parts
from bpfpin.pins.directory import Directory
from bpfpin.pins.names import map_pin_name
from bpfpin.pins.record import TEXT_SIZE_MAX

CHUNK_SIZE: Final = TEXT_SIZE_MAX // 4 * 4  # so that each text is base64 by itself


def write(directory: Directory, name: str, *, key: TypeRef | None, value: TypeRef | None) -> int:
    """Store the types of map *name* in *directory*, and return in how many symlinks; 0 for none."""
    text = base64.b64encode(encode(key, value)).decode()
    chunks = [text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE)]
    for part, chunk in zip(parts(map_pin_name(name)), chunks, strict=False):
        directory.write_text(part, chunk)
    return len(chunks)


def keep(directory: Directory, live: Directory, name: str) -> int:
    """Give *directory* what *live* has of map *name*'s types, and return how many symlinks.

    What is damaged, because somebody removed a part, counts for nothing.
    """
    if read(live, name) == NO_TYPES:
        return 0
    kept = 0
    for part in parts(map_pin_name(name)):
        try:
            directory.link_from(live, part)
        except PinNotFoundError:
            break
        kept += 1
    return kept


def read(directory: Directory, name: str) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the types of map *name*'s key and value; None where there is none or it is damaged."""
    texts: list[str] = []
    for part in parts(map_pin_name(name)):
        if not directory.has(part):
            break
        texts.append(directory.read_text(part))
    return decode_texts(texts)
