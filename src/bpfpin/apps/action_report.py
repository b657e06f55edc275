"""What is told of the verdict of a program: the kernel's words, and what they mean there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from bpfpin.apps.action_map import Subject, is_signed
from bpfpin.objects.map import Map
from bpfpin.uapi import XdpAction

_NOT_SET: Final = "not set"
_VERDICTS: Final = frozenset(map(int, XdpAction))


class ActionResult(Enum):
    """What became of the verdict."""

    SHOWN = "shown"
    SWITCHED = "switched"
    UNCHANGED = "unchanged"
    ON_TRIAL = "on-trial"


@dataclass(frozen=True, slots=True)
class ActionReport:
    """The verdict of a program; *set* is empty for a program that is not ours.

    *action* and *before* are the kernel's words, a number that is no verdict, or None where the map
    has no entry. *confirm_s* are the seconds in which a verdict on trial is to be confirmed.
    """

    set: str
    device: str
    map_name: str
    map_id: int
    action: str | None
    note: str = ""
    result: ActionResult = ActionResult.SHOWN
    before: str | None = None
    confirm_s: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown = {
            "set": self.set or None,
            "device": self.device or None,
            "map": {"name": self.map_name, "id": self.map_id},
            "action": self.action,
            "before": self.before,
            "result": self.result.value,
            "note": self.note,
            "notes": list(self.notes),
        }
        return shown if self.confirm_s is None else {**shown, "confirm_s": self.confirm_s}


def report(
    subject: Subject,
    held: Map,
    value: bytes | None,
    *,
    result: ActionResult = ActionResult.SHOWN,
    before: str | None = None,
    unset: XdpAction | None = None,
) -> ActionReport:
    """Return what is to be told where the map *held* of *subject* holds *value*.

    *unset* is what the program answers while no verdict is set, as far as that is known.
    """
    action, note = words_of(subject, held, value, unset)
    return ActionReport(
        subject.set, subject.device, subject.map_name, held.id, action, note, result, before
    )


def words_of(
    subject: Subject, held: Map, value: bytes | None, unset: XdpAction | None = None
) -> tuple[str | None, str]:
    """Return the verdict that a value of *held* means, and what is to be said of it."""
    if subject.is_zero_pass:
        unset = XdpAction.XDP_PASS
    if value is None:
        return unset.name if unset is not None else None, _NOT_SET
    number = int.from_bytes(value, "little", signed=is_signed(held))
    if number == 0 and unset:
        return unset.name, _NOT_SET
    if subject.is_zero_pass and number not in _VERDICTS:
        return XdpAction.XDP_PASS.name, f"{number} is no verdict"
    if number == 0:
        return XdpAction.XDP_ABORTED.name, "or not set: both are 0"
    if number not in _VERDICTS:
        return str(number), "no verdict; a program that returns it aborts"
    return XdpAction(number).name, ""
