"""The next generation of a pin set: built aside, then published by one rename.

A set changes in six steps, and every command that finds them half-done does the same with them:
build `NAME~stage`, `mkdir NAME~stage/commit~` (the commit point), switch the hooks, fold old maps
into new ones, exchange the names, clean. Before the commit point everything is undone, after it
everything is finished: by us, or by `recover` in the next command of a dead process's set.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import NotSupportedError, PinExistsError, PinNotFoundError
from bpfpin.objects.kernel.object import identity
from bpfpin.objects.maps.layouts import NO_TYPES
from bpfpin.objects.maps.map import Map
from bpfpin.pins import folds, names, shared
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Access, Manifest, OutsidePin
from bpfpin.pins.ownership import UNLOADED_MODE, foreign_entries, link_foreign, record_object
from bpfpin.pins.recover import Recovery, recover, remove_generation, roll_forward
from bpfpin.pins.shared import set_access
from bpfpin.pins.switch import Reopen
from bpfpin.pins.targets import Targets
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.syscall.fs import Rename
from bpfpin.syscall.signals import signals_deferred

if TYPE_CHECKING:
    from bpfpin.migration.fold import FoldPrograms

_RESERVED: Final = 12


class Pinnable(Protocol):
    """What can be pinned: a map, a program, a link."""

    @property
    def id(self) -> int:
        """The id of the object."""

    def pin(self, path: str | Path) -> None:
        """Give it the name *path* in bpffs."""


class _Reserve(Closing):
    """Descriptors that are held for crash recovery.

    A change that fails because there are none left can still be undone then. It fails before it
    begins if there are not even these.
    """

    def __init__(self, root: Directory) -> None:
        with ExitStack() as opened:
            try:
                for _ in range(_RESERVED):
                    opened.enter_context(Descriptor(os.dup(root.fileno())))
            except OSError as error:
                raise syscall_error("dup", error.errno or 0, target=str(root.path)) from None
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let them go; again does nothing."""
        self._opened.close()


class Stage(Closing):
    """A generation that is being built; nothing in it is seen before it is published."""

    def __init__(self, root: Directory, name: str, *, targets: str = "") -> None:
        """Make the stage of set *name*; *targets* is the token of a change of several sets."""
        self._root = root
        with ExitStack() as stack:
            self._directory = stack.enter_context(root.make(names.stage_name(name)))
            if targets:
                self._directory.write_text(names.TARGETS, targets)
            for folder in (names.OBJECTS, names.PROGRAMS, names.LINKS, names.LAYOUTS):
                self._directory.mark(folder)
            _require_exchange(self._directory)
            self._programs = stack.enter_context(self._directory.child(names.PROGRAMS))
            self._links = stack.enter_context(self._directory.child(names.LINKS))
            self._layouts = stack.enter_context(self._directory.child(names.LAYOUTS))
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Close the directories; what is in them stays."""
        self._opened.close()

    def pin_map(
        self, name: str, held: Pinnable, *, key: TypeRef | None = None, value: TypeRef | None = None
    ) -> None:
        """Pin a map under its whole name, and keep its types beside it."""
        pin = names.map_pin_name(name)
        record_object(self._directory, "", pin, held.id)
        held.pin(self._directory.pin_path(pin))
        self._write_types(name, shared.write_types(self._layouts, name, key=key, value=value))

    def keep_map(
        self,
        name: str,
        live: Directory,
        held: Pinnable | None = None,
        *,
        key: TypeRef | None = None,
        value: TypeRef | None = None,
    ) -> None:
        """Give a map of the live generation to this one too, and the types as they are now.

        *held* is the map, which is pinned anew where its pin was removed or replaced by hand; None:
        what is pinned there. *key* and *value* are those of the new object, which may know more
        names for the values of an enumeration; where it has none, those that are kept stay.
        """
        pin = names.map_pin_name(name)
        self._keep("", live, pin, held)
        before = NO_TYPES
        with suppress(PinNotFoundError), live.child(names.LAYOUTS) as kept:
            if value is None and (parts := shared.link_types(self._layouts, kept, name)):
                self._write_types(name, parts)
                return
            before = shared.read_types(kept, name) if key is None else NO_TYPES
        parts = shared.write_types(self._layouts, name, key=key or before[0], value=value)
        self._write_types(name, parts)

    def _write_types(self, name: str, parts: int) -> None:
        """Write down that the types of map *name* are stored in so many symlinks."""
        if parts:
            record_object(self._directory, names.LAYOUTS, names.map_pin_name(name), parts)

    def pin_program(self, name: str, held: Pinnable) -> None:
        """Pin a program."""
        pin = names.program_pin_name(name)
        record_object(self._directory, names.PROGRAMS, pin, held.id)
        held.pin(self._programs.pin_path(pin))

    def pin_link(self, name: str, held: Pinnable) -> None:
        """Pin a link under the name that `names.link_pin_name` gave; from here on it is kept."""
        record_object(self._directory, names.LINKS, name, held.id)
        held.pin(self._links.pin_path(name))

    def keep_link(
        self, name: str, live: Directory, held: Pinnable | None = None, *, new_name: str = ""
    ) -> None:
        """Give a link of the live generation to this one too, under *new_name* if it has one.

        *held* is the link, which is pinned anew where its pin was removed or replaced by hand.
        """
        with suppress(PinNotFoundError), live.child(names.LINKS) as kept:
            self._keep(names.LINKS, kept, name, held, as_name=new_name)
            return
        if held is not None:
            self.pin_link(new_name or name, held)

    def _keep(
        self, folder: str, source: Directory, name: str, held: Pinnable | None, *, as_name: str = ""
    ) -> None:
        """Link the pin *name* of *source* as *as_name*, or pin *held* if it is no pin of that."""
        new_name, there = as_name or name, _id_at(source, name)
        target = self._links if folder else self._directory
        if held is not None and held.id != there:
            record_object(self._directory, folder, new_name, held.id)
            held.pin(target.pin_path(new_name))
            return
        if there is not None:
            record_object(self._directory, folder, new_name, there)
        target.link_from(source, name, new_name)

    def pin_previous(self, link: str, program: Pinnable) -> None:
        """Say which program the hook of *link* runs until it is switched."""
        with suppress(PinExistsError):
            self._directory.mark(names.PREVIOUS)
        record_object(self._directory, names.PREVIOUS, link, program.id)
        with self._directory.child(names.PREVIOUS) as previous:
            program.pin(previous.pin_path(link))

    def pin_folding(self, name: str, folding: FoldPrograms) -> None:
        """Keep what moves the contents of an old map into map *name*, which is done on publishing.

        A map may have several.
        """
        with suppress(PinExistsError):
            self._directory.mark(names.FOLDS)
        folds.pin(self._directory, names.map_pin_name(name), folding)

    def keep_foldings(self, name: str, live: Directory) -> None:
        """Give the foldings of the live generation that found no room to this one too."""
        folds.keep(self._directory, live, names.map_pin_name(name))

    def exchange_shared(self, pin: OutsidePin, *, old: Map, new: Map) -> None:
        """Let the shared name *pin*, which holds *old*, hold *new* when the hooks are switched."""
        shared.prepare_exchange(self._root, self._directory, pin, old=old, new=new)

    def unshare(self, pin: OutsidePin, map_id: int) -> None:
        """Let the shared name *pin* of map *map_id* go once this generation holds."""
        shared.record_unshare(self._directory, pin, map_id)

    def set_access(self, access: Access) -> None:
        """Let those open the maps, before they are seen, who are to; for maps pinned until now."""
        set_access(self._directory, access)

    def write_manifest(self, manifest: Manifest) -> None:
        """Store the manifest; the last thing before the commit. What cannot be read back is not."""
        text = manifest.to_text()
        Manifest.parse(text)
        self._directory.write_text(names.MANIFEST, text)

    def link_foreign(self, live: Directory) -> None:
        """Give the names that others have in the live generation to this one too."""
        link_foreign(live, self._directory)

    def commit(self) -> None:
        """Pass the point from which on the next generation is the one that holds."""
        self._directory.mark(names.COMMIT)


@contextmanager
def next_generation(root: Directory, name: str, reopen: Reopen) -> Iterator[Stage]:
    """Build set *name*'s next generation in the block and publish it at its end.

    The lock must be held and `recover` done. Any exception, Ctrl-C and SIGTERM (if it raises)
    included, leaves the old state when it comes before the commit. After it the new state holds,
    and a step that failed is done again; but a hook that cannot be switched, for somebody else
    changed it or its device is gone, brings the old state back and is raised.
    """
    reserve = _Reserve(root)
    try:
        with Stage(root, name) as stage:
            yield stage
            with signals_deferred():
                _keep_foreign(root, name, stage)
                stage.commit()
                roll_forward(root, name, reopen)
    except BaseException as error:
        reserve.close()
        with signals_deferred():
            recovery = recover(root, name, reopen)
        if recovery is not Recovery.FINISHED or not isinstance(error, Exception):
            raise
    finally:
        reserve.close()


@contextmanager
def next_generations(
    root: Directory, set_names: Sequence[str], reopen: Reopen
) -> Iterator[list[Stage]]:
    """Do what `next_generation` does for several sets, of which all change or none does.

    The commit is one mark for all of them; a hook that cannot be switched brings the old state of
    all sets back.
    """
    if len(set_names) == 1:
        with next_generation(root, set_names[0], reopen) as stage:
            yield [stage]
        return
    change = Targets(root, set_names)
    reserve = _Reserve(root)
    try:
        with ExitStack() as opened:
            change.begin()
            stages = [
                opened.enter_context(Stage(root, name, targets=change.token)) for name in set_names
            ]
            yield stages
            with signals_deferred():
                for name, stage in zip(set_names, stages, strict=True):
                    _keep_foreign(root, name, stage)
                change.commit()
                change.roll_forward(reopen)
    except BaseException as error:
        reserve.close()
        with signals_deferred():
            recovery = change.recover(reopen)
        if recovery is not Recovery.FINISHED or not isinstance(error, Exception):
            raise
    finally:
        reserve.close()


def remove(
    root: Directory, name: str, reopen: Reopen, unshared: Mapping[OutsidePin, int] | None = None
) -> None:
    """Remove set *name*, its links first: one rename takes it away, what follows is cleaning.

    The shared names *unshared* go with it, if they hold the maps of these ids. If others pinned
    something in its directory, one that has nothing but that takes its place.
    """
    stage = names.stage_name(name)
    is_begun = False
    reserve = _Reserve(root)
    try:
        with signals_deferred():
            is_left = _leave(root, name, unshared or {})
            flags = Rename.EXCHANGE if is_left else Rename.NOREPLACE
            root.rename(name, stage, flags)
            is_begun = True
            remove_generation(root, stage, reopen)
    except BaseException as error:
        reserve.close()
        with signals_deferred():
            recover(root, name, reopen)
        if not is_begun or not isinstance(error, Exception):
            raise
    finally:
        reserve.close()


def _keep_foreign(root: Directory, name: str, stage: Stage) -> None:
    with suppress(PinNotFoundError), root.child(name) as live:
        stage.link_foreign(live)


def _leave(root: Directory, name: str, unshared: Mapping[OutsidePin, int]) -> bool:
    """Make the stage that takes the place of set *name* when it is removed; False if none need.

    It has nothing in it but what others pinned, and which shared names go.
    """
    with root.child(name) as live:
        if not unshared and not foreign_entries(live):
            return False
        stage, mode = names.stage_name(name), stat.S_IMODE(live.status.st_mode)
        root.mark(stage, mode | UNLOADED_MODE)
        with root.child(stage) as left:
            link_foreign(live, left)
            for pin, map_id in unshared.items():
                shared.record_unshare(left, pin, map_id)
    return True


def _id_at(directory: Directory, pin: str) -> int | None:
    with suppress(PinNotFoundError):
        # No symlink may be followed, and no directory can be opened.
        is_pin = stat.S_ISREG(directory.stat(pin).st_mode)
        there = identity(directory.pin_path(pin)) if is_pin else None
        return there[1] if there else None
    return None


def _require_exchange(stage: Directory) -> None:
    """Ask the kernel, with two empty directories, whether bpffs can exchange names."""
    try:
        stage.rename(names.PROGRAMS, names.LINKS, Rename.EXCHANGE)
    except NotSupportedError as error:
        error.message = (
            "this kernel cannot exchange names in bpffs, so a reload would not be atomic"
        )
        error.hint = "bpfpin needs Linux 5.16 or later"
        raise
