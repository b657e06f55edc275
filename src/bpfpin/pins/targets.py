"""Several sets that change in one transaction: one mark decides for all of them.

`bpfpin~/targets~TOKEN/` is the record of such a change. It has an empty directory for each set,
and the mark that decides. The stage of each set names the record by the symlink `targets~`, whose
text is the token. Tokens are random, so that no stage can be mistaken for one of a later change.

* No mark: nothing is decided, and every stage is undone.
* `commit~`: all sets change. The hooks of all are switched; one that refuses turns the outcome of
  all to the old generation (`abort~`).
* `switched~`: the hooks of all are switched, and there is no way back.
* `abort~`: the hooks of all run what they ran before.

Once it is decided, each stage gets the marks that say the same of this set alone, and loses the
symlink. Then every set is finished, or undone, like a set that changes alone, and the record goes
last. Each step may be repeated, by whoever comes next.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from bpfpin.errors import BpfError, PinExistsError, PinNotFoundError, UnsafePathError
from bpfpin.pins import names, recover
from bpfpin.pins.directory import Directory, remove_tree, require_safe
from bpfpin.pins.manifest import read_manifest
from bpfpin.pins.recover import Recovery, require_own
from bpfpin.pins.switch import Reopen, switch
from bpfpin.syscall.fs import Rename

_TOKEN: Final = re.compile(r"[0-9a-f]{16}")
_RECORD: Final = re.compile(re.escape(names.TARGETS) + _TOKEN.pattern)
# What a stage is told once the outcome is decided; the last mark is the one that counts.
_MARKS: Final = {
    Recovery.UNDONE: (),
    Recovery.FINISHED: (names.SWITCHED, names.COMMIT),
    Recovery.TURNED_BACK: (names.ABORT,),
}


class Targets:
    """One change of the sets *sets* below *root*; the lock must be held all the time."""

    def __init__(self, root: Directory, sets: Sequence[str], token: str = "") -> None:
        self._root = root
        self.sets = tuple(sets)
        self.token = token or secrets.token_hex(8)
        self._outcome: Recovery | None = None

    @classmethod
    def unfinished(cls, root: Directory) -> list[Targets]:
        """Return the changes that dead commands left below *root*."""
        found = []
        with suppress(PinNotFoundError), root.child(names.LOCK_DIRECTORY) as parent:
            require_safe(parent)
            for entry in parent.names():
                if not _RECORD.fullmatch(entry):
                    continue
                with parent.child(entry) as record:
                    sets = [name for name in record.names() if names.is_set_name(name)]
                found.append(cls(root, sets, entry.removeprefix(names.TARGETS)))
        return found

    def begin(self) -> None:
        """Write the record, before there is any stage."""
        with self._root.child(names.LOCK_DIRECTORY) as parent:
            require_safe(parent)
            with parent.make(self._record) as record:
                for name in self.sets:
                    record.mark(name)

    def commit(self) -> None:
        """Pass the point from which on the next generations of all sets are those that hold."""
        with self._open() as record:
            record.mark(names.COMMIT)

    def roll_forward(self, reopen: Reopen) -> None:
        """Do what follows the commit: switch all hooks, then publish set by set.

        The error of a hook is raised after the outcome of all was turned to the old generations;
        `recover` does the rest of that.
        """
        with self._open() as record:
            self._switch(record, reopen)
        self._outcome = Recovery.FINISHED
        self.recover(reopen)

    def recover(self, reopen: Reopen) -> Recovery:
        """Undo or finish all sets, as the record says; return what became of them.

        The first error is raised after all sets were tried.
        """
        self.decide(reopen)
        for error in self.finish(reopen):
            raise error
        return self._outcome or Recovery.NOTHING

    def decide(self, reopen: Reopen) -> Recovery:
        """Decide what becomes of the sets, and let each stage say it for itself."""
        if self._outcome is None:
            try:
                with self._open() as record:
                    self._outcome = self._decided(record, reopen)
            except PinNotFoundError:  # it never began
                return Recovery.NOTHING
        for name in self.sets:
            _mark(self._root, name, self.token, self._outcome)
        return self._outcome

    def finish(self, reopen: Reopen) -> list[BpfError]:
        """Undo or finish each set by its own marks; return the errors of those that refuse."""
        errors: list[BpfError] = []
        for name in self.sets:
            if _token_of(self._root, name):  # it is in another change by now
                continue
            try:
                recover.recover(self._root, name, reopen)
            except BpfError as error:
                errors.append(error)
        self._forget()  # of those that refuse the marks are left
        return errors

    def is_committed(self) -> bool:
        """Whether the next generations are those that hold."""
        with suppress(PinNotFoundError), self._open() as record:
            return record.has(names.COMMIT) or record.has(names.SWITCHED)
        return False

    def _forget(self) -> None:
        """Remove the record; again does nothing."""
        with suppress(PinNotFoundError), self._root.child(names.LOCK_DIRECTORY) as parent:
            remove_tree(parent, self._record)

    @property
    def _record(self) -> str:
        return names.TARGETS + self.token

    @contextmanager
    def _open(self) -> Iterator[Directory]:
        with (
            self._root.child(names.LOCK_DIRECTORY) as parent,
            parent.child(self._record) as record,
        ):
            yield record

    def _decided(self, record: Directory, reopen: Reopen) -> Recovery:
        if record.has(names.COMMIT):
            try:
                self._switch(record, reopen)
            except BpfError:
                if not record.has(names.ABORT):
                    raise
        if record.has(names.ABORT):
            return Recovery.TURNED_BACK
        return Recovery.FINISHED if record.has(names.SWITCHED) else Recovery.UNDONE

    def _switch(self, record: Directory, reopen: Reopen) -> None:
        try:
            for name in self.sets:
                with _own_stage(self._root, name) as stage:
                    switch(stage, read_manifest(stage), reopen, root=self._root)
        except BpfError:
            record.rename(names.COMMIT, names.ABORT, Rename.NOREPLACE)
            raise
        record.rename(names.COMMIT, names.SWITCHED, Rename.NOREPLACE)


def recover_with_others(root: Directory, name: str, reopen: Reopen) -> Recovery:
    """Undo or finish what is half-done of set *name*, and of the sets that change with it.

    The lock must be held. An error of another set is not raised: that set is marked by then, and
    the next command that changes it says why it cannot be finished.
    """
    recovery = Recovery.NOTHING
    for change in Targets.unfinished(root):
        is_half_done = any(recover.is_half_done(root, each) for each in change.sets)
        if name in change.sets or not is_half_done:
            decision = change.decide(reopen)
            change.finish(reopen)
            recovery = decision if is_half_done else recovery
    if token := _token_of(root, name):
        _mark_without_record(root, name, token)
    alone = recover.recover(root, name, reopen)
    return recovery if alone is Recovery.NOTHING else alone


def remove_stale_records(root: Directory, reopen: Reopen) -> list[str]:
    """Remove the records of changes of which nothing else is left; return their names."""
    removed = []
    for change in Targets.unfinished(root):
        if not any(recover.is_half_done(root, each) for each in change.sets):
            change.finish(reopen)
            removed.append(names.TARGETS + change.token)
    return removed


def is_committed(root: Directory, stage: Directory) -> bool:
    """Whether what is in *stage* holds, by its own mark or that of the sets it changes with."""
    if stage.has(names.COMMIT):
        return True
    token = _text(stage)
    return bool(token) and Targets(root, (), token).is_committed()


def sets_with(root: Directory, name: str) -> tuple[str, ...]:
    """Return the sets that change together with set *name*, itself among them."""
    token = _token_of(root, name)
    changes = [change.sets for change in Targets.unfinished(root) if change.token == token]
    return changes[0] if changes else (name,)


def _mark(root: Directory, name: str, token: str, outcome: Recovery) -> None:
    """Let the stage of set *name* say itself what becomes of it."""
    if _token_of(root, name) != token:  # it says so already, or there is none any more
        return
    with _own_stage(root, name) as stage:
        for mark in _MARKS[outcome]:
            with suppress(PinExistsError):
                stage.mark(mark)
        stage.unlink(names.TARGETS)


def _mark_without_record(root: Directory, name: str, token: str) -> None:
    """Mark a stage whose record somebody removed: its hooks go back, if they were switched."""
    with _own_stage(root, name) as stage:
        try:
            read_manifest(stage)
        except UnsafePathError:  # it was never finished, so no hook was switched
            outcome = Recovery.UNDONE
        else:
            outcome = Recovery.TURNED_BACK
    _mark(root, name, token, outcome)


def _token_of(root: Directory, name: str) -> str:
    """Return the token that the stage of set *name* has, "" without one."""
    with suppress(PinNotFoundError, UnsafePathError), _own_stage(root, name) as stage:
        return _text(stage)
    return ""


def _text(stage: Directory) -> str:
    with suppress(BpfError):
        text = stage.read_text(names.TARGETS)
        return text if _TOKEN.fullmatch(text) else ""
    return ""


@contextmanager
def _own_stage(root: Directory, name: str) -> Iterator[Directory]:
    with root.child(names.stage_name(name)) as stage:
        require_own(stage)
        yield stage
