"""What is told of an object: plain records, and their form as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bpfpin.errors import BpfError, NotSupportedError, ObjectFileError, UsageError, VerifierError


@dataclass(frozen=True, slots=True)
class CheckedMap:
    """A map definition; types as C, empty without BTF, sizes in bytes, flags by name.

    *inner* are the maps that it holds.
    """

    name: str
    type: str
    dialect: str
    key_size: int
    value_size: int
    max_entries: int
    key_type: str
    value_type: str
    pinning: str
    flags: tuple[str, ...] = ()
    inner: CheckedMap | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return _fields(self) | {"inner": self.inner.to_json() if self.inner else None}


@dataclass(frozen=True, slots=True)
class CheckedProgram:
    """A program; *error* is what the kernel has against it, *is_verified* False if not asked.

    *attach_to* is the function or tracepoint that its section names. One that is *optional* is
    loaded only by who names it, and does not keep the object from loading.
    """

    name: str
    section: str
    type: str
    hook: str | None
    note: str
    is_verified: bool
    error: BpfError | None
    log: str = ""  # the verifier's, if a level of it was asked for
    attach_type: str | None = None
    attach_to: str = ""
    optional: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown = _fields(self) | {"error": str(self.error) if self.error else None}
        shown["verified"] = shown.pop("is_verified")
        if not self.log:
            del shown["log"]
        return shown


@dataclass(frozen=True, slots=True)
class CheckedVariable:
    """A global variable; *type* as C, empty without BTF; *value* None where it is not shown."""

    name: str
    section: str
    type: str
    size: int
    value: Any

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return _fields(self)


@dataclass(frozen=True, slots=True)
class CheckedRelocation:
    """What CO-RE asks of the kernel, where, and the answer; None: the kernel has no such thing.

    An instruction that is *poisoned* is refused if the program gets there.
    """

    place: str
    question: str
    value: int | None
    poisoned: bool

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return _fields(self)


@dataclass(frozen=True, slots=True)
class CheckedExtern:
    """What the object takes from the kernel by name, and what this kernel has in *value*.

    One that is absent keeps the object from loading unless it is *weak*; *error* says so.
    """

    name: str
    kind: str
    declaration: str
    weak: bool
    value: str
    error: BpfError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return _fields(self) | {"error": str(self.error) if self.error else None}


class Outcome(Enum):
    """How the check of one object ended."""

    LOADS = "load"
    NOT_ASKED = "not asked"  # read; the kernel was not asked for want of privilege
    REFUSED = "refused by the kernel"
    MALFORMED = "malformed"
    NOT_READ = "not read"  # no such file, or it may not be read


@dataclass(frozen=True)
class CheckReport:
    """One object; *error* is why it would not load, *is_asked* whether the kernel was asked.

    *lacks* are the features that this kernel lacks and something of the object wants. *converted*
    is C that defines its old maps by BTF, None if it was not asked for.
    """

    path: str
    sha256: str = ""
    license: str = ""
    dialects: tuple[str, ...] = ()
    maps: tuple[CheckedMap, ...] = ()
    programs: tuple[CheckedProgram, ...] = ()
    variables: tuple[CheckedVariable, ...] = ()
    relocations: tuple[CheckedRelocation, ...] = ()
    externs: tuple[CheckedExtern, ...] = ()
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: BpfError | None = None
    is_asked: bool = False
    converted: str | None = None

    @property
    def loads(self) -> bool | None:
        """Whether the kernel would take it; None if it was not asked."""
        if self.error:
            return False
        return True if self.is_asked else None

    @property
    def outcome(self) -> Outcome:
        """How it ended, in one word."""
        if self.error is None:
            return Outcome.LOADS if self.is_asked else Outcome.NOT_ASKED
        if self.sha256:
            return Outcome.REFUSED
        is_missing = isinstance(self.error, OSError)
        return Outcome.NOT_READ if is_missing else Outcome.MALFORMED

    @property
    def reason(self) -> str:
        """Why it would not load, in so few words that many objects share them; empty if it does."""
        return reason_of(self.error) if self.error else ""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows; the error is added by who shows it."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "license": self.license,
            "loads": self.loads,
            "dialects": list(self.dialects),
            "maps": [one.to_json() for one in self.maps],
            "programs": [one.to_json() for one in self.programs],
            "variables": [one.to_json() for one in self.variables],
            "relocations": [one.to_json() for one in self.relocations],
            "externs": [one.to_json() for one in self.externs],
            "lacks": list(self.lacks),
            "notes": list(self.notes),
            **({} if self.converted is None else {"converted": self.converted}),
        }


@dataclass(frozen=True)
class Summary:
    """How many of several objects ended how, and why those were refused that were read."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, reports: Iterable[CheckReport]) -> Summary:
        """Count the outcomes of *reports*."""
        listed = list(reports)
        refused = [one.reason for one in listed if one.outcome is Outcome.REFUSED]
        return cls(Counter(one.outcome for one in listed), Counter(refused))

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        names = {each: each.name.lower() for each in Outcome}
        counts = {name: self.outcomes[outcome] for outcome, name in names.items()}
        return {**counts, "reasons": dict(self.reasons.most_common())}


def reason_of(error: BpfError) -> str:
    """Return what kind of refusal *error* is."""
    if isinstance(error, VerifierError):
        return f"verifier: {error.cause or 'other'}"
    if isinstance(error, NotSupportedError):
        return f"not in this kernel: {error.feature or error.message}"
    if isinstance(error, ObjectFileError):
        is_of_others = "big-endian" in error.message
        return "big-endian" if is_of_others else "does not fit this kernel's types"
    if isinstance(error, UsageError):
        return "an option is missing"
    return type(error).__name__.removesuffix("Error")


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}
