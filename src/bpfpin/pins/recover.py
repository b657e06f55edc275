"""Crash recovery of one pin set: rolls an interrupted change back or forward, from its markers.

The docstring of module `transaction` shows the steps of a change and the marks that they leave.
The next command that changes the set finds one of these, under the lock, and does:

* `NAME~stage` without a mark: removes it. It is a generation that was never published, or an old
  one that was being removed. Both end in the same way, and only the first is a roll-back.
* `NAME~stage/commit~`: rolls forward, by the code that the killed command would have run: switches
  the hooks, folds old maps into new ones, exchanges the names, removes the marks. If a hook
  refuses, the change rolls back instead. Two marks exclude that: `folding~` (the hooks are switched
  and some counts are moved) and `switched~` (module `targets` switched the hooks of several sets).
* `NAME~stage/abort~`: rolls back: the hooks run their previous programs again, the shared names
  hold their previous maps, and the stage is removed.
* `NAME/commit~`: the names were exchanged: removes the marks.

Each step can be repeated, so recovery may be killed as well. Pins of others in a directory that is
removed go to the directory that stays.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from pathlib import Path

from bpfpin.errors import AttachError, BpfError, PinNotFoundError, UnsafePathError
from bpfpin.hints import shell_line
from bpfpin.hooks import has_table
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds, names, shared
from bpfpin.pins.directory import Directory, remove_tree, require_safe, user_name
from bpfpin.pins.manifest import HookRecord, Manifest, read_manifest
from bpfpin.pins.ownership import (
    ObjectIds,
    is_unloaded,
    remove_own,
    remove_previous,
    return_foreign,
)
from bpfpin.pins.pinset import pin_sets
from bpfpin.pins.shared import set_access
from bpfpin.pins.switch import Reopen, switch, switch_back
from bpfpin.pins.trial import BEFORE, CONFIRM, read_trial
from bpfpin.syscall.fs import Rename


class Recovery(Enum):
    """The outcome of a recovery; the value is a note for the user."""

    NOTHING = "no change was interrupted"
    UNDONE = "rolled back a change that a killed command had not completed"
    REMOVED = "removed what a killed command had left over"
    FINISHED = "completed a change that a killed command had begun"
    TURNED_BACK = "went back to the previous set: a hook refused the change of a killed command"


def is_half_done(root: Directory, name: str) -> bool:
    """Whether `recover` has anything to do for set *name*; the lock must be held."""
    return root.has(names.stage_name(name)) or _is_marked(root, name)


def recover(root: Directory, name: str, reopen: Reopen) -> Recovery:
    """Roll an interrupted change of set *name* back or forward; the lock must be held."""
    # The stage first: with `NAME/commit~` it is the old generation. As long as the mark is there,
    # the next command knows that cleaning is left.
    recovery = _recover_stage(root, name, reopen)
    if not _is_marked(root, name):
        return recovery
    with root.child(name) as directory:
        _settle(root, directory, _own_manifest(directory))
    return Recovery.FINISHED


def check_stage(root: Directory, name: str) -> bool:
    """Whether set *name* has a stage; `UnsafePathError` if it cannot be recovered.

    It belongs to somebody else, or has the mark of a change without the manifest of one.
    """
    with suppress(PinNotFoundError), root.child(names.stage_name(name)) as stage:
        require_own(stage)
        if stage.has(names.COMMIT) or stage.has(names.ABORT):
            stage_manifest(stage)
        return True
    return False


def stage_manifest(stage: Directory) -> Manifest:
    """Return the manifest of a stage that is rolled back or forward.

    Without one bpfpin did not make the stage: a change writes it before the first mark, and
    recovery removes it after the last. `UnsafePathError` says so, and what to do.
    """
    try:
        return read_manifest(stage)
    except UnsafePathError as error:
        raise UnsafePathError(
            f"{stage.path} is not a stage of ours and was left alone: {error.message}",
            path=str(stage.path),
            hint=advice_on_foreign(stage.path),
        ) from None


def advice_on_foreign(path: Path) -> str:
    """Return what to do about a stage in the directory *path* that is not ours to recover."""
    look, remove = shell_line("ls -la", path), shell_line("rm -r", path)
    return f"find out who made it: {look}; if nobody needs it: {remove}"


def is_left_over(root: Directory, name: str) -> bool:
    """Whether the stage of set *name*, which has no mark, is the rest of a removal.

    Else it is the beginning of a change. Whether a stage that is nearly empty is one or the other
    cannot be known; both are removed.
    """
    with suppress(PinNotFoundError), root.child(names.stage_name(name)) as stage:
        try:
            generation = read_manifest(stage).generation
        except UnsafePathError:
            # A change makes the folders first and the manifest last; a removal takes the folders
            # first.
            return not stage.has(names.PROGRAMS)
        with suppress(PinNotFoundError, UnsafePathError), root.child(name) as live:
            return generation <= read_manifest(live).generation
        return not stage.has(names.LINKS)
    return False


def roll_forward(root: Directory, name: str, reopen: Reopen) -> None:
    """Do the steps after the commit point: switch, fold, publish, clean (4 to 9).

    If a hook refuses, `commit~` becomes `abort~` and the error is raised; `recover` does the rest.
    """
    stage = names.stage_name(name)
    with root.child(stage) as directory:
        manifest = stage_manifest(directory)
        # With either mark the hooks are switched already. Switching again would find a hook that
        # somebody changed since, and would roll back although counts were moved.
        if not (directory.has(names.FOLDING) or directory.has(names.SWITCHED)):
            try:
                switch(directory, manifest, reopen, root=root)
            except BpfError:
                # One rename changes the outcome: there is no moment with both marks, or with none.
                directory.rename(names.COMMIT, names.ABORT, Rename.NOREPLACE)
                raise
        # After the last step that can be undone, and before readers see the new maps.
        if directory.has(names.FOLDS):
            folds.fold_all(directory)
        _publish(root, name)
        # The descriptor still refers to the directory, whose name is now NAME.
        _settle(root, directory, manifest)
    try:
        with suppress(PinNotFoundError):
            remove_generation(root, stage, reopen)
    except BpfError:  # the next generation is published: only cleaning failed, so try it once more
        recover(root, name, reopen)


def remove_generation(root: Directory, name: str, reopen: Reopen) -> None:
    """Remove the generation in the directory *name*, which is that of a stage.

    Hooks are detached first: the kernel detaches a link when its last pin goes; a hook without a
    link is detached here if it still runs the program that is pinned in this generation (after a
    reload it runs the program of the next one). All hooks stay if the set is on trial and may go
    back to this generation: `detach_generation` comes when the trial is over. Pins of others move
    to the directory of the set.
    The directory that an unload left in the place of the set goes once its shared names are
    removed, unless it contains pins of others.
    """
    set_name = name.removesuffix(names.STAGE_SUFFIX)
    if _is_unloaded(root, set_name):
        # First: once the stage is gone, no command would come back to remove these names.
        with root.child(set_name) as remainder:
            shared.unshare_recorded(root, remainder)
    with root.child(name) as directory:
        if not _may_go_back(root, set_name, directory):
            detach_generation(directory, reopen)
        remove_own(directory)
    # What the reload could not link before the commit, or others pinned since.
    return_foreign(root, name, set_name)
    if _is_unloaded(root, set_name, and_empty=True):
        root.rmdir(set_name)
    root.rmdir(name)


def _is_unloaded(root: Directory, name: str, *, and_empty: bool = False) -> bool:
    with suppress(PinNotFoundError, UnsafePathError), root.child(name) as directory:
        return is_unloaded(directory) and not (and_empty and directory.names())
    return False


def _recover_stage(root: Directory, name: str, reopen: Reopen) -> Recovery:
    stage = names.stage_name(name)
    try:
        with root.child(stage) as directory:
            require_own(directory)
            is_committed, is_aborted = directory.has(names.COMMIT), directory.has(names.ABORT)
    except PinNotFoundError:
        return Recovery.NOTHING
    if is_committed:
        try:
            roll_forward(root, name, reopen)
        except BpfError:
            if not _is_aborted(root, stage):
                raise
            is_aborted = True  # a hook refused, and `roll_forward` renamed the mark
        else:
            return Recovery.FINISHED
    if is_aborted:
        _roll_back(root, name, reopen)
        with root.child(stage) as directory:
            # The hooks are back. The mark goes before `previous~` and `shared~`: with the mark but
            # without these, the next recovery could not roll back.
            directory.rmdir(names.ABORT)
    # Asked before the removal, which takes what tells the two apart.
    is_rest = not is_aborted and is_left_over(root, name)
    remove_generation(root, stage, reopen)
    if is_aborted:
        return Recovery.TURNED_BACK
    return Recovery.REMOVED if is_rest else Recovery.UNDONE


def _is_aborted(root: Directory, stage: str) -> bool:
    with suppress(PinNotFoundError), root.child(stage) as directory:
        return directory.has(names.ABORT)
    return False


def _roll_back(root: Directory, name: str, reopen: Reopen) -> None:
    """Undo steps 4 and 5: the hooks, then the shared names.

    A shared name that the stage made is removed unless a live set has it in its manifest.
    """
    with root.child(names.stage_name(name)) as stage:
        manifest = stage_manifest(stage)
        # In the reverse order of `switch`: first the hooks, then the names.
        switch_back(stage, manifest, reopen)
        shared.exchange_back(root, stage)
        lasting = _shared_names(root) if manifest.outside else set()
        for pin in manifest.outside:
            if pin.path not in lasting:
                with Map.from_pin(stage.path / names.map_pin_name(pin.map)) as bpf_map:
                    shared.unshare(root, pin, bpf_map.id)


def _shared_names(root: Directory) -> set[str]:
    """Return the shared names that the sets below *root* have in their manifests."""
    return {pin.path for pin_set in pin_sets(root.path) for pin in pin_set.outside}


def _publish(root: Directory, name: str) -> None:
    """Give the stage the name of the set, in one renameat2(2): readers see the old or the new set.

    A first load has no set to exchange with; NOREPLACE refuses a directory made meanwhile.
    """
    stage = names.stage_name(name)
    if not root.has(name):
        root.rename(stage, name, Rename.NOREPLACE)
        return
    with root.child(name) as directory:
        if not is_unloaded(directory):
            _own_manifest(directory)  # a directory that is not ours is never moved away
    # One system call: no moment without a set, unlike rename(2) onto a directory with entries,
    # which is refused (ENOTEMPTY).
    root.rename(stage, name, Rename.EXCHANGE)


def _settle(root: Directory, directory: Directory, manifest: Manifest) -> None:
    """Set the access to the maps, and remove the marks of the transaction (step 8)."""
    if manifest.access is not None:
        # Not before the exchange: the pin of a kept map is a hard link, one inode with one mode in
        # both generations, so a roll-back could not tell which mode it had.
        set_access(directory, manifest.access)
    shared.unshare_recorded(root, directory)
    remove_previous(directory)
    with suppress(PinNotFoundError):
        remove_tree(directory, names.SHARED)
    for mark in (names.FOLDING, names.SWITCHED):
        with suppress(PinNotFoundError):
            directory.rmdir(mark)
    # Last: as long as it is there, the next command does all of this again.
    directory.rmdir(names.COMMIT)


def _is_marked(root: Directory, name: str) -> bool:
    if not root.has(name):
        return False
    with suppress(PinNotFoundError), root.child(name) as directory:
        return directory.has(names.COMMIT)
    return False


def _may_go_back(root: Directory, set_name: str, directory: Directory) -> bool:
    """Whether the set is on trial and keeps the generation in *directory* to go back to."""
    with suppress(PinNotFoundError, UnsafePathError), root.child(set_name) as live:
        if read_trial(live) is None:
            return False
        with live.child(CONFIRM) as room, room.child(BEFORE) as before:
            return read_manifest(before).generation == read_manifest(directory).generation
    return False


def detach_generation(directory: Directory, reopen: Reopen) -> None:
    """Detach the programs of this generation from the hooks that no link holds.

    A hook that runs another program, such as that of the next generation, is left alone.
    """
    try:
        manifest = read_manifest(directory)
    except UnsafePathError:  # without a manifest no hook was attached by other means than a link
        return
    objects = ObjectIds.read(directory)
    for record in manifest.hooks:
        if record.held_by.has_link or not directory.has(names.PROGRAMS):
            continue
        with suppress(PinNotFoundError, AttachError):  # the device is gone, and the program with it
            ours = own_program_id(directory, record, objects)
            hook = reopen(manifest.place, record)
            try:
                running = hook.program_id()
                # Program id 0: the filter is gone (removed by hand, or by a recovery that was
                # killed), but the clsact qdisc that this tool made for it is still there.
                if running == ours or (running == 0 and record.made_qdisc):
                    hook.detach()
            finally:
                hook.close()


def own_program_id(directory: Directory, record: HookRecord, objects: ObjectIds | None) -> int:
    """Return the id of the set's program at a hook, also if its pin was removed or replaced."""
    if has_table(record.hook):
        pin = names.map_pin_name(record.target)
        with Map.from_pin(directory.path / pin) as table:
            return objects.maps.get(pin, table.id) if objects else table.id
    pin = names.program_pin_name(record.program)
    # The record comes first: behind a replaced pin is a program of others, which may not be
    # detached.
    if objects is not None and pin in objects.programs:
        return objects.programs[pin]
    with Program.from_pin(directory.path / names.PROGRAMS / pin) as program:
        return program.id


def require_own(directory: Directory) -> None:
    """Raise `UnsafePathError` unless *directory* is this user's and nobody else can change it."""
    require_safe(directory)
    owner = directory.status.st_uid
    if owner != os.geteuid():
        raise UnsafePathError(
            f"{directory.path} belongs to {user_name(owner)} and was left alone",
            path=str(directory.path),
            hint=f"run as that user, or remove it: {shell_line('ls -ld', directory.path)}",
        )


def _own_manifest(directory: Directory) -> Manifest:
    try:
        return read_manifest(directory)
    except UnsafePathError as error:
        raise UnsafePathError(
            f"{directory.path} is not a pin set of ours and was left alone: {error.message}",
            path=str(directory.path),
            hint=f"find out who made it: {shell_line('ls -la', directory.path)}",
        ) from None
