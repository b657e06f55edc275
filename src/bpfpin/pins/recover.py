"""What a dead command left of a pin set is undone or finished, by its own marks.

* `NAME~stage` without a mark: undone. It is a generation that was never published, or an old one
  that was on its way out.
* `NAME~stage/commit~`: finished, as the command itself would have done: the hooks are switched, old
  maps folded into new ones and the names exchanged. A hook that refuses for good turns the outcome
  to the old generation; not with `NAME~stage/folding~`: then hooks are switched and counts moved,
  nor with `NAME~stage/switched~`: then the hooks of several sets were switched together, which
  `targets` does.
* `NAME~stage/abort~`: the hooks run what they ran before, and the stage is undone.
* `NAME/commit~`: the names were exchanged; only cleaning is left.

What others pinned in a directory that goes is given back to the one that stays.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum

from bpfpin.errors import (
    Argument,
    AttachError,
    BpfError,
    Fix,
    PinNotFoundError,
    Placeholder,
    UnsafePathError,
)
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds, names, shared
from bpfpin.pins.directory import Directory, remove_tree, require_safe, user_name
from bpfpin.pins.manifest import HeldBy, HookRecord, Manifest, read_manifest
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
from bpfpin.syscall.fs import Rename


class Recovery(Enum):
    """What was done with a half-built set."""

    NOTHING = "nothing was left"
    UNDONE = "removed what a dead process left half-built"
    FINISHED = "finished what a dead process had begun"
    TURNED_BACK = "went back to what was loaded before a dead process began"


def is_half_done(root: Directory, name: str) -> bool:
    """Whether a dead command left anything of set *name* for `recover`; the lock must be held."""
    return root.has(names.stage_name(name)) or _is_marked(root, name)


def recover(root: Directory, name: str, reopen: Reopen) -> Recovery:
    """Undo or finish what is half-done of set *name*; the lock must be held."""
    recovery = _recover_stage(root, name, reopen)
    if not _is_marked(root, name):
        return recovery
    with root.child(name) as directory:
        _settle(root, directory, _own_manifest(directory))
    return Recovery.FINISHED


def check_stage(root: Directory, name: str) -> bool:
    """Whether set *name* is half-built; `UnsafePathError` if its stage is somebody else's."""
    with suppress(PinNotFoundError), root.child(names.stage_name(name)) as stage:
        require_own(stage)
        return True
    return False


def roll_forward(root: Directory, name: str, reopen: Reopen) -> None:
    """Do what follows the commit mark: switch hooks, publish the stage, remove what it replaces.

    An error of a hook is raised after the outcome was turned to the old generation by the mark
    `abort~`; `recover` does the rest of that.
    """
    stage = names.stage_name(name)
    with root.child(stage) as directory:
        manifest = read_manifest(directory)
        # From either mark on nothing goes back.
        if not (directory.has(names.FOLDING) or directory.has(names.SWITCHED)):
            try:
                switch(directory, manifest, reopen, root=root)
            except BpfError:
                directory.rename(names.COMMIT, names.ABORT, Rename.NOREPLACE)
                raise
        folds.fold_all(directory)
        _publish(root, name)
        _settle(root, directory, manifest)  # the same directory, under its new name
    try:
        with suppress(PinNotFoundError):
            remove_generation(root, stage, reopen)
    except BpfError:  # the next generation holds: only cleaning is left, and that is done again
        recover(root, name, reopen)


def remove_generation(root: Directory, name: str, reopen: Reopen) -> None:
    """Remove the directory *name* with all pins; hooks that only its programs run are left first.

    Links are left by unpinning. A hook without one is detached if it still runs the program that
    is pinned here: after a reload it runs the next one. *name* is that of a stage; what others
    pinned there goes to the set's directory. What an unload put there instead of the set goes once
    its shared names are gone, unless others pinned something in it.
    """
    set_name = name.removesuffix(names.STAGE_SUFFIX)
    if _is_unloaded(root, set_name):
        with root.child(set_name) as left:
            shared.unshare_recorded(root, left)
    with root.child(name) as directory:
        _detach(directory, reopen)
        remove_own(directory)
    return_foreign(root, name, set_name)
    if _is_unloaded(root, set_name, and_empty=True):
        root.rmdir(set_name)
    root.rmdir(name)


def _is_unloaded(root: Directory, name: str, *, and_empty: bool = False) -> bool:
    with suppress(PinNotFoundError, UnsafePathError), root.child(name) as left:
        return is_unloaded(left) and not (and_empty and left.names())
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
            if not _has_turned(root, stage):
                raise
            is_aborted = True
        else:
            return Recovery.FINISHED
    if is_aborted:
        _turn_back(root, name, reopen)
        with root.child(stage) as directory:
            # Before the parts that going back needs: from here on it is a stage like any other.
            directory.rmdir(names.ABORT)
    remove_generation(root, stage, reopen)
    return Recovery.TURNED_BACK if is_aborted else Recovery.UNDONE


def _has_turned(root: Directory, stage: str) -> bool:
    with suppress(PinNotFoundError), root.child(stage) as directory:
        return directory.has(names.ABORT)
    return False


def _turn_back(root: Directory, name: str, reopen: Reopen) -> None:
    """Let the hooks run what they ran, and take shared names back that no live set has."""
    with root.child(names.stage_name(name)) as stage:
        manifest = read_manifest(stage)
        switch_back(stage, manifest, reopen)
        shared.exchange_back(root, stage)
        lasting = _shared_names(root) if manifest.outside else set()
        for pin in manifest.outside:
            if pin.path not in lasting:
                with Map.from_pin(stage.path / names.map_pin_name(pin.map)) as held:
                    shared.unshare(root, pin, held.id)


def _shared_names(root: Directory) -> set[str]:
    """Return the shared names that the sets below *root* remember."""
    return {pin.path for pin_set in pin_sets(root.path) for pin in pin_set.outside}


def _publish(root: Directory, name: str) -> None:
    stage = names.stage_name(name)
    if not root.has(name):
        root.rename(stage, name, Rename.NOREPLACE)
        return
    with root.child(name) as directory:
        if not is_unloaded(directory):
            _own_manifest(directory)
    root.rename(stage, name, Rename.EXCHANGE)


def _settle(root: Directory, directory: Directory, manifest: Manifest) -> None:
    """Let those read the maps who are to, and take the marks of the transaction away."""
    if manifest.access is not None:
        set_access(directory, manifest.access)
    shared.unshare_recorded(root, directory)
    remove_previous(directory)
    with suppress(PinNotFoundError):
        remove_tree(directory, names.SHARED)
    for mark in (names.FOLDING, names.SWITCHED):
        with suppress(PinNotFoundError):
            directory.rmdir(mark)
    directory.rmdir(names.COMMIT)


def _is_marked(root: Directory, name: str) -> bool:
    if not root.has(name):
        return False
    with suppress(PinNotFoundError), root.child(name) as directory:
        return directory.has(names.COMMIT)
    return False


def _detach(directory: Directory, reopen: Reopen) -> None:
    """Leave the hooks that no link holds, as far as they run the programs pinned here."""
    try:
        manifest = read_manifest(directory)
    except UnsafePathError:  # half-built: nothing runs its programs yet
        return
    objects = ObjectIds.read(directory)
    for record in manifest.hooks:
        if record.held_by is HeldBy.LINK or not directory.has(names.PROGRAMS):
            continue
        with suppress(PinNotFoundError, AttachError):  # the device is gone, the program with it
            ours = _program_id(directory, record, objects)
            hook = reopen(manifest.place, record)
            try:
                running = hook.program_id()
                # A qdisc that was made is left without its filter by who removed it, or by a kill.
                if running == ours or (running == 0 and record.made_qdisc):
                    hook.detach()
            finally:
                hook.close()


def _program_id(directory: Directory, record: HookRecord, objects: ObjectIds | None) -> int:
    """Return the id of the set's program, also if its pin was removed or replaced by hand."""
    pin = names.program_pin_name(record.program)
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
            hint=f"run as that user, or remove it: ls -ld {directory.path}",
        )


def _own_manifest(directory: Directory) -> Manifest:
    try:
        return read_manifest(directory)
    except UnsafePathError as error:
        raise UnsafePathError(
            f"{directory.path} is not a pin set of ours and was left alone: {error.message}",
            path=str(directory.path),
            hint=Fix.of("choose another name: ", Argument("name", Placeholder("NAME"))),
        ) from None
