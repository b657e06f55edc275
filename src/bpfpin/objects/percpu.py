"""Values of which every possible CPU has its own, padded to eight bytes, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bpfpin.codecs.codec import Buffer, Codec, MisfitError
from bpfpin.uapi import MapType

PER_CPU = frozenset(
    {
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_PERCPU_HASH,
        MapType.PERCPU_CGROUP_STORAGE,
    }
)


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
