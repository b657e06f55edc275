"""Tables of functions that the kernel calls (struct_ops), in the kernel's own layout.

The object's members are found in the kernel's structure by name, as libbpf does. A map of such a
table has the kernel's `struct bpf_struct_ops_NAME` as its value, with the structure in its member
`data` (kernel/bpf/bpf_struct_ops.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.layout import size_of
from bpfpin.btf.names import essential_name
from bpfpin.btf.types import Member, Pointer, Struct
from bpfpin.errors import NotSupportedError, UsageError
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.attach_target import AttachTarget
from bpfpin.objects.kernel.btf import VMLINUX, has_enumerator, vmlinux_btf
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.uapi import MapFlag

_VALUE_PREFIX = "bpf_struct_ops_"
_DESCRIPTOR_SIZE = 8  # a descriptor goes where the pointer to the function is


@dataclass(frozen=True, slots=True)
class Table:
    """The kernel's form of a table: the type of the map's value, and the structure within it."""

    value: TypeRef
    start: int
    structure: TypeRef

    def member(self, name: str) -> tuple[int, Member] | None:
        """Return position and member of that name; None if this kernel's structure has no such."""
        kind = self.structure.type
        assert isinstance(kind, Struct)
        return next(((at, m) for at, m in enumerate(kind.members) if m.name == name), None)


def kernel_table(spec: MapSpec) -> Table:
    """Return the table *spec* as this kernel defines it; `NotSupportedError` if it does not."""
    # Linux commit 68b04864ca42 ("bpf: Create links for BPF struct_ops maps.") (v6.4) added the
    # flag and the attach type. Without the flag a table is registered as soon as it is written.
    if spec.map_flags & MapFlag.LINK and not has_enumerator("bpf_attach_type", "BPF_STRUCT_OPS"):
        raise NotSupportedError(
            f"map {spec.name}: this kernel has no links for tables of functions",
            feature="links for struct_ops",
            since="6.4",
            hint="tables in the section .struct_ops need no links",
        )
    # Without `___FLAVOR`, as in libbpf: an object can have tables for several kernels.
    wanted = essential_name(spec.value.name) if spec.value else ""
    kernel = _vmlinux(spec)
    value_id = kernel.find(_VALUE_PREFIX + wanted, Struct)
    kind = kernel[value_id] if value_id is not None else None
    for member in kind.members if isinstance(kind, Struct) else ():
        inner = kernel.ref(kernel.strip(member.type_id))
        if value_id is not None and isinstance(inner.type, Struct) and inner.name == wanted:
            return Table(kernel.ref(value_id), member.bit_offset // 8, inner)
    raise NotSupportedError(
        f"map {spec.name}: this kernel does not let programs provide a struct {wanted}",
        feature=f"struct_ops of struct {wanted}",
    )


def without_unusable(spec: ObjectSpec) -> ObjectSpec:
    """Return *spec* without the tables that this kernel does not support, and what only they need.

    A note says why each was left out, so that one such table does not prevent the others. If
    no program would be left, the first reason is raised (`NotSupportedError`).
    """
    errors: dict[str, NotSupportedError] = {}
    for table in spec.maps.values():
        if traits_of(table.type).is_struct_ops:
            try:
                targets([table])
            except NotSupportedError as error:
                errors[table.name] = error
    if not errors:
        return spec
    maps = {name: table for name, table in spec.maps.items() if name not in errors}
    pointed = {name: {program for _, program in spec.maps[name].initial} for name in spec.maps}
    needed = {program for name in maps for program in pointed[name]}
    dropped = {program for name in errors for program in pointed[name]} - needed
    programs = {name: program for name, program in spec.programs.items() if name not in dropped}
    # Nothing could run: better the reason than an empty load that seems to have worked.
    if spec.programs and not programs:
        # Tables of programs that were not chosen do not count.
        raise next(error for name, error in errors.items() if pointed[name] & spec.programs.keys())
    notes = [f"{error}; the table and its programs are left out" for error in errors.values()]
    return replace(spec, maps=maps, programs=programs, notes=(*spec.notes, *notes))


def targets(maps: Iterable[MapSpec]) -> dict[str, AttachTarget]:
    """Return for each program in the tables of *maps* the member that it implements."""
    attach_targets: dict[str, AttachTarget] = {}
    for spec in maps:
        if not traits_of(spec.type).is_struct_ops or spec.value is None:
            continue
        table = kernel_table(spec)
        names = {member.bit_offset // 8: member.name for member in _members(spec)}
        for offset, program in spec.initial:
            match = table.member(names.get(offset, ""))
            if match is None:
                raise _lacking(spec, table, names.get(offset, f"at byte {offset}"))
            attach_targets[program] = AttachTarget(table.structure.id, member=match[0])
    return attach_targets


def value_of(spec: MapSpec, programs: Mapping[str, int]) -> bytes:
    """Return the value of table *spec* in this kernel's layout, with the descriptors in it.

    `NotSupportedError` if a member is set that the kernel's structure does not have, `UsageError`
    if it has one of another size.
    """
    table = kernel_table(spec)
    value = bytearray(table.value.size)
    functions = dict(spec.initial)
    for member in _members(spec):
        offset = member.bit_offset // 8
        name = functions.get(offset)
        data = _bytes(spec, member)
        match = table.member(member.name)
        if match is None:
            # A member that this kernel lacks may be there if it is zero, as in libbpf
            # (bpf_map__init_kern_struct_ops()).
            if name or any(data):
                raise _lacking(spec, table, member.name)
            continue
        start = table.start + match[1].bit_offset // 8
        if name is not None and name in programs:
            value[start : start + _DESCRIPTOR_SIZE] = programs[name].to_bytes(8, "little")
        # Other pointers of the object mean nothing in the kernel.
        elif name is None and not _is_pointer(spec, member):
            _check_size(spec, member, size_of(table.structure.btf, match[1].type_id))
            value[start : start + len(data)] = data
    return bytes(value)


def _members(spec: MapSpec) -> tuple[Member, ...]:
    kind = spec.value.type if spec.value else None
    return kind.members if isinstance(kind, Struct) else ()


def _bytes(spec: MapSpec, member: Member) -> bytes:
    assert spec.value is not None
    start = member.bit_offset // 8
    return (spec.contents or b"")[start : start + size_of(spec.value.btf, member.type_id)]


def _is_pointer(spec: MapSpec, member: Member) -> bool:
    assert spec.value is not None
    btf = spec.value.btf
    return isinstance(btf[btf.strip(member.type_id)], Pointer)


def _check_size(spec: MapSpec, member: Member, size: int) -> None:
    ours = len(_bytes(spec, member))
    if ours != size or member.bitfield_size:
        raise UsageError(
            f"map {spec.name}: member {member.name} has {ours} bytes, in this kernel {size}"
        )


def _lacking(spec: MapSpec, table: Table, member: str) -> NotSupportedError:
    name = table.structure.name
    return NotSupportedError(
        f"map {spec.name} sets member {member}, which struct {name} of this kernel does not have",
        feature=f"{name}.{member}",
    )


def _vmlinux(spec: MapSpec) -> Btf:
    try:
        return vmlinux_btf()
    except FileNotFoundError:
        raise NotSupportedError(
            f"map {spec.name} needs the kernel's types, and there is no {VMLINUX}",
            feature="BTF of the kernel (CONFIG_DEBUG_INFO_BTF)",
        ) from None
