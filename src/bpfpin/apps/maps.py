"""Any map of the host: list, describe, read and change it, named by path, `id:N` or `name:NAME`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfpin.apps import keys
from bpfpin.apps.pinned import pinned_maps
from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.errors import BpfError, IdNotFoundError, PermissionDeniedError, UsageError
from bpfpin.objects.codec_btf import codec
from bpfpin.objects.info import MapInfo
from bpfpin.objects.map import Map
from bpfpin.objects.map_codec import INDEXED
from bpfpin.objects.walk import maps
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

ID = "id:"
NAME = "name:"
KERNEL_NAME_LENGTH = 15


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map and the paths where it is pinned."""

    info: MapInfo
    pins: tuple[str, ...]

    @property
    def type_name(self) -> str:
        """The kernel's word for its type, in lower case; a number that we do not know."""
        return type_name(self.info.type)


@dataclass(frozen=True, slots=True)
class MapList:
    """All maps that can be seen, by id, and what hides the others."""

    maps: tuple[MapRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MapDetails:
    """One map: its types as C (empty without BTF), memory in bytes, flags by name."""

    row: MapRow
    key_type: str
    value_type: str
    flags: tuple[str, ...]
    memory_bytes: int
    is_frozen: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value; *is_percpu*: the value is a list with one item a possible CPU."""

    key: Any
    value: Any
    is_percpu: bool

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the JSON documents have it."""
        return {"key": self.key, "values" if self.is_percpu else "value": self.value}


def type_name(kind: MapType | int) -> str:
    """Return the kernel's word for a map type, in lower case."""
    return kind.name.lower() if isinstance(kind, MapType) else str(kind)


def is_map_name(target: str) -> bool:
    """Whether *target* names a map (a path, `id:N`, `name:NAME`), not a device or a set."""
    return target.startswith((ID, NAME, "/", "./", "../"))


def list_maps(pin_root: Path) -> MapList:
    """Return all maps of the kernel with their pins; without CAP_SYS_ADMIN only pinned ones."""
    pinned = pinned_maps(pin_root)
    infos, notes = dict(pinned.infos), []
    try:
        infos |= {info.id: info for info in maps()}
    except PermissionDeniedError as error:
        notes.append(f"only pinned maps are listed; for all of them: {error}")
    if pinned.unreadable:
        notes.append(f"not readable: {', '.join(pinned.unreadable)}")
    rows = [MapRow(infos[id_], tuple(pinned.paths.get(id_, ()))) for id_ in sorted(infos)]
    return MapList(tuple(rows), tuple(notes))


def open_map(target: str, *, read_only: bool = True) -> Map:
    """Open the map that *target* names; the caller closes it.

    `UsageError` if it is no name of a map, or one of several maps; `PinNotFoundError` or
    `IdNotFoundError` if there is none.
    """
    if target.startswith(ID):
        return Map.from_id(_number(target))
    if target.startswith(NAME):
        return Map.from_id(_id_of_name(target.removeprefix(NAME)))
    if not is_map_name(target) and not Path(target).exists():
        raise UsageError(
            f"{target!r} is no name of a map",
            hint=f"a map is named by its path (/sys/fs/bpf/…), id:N, or name:{target}",
        )
    return Map.from_pin(Path(target).absolute(), read_only=read_only)


def _number(target: str) -> int:
    text = target.removeprefix(ID)
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise UsageError(f"{target!r} is no id", hint="ids are numbers: bpfpin map list")
    return int(text)


def _id_of_name(name: str) -> int:
    infos = list(maps())
    found = [info.id for info in infos if info.name == name[:KERNEL_NAME_LENGTH]]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{ID}{id_}" for id_ in found)
        raise UsageError(
            f"{len(found)} maps are named {name!r}: {ids}", hint=f"take {ID}{found[0]}"
        )
    near = difflib.get_close_matches(name, {info.name for info in infos})
    hint = f"near it: {', '.join(near)}" if near else "bpfpin map list"
    raise IdNotFoundError(f"no map is named {name!r}", hint=hint)


def show_map(target: str, *, pin_root: Path) -> MapDetails:
    """Return what the kernel says of the map that *target* names."""
    with open_map(target) as held:
        info = held.info
        pins = pinned_maps(pin_root).paths.get(info.id, ())
        return MapDetails(
            row=MapRow(info, tuple(pins)),
            key_type=_c_type(held.key_type),
            value_type=_c_type(held.value_type),
            flags=flag_names(info.map_flags),
            memory_bytes=held.memory_bytes(),
            is_frozen=held.is_frozen(),
        )


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of map flags; bits without a name together as a number."""
    names = [flag.name for flag in MapFlag if flags & flag and flag.name]
    unnamed = flags & ~sum(MapFlag)
    return (*names, hex(unnamed)) if unnamed else tuple(names)


def _c_type(ref: TypeRef | None) -> str:
    return c_type(ref) if ref else ""


def lookup(target: str, key: str) -> Entry:
    """Return the entry under *key*, as it is typed; `KeyNotFoundError` if there is none."""
    with open_map(target) as held:
        wanted = _parsed_key(held, key)
        with _said(held):
            return Entry(wanted, held[wanted], held.is_per_cpu)


def entries(target: str) -> Iterator[Entry]:
    """Yield all entries of the map that *target* names, read in batches."""
    with open_map(target) as held:
        for key, value in held.items():
            yield Entry(key, value, held.is_per_cpu)


def change(target: str, key: str, words: Sequence[str]) -> Entry:
    """Set the value under *key* to what *words* say, and return the entry as it is now.

    One word is the whole value. Words `FIELD=VALUE` change these fields of a structure; the others
    keep what they have, 0 where the key is new. In a per-CPU map one value goes to every CPU; a
    JSON list has one for each.
    """
    with open_map(target, read_only=False) as held:
        wanted = _parsed_key(held, key)
        with _said(held):
            held[wanted] = _new_value(held, wanted, words)
            return Entry(wanted, held[wanted], held.is_per_cpu)


def _parsed_key(held: Map, text: str) -> Any:
    key = keys.parse(text, held.key_type, held.key_size, what="key")
    is_index = held.key_type is None and held.type in INDEXED
    return int.from_bytes(key, "little") if is_index else key


def _new_value(held: Map, key: Any, words: Sequence[str]) -> Any:
    is_percpu = held.is_per_cpu
    if keys.is_structure(held.value_type) and keys.is_fields(words):
        current = held.get(key)
        if current is None:
            current = _zero(held)
        if not is_percpu:
            return keys.with_fields(current, words)
        return [keys.with_fields(value, words) for value in current]
    if len(words) != 1:
        raise UsageError(
            f"{' '.join(words)!r} is more than one value",
            hint="give one value, in quotes if it has spaces, or FIELD=VALUE for a structure",
        )
    if is_percpu and words[0].startswith("["):
        return keys.parse_list(words[0], held.value_type, held.value_size)
    value = keys.parse(words[0], held.value_type, held.value_size)
    return [value] * possible_cpus() if is_percpu else value


def _zero(held: Map) -> Any:
    """Return what a value of zero bytes means in this map."""
    zero = codec(held.value_type, held.value_size).decode(bytes(held.value_size))
    return [zero] * possible_cpus() if held.is_per_cpu else zero


@contextmanager
def _said(held: Map) -> Iterator[None]:
    """Turn what the codec says of a key or a value that does not fit into a `UsageError`."""
    try:
        yield
    except BpfError:
        raise
    except (ValueError, TypeError) as error:
        hint = f"bpfpin map show {ID}{held.id} tells the types"
        raise UsageError(f"map {held.name!r}: {error}", hint=hint) from None
