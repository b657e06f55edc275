"""What names a map: a path, `id:N`, or `name:NAME`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

from bpfpin.apps.folding import Moment, read_whole, wait_for_fold
from bpfpin.codecs.formats import AUTO
from bpfpin.errors import IdNotFoundError, UsageError
from bpfpin.objects.kernel_object import KernelObject
from bpfpin.objects.map import Map
from bpfpin.objects.typed_map import TypedMap
from bpfpin.objects.walk import maps
from bpfpin.uapi import MapType

ID = "id:"
NAME = "name:"
KERNEL_NAME_LENGTH = 15

T = TypeVar("T")
Held = TypeVar("Held", bound=TypedMap)
Object = TypeVar("Object", bound=KernelObject)


def type_name(kind: MapType | int) -> str:
    """Return the kernel's word for a map type, in lower case."""
    return kind.name.lower() if isinstance(kind, MapType) else str(kind)


def is_map_name(target: str) -> bool:
    """Whether *target* names a map (a path, `id:N`, `name:NAME`), not a device or a set."""
    return target.startswith((ID, NAME, "/", "./", "../"))


def open_map(target: str, *, read_only: bool = True, **reading: Any) -> Map:
    """Open the map that *target* names; the caller closes it.

    The other arguments are those of `Map.from_pin`. `UsageError` if it is no name of a map, or one
    of several maps; `PinNotFoundError` or `IdNotFoundError` if there is none.
    """
    return open_as(Map, target, read_only=read_only, **reading)


def open_as(kind: type[Held], target: str, *, read_only: bool = True, **reading: Any) -> Held:
    """Open the map that *target* names as another class of map; as `open_map`."""
    if target.startswith(ID):
        return kind.from_id(_number(target), read_only=read_only, **reading)
    if target.startswith(NAME):
        id_ = _id_of_name(target.removeprefix(NAME))
        return kind.from_id(id_, read_only=read_only, **reading)
    if not is_map_name(target) and not Path(target).exists():
        raise UsageError(
            f"{target!r} is no name of a map",
            hint=f"a map is named by its path (/sys/fs/bpf/…), id:N, or name:{target}",
        )
    return kind.from_pin(Path(target).absolute(), read_only=read_only, **reading)


@overload
def open_typed(target: str, *, read_only: bool = True, raw: bool = False) -> Map: ...
@overload
def open_typed(
    target: str, *, kind: type[Held], read_only: bool = True, raw: bool = False
) -> Held: ...
def open_typed(
    target: str, *, kind: type[Any] = Map, read_only: bool = True, raw: bool = False
) -> Any:
    """Open the map that *target* names as the command reads it: names, addresses, times.

    With *raw* enumerations are numbers and texts bytes. Errors as in `open_map`, and `BusyError` if
    the path lies in a set whose migration does not end.
    """
    if not target.startswith((ID, NAME)):
        wait_for_fold(Path(target).absolute())
    reading: dict[str, Any] = {"raw": True} if raw else {"formats": AUTO}
    return open_as(kind, target, read_only=read_only, **reading)


def whole(target: str, once: Callable[[], T]) -> T:
    """Return what *once* opens and reads of *target*, not while a migration takes it away."""
    if target.startswith((ID, NAME)):
        return once()
    return read_whole(Path(target).absolute(), once)


def moment_of(target: str) -> Moment | None:
    """Return the moment from which on what *target* names is whole; None if it is no path."""
    return None if target.startswith((ID, NAME)) else Moment(Path(target).absolute())


def open_kind(kind: type[Object], target: str) -> Object:
    """Open the map or program that *target* names by its path or `id:N`; of maps `name:NAME`, too.

    It can be written to. Errors as in `open_map`.
    """
    if issubclass(kind, TypedMap):
        return open_as(kind, target, read_only=False)
    if target.startswith(ID):
        return kind.from_id(_number(target))
    if not target.startswith("/") and not Path(target).exists():
        raise UsageError(
            f"{target!r} is no name of a {kind.kind}", hint="it is named by its path, or id:N"
        )
    return kind.from_pin(Path(target).absolute())


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
