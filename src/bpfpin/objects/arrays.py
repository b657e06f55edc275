"""Keys and values as numpy arrays; the only place that imports numpy (the extra `numpy`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpfpin.codecs.codec import BytesCodec, Codec, ScalarCodec
from bpfpin.codecs.number import MappedCodec
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.objects.codec_holders import ObjectCodec
from bpfpin.objects.codec_owners import OwnerCodec
from bpfpin.objects.percpu import PerCpuCodec

LETTERS = {"B": "u1", "H": "u2", "I": "u4", "Q": "u8", "e": "f2", "f": "f4", "d": "f8", "?": "?"}


def array_of(codec: Codec, data: bytes | bytearray) -> np.ndarray[Any, Any]:
    """Return the values in *data* as an array, those of a per-CPU map by entry and CPU."""
    if isinstance(codec, PerCpuCodec):
        padded = _padded(codec.value, codec.stride)
        return np.frombuffer(data, padded)["value"].reshape(-1, codec.cpus)
    return np.frombuffer(data, dtype_of(codec))


def live_array(codec: Codec, memory: memoryview, stride: int) -> np.ndarray[Any, Any]:
    """Return an array that shows the values in *memory* itself, one every *stride* bytes.

    It holds the memory: `np.ndarray(buffer=…)` would not, and be left with a mapping that is gone.
    """
    return np.frombuffer(memory, _padded(codec, stride))["value"]


def _padded(codec: Codec, stride: int) -> np.dtype[Any]:
    one = {"names": ["value"], "formats": [dtype_of(codec)], "offsets": [0], "itemsize": stride}
    return np.dtype(one)  # type: ignore[call-overload, no-any-return]  # numpy's stub wants a TypedDict


def dtype_of(codec: Codec) -> np.dtype[Any]:
    """Return the numpy type of a codec's values; bytes without a type are void.

    `TypeError` for bit-fields and 128-bit integers, for which numpy has none.
    """
    if isinstance(codec, MappedCodec):
        return dtype_of(codec.origin)  # numbers: numpy knows no names
    if isinstance(codec, ScalarCodec):
        letter = LETTERS.get(codec.letter) or LETTERS[codec.letter.upper()].replace("u", "i")
        return np.dtype(f"<{letter}" if letter != "?" else letter)
    if isinstance(codec, ArrayCodec):
        return np.dtype((dtype_of(codec.element), (codec.length,)))
    if isinstance(codec, RecordCodec):
        return _record(codec)
    if isinstance(codec, BytesCodec):
        return np.dtype(f"V{codec.size}")
    if isinstance(codec, ObjectCodec | OwnerCodec):
        return np.dtype(f"<u{codec.size}")  # ids and cookies
    raise TypeError(f"numpy has no type for a {type(codec).__name__.removesuffix('Codec')}")


def _record(codec: RecordCodec) -> np.dtype[Any]:
    fields = {
        "names": [part.name or f"unnamed_{part.offset}" for part in codec.parts],
        "formats": [dtype_of(part.codec) for part in codec.parts],
        "offsets": [part.offset for part in codec.parts],
        "itemsize": codec.size,
    }
    return np.dtype(fields)  # type: ignore[call-overload, no-any-return]  # as above
