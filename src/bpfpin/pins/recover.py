"""What a dead command left of a pin set is undone or finished, by its own marks.

* `NAME~stage` without `commit~`: undone. It is a generation that was never published, or an old
  one that was on its way out.
* `NAME~stage/commit~`: finished. The rename is all that is left to do.
* `NAME/commit~`: the rename was done; only the mark is left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum

from bpfpin.errors import PinExistsError, PinNotFoundError, UnsafePathError
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, remove_tree, require_safe, user_name
from bpfpin.pins.pinset import read_manifest
from bpfpin.syscall.fs import Rename


class Recovery(Enum):
    """What was done with a half-built set."""

    NOTHING = "nothing was left"
    UNDONE = "removed what a dead process left half-built"
    FINISHED = "finished what a dead process had begun"


def recover(root: Directory, name: str) -> Recovery:
    """Undo or finish what is half-done of set *name*; the lock must be held."""
    recovery = _recover_stage(root, name)
    if _is_marked(root, name):
        _require_own_set(root, name)
        _remove_mark(root, name)
        return Recovery.FINISHED
    return recovery


def finish(root: Directory, name: str) -> None:
    """Publish the committed stage of set *name* and remove the generation that it replaces."""
    stage = names.stage_name(name)
    try:
        root.rename(stage, name, Rename.NOREPLACE)
    except PinExistsError:
        _require_own_set(root, name)
        root.rename(stage, name, Rename.EXCHANGE)
    _remove_mark(root, name)
    with suppress(PinNotFoundError):
        remove_tree(root, stage)


def _recover_stage(root: Directory, name: str) -> Recovery:
    stage = names.stage_name(name)
    try:
        with root.child(stage) as directory:
            _require_own(directory)
            is_committed = directory.has(names.COMMIT)
    except PinNotFoundError:
        return Recovery.NOTHING
    if is_committed:
        finish(root, name)
        return Recovery.FINISHED
    remove_tree(root, stage)
    return Recovery.UNDONE


def _is_marked(root: Directory, name: str) -> bool:
    try:
        with root.child(name) as directory:
            return directory.has(names.COMMIT)
    except PinNotFoundError:
        return False


def _remove_mark(root: Directory, name: str) -> None:
    with root.child(name) as directory:
        directory.rmdir(names.COMMIT)


def _require_own(directory: Directory) -> None:
    require_safe(directory)
    owner = directory.status.st_uid
    if owner != os.geteuid():
        raise UnsafePathError(
            f"{directory.path} belongs to {user_name(owner)} and was left alone",
            path=str(directory.path),
            hint=f"run as that user, or remove it: ls -ld {directory.path}",
        )


def _require_own_set(root: Directory, name: str) -> None:
    with root.child(name) as directory:
        try:
            read_manifest(directory)
        except UnsafePathError as error:
            raise UnsafePathError(
                f"{directory.path} is not a pin set of ours and was left alone: {error.message}",
                path=str(directory.path),
                hint="choose another name: --name NAME",
            ) from None
