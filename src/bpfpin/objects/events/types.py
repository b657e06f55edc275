"""The types of events: a map of events has none in the kernel, the programs that use it have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import BtfType, Enum, Int, Modifier, Struct, Union
from bpfpin.errors import BpfError, UsageError
from bpfpin.objects import walk
from bpfpin.objects.info import MapInfo
from bpfpin.objects.kernel_btf import map_btf

KINDS: dict[str, tuple[type[BtfType], ...]] = {
    "struct": (Struct,),
    "union": (Union,),
    "enum": (Enum,),
    "": (Struct, Union, Enum, Modifier, Int),
}
# What programs are handed by the kernel is no event of theirs.
CONTEXTS = frozenset(
    {"xdp_md", "__sk_buff", "bpf_sock", "bpf_sock_addr", "bpf_sock_ops", "bpf_sockopt"}
    | {"bpf_sysctl", "bpf_sk_lookup", "sk_msg_md", "sk_reuseport_md", "pt_regs"}
)
SHOWN = 12


def event_type(name: str, info: MapInfo, *, size: int | None = None) -> TypeRef:
    """Return the type called *name* (`struct event`, or `event`) of the programs that use a map.

    Their BTF is asked for by id (CAP_SYS_ADMIN). `UsageError` with the structures that there are,
    of *size* bytes if that is given.
    """
    keyword, _, rest = name.strip().rpartition(" ")
    if keyword not in KINDS:  # of several words, as `unsigned int`
        keyword, rest = "", name.strip()
    for btf in _tables(info):
        found = btf.find(rest, *KINDS[keyword])
        if found is not None and isinstance(btf[found], KINDS[keyword]):
            return btf.ref(found)
    told = ", ".join(candidates(info, size=size)) or "none: no program with BTF uses the map"
    raise UsageError(
        f"no type {name!r} in the programs that use map {info.name!r} (id {info.id})",
        hint=f"structures there: {told}",
    )


def type_of_size(name: str, info: MapInfo, size: int) -> TypeRef:
    """Return the type called *name*, which must take *size* bytes, as `event_type` finds it."""
    found = event_type(name, info, size=size)
    if found.size != size:
        told = ", ".join(candidates(info, size=size)) or "none"
        raise UsageError(
            f"{name} takes {found.size} bytes, where map {info.name!r} (id {info.id}) has {size}",
            hint=f"structures of {size} bytes there: {told}",
        )
    return found


def candidates(info: MapInfo, *, size: int | None = None) -> list[str]:
    """Return the structures that the events of a map may be, as `struct event (16 bytes)`.

    With *size* those alone that take so many bytes.
    """
    found = {
        f"struct {kind.name} ({kind.size} bytes)": None
        for btf in _tables(info)
        for kind in btf.types()
        if isinstance(kind, Struct) and kind.name and kind.size and kind.name not in CONTEXTS
        if size in (None, kind.size)
    }
    return list(found)[:SHOWN]


def _tables(info: MapInfo) -> Iterator[Btf]:
    """Yield the BTF of the map, if it has any, and of each program that uses it."""
    users = {program.btf_id for program in walk.programs() if info.id in program.map_ids}
    for btf_id in sorted(users | {info.btf_id} - {0}, reverse=True):
        with contextlib.suppress(BpfError):  # it was unloaded just now, or is malformed
            yield map_btf(btf_id)
