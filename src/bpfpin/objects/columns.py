"""Keys and values of many entries, each in one piece: as the caller gives them, as the kernel does.

Nothing here enters the kernel.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bpfpin.codecs.codec import Codec, ScalarCodec

Entries = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
RAW = frozenset("Bbc")  # buffers of single bytes
HALF = "e"  # which no memoryview casts to


def pairs(entries: Entries) -> Iterator[tuple[Any, Any]]:
    """Return the keys with their values."""
    return iter(entries.items()) if isinstance(entries, Mapping) else iter(entries)


def columns(entries: Entries, count: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield *count* keys and their values at a time."""
    if isinstance(entries, Mapping):
        keys, values = iter(entries.keys()), iter(entries.values())
        while some := list(itertools.islice(keys, count)):
            yield some, list(itertools.islice(values, count))
        return
    left = iter(entries)
    while rows := list(itertools.islice(left, count)):
        yield [key for key, _ in rows], [value for _, value in rows]


def is_number(codec: Codec) -> bool:
    """Whether a memoryview reads and writes such values by itself."""
    return type(codec) is ScalarCodec and codec.letter != HALF


def items(codec: Codec, data: memoryview) -> Iterable[Any]:
    """Return the values in *data*, plain numbers without a list between."""
    if is_number(codec):
        letter: Any = codec.letter  # mypy knows the letters of a cast only as literals
        return data.cast(letter)
    return codec.decode_many(data, codec.size)


def flat(data: Any, size: int, *, cpus: int = 1, copied: int = 0) -> memoryview:
    """Return the bytes of an array of elements of *size* bytes, by itself where it can be used.

    Of a per-CPU map rows of *cpus* elements, for which the kernel copies *copied* bytes.
    `ValueError` if the elements have another size.
    """
    view = memoryview(data)
    copied = copied or size
    if view.ndim == 1 and view.format in RAW:
        return view.cast("B")
    if not view.shape:
        raise TypeError("an array or bytes were expected, not a single number")
    if not view.shape[0]:
        return memoryview(b"")
    row = view.nbytes // view.shape[0]
    if row == copied and view.c_contiguous:
        return view_of(view)
    if row == size * cpus:
        return memoryview(padded(view.tobytes(), size, copied // cpus))
    wanted = f"{cpus} values of {size} bytes" if cpus > 1 else f"{size} bytes"
    raise ValueError(f"elements of {row} bytes, where the map has {wanted}")


def view_of(view: memoryview) -> memoryview:
    """Return the bytes of *view*; of one that is read-only a copy.

    `memoryview.cast` refuses the formats of structured arrays.
    """
    if view.readonly:
        return memoryview(view.tobytes())
    return memoryview((ctypes.c_ubyte * view.nbytes).from_buffer(view)).cast("B")


def padded(data: bytes, size: int, stride: int) -> bytes | bytearray:
    """Return the elements of *size* bytes with zeros up to *stride* behind each."""
    if size == stride:
        return data
    whole = bytearray(len(data) // size * stride)
    for at in range(size):
        whole[at::stride] = data[at::size]
    return whole
