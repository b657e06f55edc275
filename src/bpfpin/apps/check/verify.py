"""Has the kernel verify the programs of an object, as loading it would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bpfpin.apps.check.report import CheckedProgram
from bpfpin.errors import (
    BpfError,
    NotSupportedError,
    PermissionDeniedError,
    UsageError,
    VerifierError,
)
from bpfpin.objects.load.collection import Loaded, load, selected
from bpfpin.objects.load.entries import check_byte_order
from bpfpin.objects.verifier.table import Cause
from bpfpin.spec import ObjectSpec, ProgramSpec
from bpfpin.uapi import ProgramType


@dataclass
class Verdict:
    """What the kernel said: refusals and logs by program, *error* about the object as a whole.

    *optional* are the programs that are loaded only by who names them.
    """

    is_asked: bool = True
    error: BpfError | None = None
    refusals: dict[str, BpfError] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    optional: frozenset[str] = frozenset()

    def program(self, spec: ProgramSpec) -> CheckedProgram:
        """Describe a program with what the kernel said of it."""
        attach_type = spec.expected_attach_type or spec.attach_type
        return CheckedProgram(
            name=spec.name,
            section=spec.section,
            type=spec.type.name.lower(),
            hook=spec.hook.value if spec.hook else None,
            note=spec.section_note,
            is_verified=self.is_asked,
            error=self.refusals.get(spec.name),
            log=self.logs.get(spec.name, ""),
            attach_type=attach_type.name.lower() if attach_type is not None else None,
            attach_to=spec.attach_to,
            optional=spec.name in self.optional,
        )


def verify(spec: ObjectSpec, *, max_map_memory: int, log_level: int) -> Verdict:
    """Load what is loaded by default, and each optional program by itself; let all of it go.

    Without the capabilities for it nothing is asked, and a note says so.
    """
    default = selected(spec, None).programs
    verdict = Verdict(optional=frozenset(spec.programs.keys() - default.keys()))
    try:
        check_byte_order(spec)
    except BpfError as error:
        verdict.is_asked, verdict.error = False, error
        return verdict
    asking = _Asking(spec, verdict, max_map_memory, log_level)
    try:
        asking.together(list(default))
        asking.one_by_one(name for name in spec.programs if name in verdict.optional)
    except PermissionDeniedError as error:
        verdict.is_asked = False
        verdict.notes.append(f"read only, the kernel was not asked: {error}")
    return verdict


@dataclass
class _Asking:
    spec: ObjectSpec
    verdict: Verdict
    max_map_memory: int
    log_level: int

    def together(self, names: list[str]) -> None:
        """Load these programs; where that fails, each by itself, to hear of all refusals."""
        try:
            with self._load(names) as loaded:
                self._keep(loaded)
                self.verdict.notes += loaded.notes
        except BpfError as error:
            if isinstance(error, PermissionDeniedError) and error.missing:
                raise
            self.one_by_one(names)
            # What only all of them together meet is the object's.
            self.verdict.error = next(iter(self.verdict.refusals.values()), error)

    def one_by_one(self, names: Iterable[str]) -> None:
        """Load each of these programs by itself and keep what is said of it."""
        for name in names:
            program = self.spec.programs[name]
            if program.type is ProgramType.UNSPEC:
                self.verdict.refusals[name] = _untyped(program)
                continue
            try:
                with self._load([name]) as loaded:
                    self._keep(loaded)
            except BpfError as error:
                self.verdict.refusals[name] = error

    def _load(self, names: list[str]) -> Loaded:
        return load(
            self.spec,
            programs=names,
            max_map_memory=self.max_map_memory,
            log_level=self.log_level,
        )

    def _keep(self, loaded: Loaded) -> None:
        self.verdict.logs |= {name: program.log for name, program in loaded.programs.items()}


def _untyped(program: ProgramSpec) -> UsageError:
    return UsageError(
        f"section {program.section!r} does not say what type program {program.name} is of",
        hint="say it: --type xdp",
    )


def lacking(errors: Iterable[BpfError | None]) -> tuple[str, ...]:
    """Return the features that the kernel lacks, after what was refused for the want of them."""
    return tuple(dict.fromkeys(_features(errors)))


def _features(errors: Iterable[BpfError | None]) -> Iterator[str]:
    for error in errors:
        if isinstance(error, NotSupportedError):
            yield error.feature or error.message
        elif isinstance(error, VerifierError) and error.cause == Cause.HELPER_MISSING.value:
            yield error.telling_line
