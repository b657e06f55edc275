"""Shared names of maps (pins outside of the set), access to the maps, and their stored types.

**Shared names.** An object can ask to share a map with others under a name outside of the set
(libbpf's pinning by name, iproute2's directories). Module `transaction` shows when they change:

* A new shared name is made after the commit point, before the hooks are switched (step 4): `share`.
* If a shared name changes to another map, `shared~` of the stage keeps all that the exchange and
  its reversal need: `MAP` is a pin of the new map that is exchanged with the shared name in one
  renameat2(2), `MAP~old` pins the old map, and the text of the symlink `MAP~path` is the path of
  the name. `MAP~path` is made last: without it the exchange does not count. After the exchange,
  `MAP` is the old pin with its owner and mode, so that a roll-back restores exactly that pin.
* If a shared name is to be removed, the next generation has a symlink `MAP` in `unshared~`, whose
  text is the id of the map and the path of the name. The name is removed in step 8, if it still
  holds that map. After a crash, recovery does it.

All of this can be repeated. A name that holds another map than expected is never touched.

**Access.** `set_access` gives a group or others access to the pins of the maps.

**Types.** `layouts~` keeps the types of each map's key and value as BTF beside its pin, for readers
that cannot query BTF by id. The form is that of `objects.maps.layouts`.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import PinError, PinExistsError, PinNotFoundError
from bpfpin.objects.maps.layouts import NO_TYPES, decode_texts, encode, parts
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, EntryKind, remove_tree, require_safe
from bpfpin.pins.manifest import TEXT_SIZE_MAX, Access, OutsidePin
from bpfpin.pins.names import map_pin_name
from bpfpin.pins.ownership import GenerationEntry, ownership_of
from bpfpin.records import dataclass

_OLD: Final = "~old"
_PATH: Final = "~path"
CHUNK_SIZE: Final = TEXT_SIZE_MAX // 4 * 4  # each chunk is valid base64 by itself


def prepare_exchange(
    root: Directory, stage: Directory, pin: OutsidePin, *, old: Map, new: Map
) -> None:
    """Store in *stage* what the exchange of a shared name from map *old* to map *new* needs.

    The new pin gets group and mode of the old one. `PinNotFoundError` if the name is gone.
    """
    part, name = names.map_pin_name(pin.map), pin.below(root.path).name
    with suppress(PinExistsError):
        stage.mark(names.SHARED)
    with stage.child(names.SHARED) as shared, _parent(root, pin, makes=False) as parent:
        existing = parent.stat(name)
        new.pin(shared.pin_path(part))
        # The mode after the group: before, the bits for the group would serve the wrong group.
        if shared.stat(part).st_gid != existing.st_gid:
            shared.chown_group(part, existing.st_gid)
        shared.chmod(part, stat.S_IMODE(existing.st_mode))
        old.pin(shared.pin_path(f"{part}{_OLD}"))
        # Last: with the path the exchange is complete, and counts.
        shared.write_text(f"{part}{_PATH}", pin.path)


def exchange(root: Directory, stage: Directory) -> None:
    """Exchange the shared names that *stage* records to their new maps. Idempotent.

    `PinExistsError` if a name now holds neither the old map nor the new one.
    """
    for shared_name in _exchanges(root, stage):
        shared_name.forward()


def exchange_back(root: Directory, stage: Directory) -> None:
    """Undo `exchange`: the shared names hold their old maps again. Idempotent."""
    for shared_name in _exchanges(root, stage):
        shared_name.back()


def is_exchanged(stage: Path, name: Path) -> bool:
    """Whether the generation at *stage* exchanges the shared name *name* to another map.

    *name* is a path below the pin root. `OSError` if this user may not read the directory.
    """
    return any(
        entry.name.endswith(_PATH) and entry.readlink() == name
        for entry in (stage / names.SHARED).iterdir()
    )


@dataclass(frozen=True)
class _Exchange:
    """One shared name that changes to another map; *shared* is the open `shared~` of the stage."""

    root: Directory
    shared: Directory
    part: str
    pin: OutsidePin

    def forward(self) -> None:
        path, old, new = self.pin.below(self.root.path), self._old_id(), self._new_id()
        current = _map_id(path)
        if current in (None, new):  # if the name is gone, `share` makes it again
            return
        if current == old:
            self._exchange(self.part)
            # renameat2(2) has no expected value: check afterwards which pin came back, and undo the
            # exchange if somebody replaced the pin between the check and the exchange.
            if _map_id(self.shared.path / self.part) == old:
                return
            self._exchange(self.part)
        raise PinExistsError(
            f"{path} holds map id {_map_id(path)} now, made by somebody else meanwhile",
            path=str(path),
            hint="load again: the load then uses that map, if it fits",
        )

    def back(self) -> None:
        if _map_id(self.pin.below(self.root.path)) != self._new_id():
            return
        # The original pin, with its owner and mode, if it was exchanged; else the new pin of the
        # old map (the name was gone, and `share` made it for the new map).
        is_exchanged = _map_id(self.shared.path / self.part) == self._old_id()
        self._exchange(self.part if is_exchanged else f"{self.part}{_OLD}")

    def _exchange(self, part: str) -> None:
        with _parent(self.root, self.pin, makes=False) as parent:
            self.shared.exchange(part, parent, self.pin.below(self.root.path).name)

    def _old_id(self) -> int | None:
        return _map_id(self.shared.path / f"{self.part}{_OLD}")

    def _new_id(self) -> int | None:
        return _map_id(self.shared.path.parent / self.part)


def _exchanges(root: Directory, stage: Directory) -> Iterator[_Exchange]:
    with suppress(PinNotFoundError), stage.child(names.SHARED) as shared:
        for name in shared.names():
            if name.endswith(_PATH):
                part = name.removesuffix(_PATH)
                pin = OutsidePin(names.decode(part), shared.read_text(name))
                yield _Exchange(root, shared, part, pin)


def _map_id(path: Path) -> int | None:
    """Return the id of the map that is pinned at *path*, None if no map is."""
    # Read-only, for the pin may be one of others that this user may not write.
    with suppress(PinError), Map.from_pin(path, read_only=True) as bpf_map:
        return bpf_map.id
    return None


def share(root: Directory, owner: Directory, pin: OutsidePin) -> None:
    """Pin the map of the set in *owner* under its shared name too. Idempotent.

    `PinExistsError` if that name now holds another map: programs would use two maps where the
    object asks for one.
    """
    source, path = owner.path / names.map_pin_name(pin.map), pin.below(root.path)
    with Map.from_pin(source) as bpf_map:
        # BPF_OBJ_PIN never replaces a name (EEXIST), so the name is claimed in one call.
        with suppress(PinExistsError), _parent(root, pin, makes=True) as parent:
            bpf_map.pin(parent.pin_path(path.name))
            return
        with Map.from_pin(path) as pinned:
            if pinned.id == bpf_map.id:
                return
            raise PinExistsError(
                f"{path} holds map id {pinned.id} now, made by somebody else meanwhile",
                path=str(path),
                hint="load again: the load then uses that map, if it fits",
            )


def holds(root: Path, pin: OutsidePin, map_id: int) -> bool:
    """Whether the shared name holds map *map_id*; False if it is gone or holds another object.

    Other errors are raised, because they leave the question open.
    """
    return _map_id(pin.below(root)) == map_id


def unshare(root: Directory, pin: OutsidePin, map_id: int) -> bool:
    """Remove the shared name if it still holds map *map_id*; return whether it was removed."""
    if not holds(root.path, pin, map_id):
        return False
    with suppress(PinNotFoundError), _parent(root, pin, makes=False) as parent:
        # unlinkat(2) has no expected object, so a pin that replaced ours right after the check goes
        # too. Exchanging the name away first would leave readers without it.
        parent.unlink(pin.below(root.path).name)
        return True
    return False


def record_unshare(stage: Directory, pin: OutsidePin, map_id: int) -> None:
    """Record in *stage* that the shared name of map *map_id* is removed in step 8."""
    with suppress(PinExistsError):
        stage.mark(names.UNSHARED)
    with stage.child(names.UNSHARED) as unshared:
        unshared.write_text(names.map_pin_name(pin.map), f"{map_id} {pin.path}")


def unshare_recorded(root: Directory, directory: Directory) -> None:
    """Remove the shared names that a published generation records for that. Idempotent."""
    try:
        unshared = directory.child(names.UNSHARED)
    except PinNotFoundError:
        return
    with unshared:
        for part in unshared.names():
            map_id, _, path = unshared.read_text(part).partition(" ")
            unshare(root, OutsidePin(names.decode(part), path), int(map_id))
    remove_tree(directory, names.UNSHARED)


@contextmanager
def _parent(root: Directory, pin: OutsidePin, *, makes: bool) -> Iterator[Directory]:
    """Open the directory of the shared name; only this user and root may write any on the way."""
    directory = root
    with ExitStack() as opened:
        # Component by component: the path comes from an object file or a manifest, and a symlink or
        # a directory of another user on the way would lead elsewhere.
        for part in pin.path.split("/")[:-1]:
            if makes:
                with suppress(PinExistsError):
                    directory.mark(part)
            directory = opened.enter_context(directory.child(part))
            require_safe(directory)
        yield directory


def set_access(directory: Directory, access: Access) -> None:
    """Set group and mode of the maps in *directory*, and of the directories that readers need.

    Pins that already match, and pins of others, are left alone.
    """
    owner = ownership_of(directory)
    for name, kind in directory.kinds().items():
        if kind is EntryKind.PIN and owner.owns(directory, GenerationEntry("", name, kind)):
            set_map_access(directory, name, access)
    # After the pins: a user that can list the directory can then open the maps in it.
    directory.set_access(access.gid, access.directory_mode)
    for folder in (names.LAYOUTS, names.OBJECTS):
        with suppress(PinNotFoundError), directory.child(folder) as below:
            below.set_access(access.gid, access.directory_mode)


def set_map_access(directory: Directory, pin: str, access: Access) -> None:
    """Set group and mode of one pin."""
    status = directory.stat(pin)
    if access.gid is not None and status.st_gid != access.gid:
        directory.chown_group(pin, access.gid)
    if stat.S_IMODE(status.st_mode) != access.mode:
        directory.chmod(pin, access.mode)


def write_types(
    directory: Directory, name: str, *, key: TypeRef | None, value: TypeRef | None
) -> int:
    """Store the types of map *name* in *directory*; return the number of symlinks, 0 without types.

    A symlink in bpffs takes 4,095 bytes of text at most, so that longer types need several.
    """
    text = base64.b64encode(encode(key, value)).decode()
    chunks = [text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE)]
    for part, chunk in zip(parts(map_pin_name(name)), chunks, strict=False):
        directory.write_text(part, chunk)
    return len(chunks)


def link_types(directory: Directory, live: Directory, name: str) -> int:
    """Link the stored types of map *name* from *live* to *directory*; return how many symlinks.

    Types of which somebody removed a part are not linked: 0.
    """
    if read_types(live, name) == NO_TYPES:
        return 0
    linked = 0
    for part in parts(map_pin_name(name)):
        try:
            directory.link_from(live, part)
        except PinNotFoundError:
            break
        linked += 1
    return linked


def read_types(directory: Directory, name: str) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the stored types of key and value of map *name*; None if missing or damaged."""
    texts: list[str] = []
    for part in parts(map_pin_name(name)):
        if not directory.has(part):
            break
        texts.append(directory.read_text(part))
    return decode_texts(texts)
