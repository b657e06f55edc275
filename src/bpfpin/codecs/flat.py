"""Structures whose members lie one behind the other: unpacked as a whole, many at once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from bpfpin.codecs.codec import Buffer, ScalarCodec, padded_form
from bpfpin.codecs.record import Part, Record, StructCodec

Rows = Iterable[tuple[Any, ...]]


def record_codec(parts: Sequence[Part], size: int, **options: Any) -> StructCodec:
    """Return the fastest codec that reads a structure of these *parts*."""
    ends = [0, *(part.offset + part.codec.size for part in parts)]
    in_order = all(end <= part.offset for end, part in zip(ends, parts, strict=False))
    is_flat = in_order and parts and all(part.name and part.codec.letter for part in parts)
    return (FlatStructCodec if is_flat else StructCodec)(parts, size, **options)


class FlatStructCodec(StructCodec):
    """A structure of single items of the struct module."""

    def __init__(self, parts: Iterable[Part], size: int, **options: Any) -> None:
        super().__init__(parts, size, **options)
        self._form = struct.Struct(_form_of(self.parts, size))
        # For other items the struct module takes more than their codecs do.
        self._is_packed = all(type(part.codec) is ScalarCodec for part in self.parts)

    @cached_property
    def _made(self) -> Callable[[Rows], list[dict[str, Any]]]:
        return _dicts_of(self.parts, is_key=self._factory is Record)

    def decode(self, data: Buffer, at: int = 0) -> dict[str, Any]:
        """Return the members by name."""
        return self._made((self._form.unpack_from(data, at),))[0]

    def decode_many(self, data: Buffer, stride: int) -> Sequence[dict[str, Any]]:
        """Return all structures at once."""
        return self._made(padded_form(self._form.format, stride - self.size).iter_unpack(data))

    def encode(self, value: Any) -> bytes:
        """Return the bytes of *value*; `ValueError` or `TypeError` if it does not fit."""
        return self.encode_many((value,))

    def encode_many(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of all structures at once."""
        names, pack = self.names, self._form.pack
        if self._is_packed and all(map(self._has_all, values)):
            try:
                return b"".join([pack(*[value[name] for name in names]) for value in values])
            except (struct.error, OverflowError, LookupError):
                pass  # the codec of the member says which one does not fit
        return b"".join(map(super().encode, values))

    def _has_all(self, value: Any) -> bool:
        return isinstance(value, dict) and len(value) == len(self.names)


def _form_of(parts: Sequence[Part], size: int) -> str:
    form, end = "<", 0
    for part in parts:
        form += f"{part.offset - end}x{part.codec.letter}"
        end = part.offset + part.codec.size
    return f"{form}{size - end}x"


def _dicts_of(parts: Sequence[Part], *, is_key: bool) -> Callable[[Rows], list[dict[str, Any]]]:
    """Return the function that makes a dict of each row, with what its items are shown as.

    It is put together as text, as `collections.namedtuple` does: a display that names the members
    takes two thirds of the time of any call that is given them. The names are quoted.
    """
    names = {f"shown{at}": part.codec.shown for at, part in enumerate(parts)}
    items = "".join(f"item{at}, " for at in range(len(parts)))
    members = ", ".join(
        f"{part.name!r}: " + (f"shown{at}(item{at})" if part.codec.shown else f"item{at}")
        for at, part in enumerate(parts)
    )
    record = f"Record({{{members}}})" if is_key else f"{{{members}}}"
    made: Callable[[Rows], list[dict[str, Any]]] = eval(
        f"lambda rows: [{record} for {items}in rows]", {**names, "Record": Record}
    )
    return made
