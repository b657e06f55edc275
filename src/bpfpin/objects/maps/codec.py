"""How the keys and values of a map read: by its kind, its BTF, or what the caller says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import Buffer, Codec, MisfitError, ScalarCodec
from bpfpin.codecs.format_table import KEY, VALUE, FieldPath, FormatTable
from bpfpin.codecs.of_btf import codec, untyped
from bpfpin.codecs.of_format import format_codec
from bpfpin.codecs.prefix import is_address_prefix, taking_prefixes
from bpfpin.codecs.stray import keeping_bytes
from bpfpin.map_traits import KeyKind, traits_of
from bpfpin.objects.kernel.info import MapInfo
from bpfpin.objects.maps.kernel_values import HOLDERS, attachment_key, owner_key
from bpfpin.syscall.cpu import possible_cpus

LPM_TRIE: Final = "lpm_trie"  # in rules for formats


# Values of which every possible CPU has its own, padded to eight bytes, one behind the other.


def stride_of(value_size: int) -> int:
    """Return the bytes that one CPU's value takes in what the kernel copies."""
    return (value_size + 7) // 8 * 8


class PerCpuCodec(Codec):
    """A list with one value a possible CPU, in the order of the CPUs."""

    def __init__(self, value: Codec, cpus: int) -> None:
        self.value = value
        self.cpus = cpus
        self.stride = stride_of(value.size)
        self.size = self.stride * cpus
        self.has_lock = value.has_lock

    def decode(self, data: Buffer, at: int = 0) -> Any:
        """Return the values of all CPUs."""
        whole = data[at : at + self.size]
        return list(self.value.decode_many(whole, self.stride))

    def decode_many(self, data: Buffer, stride: int) -> Sequence[Any]:
        """Return a list of lists; elements follow each other without a gap."""
        assert stride == self.size
        flat, cpus = self.value.decode_many(data, self.stride), self.cpus
        return [flat[at : at + cpus] for at in range(0, len(flat), cpus)]

    def encode_into(self, value: Any, data: bytearray, at: int) -> None:
        """Take a sequence with one value for every possible CPU."""
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            text = f"a list of one value for each of {self.cpus} CPUs was expected, not {value!r}"
            raise MisfitError(TypeError, text)
        if len(value) != self.cpus:
            raise MisfitError(ValueError, f"{len(value)} values, but {self.cpus} possible CPUs")
        for cpu, part in enumerate(value):
            try:
                self.value.encode_into(part, data, at + cpu * self.stride)
            except MisfitError as misfit:
                raise misfit.within(f"[{cpu}]") from None


def total(values: Sequence[Any]) -> Any:
    """Add the values of all CPUs, member by member.

    Numbers are added (Python's do not wrap), dicts and lists in their parts; what is no number
    stays if it is the same everywhere, else `TypeError`.
    """
    return _joined(values, sum, "added")


def maximum(values: Sequence[Any]) -> Any:
    """Return the greatest values of all CPUs, member by member, as `total` adds them."""
    return _joined(values, max, "compared")


def _joined(values: Sequence[Any], how: Callable[[Sequence[Any]], Any], done: str) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _joined([value[name] for value in values], how, done) for name in first}
    if isinstance(first, list | tuple):
        return [_joined(parts, how, done) for parts in zip(*values, strict=True)]
    is_number = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    if is_number:
        return type(first)(how(values))
    if all(value == first for value in values):
        return first
    raise TypeError(f"{type(first).__name__} values of several CPUs cannot be {done}")


@dataclass(frozen=True, slots=True)
class DecodeOptions:
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


def key_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    """Return how the keys read; a format wins over the type *ref*, an index is a number without.

    What is read keeps the bytes that it does not show (`codecs/stray.py`).
    """
    made = _key_codec(info, ref, options)
    return keeping_bytes(_of_prefixes(made, options) if traits_of(info.type).is_trie else made)


def _of_prefixes(plain: Codec, options: DecodeOptions) -> Codec:
    """Return how keys of an LPM trie read; prefixes are taken as they are written anyway."""
    made = plain
    if options.formats is not None and is_address_prefix(plain):
        made = options.formats.formatted(plain, FieldPath("", KEY, (LPM_TRIE,)))
    return taking_prefixes(made)


def _key_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    formats = options.formats
    if options.key_format is not None:
        plain = format_codec(options.key_format, info.key_size, is_key=True)
        return untyped(plain, formats, KEY)
    if owner := owner_key(info):
        return owner
    if ref is None and traits_of(info.type).has_index_key:
        return untyped(ScalarCodec("I"), formats, KEY)
    if ref is None and traits_of(info.type).key is KeyKind.CGROUP_ID:
        return attachment_key(info.key_size)
    return codec(ref, info.key_size, is_key=True, raw=options.raw, formats=formats)


def value_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    """Return how the values read, a per-CPU map's as lists."""
    traits = traits_of(info.type)
    if options.value_format is None and traits.value in HOLDERS:
        return HOLDERS[traits.value](info)
    one = _value_codec(info, ref, options)
    return PerCpuCodec(one, possible_cpus()) if traits.is_percpu else one


def _value_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    if options.value_format is not None:
        plain = format_codec(options.value_format, info.value_size)
        return untyped(plain, options.formats, VALUE)
    return codec(ref, info.value_size, raw=options.raw, formats=options.formats)
