"""Several sets that change in one transaction: one mark decides for all of them.

The steps for one set are in module `transaction`; here is what differs for several. The reasons are
in docs/decisions/0016.

    step                                          a crash after it          the next command
    1  mkdir bpfpin~/targets~TOKEN/, with an      the record, maybe         removes the stages,
       empty directory for each set; then the     some stages               then the record
       stages, each with the symlink `targets~`
       whose text is TOKEN
    2  mkdir targets~TOKEN/commit~                the record has `commit~`  switches all hooks
       (the commit point of all sets)
    3  exchange and make the shared names, and    the same                  the same; if one
       switch the hooks, set by set                                         refuses: `abort~`
    4  rename commit~ to switched~ in the         the record has            marks the stages
       record: no way back from here              `switched~`
    5  in each stage: make `switched~` and        some stages decide        marks the others
       `commit~`, remove `targets~`               for themselves
    6  each set: steps 6 to 9 of a change         marks of one set          rolls each forward
    7  remove the record                          nothing

`abort~` in the record, in the place of `commit~`, rolls all sets back: each stage gets `abort~`.

The marks of a stage count only once its symlink `targets~` is gone: until then the record decides.
TOKEN is random, so that an old record or stage is never taken for one of a later change. Every step
can be repeated, by this command or by the next one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from bpfpin.errors import (
    BpfError,
    PermissionDeniedError,
    PinExistsError,
    PinKindError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.pins import names, recover
from bpfpin.pins.directory import Directory, remove_tree, require_safe
from bpfpin.pins.manifest import read_manifest
from bpfpin.pins.recover import Recovery, require_own, stage_manifest
from bpfpin.pins.switch import Reopen, switch
from bpfpin.syscall.fs import Rename

_TOKEN: Final = "[0-9a-f]{16}"
# The marks that a stage gets once the outcome is decided. `switched~` comes first: with `commit~`
# alone, recovery of that set could still roll back, while the others go on.
_MARKS: Final = {
    Recovery.UNDONE: (),
    Recovery.FINISHED: (names.SWITCHED, names.COMMIT),
    Recovery.TURNED_BACK: (names.ABORT,),
}


class Targets:
    """One change of the sets *sets* below *root*; the caller holds the lock all the time."""

    def __init__(self, root: Directory, sets: Sequence[str], token: str = "") -> None:
        self._root = root
        self.sets = tuple(sets)
        # 64 random bits: no token is made twice, so an old record cannot claim a new stage.
        self.token = token or os.urandom(8).hex()
        self._outcome: Recovery | None = None

    @classmethod
    def unfinished(cls, root: Directory) -> list[Targets]:
        """Return the changes below *root* that a killed command left."""
        changes = []
        with suppress(PinNotFoundError), root.child(names.LOCK_DIRECTORY) as parent:
            # A record decides over hooks, so nobody else may be able to write one.
            require_safe(parent)
            for entry in parent.names():
                if not re.fullmatch(names.TARGETS + _TOKEN, entry):
                    continue
                with parent.child(entry) as record:
                    sets = [name for name in record.names() if names.is_set_name(name)]
                changes.append(cls(root, sets, entry.removeprefix(names.TARGETS)))
        return changes

    def begin(self) -> None:
        """Create the record, before any stage."""
        with self._root.child(names.LOCK_DIRECTORY) as parent:
            require_safe(parent)
            with parent.make(self._record) as record:
                for name in self.sets:
                    record.mark(name)

    def commit(self) -> None:
        """Pass the commit point of all sets."""
        with self._open() as record:
            record.mark(names.COMMIT)

    def roll_forward(self, reopen: Reopen) -> None:
        """Do the steps after the commit point: switch all hooks, then publish set by set.

        If a hook refuses, the record gets `abort~` and the error is raised; then `recover` rolls
        all sets back.
        """
        with self._open() as record:
            self._switch(record, reopen)
        # Known from here on: `recover` does not switch the hooks again, nor read the record.
        self._outcome = Recovery.FINISHED
        self.recover(reopen)

    def recover(self, reopen: Reopen) -> Recovery:
        """Roll all sets back or forward, as the record says, and return which of the two.

        If sets cannot be recovered, the others are; then the first error is raised.
        """
        self.decide(reopen)
        for error in self.finish(reopen):
            raise error
        return self._outcome or Recovery.NOTHING

    def decide(self, reopen: Reopen) -> Recovery:
        """Decide the outcome from the record, and mark each stage accordingly."""
        if self._outcome is None:
            try:
                with self._open() as record:
                    self._outcome = self._decided(record, reopen)
            except PinNotFoundError:  # it never began
                return Recovery.NOTHING
        for name in self.sets:
            # All stages are marked before the first is finished: after a kill each of them, marked
            # or not yet, leads to the same outcome.
            _mark(self._root, name, self.token, self._outcome)
        return self._outcome

    def finish(self, reopen: Reopen) -> list[BpfError]:
        """Recover each set by its own marks; return the errors of those that cannot be."""
        errors: list[BpfError] = []
        for name in self.sets:
            if _token_of(self._root, name):  # a later change of several sets owns this stage
                continue
            try:
                recover.recover(self._root, name, reopen)
            except BpfError as error:
                errors.append(error)
        # Also after errors: those stages have marks of their own now, which the next command reads.
        self._remove_record()
        return errors

    def is_committed(self) -> bool:
        """Whether the commit point is passed, so that the next generations count."""
        with suppress(PinNotFoundError), self._open() as record:
            return record.has(names.COMMIT) or record.has(names.SWITCHED)
        return False

    def _remove_record(self) -> None:
        """Remove the record. Calling it again does nothing."""
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
        """Return the outcome, after switching all hooks if they may not be switched yet."""
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
        """Switch the hooks of all sets, and rename the mark of the record: one call decides."""
        try:
            for name in self.sets:
                with _own_stage(self._root, name) as stage:
                    switch(stage, stage_manifest(stage), reopen, root=self._root)
        except BpfError:
            record.rename(names.COMMIT, names.ABORT, Rename.NOREPLACE)
            raise
        record.rename(names.COMMIT, names.SWITCHED, Rename.NOREPLACE)


def recover_with_others(root: Directory, name: str, reopen: Reopen) -> Recovery:
    """Recover set *name*, and the sets that change together with it; the lock must be held.

    Changes of which no set is half-done any more are finished too: only their record is left. An
    error of another set is not raised: its stage is marked by then, and the next command that
    changes that set says why it cannot be recovered.
    """
    recovery = Recovery.NOTHING
    for change in Targets.unfinished(root):
        is_half_done = any(recover.is_half_done(root, member) for member in change.sets)
        if name in change.sets or not is_half_done:
            decision = change.decide(reopen)
            change.finish(reopen)
            recovery = decision if is_half_done else recovery
    if token := _token_of(root, name):
        _mark_without_record(root, name, token)
    alone = recover.recover(root, name, reopen)
    return recovery if alone is Recovery.NOTHING else alone


def remove_stale_records(root: Directory, reopen: Reopen) -> list[str]:
    """Remove the records of changes that are complete but for the record; return their names."""
    removed = []
    for change in Targets.unfinished(root):
        if not any(recover.is_half_done(root, member) for member in change.sets):
            change.finish(reopen)
            removed.append(names.TARGETS + change.token)
    return removed


def is_committed(root: Directory, stage: Directory) -> bool:
    """Whether the change in *stage* is committed, by its own mark or that of a common record."""
    if stage.has(names.COMMIT):
        return True
    token = _text(stage)
    return bool(token) and Targets(root, (), token).is_committed()


def sets_with(root: Directory, name: str) -> tuple[str, ...]:
    """Return the sets that change together with set *name*, including itself."""
    token = _token_of(root, name)
    changes = [change.sets for change in Targets.unfinished(root) if change.token == token]
    return changes[0] if changes else (name,)


def _mark(root: Directory, name: str, token: str, outcome: Recovery) -> None:
    """Give the stage of set *name* marks of its own, then remove its symlink to the record."""
    if _token_of(root, name) != token:  # it is marked already, or was removed
        return
    with _own_stage(root, name) as stage:
        for mark in _MARKS[outcome]:
            with suppress(PinExistsError):  # made before a crash
                stage.mark(mark)
        # Last: the marks count from here on.
        stage.unlink(names.TARGETS)


def _mark_without_record(root: Directory, name: str, token: str) -> None:
    """Mark a stage whose record somebody removed: it rolls back.

    Nobody knows any more whether its hooks were switched. Rolling back is right in both cases, for
    the hooks go back by compare-and-swap.
    """
    with _own_stage(root, name) as stage:
        try:
            read_manifest(stage)
        except UnsafePathError:  # without a manifest it was never committed: no hook was switched
            outcome = Recovery.UNDONE
        else:
            outcome = Recovery.TURNED_BACK
    _mark(root, name, token, outcome)


def _token_of(root: Directory, name: str) -> str:
    """Return the token in the stage of set *name*, "" if it has none."""
    with suppress(PinNotFoundError, UnsafePathError), _own_stage(root, name) as stage:
        return _text(stage)
    return ""


def _text(stage: Directory) -> str:
    """Return the token in *stage*; a text of another form is none, for it becomes a path."""
    # A reader may lack the permission. Any other failure is an error: without the token, a set that
    # changes together with others would be recovered alone.
    with suppress(PinNotFoundError, PinKindError, PermissionDeniedError):
        text = stage.read_text(names.TARGETS)
        return text if re.fullmatch(_TOKEN, text) else ""
    return ""


@contextmanager
def _own_stage(root: Directory, name: str) -> Iterator[Directory]:
    with root.child(names.stage_name(name)) as stage:
        require_own(stage)
        yield stage
