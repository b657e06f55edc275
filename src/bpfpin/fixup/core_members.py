"""Members of structures by name, as C sees them: those of unnamed structures are among them."""

from __future__ import annotations

from typing import NamedTuple

from bpfpin.btf.btf import Btf
from bpfpin.btf.decode import malformed
from bpfpin.btf.layout import MAX_DEPTH, MemberLayout
from bpfpin.btf.types import Struct, Union

_LIMIT = 1 << 20  # members listed in all; the kernel has some 60,000, unnamed ones counted twice


class Place(NamedTuple):
    """A member, its offset counted from the outermost structure."""

    layout: MemberLayout
    is_last: bool  # of its own structure


class Members:
    """Finds members; each structure's are listed once, when it is first asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[Btf, int], dict[str, Place]] = {}
        self._listed = 0

    def find(self, btf: Btf, type_id: int, name: str) -> Place | None:
        """Return member *name* of type *type_id*; None if there is none, or it has no members.

        `ObjectFileError` for unnamed structures nested more than 32 deep, and for a table whose
        structures repeat each other's members a million times.
        """
        return self._named(btf, type_id, MAX_DEPTH).get(name)

    def _named(self, btf: Btf, type_id: int, depth: int) -> dict[str, Place]:
        stripped = btf.strip(type_id)
        found = self._known.get((btf, stripped))
        if found is not None:
            return found
        if depth == 0:
            raise malformed(f"unnamed members of type {type_id} are nested over {MAX_DEPTH} deep")
        found = self._list(btf, btf[stripped], depth)
        self._known[btf, stripped] = found
        return found

    def _list(self, btf: Btf, kind: object, depth: int) -> dict[str, Place]:
        found: dict[str, Place] = {}
        if not isinstance(kind, Struct | Union):
            return found
        last = len(kind.members) - 1
        seen: set[int] = set()  # one more of the same unnamed type has no new names
        for number, (name, type_id, bit_offset, bitfield_size) in enumerate(kind.members):
            if name:
                layout = MemberLayout(name, type_id, bit_offset, bitfield_size)
                found.setdefault(name, Place(layout, number == last))
            elif type_id not in seen:
                seen.add(type_id)
                inner = self._named(btf, type_id, depth - 1)
                self._count(len(inner))
                for place in inner.values():
                    found.setdefault(place.layout.name, _moved(place, bit_offset))
        self._count(len(kind.members))
        return found

    def _count(self, number: int) -> None:
        self._listed += number
        if self._listed > _LIMIT:
            raise malformed(f"the structures asked for have more than {_LIMIT} members")


def _moved(place: Place, by: int) -> Place:
    name, type_id = place.layout.name, place.layout.type_id
    bit_offset = by + place.layout.bit_offset
    layout = MemberLayout(name, type_id, bit_offset, place.layout.bitfield_size)
    return Place(layout, place.is_last)
