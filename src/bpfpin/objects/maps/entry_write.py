"""Single entries read and written with the kernel's choices: parts of a value, one CPU, a lock.

A partial write changes only the given members: padding, the other members and the bits beside a
bit-field stay.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Mapping
from typing import Any

from bpfpin.codecs.codec import Codec, MisfitError
from bpfpin.codecs.number import BitsCodec, MappedCodec
from bpfpin.codecs.prefix import without_other_bits
from bpfpin.codecs.record import Part, RecordCodec, UnionCodec
from bpfpin.errors import BpfError, KeyNotFoundError
from bpfpin.map_traits import stride_of, traits_of
from bpfpin.objects.maps.batch import Batches
from bpfpin.objects.maps.codec import PerCpuCodec
from bpfpin.objects.maps.elements import Elements
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import MapCreateAttr
from bpfpin.syscall.cpu import cpu_index
from bpfpin.syscall.errno_table import InvalidArgumentError, syscall_error
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import Cmd, MapFlag, MapType, UpdateFlag

CPU_SHIFT = 32  # the upper half of the flags is the CPU
_ATTEMPTS = 8  # to ask a trie that others change


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How one entry is written; `Map.update` documents each option."""

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
    def allow_batches(self) -> bool:
        """Whether the entry can be written in a batch with others."""
        return not (self.partial or self.lock or self.all_cpus) and self.cpu is None

    @property
    def flags(self) -> UpdateFlag:
        """The flags of the system call."""
        flag = self.flag
        if self.partial:
            flag |= UpdateFlag.EXIST  # an entry that was deleted meanwhile does not come back
        return flag | UpdateFlag.LOCK if self.lock else flag


class EntryAccess:
    """Reads and writes single entries of a map whose values are those of *codec*.

    *about* names the map in errors; *named* in the methods is how errors show the key.
    """

    def __init__(self, elements: Elements, codec: Codec, *, about: str) -> None:
        self._elements = elements
        self._codec = codec
        self._about = about

    def has(self, key: bytes) -> bool:
        """Return whether the map has an entry with exactly this key, also in an LPM trie."""
        elements = self._elements
        if not traits_of(elements.map_type).is_trie:
            return elements.has(key)
        # A lookup would find any prefix that covers the key (trie_lookup_elem() in
        # kernel/bpf/lpm_trie.c). But after a key that a trie does not have, trie_get_next_key()
        # returns the first key of all; after one that it has, never.
        for _ in range(_ATTEMPTS):
            first, following = elements.next_key(None), elements.next_key(key)
            if following == first:
                return False
            if not next_key_is_exact():
                break
            # If others added or deleted the first key meanwhile, the comparison means nothing.
            if elements.next_key(None) == first:
                return True
        wanted, size = without_other_bits(key), elements.key_size
        return any(
            without_other_bits(bytes(batch.keys[at : at + size])) == wanted
            for batch in Batches(elements, elements.map_type, elements.max_entries).walk()
            for at in range(0, len(batch.keys), size)
        )

    def require(self, key: bytes, *, named: object) -> None:
        """Raise `KeyNotFoundError` if only another prefix of an LPM trie covers the key.

        A key of another type of map is not looked up: a lookup has reported if it is missing.
        """
        if traits_of(self._elements.map_type).is_trie and not self.has(key):
            about = f"{self._about}, key {named!r}"
            raise syscall_error(Cmd.MAP_LOOKUP_ELEM, errno.ENOENT, target=about)

    def read(self, key: bytes, *, lock: bool, named: object) -> bytes:
        """Return the bytes of a value, read under its lock if *lock* is set."""
        flags = UpdateFlag.LOCK if lock else 0
        try:
            return self._elements.lookup(key, flags=flags, named=named)
        # map_lookup_elem() of kernel/bpf/syscall.c: EINVAL for BPF_F_LOCK without a lock in the
        # value.
        except InvalidArgumentError:
            self.check_lock(lock=lock)
            raise

    def read_cpu(self, key: bytes, cpu: int, *, named: object) -> Any:
        """Return the decoded value of one CPU."""
        codec = self._codec_of(cpu)
        return codec.decode(self._bytes_of(key, cpu, codec.size, named=named))

    def encoded(self, key: bytes, value: Any, options: WriteOptions, *, named: object) -> bytes:
        """Return the bytes to write for *value*, in a partial write over those that exist."""
        if options.all_cpus:
            value = [value] * self._percpu_codec().cpus
        if not options.partial:
            return self._codec.encode(value)
        # Reading and writing are two calls, each under the lock if that is asked for. What others
        # write to the same entry in between is overwritten, also in members that are not given.
        old = self.read(key, lock=options.lock, named=named)
        self.require(key, named=named)
        if not isinstance(self._codec, PerCpuCodec):
            return overlaid(self._codec, value, old)
        codec = self._codec
        if not isinstance(value, list | tuple) or len(value) != codec.cpus:
            codec.encode(value)  # raises what a whole write would
        parts = (old[at : at + codec.stride] for at in range(0, codec.size, codec.stride))
        pairs = zip(value, parts, strict=True)
        return b"".join(overlaid(codec.value, given, part) for given, part in pairs)

    def write_cpu(self, key: bytes, value: Any, options: WriteOptions, *, named: object) -> None:
        """Write the value of the CPU that *options* names.

        The values of the other CPUs stay, or are zero if the key is new. BPF_F_CPU (Linux 7.0)
        writes one CPU's value alone. Older kernels only know the values of all CPUs together: they
        are read, one is changed, and all are written, so what programs on other CPUs count between
        the two calls is lost. With EXIST, a key that is deleted after it was found is added again.
        """
        cpu = options.cpu or 0
        codec = self._codec_of(cpu)
        if options.partial:
            old = self._bytes_of(key, cpu, codec.size, named=named)
            data = overlaid(codec, value, old)
        else:
            data = codec.encode(value)
        self.write_cpu_bytes(key, data, options, named=named)

    def write_cpu_bytes(
        self, key: bytes, data: bytes, options: WriteOptions, *, named: object
    ) -> None:
        """Write the bytes of one CPU's value, as `write_cpu` does."""
        cpu, elements = options.cpu or 0, self._elements
        # With BPF_F_CPU among the flags a hash ignores BPF_NOEXIST and BPF_EXIST: check_flags() of
        # kernel/bpf/hashtab.c compares all flags with one of them (Linux 7.3).
        if options.flags & UpdateFlag.NOEXIST:
            # The other CPUs have no value yet that could be lost.
            elements.update(key, self._with_others(key, cpu, data), options.flags, named=named)
            return
        if options.flags & UpdateFlag.EXIST:
            elements.lookup(key, named=named)
        kept = int(options.flags) & ~UpdateFlag.EXIST
        flags = kept | UpdateFlag.CPU | cpu << CPU_SHIFT
        try:
            elements.update_part(key, data, flags, named=named)
        # A kernel that does not know BPF_F_CPU refuses the flag.
        except InvalidArgumentError:
            elements.update(key, self._with_others(key, cpu, data), options.flags, named=named)

    def check_lock(self, *, lock: bool) -> None:
        """Raise `TypeError` if the refused call asked for a lock that the values do not have."""
        if lock:
            raise TypeError(f"{self._about} has no bpf_spin_lock in its values") from None

    def _bytes_of(self, key: bytes, cpu: int, size: int, *, named: object) -> bytes:
        # The whole value costs a copy, but saves a second call on kernels without BPF_F_CPU.
        at = cpu_index(cpu) * stride_of(size)
        return self._elements.lookup(key, named=named)[at : at + size]

    def _with_others(self, key: bytes, cpu: int, value: bytes) -> bytes:
        try:
            whole = bytearray(self._elements.lookup(key))
        except KeyNotFoundError:
            whole = bytearray(self._elements.value_size)
        at = cpu_index(cpu) * stride_of(len(value))
        whole[at : at + len(value)] = value
        return bytes(whole)

    def _percpu_codec(self) -> PerCpuCodec:
        if not isinstance(self._codec, PerCpuCodec):
            raise TypeError(f"{self._about} has no values of single CPUs")
        return self._codec

    def _codec_of(self, cpu: int) -> Codec:
        codec = self._percpu_codec()
        cpu_index(cpu)  # raises ValueError
        return codec.value


@functools.cache
def next_key_is_exact() -> bool:
    """Return whether BPF_MAP_GET_NEXT_KEY of an LPM trie knows which prefixes it has.

    Before Linux commit 509df676c2d7 ("Merge branch 'fixes-for-lpm-trie'") (v6.13) it mistook
    another prefix of the same length for the key. That is tried on a trie with one prefix. False,
    too, for a process that may not create maps.
    """
    key, other = (bytes([1, 0, 0, 0, first]) for first in (0x80, 0))
    attribute = MapCreateAttr(MapType.LPM_TRIE, len(key), 1, 1, MapFlag.NO_PREALLOC)
    try:
        with Descriptor(bpf.map_create(attribute, target="a probe")) as trie:
            bpf.map_update_elem(trie.fileno(), key, b"\0", target="a probe")
            return bpf.map_get_next_key(trie.fileno(), other, len(key), target="a probe") == key
    except BpfError:
        return False


def overlaid(codec: Codec, value: Any, old: bytes) -> bytes:
    """Return *old* with the members that *value* gives.

    A dict may lack members on every level; a list or a number replaces the old one. `ValueError` or
    `TypeError` if the value does not fit.
    """
    data = bytearray(old)
    try:
        _overlay(codec, value, data, 0)
    except MisfitError as misfit:
        raise misfit.final() from None
    return bytes(data)


def _overlay(codec: Codec, value: Any, data: bytearray, at: int) -> None:
    # The members of a union share their bytes: a dict names the one that is written. Any other
    # number of names goes to the encoder, which refuses it.
    is_whole = isinstance(codec, UnionCodec) and isinstance(value, Mapping) and len(value) != 1
    if isinstance(codec, RecordCodec) and isinstance(value, Mapping) and not is_whole:
        codec._check_names(value)
        for part in codec.parts:
            _overlay_part(part, value, data, at + part.offset)
        return
    plain = codec.plain if isinstance(codec, MappedCodec) else codec
    if not isinstance(plain, BitsCodec):
        data[at : at + codec.size] = bytes(codec.size)  # encoders write over zeros
    codec.encode_into(value, data, at)


def _overlay_part(part: Part, value: Mapping[str, Any], data: bytearray, at: int) -> None:
    if not part.name:
        # The members of an unnamed struct or union are given beside those of the outer one.
        given = {name: value[name] for name in part.names if name in value}
        if given:
            _overlay(part.codec, given, data, at)
    elif part.name in value:
        try:
            _overlay(part.codec, value[part.name], data, at)
        except MisfitError as misfit:
            raise misfit.within(f".{part.name}") from None
