"""The transaction that replaces a pin set: built beside the live set, published by one rename.

The live set is the directory `NAME` below the pin root. Its next generation is built in the
directory `NAME~stage`. The caller holds the lock of the pin root (flock(2) on `bpfpin~`) from
before crash recovery until the end. Marker directories and symlinks in the two directories say how
far a change came, because bpffs stores nothing else (docs/decisions/0003).

    step                                  a crash after it leaves        the next command
    1  mkdir NAME~stage, its folders,     NAME~stage without a mark      rolls back: removes
       pins in it, `manifest~`                                           the stage
    2  link the pins of others into it    the same                       rolls back
    3  mkdir NAME~stage/commit~           NAME~stage/commit~             rolls forward: does
       (the commit point)                                                steps 4 to 9
    4  exchange and make shared names     the same                       rolls forward
    5  switch the hooks                   the same                       rolls forward, or back if
                                                                         a hook refuses
    6  mkdir NAME~stage/folding~, fold    NAME~stage/folding~ too        rolls forward only
       old maps into new ones
    7  exchange NAME and NAME~stage       NAME/commit~, and the old      removes the old generation,
       (the publication)                  generation in NAME~stage       does step 8
    8  set access, remove shared names,   the old generation in          removes it
       `previous~`, other marks, and      NAME~stage, without a mark
       last NAME/commit~
    9  remove NAME~stage (the old one)    nothing

The order follows from which steps can be undone. Everything before step 3 is invisible to readers
and is undone by removing the stage. New links are attached in step 1, and the kernel detaches them
when their pins in the stage go. A new filter of classic tc has no pin: it is created after the
manifest that records it (docs/decisions/0012). Step 4 comes before step 5 so that the new programs
never run without the shared names of their maps. Steps 4 and 5 are compare-and-swap and can be
undone. Step 6 cannot: counts that were moved cannot be distinguished from new ones, so it comes
after the last step that may fail for good. Step 7 comes after it so that a reader finds either the
old maps, or the new ones complete. Step 9 is last because the old generation holds the references
to maps and programs.

If a hook refuses in step 5 (somebody else replaced its program, or its device is gone), `commit~`
is renamed to `abort~`: the hooks and the shared names go back, `abort~` is removed, and then the
stage. A crash in between leaves NAME~stage/abort~, and the next command does the rest.

Several sets change together if one mark decides for all of them (module `targets`). Steps 4 to 9
are in `recover.roll_forward`, so that this command and the next one run the same code.

An unload has one step: `remove` renames NAME to NAME~stage, which then is a stage without a mark.

What the markers and folders in a generation mean:

* `objects~`: which objects this tool pinned here, written before each pin (module `ownership`).
* `previous~`: the programs that the hooks run until step 5 (module `switch`).
* `folds~`: old maps and the programs that move their contents (module `folds`).
* `shared~`, `unshared~`: shared names to exchange, and to remove (module `shared`).
* `targets~`, `switched~`: the set changes together with others (module `targets`).
* `confirm~`: the change is on trial (module `trial`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import BpfError, NotSupportedError, PinExistsError, PinNotFoundError
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
from bpfpin.syscall.errno_table import OLDEST_LINUX, syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.syscall.fs import Rename, probe_names
from bpfpin.syscall.signals import signals_deferred

if TYPE_CHECKING:
    from bpfpin.migration.fold import FoldPrograms

# For the directories, the link and the programs that a roll-back has open at the same time.
_RESERVED: Final = 12


class Pinnable(Protocol):
    """An object that can be pinned: a map, a program or a link."""

    @property
    def id(self) -> int:
        """The id of the object."""

    def pin(self, path: str | Path) -> None:
        """Pin the object at *path* in a bpffs."""


class _Reserve(Closing):
    """File descriptors reserved for the roll-back.

    If a change fails because the process has no descriptor left (EMFILE), closing these makes room
    to undo it. If they cannot be reserved, the change fails before it begins.
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
        """Close the descriptors. Calling it again does nothing."""
        self._opened.close()


class Stage(Closing):
    """A generation that is being built; readers do not see it before it is published."""

    def __init__(self, root: Directory, name: str, *, targets: str = "") -> None:
        """Create the stage of set *name*; *targets* is the token of a change of several sets."""
        self._root = root
        with ExitStack() as stack:
            self._directory = stack.enter_context(root.make(names.stage_name(name)))
            # First, so that no stage of several is ever without the token: recovery would take it
            # for the stage of a set that changes alone, and remove it after their common commit.
            if targets:
                self._directory.write_text(names.TARGETS, targets)
            for folder in (names.OBJECTS, names.PROGRAMS, names.LINKS, names.LAYOUTS):
                self._directory.mark(folder)
            _exchange(self._directory, names.PROGRAMS, names.LINKS)
            self._programs = stack.enter_context(self._directory.child(names.PROGRAMS))
            self._links = stack.enter_context(self._directory.child(names.LINKS))
            self._layouts = stack.enter_context(self._directory.child(names.LAYOUTS))
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Close the directories; their entries stay."""
        self._opened.close()

    def pin_map(
        self,
        name: str,
        bpf_map: Pinnable,
        *,
        key: TypeRef | None = None,
        value: TypeRef | None = None,
    ) -> None:
        """Pin a map under its full name, and store the types of its key and value in `layouts~`."""
        pin = names.map_pin_name(name)
        # Recorded first, here and below: after a crash between the two, the record names an object
        # without a pin, which is harmless. A pin without a record would count as somebody else's,
        # and would never be removed.
        record_object(self._directory, "", pin, bpf_map.id)
        bpf_map.pin(self._directory.pin_path(pin))
        self._write_types(name, shared.write_types(self._layouts, name, key=key, value=value))

    def keep_map(
        self,
        name: str,
        live: Directory,
        bpf_map: Pinnable | None = None,
        *,
        key: TypeRef | None = None,
        value: TypeRef | None = None,
    ) -> None:
        """Keep a map of the live generation: link its pin into this one, and store its types.

        Args:
            name: The full name of the map.
            live: The directory of the live generation.
            bpf_map: The map, which is pinned again if somebody removed or replaced its pin; None:
                the map that is pinned there.
            key: The type of the key in the new object; None: the stored one is kept.
            value: The same of the value. The new object may know more enumerators than the old one.
        """
        pin = names.map_pin_name(name)
        self._keep("", live, pin, bpf_map)
        old_types = NO_TYPES
        with suppress(PinNotFoundError), live.child(names.LAYOUTS) as live_layouts:
            if value is None and (symlinks := shared.link_types(self._layouts, live_layouts, name)):
                self._write_types(name, symlinks)
                return
            old_types = shared.read_types(live_layouts, name) if key is None else NO_TYPES
        symlinks = shared.write_types(self._layouts, name, key=key or old_types[0], value=value)
        self._write_types(name, symlinks)

    def _write_types(self, name: str, symlinks: int) -> None:
        """Record that the types of map *name* are stored in so many symlinks."""
        if symlinks:
            record_object(self._directory, names.LAYOUTS, names.map_pin_name(name), symlinks)

    def pin_program(self, name: str, program: Pinnable) -> None:
        """Pin a program in `programs~`."""
        pin = names.program_pin_name(name)
        record_object(self._directory, names.PROGRAMS, pin, program.id)
        program.pin(self._programs.pin_path(pin))

    def pin_link(self, name: str, link: Pinnable) -> None:
        """Pin a link in `links~` as *name*, which comes from `names.link_pin_name`.

        From here on the link outlives the process: the pin keeps the program attached.
        """
        record_object(self._directory, names.LINKS, name, link.id)
        link.pin(self._links.pin_path(name))

    def keep_link(
        self, name: str, live: Directory, link: Pinnable | None = None, *, new_name: str = ""
    ) -> None:
        """Keep a link of the live generation: link its pin into this one.

        Args:
            name: The name of the pin in `links~` of the live generation.
            live: The directory of the live generation.
            link: The link, which is pinned again if somebody removed or replaced its pin.
            new_name: The name of the pin in this generation, if it is another one.
        """
        with suppress(PinNotFoundError), live.child(names.LINKS) as live_links:
            self._keep(names.LINKS, live_links, name, link, as_name=new_name)
            return
        if link is not None:
            self.pin_link(new_name or name, link)

    def pin_slot(self, name: str, slot: Map) -> None:
        """Pin the array of the stub that the link *name* runs, in `slots~`.

        Without a pin the kernel would empty it when this process ends
        (bpf_fd_array_map_clear() of kernel/bpf/arraymap.c). The map of a gate is pinned there, too,
        under the name of its program; the names of links have a `~`, so the two never meet.
        """
        with suppress(PinExistsError):
            self._directory.mark(names.SLOTS)
        record_object(self._directory, names.SLOTS, name, slot.id)
        with self._directory.child(names.SLOTS) as slots:
            slot.pin(slots.pin_path(name))

    def _keep(
        self,
        folder: str,
        source: Directory,
        name: str,
        pinnable: Pinnable | None,
        *,
        as_name: str = "",
    ) -> None:
        """Link the pin *name* of *source* as *as_name*, or pin *pinnable* if it is not pinned so.

        A hard link (link(2)) keeps owner, group and mode of the pin, which a new pin would not.
        """
        new_name, pinned_id = as_name or name, _id_at(source, name)
        target = self._links if folder else self._directory
        # The live pin was removed or replaced by hand: a hard link would keep the wrong object.
        if pinnable is not None and pinnable.id != pinned_id:
            record_object(self._directory, folder, new_name, pinnable.id)
            pinnable.pin(target.pin_path(new_name))
            return
        if pinned_id is not None:
            record_object(self._directory, folder, new_name, pinned_id)
        target.link_from(source, name, new_name)

    def pin_previous(self, link: str, program: Pinnable) -> None:
        """Pin the program that the hook of *link* runs until it is switched, in `previous~`.

        The switch expects this program at the hook, and a roll-back attaches it again.
        """
        with suppress(PinExistsError):
            self._directory.mark(names.PREVIOUS)
        record_object(self._directory, names.PREVIOUS, link, program.id)
        with self._directory.child(names.PREVIOUS) as previous:
            program.pin(previous.pin_path(link))

    def pin_folding(self, name: str, folding: FoldPrograms) -> None:
        """Pin an old map and the programs that move its contents into map *name*, in `folds~`.

        They run after the switch of the hooks (step 6). A map may have several folds: those of an
        earlier migration that found no room come over as well.
        """
        with suppress(PinExistsError):
            self._directory.mark(names.FOLDS)
        folds.pin(self._directory, names.map_pin_name(name), folding)

    def keep_foldings(self, name: str, live: Directory) -> None:
        """Keep the folds of the live generation that found no room in map *name*."""
        folds.keep(self._directory, live, names.map_pin_name(name))

    def exchange_shared(self, pin: OutsidePin, *, old: Map, new: Map) -> None:
        """Prepare that the shared name *pin* changes from map *old* to map *new* in step 4."""
        shared.prepare_exchange(self._root, self._directory, pin, old=old, new=new)

    def unshare(self, pin: OutsidePin, map_id: int) -> None:
        """Record that the shared name *pin* of map *map_id* is removed in step 8."""
        shared.record_unshare(self._directory, pin, map_id)

    def set_access(self, access: Access) -> None:
        """Set group and mode of the maps that are pinned so far, before readers see them."""
        set_access(self._directory, access)

    def write_manifest(self, manifest: Manifest) -> None:
        """Store the manifest, as the last entry before the commit.

        A manifest that cannot be parsed again is not written: `ValueError`.
        """
        text = manifest.to_text()
        # A set with a manifest that does not parse is foreign: nobody could unload it.
        Manifest.parse(text)
        self._directory.write_text(names.MANIFEST, text)

    def link_foreign(self, live: Directory) -> None:
        """Link the pins of others in the live generation into this one (step 2)."""
        link_foreign(live, self._directory)

    def commit(self) -> None:
        """Pass the commit point (step 3): from here on the change is completed."""
        # mkdir(2) either creates the name or does not: one system call decides.
        self._directory.mark(names.COMMIT)


@contextmanager
def next_generation(root: Directory, name: str, reopen: Reopen) -> Iterator[Stage]:
    """Build the next generation of set *name* in the block, and publish it at the end.

    The caller holds the lock and has run `recover`. An exception before the commit (Ctrl-C, and
    SIGTERM if it raises, included) rolls back and is raised. After the commit, a step that failed
    is done once more, and if that succeeds, nothing is raised. A hook that cannot be switched,
    because somebody else changed it or its device is gone, rolls back and is raised.
    """
    reserve = _Reserve(root)
    with ExitStack() as deferred:
        try:
            with Stage(root, name) as stage:
                yield stage
                # From the commit to the end of the recovery there is nothing to interrupt: Ctrl-C
                # would lead to the same steps again, and SIGHUP ends the process.
                deferred.enter_context(signals_deferred())
                _link_foreign(root, name, stage)
                stage.commit()
                roll_forward(root, name, reopen)
        except BaseException as error:  # Ctrl-C too
            reserve.close()
            with signals_deferred():
                # The code that the next command would run after a kill at this moment.
                recovery = recover(root, name, reopen)
            # FINISHED: the requested state holds, so the command succeeded. Ctrl-C is raised
            # anyway.
            if recovery is not Recovery.FINISHED or not isinstance(error, Exception):
                raise
        finally:
            reserve.close()


@contextmanager
def next_generations(
    root: Directory, set_names: Sequence[str], reopen: Reopen
) -> Iterator[list[Stage]]:
    """Build and publish the next generations of several sets, all of them or none.

    One mark is the commit point of all (module `targets`). A hook that cannot be switched rolls all
    sets back. One set alone is changed as `next_generation` does it, with the same system calls.
    """
    if len(set_names) == 1:
        with next_generation(root, set_names[0], reopen) as stage:
            yield [stage]
        return
    change = Targets(root, set_names)
    reserve = _Reserve(root)
    with ExitStack() as deferred:
        try:
            with ExitStack() as opened:
                change.begin()
                stages = [
                    opened.enter_context(Stage(root, name, targets=change.token))
                    for name in set_names
                ]
                yield stages
                deferred.enter_context(signals_deferred())
                for name, stage in zip(set_names, stages, strict=True):
                    _link_foreign(root, name, stage)
                change.commit()
                change.roll_forward(reopen)
        except BaseException as error:
            reserve.close()  # first: the roll-back needs the descriptors
            with signals_deferred():
                # The same code that the next command would run after a kill at this moment.
                recovery = change.recover(reopen)
            if recovery is not Recovery.FINISHED or not isinstance(error, Exception):
                raise
        finally:
            reserve.close()


def remove(
    root: Directory, name: str, reopen: Reopen, unshared: Mapping[OutsidePin, int] | None = None
) -> None:
    """Remove set *name*: one rename takes it away, and the rest is cleaning, its links first.

    If others pinned something in the directory of the set, or shared names are to be removed, the
    set is exchanged with a directory that contains just that.

    Args:
        root: The pin root, whose lock the caller holds.
        name: The directory of the set.
        reopen: Opens a hook that no link holds.
        unshared: The shared names to remove, each with the id of the map that it must hold.
    """
    stage = names.stage_name(name)
    is_begun = False  # after the rename the set is gone, and a failure is only one of cleaning
    reserve = _Reserve(root)
    with signals_deferred():
        try:
            # A kill before the rename leaves a stage without a mark, which recovery removes.
            has_remainder = _make_remainder(root, name, unshared or {})
            flags = Rename.EXCHANGE if has_remainder else Rename.NOREPLACE
            root.rename(name, stage, flags)
            is_begun = True
            remove_generation(root, stage, reopen)
        except BaseException as error:
            reserve.close()
            recover(root, name, reopen)
            if not is_begun or not isinstance(error, Exception):
                raise
        finally:
            reserve.close()


def _link_foreign(root: Directory, name: str, stage: Stage) -> None:
    with suppress(PinNotFoundError), root.child(name) as live:
        stage.link_foreign(live)


def _make_remainder(root: Directory, name: str, unshared: Mapping[OutsidePin, int]) -> bool:
    """Create the directory that replaces set *name* on its removal; False if none is needed.

    It contains the pins of others, and which shared names are to be removed. Its sticky bit tells
    it from a stage and from a set (`ownership.UNLOADED_MODE`).
    """
    with root.child(name) as live:
        if not unshared and not foreign_entries(live):
            return False
        stage = names.stage_name(name)
        root.mark_like(stage, live, extra=UNLOADED_MODE)
        with root.child(stage) as remainder:
            link_foreign(live, remainder)
            for pin, map_id in unshared.items():
                shared.record_unshare(remainder, pin, map_id)
    return True


def _id_at(directory: Directory, pin: str) -> int | None:
    """Return the id of the object that is pinned as *pin*, None if none is."""
    with suppress(PinNotFoundError):
        # BPF_OBJ_GET follows symlinks (bpf_obj_do_get() of kernel/bpf/inode.c looks up with
        # LOOKUP_FOLLOW), and refuses a directory (EACCES): only a regular file is opened.
        is_pin = stat.S_ISREG(directory.stat(pin).st_mode)
        pinned = identity(directory.pin_path(pin)) if is_pin else None
        return pinned[1] if pinned else None
    return None


def require_exchange(root: Directory) -> None:
    """Raise `NotSupportedError` if the bpffs of *root* cannot exchange names.

    It makes two directories in *root* and removes them. Where it may not, nothing is known.
    """
    probes = probe_names()
    with signals_deferred(), ExitStack() as undo:
        try:
            for name in probes:
                root.mark(name)
                undo.callback(root.rmdir, name)
        except BpfError:  # the bpffs is read-only, for example
            return
        _exchange(root, *probes)


def _exchange(directory: Directory, name: str, other: str) -> None:
    """Exchange two empty directories, to find out whether the kernel can.

    bpffs renames by simple_rename() of fs/libfs.c, which takes RENAME_EXCHANGE since Linux 5.16 and
    answers EINVAL before. Trying it here refuses such a kernel before anything is attached.
    """
    try:
        directory.rename(name, other, Rename.EXCHANGE)
    except NotSupportedError as error:
        error.message = (
            "this kernel cannot exchange names in bpffs (Linux 5.16 can), so a reload would not be"
            " atomic"
        )
        error.hint = f"bpfpin needs Linux {OLDEST_LINUX} or later"
        raise
