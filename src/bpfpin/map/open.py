"""What names a map: a path, `id:N`, or `name:NAME`."""

from __future__ import annotations

import difflib
import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from bpfpin.codecs.formats import AUTO
from bpfpin.errors import BpfError, IdNotFoundError, PinNameError, UsageError
from bpfpin.host.pins import pinned_maps
from bpfpin.map.generation import Moment, read_whole, wait_for_fold
from bpfpin.objects.kernel.info import ID, KERNEL_NAME_LENGTH, NAME, maps
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.layouts import has_names
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names

DEFAULT_PIN_ROOT = Path("/sys/fs/bpf")
_FORMAT_HINT = "a format is one of Python's struct module: I for 4 bytes, QQ for two numbers of 8"

T = TypeVar("T")
Held = TypeVar("Held", bound=BaseMap)
Object = TypeVar("Object", bound=KernelObject)


def is_map_name(target: str) -> bool:
    """Whether *target* names a map (a path, `id:N`, `name:NAME`), not a device or a set."""
    return target.startswith((ID, NAME, "/", "./", "../"))


def path_of(target: str, pin_root: Path) -> str:
    """Return what names a map, with its path for the short name of a pin: `lab0/xdp_stats_map`.

    That is a path below *pin_root*. A bpffs has no names with a dot, so one that is typed with it
    means the pin that a set has for it (`.bss` is `%2ebss`). What is no such name stays.
    """
    if target.startswith((ID, NAME)):
        return target
    path = Path(target)
    for one in (path, pin_root / path):
        if os.path.lexists(one):
            return target if one is path else str(one)
    with suppress(PinNameError):  # no name of a pin, so the one that was typed is told
        for one in (path, pin_root / path):
            encoded = Path(*(_dotted(part) for part in one.parts))
            if encoded != one and (os.path.lexists(encoded) or _is_refused(one)):
                return str(encoded)
    is_short = "/" in target and not path.is_absolute() and path.parts[0] not in (".", "..")
    if is_short and os.path.lexists(pin_root / path.parts[0]):
        return str(pin_root / path)  # the set is there, so that the pin is told which is not
    return target


def _is_refused(path: Path) -> bool:
    """Whether a bpffs refuses such a name (`bpf_lookup` in kernel/bpf/inode.c)."""
    try:
        os.lstat(path)
    except PermissionError as error:
        return error.errno == errno.EPERM
    except (OSError, ValueError):
        return False
    return False


def _dotted(part: str) -> str:
    """Return the name that a pin has for *part* of a path; `.` and `..` are no names."""
    return names.encode(part) if "." in part and part.strip(".") else part


def open_map(target: str, *, read_only: bool = True, **reading: Any) -> Map:
    """Open the map that *target* names; the caller closes it.

    The other arguments are those of `Map.from_pin`. `UsageError` if it is no name of a map, or one
    of several maps; `PinNotFoundError` or `IdNotFoundError` if there is none.
    """
    return open_as(Map, target, read_only=read_only, **reading)


def open_as(kind: type[Held], target: str, *, read_only: bool = True, **reading: Any) -> Held:
    """Open the map that *target* names as another class of map; as `open_map`."""
    if target.startswith((ID, NAME)):
        is_id = target.startswith(ID)
        number = _number(target) if is_id else _id_of_name(target.removeprefix(NAME))
        opened = kind.from_id(number, read_only=read_only, **reading)
        try:
            _read_by_newest(opened)
        except BaseException:
            opened.close()
            raise
        return opened
    if not is_map_name(target) and not Path(target).exists():
        word = "NAME" if "/" in target else target
        raise UsageError(
            f"{target!r} is no name of a map",
            hint=f"a map is named by its path (/sys/fs/bpf/…, or DEV/MAP), id:N, or {NAME}{word}",
        )
    return kind.from_pin(Path(target).absolute(), read_only=read_only, **reading)


def _read_by_newest(held: BaseMap) -> None:
    """Let a map with an enumeration read by the names that stand beside one of its pins."""
    types = held.key_type, held.value_type
    if isinstance(held, Map) and any(ref is not None and has_names(ref) for ref in types):
        for path in pinned_maps(DEFAULT_PIN_ROOT).paths.get(held.id, ()):
            held.read_as_pinned(Path(path))


@dataclass(frozen=True, slots=True)
class Typing:
    """How a map reads that does not say so itself, or is to read otherwise; as in `Map.from_pin`.

    Types are named as in `struct datarec`, formats are those of the struct module.
    """

    value_type: str | None = None
    value_format: str | None = None
    key_type: str | None = None
    key_format: str | None = None

    def to_reading(self) -> dict[str, str]:
        """Return what was said as arguments of `Map.from_pin`; `UsageError` for both of a kind."""
        for what in ("value", "key"):
            if getattr(self, f"{what}_type") and getattr(self, f"{what}_format"):
                raise UsageError(f"a type and a format both say how a {what} reads: give one")
        return {name: said for name in self.__slots__ if (said := getattr(self, name)) is not None}


AS_IT_IS = Typing()


@overload
def open_typed(
    target: str, *, read_only: bool = True, raw: bool = False, typing: Typing = ...
) -> Map: ...
@overload
def open_typed(
    target: str,
    *,
    kind: type[Held],
    read_only: bool = True,
    raw: bool = False,
    typing: Typing = ...,
) -> Held: ...
def open_typed(
    target: str,
    *,
    kind: type[Any] = Map,
    read_only: bool = True,
    raw: bool = False,
    typing: Typing = AS_IT_IS,
) -> Any:
    """Open the map that *target* names as the command reads it: names, addresses, times.

    With *raw* enumerations are numbers and texts bytes; *typing* says how keys and values read
    whose types the map does not have. Errors as in `open_map`, and `BusyError` if
    the path lies in a set whose migration does not end.
    """
    if not target.startswith((ID, NAME)):
        wait_for_fold(Path(target).absolute())
    reading: dict[str, Any] = {"raw": True} if raw else {"formats": AUTO}
    said = typing.to_reading()
    try:
        return open_as(kind, target, read_only=read_only, **reading, **said)
    except BpfError:
        raise
    except (struct.error, ValueError) as error:
        if not said:
            raise
        raise UsageError(f"{', '.join(said.values())}: {error}", hint=_FORMAT_HINT) from None


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
    if issubclass(kind, BaseMap):
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
