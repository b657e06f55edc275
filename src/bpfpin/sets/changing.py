"""The start of every change of a set: lock, recover, settle a trial, read the live state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked_root
from bpfpin.pins.recover import Recovery
from bpfpin.pins.trial import TrialPlace
from bpfpin.records import dataclass
from bpfpin.sets.live import LiveState, read_live, recovered
from bpfpin.sets.trial import settle


@dataclass(frozen=True)
class SetChange:
    """A set that is about to be changed; the lock of its pin root is held until the change ends.

    *live* is the loaded set. *recovery* is the outcome of an interrupted change, and *notes* report
    that and a trial that went back.
    """

    root: Directory
    name: str
    live: LiveState
    recovery: Recovery
    notes: tuple[str, ...]


@contextmanager
def changing(pin_root: Path, name: str, *, lock_timeout_s: float) -> Iterator[SetChange]:
    """Prepare set *name* for a change in the block.

    Raises what `locked_root` and `begin_changes` do.
    """
    # The lock is held over the whole block: the live state that is read here stays true until the
    # change is published or undone.
    with locked_root(pin_root, timeout_s=lock_timeout_s) as root:
        (change,) = begin_changes(root, [name])
        yield change


def begin_changes(root: Directory, set_names: Sequence[str]) -> list[SetChange]:
    """Settle each of the sets, then read each of them; the lock must be held.

    All are settled before the first is read: recovery of one set of a change of several recovers
    the others, too. Raises `BusyError` for a set with a trial that can still be confirmed, and
    `UnsafePathError` for a directory that is not a set of ours.
    """
    # A list and not a generator: the sets must not be read before the last of them is settled.
    settled = [_settled(root, name) for name in set_names]
    return [
        SetChange(root, name, read_live(root.path, name), recovery, notes)
        for name, (recovery, notes) in zip(set_names, settled, strict=True)
    ]


def settled_place(root: Directory, place: TrialPlace) -> tuple[str, ...]:
    """Put back a trial at *place* that is overdue, and recover the set, if it is one of a set.

    Returns notes on both. The lock must be held.
    """
    return _settled(root, place.set)[1] if place.set else settle(root, place)


def _settled(root: Directory, name: str) -> tuple[Recovery, tuple[str, ...]]:
    """Recover set *name* and put back its trial if it is overdue; return the recovery, and notes.

    After recovery, for the record of a trial is part of the generation that recovery leaves.
    """
    recovery = recovered(root, name)
    notes: tuple[str, ...] = () if recovery is Recovery.NOTHING else (recovery.value,)
    return recovery, notes + settle(root, TrialPlace(root.path, name))
