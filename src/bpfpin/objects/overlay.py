"""Some members of a value written over the bytes that are there.

Only the given members change: padding, the other members and the bits beside a bit-field stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpfpin.codecs.codec import Codec, MisfitError
from bpfpin.codecs.number import BitsCodec, MappedCodec
from bpfpin.codecs.record import Part, RecordCodec, UnionCodec


def overlaid(codec: Codec, value: Any, old: bytes) -> bytes:
    """Return *old* with what *value* gives; `ValueError` or `TypeError` if that does not fit.

    A dict may lack members, on every level; a list or a number replaces what was there.
    """
    data = bytearray(old)
    try:
        _lay(codec, value, data, 0)
    except MisfitError as misfit:
        raise misfit.final() from None
    return bytes(data)


def _lay(codec: Codec, value: Any, data: bytearray, at: int) -> None:
    is_whole = isinstance(codec, UnionCodec) and isinstance(value, Mapping) and len(value) != 1
    if isinstance(codec, RecordCodec) and isinstance(value, Mapping) and not is_whole:
        codec._check_names(value)
        for part in codec.parts:
            _lay_part(part, value, data, at + part.offset)
        return
    if not isinstance(_plain(codec), BitsCodec):
        data[at : at + codec.size] = bytes(codec.size)  # what an encoder expects
    codec.encode_into(value, data, at)


def _lay_part(part: Part, value: Mapping[str, Any], data: bytearray, at: int) -> None:
    if not part.name:
        given = {name: value[name] for name in part.names if name in value}
        if given:
            _lay(part.codec, given, data, at)
    elif part.name in value:
        try:
            _lay(part.codec, value[part.name], data, at)
        except MisfitError as misfit:
            raise misfit.within(f".{part.name}") from None


def _plain(codec: Codec) -> Codec:
    return codec.plain if isinstance(codec, MappedCodec) else codec
