"""The reports of `apply`: what it did, or would do, with each set."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from bpfpin.errors import BpfError, ExitCode
from bpfpin.records import dataclass
from bpfpin.sets.reports import LoadReport, UnloadReport


class SetAction(Enum):
    """What `apply` does with a set.

    * `FILL`: only slots of its maps of maps change.
    * `RECOVER`: it is as it should be, but an interrupted command has to be completed.
    """

    UNCHANGED = "unchanged"
    LOAD = "load"
    RELOAD = "reload"
    MOVE = "move"
    FILL = "fill"
    RECOVER = "recover"
    UNLOAD = "unload"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class StateChange:
    """One difference between what is loaded and what is wanted.

    Attributes:
        what: What differs: `object`, `map flows`, `hook xdp of lab0`, …
        old: What is loaded; empty for nothing.
        new: What is wanted; empty for nothing.
    """

    what: str
    old: str
    new: str

    def __str__(self) -> str:
        arrow = " -> " if self.old and self.new else ""
        return f"{self.what}: {self.old}{arrow}{self.new}"

    def to_json(self) -> dict[str, str]:
        """Return the form that `-o json` shows."""
        return {"what": self.what, "old": self.old, "new": self.new}


@dataclass(frozen=True)
class SetOutcome:
    """What `apply` did with one set, or would do.

    Attributes:
        set: The name of the set.
        action: What was done; `FAIL` if it could not be.
        place: The file and line that asks for the set; empty for a set that no file asks for.
        changes: The differences between what was loaded and what was wanted.
        notes: Remarks for the user, a line each.
        report: The report of the load or the unload; None where neither was done or planned.
        error: Why it failed; None if it did not.
    """

    set: str
    action: SetAction
    place: str = ""
    changes: tuple[StateChange, ...] = ()
    notes: tuple[str, ...] = ()
    report: LoadReport | UnloadReport | None = None
    error: BpfError | None = None

    @property
    def path(self) -> Path | None:
        """The directory of the set; None if it is not known."""
        return self.report.path if self.report is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown: dict[str, Any] = {
            "set": self.set,
            "action": self.action.value,
            "place": self.place,
            "path": str(self.path or ""),
            "changes": [change.to_json() for change in self.changes],
            "notes": list(self.notes),
        }
        if self.error is not None:
            shown["error"] = {
                "type": type(self.error).__name__,
                "exit": int(self.error.exit_code),
                "message": str(self.error),
                "hint": self.error.hint,
            }
        return shown


@dataclass(frozen=True)
class ApplyReport:
    """What one `apply` did, or would do.

    Attributes:
        sets: The sets in the order in which they were handled.
        is_planned: Whether nothing was done (`check`).
        notes: Remarks that are about no single set.
    """

    sets: tuple[SetOutcome, ...] = ()
    is_planned: bool = False
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[SetOutcome, ...]:
        """The sets that are not as they should be."""
        return tuple(outcome for outcome in self.sets if outcome.action is SetAction.FAIL)

    @property
    def changed(self) -> tuple[SetOutcome, ...]:
        """The sets that were changed, or would be."""
        still = (SetAction.UNCHANGED, SetAction.FAIL)
        return tuple(outcome for outcome in self.sets if outcome.action not in still)

    @property
    def exit_code(self) -> ExitCode:
        """The exit status of the command: that of the first failure; FOUND for planned changes."""
        for outcome in self.failed:
            if outcome.error is not None:
                return outcome.error.exit_code
        return ExitCode.FOUND if self.is_planned and self.changed else ExitCode.OK

    @property
    def result(self) -> str:
        """The report in a word."""
        if self.failed:
            return "failed"
        if not self.changed:
            return "unchanged"
        return "planned" if self.is_planned else "applied"

    def raise_failure(self) -> None:
        """Raise the error of the first set that failed, if one did.

        Raises:
            BpfError: What `deploy` raises.
        """
        for outcome in self.failed:
            if outcome.error is not None:
                raise outcome.error

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "result": self.result,
            "sets": [outcome.to_json() for outcome in self.sets],
            "notes": list(self.notes),
        }
