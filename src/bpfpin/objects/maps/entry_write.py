"""Some members of a value written over the bytes that are there.

Only the given members change: padding, the other members and the bits beside a bit-field stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpfpin.codecs.codec import Codec, MisfitError
from bpfpin.codecs.number import BitsCodec, MappedCodec
from bpfpin.codecs.record import Part, RecordCodec, UnionCodec
from bpfpin.errors import KeyNotFoundError
from bpfpin.objects.maps.codec import stride_of
from bpfpin.objects.maps.elements import Elements
from bpfpin.syscall.refusal import InvalidArgumentError
from bpfpin.uapi import UpdateFlag

CPU_SHIFT = 32  # the upper half of the flags is the CPU


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


# One CPU's value of an element that has one for each CPU.
#
# BPF_F_CPU (Linux 7.0) reads and writes just that value. Before, the kernel only knows the values
# of all CPUs together: they are read, one is changed, and all are written. What programs on other
# CPUs counted between the two is lost then.


def read(elements: Elements, key: bytes, cpu: int, size: int, *, named: object) -> bytes:
    """Return the *size* bytes of one CPU; `KeyNotFoundError`.

    Reading all of them costs a copy, but no second call where the kernel has no BPF_F_CPU.
    """
    at = cpu * stride_of(size)
    return elements.lookup(key, named=named)[at : at + size]


def write(
    elements: Elements, key: bytes, cpu: int, value: bytes, *, flags: UpdateFlag, named: object
) -> None:
    """Write the value of one CPU; those of the others stay, or are zero if the key is new."""
    of_cpu = int(flags) | UpdateFlag.CPU | cpu << CPU_SHIFT
    try:
        elements.update_part(key, value, of_cpu, named=named)
    except InvalidArgumentError:
        elements.update(key, _among_others(elements, key, cpu, value), flags, named=named)


def _among_others(elements: Elements, key: bytes, cpu: int, value: bytes) -> bytes:
    try:
        whole = bytearray(elements.lookup(key))
    except KeyNotFoundError:
        whole = bytearray(elements.value_size)
    at = cpu * stride_of(len(value))
    whole[at : at + len(value)] = value
    return bytes(whole)
