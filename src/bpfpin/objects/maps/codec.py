"""Which codecs a map's keys and values get: by its type, its BTF, or the caller's formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import Buffer, Codec, MisfitError, ScalarCodec
from bpfpin.codecs.format_table import KEY, VALUE, FieldPath
from bpfpin.codecs.of_btf import codec, untyped
from bpfpin.codecs.of_format import format_codec
from bpfpin.codecs.prefix import is_address_prefix, taking_prefixes
from bpfpin.codecs.stray import keeping_bytes
from bpfpin.map_traits import KeyKind, stride_of, traits_of
from bpfpin.objects.kernel.info import MapInfo
from bpfpin.syscall.cpu import possible_cpus

if TYPE_CHECKING:
    from bpfpin.objects.maps.base import DecodeOptions

# The parts of a row: key and value, or key, CPU and the value of that CPU.
Row = tuple[Any, ...]
CPU: Final = "cpu"
LPM_TRIE: Final = "lpm_trie"  # the name of its keys in rules for formats


class PerCpuCodec(Codec):
    """A list with one value for each possible CPU, in the order of the CPUs."""

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
        """Return a list of lists; there are no gaps between elements."""
        assert stride == self.size
        # One call decodes the values of all entries and CPUs; cutting the list is cheap.
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


def can_add(codec: Codec) -> bool:
    """Whether the values of all CPUs can be added: all parts are numbers, or it is not per CPU."""
    return not isinstance(codec, PerCpuCodec) or _is_number(codec.value.decode(bytes(codec.stride)))


def _is_number(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_number, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def total(values: Sequence[Any]) -> Any:
    """Add the values of all CPUs, member by member.

    Numbers are added (Python's do not wrap), dicts and lists part by part. Any other value must be
    the same on all CPUs, else `TypeError`.
    """
    return _joined(values, sum, "added")


def maximum(values: Sequence[Any]) -> Any:
    """Return the greatest values of all CPUs, member by member, as `total` adds them."""
    return _joined(values, max, "compared")


def _joined(values: Sequence[Any], combine: Callable[[Sequence[Any]], Any], done: str) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _joined([value[name] for value in values], combine, done) for name in first}
    if isinstance(first, list | tuple):
        return [_joined(parts, combine, done) for parts in zip(*values, strict=True)]
    # bool is an int in Python, but truth values are not added.
    is_number = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if is_number:
        return type(first)(combine(values))
    if all(value == first for value in values):
        return first
    raise TypeError(f"{type(first).__name__} values of several CPUs cannot be {done}")


def key_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    """Return the codec of the keys.

    A format takes precedence over the type *ref*; an index without a type is a number. Decoded keys
    keep the bytes of their padding (`codecs/stray.py`).
    """
    made = _key_codec(info, ref, options)
    return keeping_bytes(_of_prefixes(made, options) if traits_of(info.type).is_trie else made)


def _of_prefixes(plain: Codec, options: DecodeOptions) -> Codec:
    """Return the codec of an LPM trie's keys, which takes `"10.0.0.0/8"` in any case."""
    made = plain
    if options.formats is not None and is_address_prefix(plain):
        made = options.formats.formatted(plain, FieldPath("", KEY, (LPM_TRIE,)))
    return taking_prefixes(made)


def _key_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    formats = options.formats
    if options.key_format is not None:
        plain = format_codec(options.key_format, info.key_size, is_key=True)
        return untyped(plain, formats, KEY)
    traits = traits_of(info.type)
    # Before BTF: the type of such a key is int, which says nothing of the object behind it.
    if traits.is_local_storage or (ref is None and traits.key is KeyKind.CGROUP_ID):
        from bpfpin.objects.maps.kernel_values import object_key_codec  # noqa: PLC0415  (few maps)

        return object_key_codec(info)
    # Arrays of descriptors have no BTF: libbpf creates them without (bpf_object__create_map()).
    if ref is None and traits.has_index_key:
        return untyped(ScalarCodec("I"), formats, KEY)
    return codec(ref, info.key_size, is_key=True, raw=options.raw, formats=formats)


def value_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    """Return the codec of the values, of a per-CPU map that of lists."""
    traits = traits_of(info.type)
    # Before BTF as well: the kernel takes a descriptor there and returns an id, whatever the type.
    if options.value_format is None and traits.has_object_values:
        from bpfpin.objects.maps.kernel_values import object_value_codec  # noqa: PLC0415  (few maps)

        return object_value_codec(info)
    plain = _value_codec(info, ref, options)
    return PerCpuCodec(plain, possible_cpus()) if traits.is_percpu else plain


def _value_codec(info: MapInfo, ref: TypeRef | None, options: DecodeOptions) -> Codec:
    if options.value_format is not None:
        plain = format_codec(options.value_format, info.value_size)
        return untyped(plain, options.formats, VALUE)
    return codec(ref, info.value_size, raw=options.raw, formats=options.formats)
