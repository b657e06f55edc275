"""Access paths of CO-RE relocations: a field of a local type, and the same field in the target.

The compiler writes indices: `0:3:1` is member or element 1 of member 3 of the first structure. In
the target, members are found by name, also inside unnamed structures. The format is described in
include/uapi/linux/bpf.h (struct bpf_core_relo); the rules are those of bpf_core_parse_spec() and
bpf_core_spec_match() in libbpf's relo_core.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.decode import malformed
from bpfpin.btf.layout import MAX_DEPTH, MemberLayout, size_of
from bpfpin.btf.types import Array, Struct, Union
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_match import fields_fit
from bpfpin.records import dataclass

_LIMIT = 1 << 20  # members listed in total; the kernel has some 60,000, unnamed ones counted twice
MAX_STEPS = 64  # libbpf's BPF_CORE_SPEC_MAX_LEN
_MAX_DIGITS = 10  # of an index, which is a u32


class MemberEntry(NamedTuple):
    """A member; its offset is counted from the outermost structure."""

    layout: MemberLayout
    is_last: bool  # of its own structure


class MemberIndex:
    """Members of structures by name, as in C: members of unnamed structures are included.

    The members of a structure are listed on first use.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Btf, int], dict[str, MemberEntry]] = {}
        self._listed = 0

    def find(self, btf: Btf, type_id: int, name: str) -> MemberEntry | None:
        """Return member *name* of type *type_id*; None if it has no such member.

        Raises:
            ObjectFileError: Unnamed structures nest more than 32 deep, or the structures together
                have more than a million members.
        """
        return self._named(btf, type_id, MAX_DEPTH).get(name)

    def _named(self, btf: Btf, type_id: int, depth: int) -> dict[str, MemberEntry]:
        stripped = btf.strip(type_id)
        entries = self._known.get((btf, stripped))
        if entries is not None:
            return entries
        if depth == 0:
            raise malformed(f"unnamed members of type {type_id} are nested over {MAX_DEPTH} deep")
        entries = self._list(btf, btf[stripped], depth)
        self._known[btf, stripped] = entries
        return entries

    def _list(self, btf: Btf, kind: object, depth: int) -> dict[str, MemberEntry]:
        entries: dict[str, MemberEntry] = {}
        if not isinstance(kind, Struct | Union):
            return entries
        last = len(kind.members) - 1
        seen: set[int] = set()  # another member of the same unnamed type adds no names
        for number, (name, type_id, bit_offset, bitfield_size) in enumerate(kind.members):
            if name:
                layout = MemberLayout(name, type_id, bit_offset, bitfield_size)
                entries.setdefault(name, MemberEntry(layout, number == last))
            elif type_id not in seen:
                seen.add(type_id)
                inner = self._named(btf, type_id, depth - 1)
                # Without this count, a file of nested unnamed structures could need exponential
                # time.
                self._count(len(inner))
                for entry in inner.values():
                    entries.setdefault(entry.layout.name, _moved_bits(entry, bit_offset))
        self._count(len(kind.members))
        return entries

    def _count(self, number: int) -> None:
        self._listed += number
        if self._listed > _LIMIT:
            raise malformed(f"the structures of the relocations have more than {_LIMIT} members")


def _moved_bits(entry: MemberEntry, by: int) -> MemberEntry:
    name, type_id = entry.layout.name, entry.layout.type_id
    bit_offset = by + entry.layout.bit_offset
    layout = MemberLayout(name, type_id, bit_offset, entry.layout.bitfield_size)
    return MemberEntry(layout, entry.is_last)


class AccessStep(NamedTuple):
    """One step of a path: to member *name*, or to element *number* (no name), of type *type_id*."""

    name: str
    number: int
    type_id: int


@dataclass(frozen=True, slots=True)
class CoreField:
    """The end of a path: a member of type *type_id*, or an array element of that type."""

    btf: Btf
    type_id: int
    bit_offset: int
    bitfield_size: int = 0
    is_element: bool = False


def indices_of(access: str) -> tuple[int, ...]:
    """Return the indices of the path *access*; `ObjectFileError` if it is malformed."""
    # The limit keeps a long string from becoming a list of millions of parts.
    parts = access.split(":", MAX_STEPS)
    if len(parts) > MAX_STEPS:
        raise malformed_relocation(f"the path {access[:40]!r}… has more than {MAX_STEPS} steps")
    if not all(part.isascii() and part.isdigit() and len(part) <= _MAX_DIGITS for part in parts):
        raise malformed_relocation(f"{access[:80]!r} is not a path of numbers")
    return tuple([int(part) for part in parts])


def local_field(btf: Btf, type_id: int, access: str) -> tuple[CoreField, list[AccessStep]]:
    """Follow *access* from *type_id*; return the field at its end, and the steps to it.

    Steps to unnamed structures are left out, because the target may have their members elsewhere.
    """
    first, *rest = indices_of(access)
    root = btf.strip(type_id)
    field = CoreField(btf, root, first * size_of(btf, root) * 8, is_element=True)
    steps = [AccessStep("", first, root)]
    is_last = False
    for index in rest:
        kind = btf[btf.strip(field.type_id)]
        if isinstance(kind, Struct | Union):
            field = _into_member(field, kind, index)
            is_last = index == len(kind.members) - 1
            name = kind.members[index].name
            steps += [AccessStep(name, index, field.type_id)] if name else []
        elif isinstance(kind, Array):
            # As in libbpf, the last member of a structure may be a flexible array, whose length is
            # 0 in BTF.
            _check_length(kind, index, may_be_open=is_last and bool(steps[-1].name))
            field = element(field, kind, index)
            steps.append(AccessStep("", index, field.type_id))
        else:
            raise malformed_relocation(f"{access!r} goes into a {type(kind).__name__.lower()}")
    return field, steps


def _into_member(field: CoreField, kind: Struct | Union, index: int) -> CoreField:
    if index >= len(kind.members):
        raise malformed_relocation(
            f"there is no member {index} of {kind.name!r}: it has {len(kind.members)}"
        )
    member = kind.members[index]
    bit_offset = field.bit_offset + member.bit_offset
    return CoreField(field.btf, member.type_id, bit_offset, member.bitfield_size)


def _check_length(kind: Array, index: int, *, may_be_open: bool) -> None:
    if index >= kind.length and not (may_be_open and kind.length == 0):
        raise malformed_relocation(f"there is no element {index} of an array of {kind.length}")


def element(field: CoreField, kind: Array, index: int) -> CoreField:
    """Return element *index* of the array that *field* is."""
    type_id = field.btf.strip(kind.element_id)
    bit_offset = field.bit_offset + index * size_of(field.btf, type_id) * 8
    return CoreField(field.btf, type_id, bit_offset, is_element=True)


def target_field(
    local: Btf, steps: list[AccessStep], target: TypeRef, members: MemberIndex
) -> CoreField | None:
    """Follow *steps* from the type *target*; None if it has no such field, or an incompatible one.

    An array index must be within the array, unless this is a flexible array at the structure's end.
    """
    btf = target.btf
    root = btf.strip(target.id)
    first = steps[0].number
    # The size is not needed for index 0; the target's type may be only declared and have none.
    field = CoreField(btf, root, first * size_of(btf, root) * 8 if first else 0, is_element=True)
    is_open = False
    for step in steps[1:]:
        if step.name:
            entry = members.find(btf, field.type_id, step.name)
            if entry is None or not fields_fit(local, step.type_id, btf, entry.layout.type_id):
                return None
            field, is_open = _moved(field, entry.layout), entry.is_last
            continue
        kind = btf[btf.strip(field.type_id)]
        if not isinstance(kind, Array) or not _has_element(kind, step.number, is_open=is_open):
            return None
        field, is_open = element(field, kind, step.number), False
    return field


def _moved(field: CoreField, layout: MemberLayout) -> CoreField:
    bit_offset = field.bit_offset + layout.bit_offset
    return CoreField(field.btf, layout.type_id, bit_offset, layout.bitfield_size)


def _has_element(kind: Array, index: int, *, is_open: bool) -> bool:
    return index < kind.length or (is_open and kind.length == 0)


def words(btf: Btf, type_id: int, access: str) -> str:
    """Return the path as in C (`.member[3]`); "" if *access* does not fit the type."""
    try:
        _, steps = local_field(btf, type_id, access)
    except ObjectFileError:
        return ""
    first = [f"[{steps[0].number}]"] if steps[0].number else []
    return "".join([*first, *_words(steps[1:])])


def _words(steps: list[AccessStep]) -> Iterator[str]:
    for step in steps:
        yield f".{step.name}" if step.name else f"[{step.number}]"


def malformed_relocation(message: str) -> ObjectFileError:
    """Return the error for a relocation that no compiler writes."""
    return ObjectFileError(message, section=".BTF.ext")
