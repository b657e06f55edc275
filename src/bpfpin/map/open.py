"""Opens the map that a word names: a path, `id:N`, or `name:NAME`."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, overload

from bpfpin.btf.names import kernel_name
from bpfpin.choices import similar
from bpfpin.codecs.formats import AUTO
from bpfpin.errors import BpfError, IdNotFoundError, PinNameError, UsageError
from bpfpin.map.generation import Moment, read_whole, wait_for_fold
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objects.kernel.info import ID, NAME, maps, type_name
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.layouts import has_names
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.records import dataclass

DEFAULT_PIN_ROOT = Path("/sys/fs/bpf")
_FORMAT_HINT = "a format is one of Python's struct module: I for 4 bytes, QQ for two numbers of 8"

# The commands for maps that have no entries to look up.
INSTEAD: Final[dict[MapFamily, str]] = {
    MapFamily.RING_BUFFER: "bpfpin map events",
    MapFamily.PERF_BUFFER: "bpfpin map events",
    MapFamily.QUEUE: "bpfpin map pop, bpfpin map push",
    MapFamily.BLOOM_FILTER: "bpfpin map push, bpfpin map get",
    MapFamily.USER_RING_BUFFER: "bpfpin map push",
}

T = TypeVar("T")
MapClass = TypeVar("MapClass", bound=BaseMap)
Object = TypeVar("Object", bound=KernelObject)


def is_map_name(target: str) -> bool:
    """Whether *target* is written as the name of a map, not of a device or a set."""
    return target.startswith((ID, NAME, "/", "./", "../"))


def path_of(target: str, pin_root: Path) -> str:
    """Return *target* with the short name of a pin, `lab0/xdp_stats_map`, replaced by its path.

    Short names are relative to *pin_root*. No name in a bpffs has a dot, so a typed name with a
    dot means the pin that a set made for it (`.bss` is pinned as `%2ebss`). Other targets are
    returned as they are.
    """
    if target.startswith((ID, NAME)):
        return target
    _require_word(target)
    path = Path(target)
    for candidate in (path, pin_root / path):
        if os.path.lexists(candidate):
            return target if candidate is path else str(candidate)
    with suppress(PinNameError):  # it cannot be encoded: the error then shows the typed name
        for candidate in (path, pin_root / path):
            encoded = Path(*(_dotted(part) for part in candidate.parts))
            # A pin that does not exist is encoded too where bpffs would refuse the dot: the error
            # then names the missing pin instead of a permission (EPERM).
            if encoded != candidate and (os.path.lexists(encoded) or _is_refused(candidate)):
                return str(encoded)
    is_short = "/" in target and not path.is_absolute() and path.parts[0] not in (".", "..")
    if is_short and os.path.lexists(pin_root / path.parts[0]):
        return str(pin_root / path)  # the set exists, so the error names the missing pin in it
    return target


def _require_word(target: str) -> None:
    """Raise `UsageError` for an empty word, which as a path would be the current directory."""
    if not target:
        raise UsageError(
            "an empty word is not a map",
            hint=f"name a map by its path (/sys/fs/bpf/…, or DEV/MAP), id:N, or {NAME}NAME",
        )


def _is_refused(path: Path) -> bool:
    """Whether a bpffs refuses the name: EPERM from bpf_lookup() in kernel/bpf/inode.c."""
    try:
        os.lstat(path)
    except PermissionError as error:
        return error.errno == errno.EPERM
    except (OSError, ValueError):
        return False
    return False


def _dotted(part: str) -> str:
    """Return *part* of a path as a pin is named, except `.` and `..`."""
    return names.encode(part) if "." in part and part.strip(".") else part


def open_map(target: str, *, read_only: bool = True, **reading: Any) -> Map:
    """Open the map that *target* names; the caller closes it.

    The other arguments are those of `Map.from_pin`. `UsageError` if *target* does not name a map,
    or names several; `PinNotFoundError` or `IdNotFoundError` if the map does not exist.
    """
    return open_as(Map, target, read_only=read_only, **reading)


def open_as(
    kind: type[MapClass], target: str, *, read_only: bool = True, **reading: Any
) -> MapClass:
    """Open the map that *target* names as a map of class *kind*; otherwise as `open_map`."""
    _require_word(target)
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
    # A bare word is more often a forgotten `name:` or a device than a pin here.
    if not is_map_name(target) and not Path(target).exists():
        word = "NAME" if "/" in target else target
        raise UsageError(
            f"{target!r} is not a map",
            hint=f"name a map by its path (/sys/fs/bpf/…, or DEV/MAP), id:N, or {NAME}{word}",
        )
    # Not resolved: `from_pin` refuses symbolic links, which others may have made in a bpffs.
    return kind.from_pin(Path(target).absolute(), read_only=read_only, **reading)


def _read_by_newest(bpf_map: BaseMap) -> None:
    """Decode enumerations by the newest type that is stored beside a pin of the map.

    The map's own BTF is that of its creation; a reload may have stored one with more names.
    """
    types = bpf_map.key_type, bpf_map.value_type
    if isinstance(bpf_map, Map) and any(ref is not None and has_names(ref) for ref in types):
        # Only such a map needs the walk over all pins.
        from bpfpin.host.pins import map_pins  # noqa: PLC0415

        for path in map_pins(DEFAULT_PIN_ROOT).get(bpf_map.id, ()):
            bpf_map.read_as_pinned(Path(path))


@dataclass(frozen=True, slots=True)
class Typing:
    """The user's choice of how keys and values are decoded, as for `Map.from_pin`.

    For maps without BTF, or instead of it. Types are named like `struct datarec`; formats are
    those of the struct module.
    """

    value_type: str | None = None
    value_format: str | None = None
    key_type: str | None = None
    key_format: str | None = None

    def to_reading(self) -> dict[str, Any]:
        """Return the choice as arguments of `Map.from_pin`.

        `UsageError` if both a type and a format are given for keys or for values.
        """
        for what in ("value", "key"):
            if getattr(self, f"{what}_type") and getattr(self, f"{what}_format"):
                raise UsageError(f"a type and a format both say how a {what} reads: give one")
        choices = {name: getattr(self, name) for name in self.__slots__}
        return {name: choice for name, choice in choices.items() if choice is not None}


AS_IT_IS = Typing()


@overload
def open_typed(
    target: str, *, read_only: bool = True, raw: bool = False, typing: Typing = ...
) -> Map: ...
@overload
def open_typed(
    target: str,
    *,
    kind: type[MapClass],
    read_only: bool = True,
    raw: bool = False,
    typing: Typing = ...,
) -> MapClass: ...
def open_typed(
    target: str,
    *,
    kind: type[Any] = Map,
    read_only: bool = True,
    raw: bool = False,
    typing: Typing = AS_IT_IS,
) -> Any:
    """Open the map that *target* names with the formats of the command: names, addresses, times.

    With *raw* enumerations are decoded as numbers and texts as bytes. *typing* is the user's
    choice of types and formats. Errors as in `open_map`, and `BusyError` if the path is in a pin
    set whose migration does not end.
    """
    # A path may lead to a map that is being emptied by a migration; an id stands for one map.
    if not target.startswith((ID, NAME)):
        wait_for_fold(Path(target).absolute())
    reading: dict[str, Any] = {"raw": True} if raw else {"formats": AUTO}
    choices = typing.to_reading()
    try:
        return open_as(kind, target, read_only=read_only, **reading, **choices)
    except BpfError:
        # Before ValueError, which some of ours are too: their messages are about the map.
        raise
    except (struct.error, ValueError) as error:
        if not choices:
            raise
        raise UsageError(f"{', '.join(choices.values())}: {error}", hint=_FORMAT_HINT) from None


def whole(target: str, once: Callable[[], T]) -> T:
    """Return the result of *once*, which opens and reads *target*; not from amid a migration."""
    if target.startswith((ID, NAME)):
        return once()
    return read_whole(Path(target).absolute(), once)


def moment_of(target: str) -> Moment | None:
    """Return a moment from which on the map *target* is whole; None if it is not a path."""
    return None if target.startswith((ID, NAME)) else Moment(Path(target).absolute())


def open_kind(kind: type[Object], target: str) -> Object:
    """Open the map or program that *target* names, for writing; errors as in `open_map`.

    Both are named by path or `id:N`, maps also by `name:NAME`.
    """
    if issubclass(kind, BaseMap):
        return open_as(kind, target, read_only=False)
    if target.startswith(ID):
        return kind.from_id(_number(target))
    if not target.startswith("/") and not Path(target).exists():
        raise UsageError(f"{target!r} is not a {kind.kind}", hint="name it by its path, or id:N")
    return kind.from_pin(Path(target).absolute())


def _number(target: str) -> int:
    text = target.removeprefix(ID)
    # `map_id` is a __u32 (union bpf_attr in include/uapi/linux/bpf.h).
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise UsageError(f"{target!r} is not an id", hint="ids are numbers: bpfpin map list")
    return int(text)


def _id_of_name(name: str) -> int:
    # Names of maps need not be unique.
    infos = list(maps())
    ids = [info.id for info in infos if info.name == kernel_name(name)]
    if len(ids) == 1:
        return ids[0]
    if ids:
        listed = ", ".join(f"{ID}{map_id}" for map_id in ids)
        raise UsageError(f"{len(ids)} maps are named {name!r}: {listed}", hint=f"take {ID}{ids[0]}")
    near = similar(name, {info.name for info in infos})
    hint = f"near it: {', '.join(near)}" if near else "bpfpin map list"
    raise IdNotFoundError(f"no map is named {name!r}", hint=hint)


def require_entries(bpf_map: BaseMap) -> None:
    """Raise `UsageError`, with the command to use instead, for a map without keys."""
    if instead := INSTEAD.get(traits_of(bpf_map.type).family):
        raise UsageError(
            f"map {bpf_map.name!r} (id {bpf_map.id}) is a {type_name(bpf_map.type)}: it has no"
            " entries to look up by a key",
            hint=f"use {instead} instead",
        )


@contextmanager
def usage_errors(bpf_map: BaseMap) -> Iterator[None]:
    """Turn `ValueError` and `TypeError` of the library into `UsageError`.

    A codec raises them for a key or value that does not fit, a map for an operation that its type
    does not have.
    """
    try:
        yield
    except BpfError:
        # First, because several of ours are `ValueError` too, and have a message and hint already.
        raise
    except (ValueError, TypeError) as error:
        is_about_map = f"(id {bpf_map.id})" in str(error)
        message = str(error) if is_about_map else f"map {bpf_map.name!r}: {error}"
        hint = "" if is_about_map else f"bpfpin map show {ID}{bpf_map.id} shows the types"
        raise UsageError(message, hint=hint) from None
