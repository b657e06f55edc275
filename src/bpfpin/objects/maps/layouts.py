"""Types of a map that are stored beside its pin, for readers that cannot open BTF by id.

`layouts~/MAP` is a symlink whose text is base64 of a BTF blob; if it is too long, it
continues in `MAP~1`, `MAP~2` …. The blob's last type is a union with the members `key` and `value`.
"""

from __future__ import annotations

import binascii
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bpfpin.btf.btf import Btf, TypeRef, blob
from bpfpin.btf.types import Array, DataSection, Enum, Member, Struct, Union, Var
from bpfpin.btf.write import BtfBuilder, subset
from bpfpin.errors import BpfError, ObjectFileError
from bpfpin.objects.kernel.info import MapInfo, map_info
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.fs import Resolve
from bpfpin.uapi import ObjectFlag

DIRECTORY: Final = "layouts~"
# Some 1 MB of text. Others may have made the symlinks, so their number has a limit.
CHUNKS_MAX: Final = 256

Types = tuple[TypeRef | None, TypeRef | None]
"""The types of key and value; None if there is no type."""

NO_TYPES: Final[Types] = (None, None)
_OPEN = os.O_PATH | os.O_DIRECTORY
_BELOW = Resolve.NO_SYMLINKS | Resolve.BENEATH
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def encode(key: TypeRef | None, value: TypeRef | None) -> bytes:
    """Return the blob for two types; empty if there are none."""
    named = [(name, ref) for name, ref in (("key", key), ("value", value)) if ref is not None]
    if not named:
        return b""
    data, ids = subset([ref for _, ref in named])
    types = Btf.parse(data)
    builder = BtfBuilder()
    for type_id in types.ids()[1:]:
        builder.add(types[type_id])
    members = tuple(Member(name, id_, 0) for (name, _), id_ in zip(named, ids, strict=True))
    builder.add(Union("", max(ref.size for _, ref in named), members))
    return builder.build()


def decode(data: bytes) -> Types:
    """Return the key's and the value's type from a blob; `ObjectFileError` if it is damaged."""
    from bpfpin.btf.check import check  # noqa: PLC0415  (only to read a pinned layout)

    if not data:
        return NO_TYPES
    types = Btf.parse(data)
    last = len(types) - 1
    # Only the union may contain a data section, which no C value can have as its type.
    check(Btf.parse(blob(types.encoded(1, last), types.strings)) if last > 0 else types)
    union = types[last]
    members = union.members if isinstance(union, Union) else ()
    refs = {member.name: types.ref(member.type_id) for member in members if member.type_id < last}
    for ref in refs.values():
        _ = ref.size  # raises for a type without a size, which no value has
    return refs.get("key"), refs.get("value")


def decode_texts(texts: Iterable[str]) -> Types:
    """Return the types in the texts of a map's symlinks; none if they are damaged."""
    import base64  # noqa: PLC0415  (only where types are stored beside a pin)

    try:
        return decode(base64.b64decode("".join(texts), validate=True))
    except (ObjectFileError, binascii.Error, ValueError):
        return NO_TYPES


def parts(pin: str) -> Iterator[str]:
    """Yield the names of the symlinks that may hold the types of the map pinned as *pin*."""
    yield pin
    yield from (f"{pin}~{number}" for number in range(1, CHUNKS_MAX + 1))


def newest(path: Path, info: MapInfo, made_with: Types) -> Types:
    """Return the types to decode the map at *path* with: those it was *made_with*, or newer ones.

    The kernel keeps the types that a map was made with. A reload that keeps the map may bring an
    enumeration with more names, which is stored beside the pin. It is used if nothing else differs.
    """
    from bpfpin.btf.compare import differences  # noqa: PLC0415  (only where layouts differ)

    # The kernel shows no types to callers without CAP_SYS_ADMIN, or has none.
    if made_with[1] is None:
        return beside(path, info)
    # Only names of enumerators can be newer: any other difference makes a reload refuse the map.
    if not any(ref is not None and has_names(ref) for ref in made_with):
        return made_with
    stored = beside(path, info)
    pairs = list(zip(made_with, stored, strict=True))
    if any(new is None or differences(old, new) for old, new in pairs if old is not None):
        return made_with
    return (stored[0] if made_with[0] is not None else None), stored[1]


def has_names(ref: TypeRef) -> bool:
    """Return whether the type contains an enumeration."""
    pending, seen = [ref.id], set[int]()
    while pending:
        type_id = ref.btf.strip(pending.pop())
        if type_id in seen:
            continue
        seen.add(type_id)
        kind = ref.btf[type_id]
        if isinstance(kind, Enum):
            return True
        if isinstance(kind, Array):
            pending.append(kind.element_id)
        elif isinstance(kind, Struct | Union):
            pending += [member.type_id for member in kind.members]
        elif isinstance(kind, DataSection):
            pending += [variable.type_id for variable in kind.variables]
        elif isinstance(kind, Var):
            pending.append(kind.type_id)
    return False


def beside(path: Path, info: MapInfo) -> Types:
    """Return the types stored beside the pin *path* of the map *info*; none if not trusted.

    Directory and symlinks must belong to root, to this user or to the owner of the pin, and nobody
    else may be able to write the directory. The pin must still be that map, and the types must have
    its sizes.
    """
    try:
        with Descriptor(fs.openat2(path.parent, flags=_OPEN, resolve=Resolve.NO_SYMLINKS)) as place:
            # In this order: if the set is exchanged after the texts were read, the pin is another
            # map by now, and they are not used.
            texts = _texts(place.fileno(), path.name)
            if not texts or not _is_pin_of(place.fileno(), path.name, info.id):
                return NO_TYPES
    # Types only help to read: without them the map is read as bytes.
    except (BpfError, OSError):
        return NO_TYPES
    types = decode_texts(texts)
    sizes = zip(types, (info.key_size, info.value_size), strict=True)
    return types if all(ref is None or ref.size == size for ref, size in sizes) else NO_TYPES


def _texts(place: int, pin: str) -> list[str]:
    """Return the texts of a map's symlinks; none, or an error, if one of them is not trusted."""
    trusted = {0, os.geteuid(), _status(place, pin).st_uid}
    texts: list[str] = []
    with Descriptor(fs.openat2(DIRECTORY, flags=_OPEN, resolve=_BELOW, dir_fd=place)) as opened:
        directory = opened.fileno()
        status = os.fstat(directory)
        if status.st_uid not in trusted or status.st_mode & _OTHERS_WRITE:
            return []
        for part in parts(pin):
            try:
                owner = _status(directory, part).st_uid
            except FileNotFoundError:
                break
            if owner not in trusted:
                return []
            texts.append(os.readlink(part, dir_fd=directory))
    return texts


def _status(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _is_pin_of(place: int, pin: str, map_id: int) -> bool:
    """Return whether the map is pinned in this directory, which may have been exchanged."""
    with (
        # BPF_OBJ_GET takes a path and follows symlinks (bpf_obj_do_get() of kernel/bpf/inode.c); by
        # an O_PATH descriptor it opens the very entry that was looked up.
        Descriptor(fs.openat2(pin, resolve=_BELOW, dir_fd=place)) as pin_path,
        Descriptor(
            bpf.obj_get(Path(f"/proc/self/fd/{pin_path.fileno()}"), flags=ObjectFlag.RDONLY)
        ) as bpf_map,
    ):
        return map_info(bpf_map.fileno()).id == map_id
