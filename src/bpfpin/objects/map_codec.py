"""How the keys and values of a map read: by its kind, its BTF, or what the caller says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import Codec, ScalarCodec
from bpfpin.codecs.format_table import KEY, VALUE, FormatTable, Place
from bpfpin.codecs.of_btf import codec, untyped
from bpfpin.codecs.of_format import format_codec
from bpfpin.codecs.prefix import is_address_prefix, taking_prefixes
from bpfpin.codecs.stray import keeping_bytes
from bpfpin.objects.codec_holders import HOLDERS, attachment_key, owner_key
from bpfpin.objects.info import MapInfo
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
        MapType.STACK_TRACE,
        MapType.STRUCT_OPS,
        MapType.DEVMAP,
        MapType.DEVMAP_HASH,
        MapType.CPUMAP,
        MapType.SOCKMAP,
        MapType.XSKMAP,
        MapType.REUSEPORT_SOCKARRAY,
    }
)
LPM_TRIE: Final = "lpm_trie"  # in rules for formats
ATTACHED = frozenset({MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE})


@dataclass(frozen=True, slots=True)
class Reading:
    """How the caller wants keys and values to read, as in `Map.from_pin`; by default by type."""

    key_format: Any = None
    value_format: Any = None
    raw: bool = False
    formats: FormatTable | None = None

    @property
    def may_misfit(self) -> bool:
        """Whether something is asked for that the map's types may refuse."""
        asked = self.key_format is not None or self.value_format is not None
        return asked or bool(self.formats and self.formats.is_exact)


def key_codec(info: MapInfo, ref: TypeRef | None, reading: Reading) -> Codec:
    """Return how the keys read; a format wins over the type *ref*, an index is a number without.

    What is read keeps the bytes that it does not show (`codecs/stray.py`).
    """
    made = _key_codec(info, ref, reading)
    return keeping_bytes(_of_prefixes(made, reading) if info.type is MapType.LPM_TRIE else made)


def _of_prefixes(plain: Codec, reading: Reading) -> Codec:
    """Return how keys of an LPM trie read; prefixes are taken as they are written anyway."""
    made = plain
    if reading.formats is not None and is_address_prefix(plain):
        made = reading.formats.formatted(plain, Place("", KEY, (LPM_TRIE,)))
    return taking_prefixes(made)


def _key_codec(info: MapInfo, ref: TypeRef | None, reading: Reading) -> Codec:
    formats = reading.formats
    if reading.key_format is not None:
        plain = format_codec(reading.key_format, info.key_size, is_key=True)
        return untyped(plain, formats, KEY)
    if owner := owner_key(info):
        return owner
    if ref is None and info.type in INDEXED:
        return untyped(ScalarCodec("I"), formats, KEY)
    if ref is None and info.type in ATTACHED:
        return attachment_key(info.key_size)
    return codec(ref, info.key_size, is_key=True, raw=reading.raw, formats=formats)


def value_codec(info: MapInfo, ref: TypeRef | None, reading: Reading) -> Codec:
    """Return how the values read, a per-CPU map's as lists."""
    if reading.value_format is None and info.type in HOLDERS:
        return HOLDERS[info.type](info)
    one = _value_codec(info, ref, reading)
    return PerCpuCodec(one, possible_cpus()) if info.type in PER_CPU else one


def _value_codec(info: MapInfo, ref: TypeRef | None, reading: Reading) -> Codec:
    if reading.value_format is not None:
        plain = format_codec(reading.value_format, info.value_size)
        return untyped(plain, reading.formats, VALUE)
    return codec(ref, info.value_size, raw=reading.raw, formats=reading.formats)
