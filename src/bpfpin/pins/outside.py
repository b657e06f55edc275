"""Pins outside of the set: the names under which an object asks its maps to be shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bpfpin.errors import BpfError, PinExistsError, PinNotFoundError
from bpfpin.objects.map import Map
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, require_safe
from bpfpin.pins.manifest import OutsidePin


def share(root: Directory, owner: Directory, pin: OutsidePin) -> None:
    """Give the map of the set in *owner* its shared name as well; again does nothing.

    `PinExistsError` if that name holds another map by now: two maps would be used where one was
    meant.
    """
    source, path = owner.path / names.map_pin_name(pin.map), pin.below(root.path)
    with Map.from_pin(source) as held:
        with suppress(PinExistsError), _parent(root, pin, makes=True) as parent:
            held.pin(parent.pin_path(path.name))
            return
        with Map.from_pin(path) as there:
            if there.id == held.id:
                return
            raise PinExistsError(
                f"{path} holds map id {there.id} by now, made by somebody else meanwhile",
                path=str(path),
                hint="load again: that map is used then, if it fits",
            )


def holds(root: Path, pin: OutsidePin, map_id: int) -> bool:
    """Whether the shared name holds just that map."""
    try:
        with Map.from_pin(pin.below(root), read_only=True) as there:
            return there.id == map_id
    except BpfError:  # gone, or something else
        return False


def unshare(root: Directory, pin: OutsidePin, map_id: int) -> bool:
    """Remove the shared name if it still holds map *map_id*; say whether it was removed."""
    if not holds(root.path, pin, map_id):
        return False
    with suppress(PinNotFoundError), _parent(root, pin, makes=False) as parent:
        parent.unlink(pin.below(root.path).name)
        return True
    return False


@contextmanager
def _parent(root: Directory, pin: OutsidePin, *, makes: bool) -> Iterator[Directory]:
    """Open the directory that the shared name is in, below directories that only we may change."""
    directory = root
    with ExitStack() as opened:
        for part in pin.path.split("/")[:-1]:
            if makes:
                with suppress(PinExistsError):
                    directory.mark(part)
            directory = opened.enter_context(directory.child(part))
            require_safe(directory)
        yield directory
