"""How the keys and values of a map read: by its kind, its BTF, or what the caller says."""

from __future__ import annotations

from typing import Any

from bpfpin.btf.btf import TypeRef
from bpfpin.objects.codec import Buffer, Codec, MisfitError, ScalarCodec
from bpfpin.objects.codec_btf import codec
from bpfpin.objects.codec_format import format_codec
from bpfpin.objects.info import MapInfo
from bpfpin.objects.kernel_object import KernelObject
from bpfpin.objects.percpu import PER_CPU, PerCpuCodec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType

# Their key is an index of 32 bits by the kernel's rule, whether they carry BTF or not.
INDEXED = frozenset(
    {
        MapType.ARRAY,
        MapType.PERCPU_ARRAY,
        MapType.PROG_ARRAY,
        MapType.PERF_EVENT_ARRAY,
        MapType.CGROUP_ARRAY,
        MapType.ARRAY_OF_MAPS,
        MapType.DEVMAP,
        MapType.CPUMAP,
        MapType.SOCKMAP,
        MapType.XSKMAP,
        MapType.REUSEPORT_SOCKARRAY,
    }
)
HOLDERS = frozenset({MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS, MapType.PROG_ARRAY})


class ObjectCodec(Codec):
    """An element that is a map or a program: written as the object, read as its id."""

    size = 4

    def decode(self, data: Buffer, at: int = 0) -> int:
        """Return the id."""
        return int.from_bytes(data[at : at + 4], "little")

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take the object; an id would be mistaken for a descriptor, so no number is taken."""
        if not isinstance(value, KernelObject):
            raise MisfitError(TypeError, f"a Map or a Program was expected, not {value!r}")
        data[at : at + 4] = value.fd.to_bytes(4, "little")


def key_codec(info: MapInfo, ref: TypeRef | None, form: Any) -> Codec:
    """Return how the keys read; *form* wins over the type *ref*, an index is a number without."""
    if form is not None:
        return format_codec(form, info.key_size)
    if ref is None and info.type in INDEXED:
        return ScalarCodec("I")
    return codec(ref, info.key_size, is_key=True)


def value_codec(info: MapInfo, ref: TypeRef | None, form: Any) -> Codec:
    """Return how the values read, a per-CPU map's as lists."""
    if form is None and info.type in HOLDERS:
        return ObjectCodec()
    one = codec(ref, info.value_size) if form is None else format_codec(form, info.value_size)
    return PerCpuCodec(one, possible_cpus()) if info.type in PER_CPU else one
