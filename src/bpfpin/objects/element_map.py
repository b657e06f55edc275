"""A map read and written one element at a time, with the choices that the kernel gives."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from bpfpin.errors import BpfError, IncompatibleMapError, NotSupportedError, SyscallError
from bpfpin.objects import map_rules, one_cpu, percpu
from bpfpin.objects.batch import HASHES
from bpfpin.objects.bulk_map import BulkMap
from bpfpin.objects.info import map_info
from bpfpin.objects.kernel_object import OPEN_BY_ID, ObjectKind
from bpfpin.objects.overlay import overlaid
from bpfpin.objects.percpu import PerCpuCodec
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.refusal import InvalidArgumentError
from bpfpin.uapi import MapType, UpdateFlag

MAPS_OF_MAPS = frozenset({MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How one entry is written; `Map.update` tells what each means."""

    flag: UpdateFlag = UpdateFlag.ANY
    partial: bool = False
    lock: bool = False
    cpu: int | None = None
    all_cpus: bool = False

    def __post_init__(self) -> None:
        if self.partial and self.flag & UpdateFlag.NOEXIST:
            raise ValueError("partial changes an entry that is there: NOEXIST contradicts it")
        if self.all_cpus and self.cpu is not None:
            raise ValueError("either one CPU or all of them")

    @property
    def are_plain(self) -> bool:
        """Whether a batch does as well."""
        return not (self.partial or self.lock or self.all_cpus) and self.cpu is None

    @property
    def flags(self) -> UpdateFlag:
        """What the kernel is told."""
        flag = self.flag
        if self.partial:
            flag |= UpdateFlag.EXIST  # what was deleted meanwhile does not come back
        return flag | UpdateFlag.LOCK if self.lock else flag


class ElementMap(BulkMap):
    """A map with all ways to read and write one element."""

    def lookup(self, key: Any, *, lock: bool = False, cpu: int | None = None) -> Any:
        """Return the value at *key* (BPF_MAP_LOOKUP_ELEM); `KeyNotFoundError`.

        With *lock* it is read under its `bpf_spin_lock` (BPF_F_LOCK), so that no write is seen half
        done; `TypeError` if it has none. With *cpu* the value of this CPU alone, of a per-CPU map.
        """
        encoded = self._key.encode(key)
        if cpu is None:
            return self._value.decode(self._read(encoded, key, lock=lock))
        codec = self._of_one_cpu(cpu)
        return codec.decode(one_cpu.read(self._elements, encoded, cpu, codec.size, named=key))

    def lookup_and_delete(self, key: Any, *, lock: bool = False) -> Any:
        """Return the value at *key* and remove it in one step; `KeyNotFoundError`.

        BPF_MAP_LOOKUP_AND_DELETE_ELEM, which the kernel has for hashes of all kinds (Linux 5.14):
        no write of a program comes between. `TypeError` for other maps, `NotSupportedError` on an
        older kernel; *lock* as in `lookup`.
        """
        self._check_deletable()
        encoded = self._key.encode(key)
        flags = UpdateFlag.LOCK if lock else 0
        try:
            taken = self._elements.lookup_and_delete(encoded, flags=flags, named=key)
        except NotSupportedError:
            if self.type in HASHES:
                raise
            text = "the kernel reads and deletes in one step only in hashes; lookup, then delete"
            raise TypeError(f"{self._described()}: {text}") from None
        except InvalidArgumentError:
            self._check_lock(lock=lock)
            raise
        return self._value.decode(taken)

    def update_one(self, key: Any, value: Any, choices: Choices) -> None:
        """Write one entry (BPF_MAP_UPDATE_ELEM); what may go wrong is told at `Map.update`."""
        encoded = self._key.encode(key)
        if choices.cpu is not None:
            self._write_one_cpu(encoded, value, choices, named=key)
            return
        if choices.all_cpus:
            value = [value] * self._per_cpu().cpus
        if choices.partial:
            written = self._overlaid(encoded, value, lock=choices.lock, named=key)
        else:
            written = self._value.encode(value)
        self._write(encoded, written, choices, named=key)

    def total(self, key: Any) -> Any:
        """Return the values of all CPUs at *key* added up, member by member (`percpu.total`)."""
        value = self.lookup(key)
        return percpu.total(value) if self.is_per_cpu else value

    def maximum(self, key: Any) -> Any:
        """Return the greatest of the values of all CPUs at *key*, member by member."""
        value = self.lookup(key)
        return percpu.maximum(value) if self.is_per_cpu else value

    def _read(self, key: bytes, named: Any, *, lock: bool) -> bytes:
        flags = UpdateFlag.LOCK if lock else 0
        try:
            return self._elements.lookup(key, flags=flags, named=named)
        except InvalidArgumentError:
            self._check_lock(lock=lock)
            raise

    def _write(self, key: bytes, value: bytes, choices: Choices, *, named: Any) -> None:
        try:
            self._elements.update(key, value, choices.flags, named=named)
        except InvalidArgumentError as error:
            self._check_lock(lock=choices.lock)
            raise self._unfit(error, value, key=named) from None

    def _write_one_cpu(self, key: bytes, value: Any, choices: Choices, *, named: Any) -> None:
        cpu = choices.cpu or 0
        codec, elements = self._of_one_cpu(cpu), self._elements
        if choices.partial:
            old = one_cpu.read(elements, key, cpu, codec.size, named=named)
            written = overlaid(codec, value, old)
        else:
            written = codec.encode(value)
        one_cpu.write(elements, key, cpu, written, flags=choices.flags, named=named)

    def _overlaid(self, key: bytes, value: Any, *, lock: bool, named: Any) -> bytes:
        old = self._read(key, named, lock=lock)
        if not isinstance(self._value, PerCpuCodec):
            return overlaid(self._value, value, old)
        codec = self._value
        if not isinstance(value, list | tuple) or len(value) != codec.cpus:
            codec.encode(value)  # says what was expected
        parts = (old[at : at + codec.stride] for at in range(0, codec.size, codec.stride))
        both = zip(value, parts, strict=True)
        return b"".join(overlaid(codec.value, given, part) for given, part in both)

    def _unfit(self, error: SyscallError, value: bytes, *, key: Any) -> BpfError:
        """Return why a map of maps does not take *value*, a descriptor, by what it holds already.

        The kernel compares with a template that it does not show; all maps in it are like that.
        """
        if self.type not in MAPS_OF_MAPS:
            return error
        about = f"{self._described()}, key {key!r}"
        with contextlib.suppress(BpfError, StopIteration):
            held = int.from_bytes(next(iter(self.items_bytes()))[1], "little")
            given = map_info(int.from_bytes(value, "little"))
            with Descriptor(OPEN_BY_ID[ObjectKind.MAP](held)) as sample:
                differences = map_rules.inner_differences(map_info(sample.fileno()), given)
            if differences:
                return IncompatibleMapError(
                    f"{about}: map {given.name} (id {given.id}) is not what it holds",
                    differences=differences,
                )
        return error

    def _per_cpu(self) -> PerCpuCodec:
        if not isinstance(self._value, PerCpuCodec):
            raise TypeError(f"{self._described()} has no values of single CPUs")
        return self._value

    def _of_one_cpu(self, cpu: int) -> Any:
        codec = self._per_cpu()
        if not 0 <= cpu < codec.cpus:
            raise ValueError(f"there is no CPU {cpu}: {codec.cpus} are possible, from 0 on")
        return codec.value

    def _check_lock(self, *, lock: bool) -> None:
        """Say why a call with a lock was refused; one without was not refused for it."""
        if lock:
            raise TypeError(f"{self._described()} has no bpf_spin_lock in its values") from None
