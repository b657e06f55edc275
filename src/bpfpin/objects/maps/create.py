"""Creates a map from a spec (BPF_MAP_CREATE), and estimates its memory."""

from __future__ import annotations

import errno
import os

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import NotSupportedError, SyscallError, UsageError
from bpfpin.map_traits import MapFamily, ValueKind, traits_of
from bpfpin.objects.kernel.btf import BtfHandle, has_enumerator
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import MapCreateAttr
from bpfpin.syscall.cpu import cpu_ids, possible_cpus
from bpfpin.syscall.errno_table import InvalidArgumentError, MapDefinitionError
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapFlag, MapType

# On a small host a quarter of the memory would refuse ordinary objects.
_LEAST_MEMORY_LIMIT = 256 << 20
_MEMORY_SHARE = 4

_NUMA_NODE = int(MapFlag.NUMA_NODE)
# How the kernel refuses a definition; EBADF: the inner map is missing.
_OF_RULES = (errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP, errno.EBADF, errno.ENOMEM)
NO_TYPES: tuple[int, int, int] = (0, 0, 0)
_ELEMENT_OVERHEAD = 48  # struct htab_elem of the kernel's kernel/bpf/hashtab.c
_BUCKET = 16
# A program, map, device or socket in an array is a pointer in the kernel.
_POINTER = 8
# Bytes for each entry that are allocated with the map; families that are not here keep a pointer.
_ENTRY_BYTES = {
    MapFamily.RING_BUFFER: 1,  # max_entries counts bytes
    MapFamily.USER_RING_BUFFER: 1,
    MapFamily.TRIE: 0,  # elements are allocated when they are added
    MapFamily.RESIZABLE_HASH: 0,  # and so are buckets
    # 7 bits with the usual 5 hash functions, and the whole is rounded up to a power of two
    # (bloom_map_alloc() of kernel/bpf/bloom_filter.c).
    MapFamily.BLOOM_FILTER: 2,
}


def create(spec: MapSpec, *, inner_fd: int | None, btf: BtfHandle | None) -> Descriptor:
    """Create the map and return its descriptor; without BTF if this kernel takes none for it."""
    if spec.inner is not None and not inner_fd:
        # With the object's own BTF: its declaration tags describe special members (`__contains`).
        with create(spec.inner, inner_fd=None, btf=btf) as template:
            return create(spec, inner_fd=template.fileno(), btf=btf)
    if traits_of(spec.type).is_struct_ops:
        return _create_table(spec, btf)
    # map_create() of kernel/bpf/syscall.c refuses the type of a key alone (EINVAL).
    if spec.value is None:
        return _create(spec, inner_fd or 0, NO_TYPES)
    if btf is None:
        return _create_with_own_types(spec, inner_fd or 0, spec.value)
    key_id = spec.key.id if spec.key else 0
    return _create_typed(spec, inner_fd or 0, (btf.fd, key_id, spec.value.id))


def _create_table(spec: MapSpec, btf: BtfHandle | None) -> Descriptor:
    """Create a struct_ops map, whose value has one of the kernel's types.

    The kernel demands a BTF descriptor of the object, too, and does not use it.
    """
    from bpfpin.objects.maps import struct_ops  # noqa: PLC0415  (only for maps of struct_ops)

    if btf is None:
        with BtfHandle.load_types([spec.value] if spec.value else [])[0] as handle:
            return _create_table(spec, handle)
    value = struct_ops.kernel_table(spec).value
    attribute = _attribute(spec, 0, (btf.fd, 0, 0))
    attribute.value_size = value.size
    attribute.btf_vmlinux_value_type_id = value.id
    return Descriptor(bpf.map_create(attribute, target=f"map {spec.name}"))


def _create_with_own_types(spec: MapSpec, inner_fd: int, value: TypeRef) -> Descriptor:
    """Load only the types of key and value, for the time of the call."""
    refs = [value] if spec.key is None else [value, spec.key]
    try:
        handle, ids = BtfHandle.load_types(refs)
    except SyscallError:
        # Types serve readers; the map works without them. If a capability is missing,
        # BPF_MAP_CREATE says so next.
        return _create(spec, inner_fd, NO_TYPES)
    with handle:
        return _create_typed(spec, inner_fd, (handle.fd, ids[1] if spec.key else 0, ids[0]))


def _create_typed(spec: MapSpec, inner_fd: int, types: tuple[int, int, int]) -> Descriptor:
    """Create the map with types, or without them if the kernel refuses it with types."""
    try:
        return _create(spec, inner_fd, types)
    # map_check_no_btf() of kernel/bpf/syscall.c answers ENOTSUPP for types of map that take no BTF.
    # libbpf tries again without BTF, too (bpf_object__create_map()).
    except (NotSupportedError, InvalidArgumentError):
        return _create(spec, inner_fd, NO_TYPES)


def _create(spec: MapSpec, inner_fd: int, types: tuple[int, int, int]) -> Descriptor:
    attribute = _attribute(spec, inner_fd, types)
    try:
        return Descriptor(bpf.map_create(attribute, target=f"map {spec.name}"))
    except SyscallError as error:
        raise _explained(error, spec, has_inner=bool(inner_fd)) from None


def _explained(error: SyscallError, spec: MapSpec, *, has_inner: bool) -> SyscallError:
    """Return *error* with the kernel's rules that *spec* breaks, if it was refused for these."""
    from bpfpin.objects.maps.rules import broken_rules  # noqa: PLC0415  (only for a refused definition)

    # The kernel has one errno for many rules, so the rules are looked up only after a refusal.
    if error.errno not in _OF_RULES or isinstance(error, MapDefinitionError):
        return error
    rules = broken_rules(spec, max_entries=entries_asked(spec), has_inner=has_inner)
    if not rules:
        since = traits_of(spec.type).since
        if not has_enumerator("bpf_map_type", f"BPF_MAP_TYPE_{spec.type.name}"):
            return _unknown_type(error, spec, since)
        known = f"; {spec.type.name.lower()} maps exist since Linux {since}" if since else ""
        error.hint = f"Its definition breaks no rule that bpfpin knows: {_definition(spec)}{known}"
        return error
    refused = MapDefinitionError(
        f"{error.target}: {'; '.join(rules)}",
        command=error.command,
        errno=error.errno,
        target=error.target,
    )
    refused.rules = tuple(rules)
    if not spec.max_entries and any(rule.startswith("max_entries is 0") for rule in rules):
        refused.hint = (
            "The object leaves max_entries to its loader: "
            f"spec.with_map({spec.name!r}, max_entries=N)"
        )
    return refused


def _unknown_type(error: SyscallError, spec: MapSpec, since: str) -> NotSupportedError:
    name = spec.type.name.lower()
    return NotSupportedError(
        f"{error.target}: this kernel has no maps of type {name}",
        feature=f"maps of type {name}",
        since=since,
        command=error.command,
        errno=error.errno or errno.EINVAL,
        target=error.target,
    )


def _definition(spec: MapSpec) -> str:
    numbers = {
        name: getattr(spec, name)
        for name in ("key_size", "value_size", "max_entries", "map_flags", "map_extra", "numa_node")
    }
    shown = [f"{name} {number}" for name, number in numbers.items() if number]
    return ", ".join([f"type {spec.type.name.lower()}", *shown])


def _attribute(spec: MapSpec, inner_fd: int, types: tuple[int, int, int]) -> MapCreateAttr:
    _require_fitting(spec)
    btf_fd, key_id, value_id = types
    node_flag = 0 if spec.numa_node is None else _NUMA_NODE
    return MapCreateAttr(
        map_type=spec.type,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=entries_asked(spec),
        map_flags=spec.map_flags | node_flag,
        inner_map_fd=inner_fd,
        numa_node=spec.numa_node or 0,
        map_name=spec.kernel_name.encode(),
        btf_fd=btf_fd,
        btf_key_type_id=key_id,
        btf_value_type_id=value_id,
        map_extra=spec.map_extra,
    )


_BITS = {
    **dict.fromkeys(("type", "key_size", "value_size", "max_entries", "map_flags"), 32),
    "numa_node": 32,
    "map_extra": 64,
}


def _require_fitting(spec: MapSpec) -> None:
    """Raise for a number that would be truncated: of 2**32 + 8 entries 8 would be left."""
    for name, bits in _BITS.items():
        number = getattr(spec, name)
        if number is not None and not 0 <= number < 1 << bits:
            raise UsageError(
                f"map {spec.name}: {name} is {number}; the kernel takes 0 to {(1 << bits) - 1}"
            )
    if not isinstance(spec.type, MapType):
        raise UsageError(
            f"map {spec.name}: there is no type of map {int(spec.type)}; there are:"
            f" {', '.join(f'{kind.value} {kind.name.lower()}' for kind in MapType)}"
        )


def entries_asked(spec: MapSpec) -> int:
    """Return the `max_entries` that the kernel is asked for.

    0 of a perf event array means one for each CPU, and the size of a ring is rounded up to a power
    of two of whole pages, as libbpf does (adjust_ringbuf_sz). A CPU map gets at most one entry for
    each CPU, as in cilium/ebpf: the kernel refuses more than NR_CPUS (E2BIG).
    """
    import mmap  # noqa: PLC0415  (only for arenas)

    traits = traits_of(spec.type)
    if traits.value is ValueKind.CPU:
        return min(spec.max_entries or cpu_ids(), cpu_ids())
    if traits.value is ValueKind.PERF_EVENT and not spec.max_entries:
        return cpu_ids()
    if traits.is_ring and spec.max_entries:
        # ringbuf_map_alloc() of kernel/bpf/ringbuf.c answers EINVAL for any other size.
        return max(mmap.PAGESIZE, 1 << (spec.max_entries - 1).bit_length())
    return spec.max_entries


def estimate_bytes(spec: MapSpec) -> int:
    """Return about how many bytes the kernel allocates when it creates the map *spec*.

    With it a load refuses an object whose wrong number would use up the host's memory. For maps
    that allocate their elements later (LPM tries, hashes with NO_PREALLOC, local storages) it is
    the size of the empty map.
    """
    return entries_asked(spec) * _entry_bytes(spec)


def _entry_bytes(spec: MapSpec) -> int:
    traits = traits_of(spec.type)
    if traits.family is MapFamily.HASH:
        is_lazy = bool(spec.map_flags & MapFlag.NO_PREALLOC)
        element = 0 if is_lazy else _ELEMENT_OVERHEAD + _padded(spec.key_size) + _values(spec)
        return _BUCKET + element
    if traits.is_array or traits.family is MapFamily.QUEUE:
        return _values(spec)
    return _ENTRY_BYTES.get(traits.family, _POINTER)


def _values(spec: MapSpec) -> int:
    copies = possible_cpus() if traits_of(spec.type).is_percpu else 1
    return _padded(spec.value_size) * copies


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def size_text(size_bytes: int) -> str:
    """Return a size as text: in MiB, KiB or bytes, rounded down."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size_bytes >> shift:
            return f"{size_bytes >> shift} {unit}"
    return f"{size_bytes} bytes"


def map_memory_limit() -> int:
    """Return the default limit for the memory of new maps: a quarter of the host's, in bytes.

    The limit is at least 256 MiB. It keeps a wrong `max_entries` from exhausting the host's memory.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_LEAST_MEMORY_LIMIT, memory // _MEMORY_SHARE)
