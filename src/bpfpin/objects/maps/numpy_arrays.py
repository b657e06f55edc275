"""Keys and values as numpy arrays; the only place that imports numpy (the extra `numpy`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bpfpin.codecs.codec import BytesCodec, Codec, ScalarCodec
from bpfpin.codecs.number import BitsCodec, MappedCodec
from bpfpin.codecs.of_format import CtypesCodec, FormatCodec, FormatItem
from bpfpin.codecs.record import ArrayCodec, RecordCodec
from bpfpin.errors import MissingExtraError
from bpfpin.objects.maps.codec import PerCpuCodec
from bpfpin.objects.maps.kernel_values import ObjectCodec, OwnerCodec

try:
    import numpy as np
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    raise MissingExtraError("numpy") from None

LETTERS = {"B": "u1", "H": "u2", "I": "u4", "Q": "u8", "e": "f2", "f": "f4", "d": "f8", "?": "?"}
_PASCAL: Final = "p"
_BYTES: Final = "sc"
_PLAIN_FIELD: Final = 2  # name and type; a bit-field has its width, too


def array_of(codec: Codec, data: bytes | bytearray) -> np.ndarray[Any, Any]:
    """Return the values in *data* as an array, those of a per-CPU map by entry and CPU."""
    if isinstance(codec, PerCpuCodec):
        padded = _padded(codec.value, codec.stride)
        return np.frombuffer(data, padded)["value"].reshape(-1, codec.cpus)
    return np.frombuffer(data, dtype_of(codec))


def live_array(codec: Codec, memory: memoryview, stride: int) -> np.ndarray[Any, Any]:
    """Return an array that shows the values in *memory*, one every *stride* bytes.

    It keeps the memory alive; `np.ndarray(buffer=…)` would not.
    """
    return np.frombuffer(memory, _padded(codec, stride))["value"]


def _padded(codec: Codec, stride: int) -> np.dtype[Any]:
    # frombuffer() knows no stride: a structure of the stride's size takes its place.
    field = {"names": ["value"], "formats": [dtype_of(codec)], "offsets": [0], "itemsize": stride}
    return np.dtype(field)  # type: ignore[call-overload, no-any-return]  # numpy's stub wants a TypedDict


def dtype_of(codec: Codec) -> np.dtype[Any]:
    """Return the numpy type of a codec's values; bytes without a type are void.

    `TypeError` names every member for which numpy has no type: bit-fields, integers of 128 bits.
    """
    missing: list[str] = []
    dtype = _dtype(codec, "", missing)
    if missing:
        raise TypeError(f"numpy has no type for {', '.join(missing)}")
    return dtype


def _dtype(codec: Codec, path: str, missing: list[str]) -> np.dtype[Any]:
    """Return the type of the member at *path*; one without a type is added to *missing*."""
    if isinstance(codec, MappedCodec):
        return _dtype(codec.origin, path, missing)  # numbers: numpy has no names for values
    if isinstance(codec, ScalarCodec):
        return _number(codec.letter)
    if isinstance(codec, ArrayCodec):
        return np.dtype((_dtype(codec.element, f"{path}[]", missing), (codec.length,)))
    if isinstance(codec, RecordCodec):
        return _record(codec, path, missing)
    if isinstance(codec, FormatCodec):
        return _format(codec, path, missing)
    if isinstance(codec, CtypesCodec):
        return _ctypes(codec, path, missing)
    if isinstance(codec, BytesCodec):
        return np.dtype(f"V{codec.size}")
    if isinstance(codec, ObjectCodec | OwnerCodec):
        return np.dtype(f"<u{codec.size}")  # ids and cookies
    bits = f"{codec.bits} bits" if isinstance(codec, BitsCodec) else type(codec).__name__
    return _missing(codec.size, f"{path or 'the whole value'} ({bits})", missing)


def _missing(size: int, what: str, missing: list[str]) -> np.dtype[Any]:
    missing.append(what)
    return np.dtype(f"V{size}")


def _number(letter: str, order: str = "<") -> np.dtype[Any]:
    name = LETTERS.get(letter) or LETTERS[letter.upper()].replace("u", "i")
    return np.dtype(f"{order}{name}" if letter != "?" else letter)


def _record(codec: RecordCodec, path: str, missing: list[str]) -> np.dtype[Any]:
    names = [part.name or f"unnamed_{part.offset}" for part in codec.parts]
    dot = f"{path}." if path else ""
    return _fields(
        names,
        [
            _dtype(part.codec, f"{dot}{part.name}" if part.name else path, missing)
            for part in codec.parts
        ],
        [part.offset for part in codec.parts],
        codec.size,
    )


def _fields(
    names: Sequence[str], formats: Sequence[np.dtype[Any]], offsets: Sequence[int], size: int
) -> np.dtype[Any]:
    fields = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    return np.dtype(fields)  # type: ignore[call-overload, no-any-return]  # as above


def _format(codec: FormatCodec, path: str, missing: list[str]) -> np.dtype[Any]:
    """Return one number for a format of one item, else fields `f0`, `f1` … or a NamedTuple's."""
    formats = [
        _missing(item.size, f"{path or 'the value'} ({item.letter!r} of the format)", missing)
        if item.letter == _PASCAL
        else _item(item)
        for item in codec.items
    ]
    if codec.is_single:
        where = [item.offset for item in codec.items]
        is_whole = where == [0] and formats[0].itemsize == codec.size
        return formats[0] if is_whole else _fields(["f0"], formats, where, codec.size)
    names = codec.names or [f"f{at}" for at in range(len(formats))]
    return _fields(names, formats, [item.offset for item in codec.items], codec.size)


def _item(item: FormatItem) -> np.dtype[Any]:
    if item.letter in _BYTES:
        # Void, not `S`: numpy cuts trailing zero bytes off values of that type.
        return np.dtype(f"V{item.size}")
    if item.letter in "efd?":
        return _number(item.letter, item.order)
    sign = "i" if item.letter.islower() else "u"
    return np.dtype(f"{item.order}{sign}{item.size}")


def _ctypes(codec: CtypesCodec, path: str, missing: list[str]) -> np.dtype[Any]:
    try:
        return np.dtype(codec.kind)
    except (TypeError, ValueError, NotImplementedError) as error:  # bit-fields, pointers
        bits = [
            field[0] for field in getattr(codec.kind, "_fields_", ()) if len(field) > _PLAIN_FIELD
        ]
        dot = f"{path}." if path else ""
        names = ", ".join(f"{dot}{name}" for name in bits) or codec.kind.__name__
        return _missing(codec.size, f"{names} ({error})", missing)
