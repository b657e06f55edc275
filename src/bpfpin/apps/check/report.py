"""The report on a checked object: plain records, and their form as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import field
from enum import Enum
from typing import Any

from bpfpin.errors import BpfError, NotSupportedError, ObjectFileError, UsageError, VerifierError
from bpfpin.records import dataclass


@dataclass(frozen=True, slots=True)
class CheckedMap:
    """A map definition; types as C, empty without BTF, sizes in bytes, flags by name.

    *inner* is the definition of its inner maps.
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
    """A program; *error* is the refusal of the kernel, *is_verified* is False if it was not asked.

    *attach_to* is the function or tracepoint that its section names. An *optional* program is
    loaded only if it is named, and does not keep the object from loading.
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
    """A CO-RE relocation: its place, its question to the kernel's types, and the answer.

    *value* is None if the kernel does not have the type or member. A *poisoned* instruction is
    refused by the verifier if the program can reach it.
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
    """A symbol that the object takes from the kernel; *value* is its value in this kernel.

    A missing symbol keeps the object from loading, unless it is *weak*; *error* says so.
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
    NOT_ASKED = "not asked"  # read; the kernel was not asked, without the capabilities
    REFUSED = "refused by the kernel"
    MALFORMED = "malformed"
    NOT_READ = "not read"  # the file does not exist, or this user may not read it


@dataclass(frozen=True)
class CheckReport:
    """The report on one object.

    *error* is the reason why it would not load. *is_asked*: the kernel was asked. *lacks* are
    features that the object needs and this kernel does not have. *converted* is C source that
    defines its old maps by BTF, None if not requested.
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
        """Whether the kernel would load it; None if it was not asked."""
        if self.error:
            return False
        return True if self.is_asked else None

    @property
    def outcome(self) -> Outcome:
        """How it ended, in one word."""
        if self.error is None:
            return Outcome.LOADS if self.is_asked else Outcome.NOT_ASKED
        # Only an object that was read has a hash, so the kernel has refused it, not the reader.
        if self.sha256:
            return Outcome.REFUSED
        # Errors about files are also the builtin ones (FileNotFoundError, PermissionError).
        is_missing = isinstance(self.error, OSError)
        return Outcome.NOT_READ if is_missing else Outcome.MALFORMED

    @property
    def reason(self) -> str:
        """The kind of reason why it would not load, shared by many objects; "" if it loads."""
        return reason_of(self.error) if self.error else ""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows, without the error, which the caller adds."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "license": self.license,
            "loads": self.loads,
            "dialects": list(self.dialects),
            "maps": [map_.to_json() for map_ in self.maps],
            "programs": [program.to_json() for program in self.programs],
            "variables": [variable.to_json() for variable in self.variables],
            "relocations": [relocation.to_json() for relocation in self.relocations],
            "externs": [extern.to_json() for extern in self.externs],
            "lacks": list(self.lacks),
            "notes": list(self.notes),
            **({} if self.converted is None else {"converted": self.converted}),
        }


@dataclass(frozen=True)
class Summary:
    """The outcomes of several objects, and the reasons of refusals, with their numbers."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, reports: Iterable[CheckReport]) -> Summary:
        """Count the outcomes of *reports*."""
        listed = list(reports)
        refused = [report.reason for report in listed if report.outcome is Outcome.REFUSED]
        return cls(Counter(report.outcome for report in listed), Counter(refused))

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        names = {outcome: outcome.name.lower() for outcome in Outcome}
        counts = {name: self.outcomes[outcome] for outcome, name in names.items()}
        return {**counts, "reasons": dict(self.reasons.most_common())}


def reason_of(error: BpfError) -> str:
    """Return the kind of refusal that *error* is, in a few words."""
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


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}
