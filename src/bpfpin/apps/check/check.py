"""Checks objects: reads each, has the kernel verify it, and reports what it is."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpfpin.apps.check.convert import btf_definitions
from bpfpin.apps.check.report import (
    CheckedExtern,
    CheckedMap,
    CheckedProgram,
    CheckedRelocation,
    CheckedVariable,
    CheckReport,
)
from bpfpin.btf.btf import Btf
from bpfpin.btf.c_source import c_type
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import (
    Argument,
    BpfError,
    Fix,
    NotSupportedError,
    PermissionDeniedError,
    UsageError,
    VerifierError,
)
from bpfpin.objects.load import resolve
from bpfpin.objects.load.collection import Loaded, load, map_memory_limit, selected
from bpfpin.objects.load.entries import check_byte_order
from bpfpin.objects.verifier.table import Cause
from bpfpin.objfile.reader import read_btf
from bpfpin.sets.choose import read_source
from bpfpin.sets.variables import with_variables
from bpfpin.spec import MapSpec, ObjectSpec, Pinning, ProgramSpec
from bpfpin.uapi import MapFlag, ProgramType

MAX_VALUE_BYTES = 4096  # of one variable; longer ones are shown without


# Has the kernel verify the programs of an object, as loading it would.


@dataclass
class Verification:
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


def verify(spec: ObjectSpec, *, max_map_memory: int, log_level: int) -> Verification:
    """Load what is loaded by default, and each optional program by itself; let all of it go.

    Without the capabilities for it nothing is asked, and a note says so.
    """
    default = selected(spec, None).programs
    verdict = Verification(optional=frozenset(spec.programs.keys() - default.keys()))
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
    verdict: Verification
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
        hint=Fix.of("say it: ", Argument("program_type", "xdp")),
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


# An object's description in the words of a report; of the kernel only its types are asked.
def dialects(spec: ObjectSpec) -> tuple[str, ...]:
    """Return how its maps are defined, each way once."""
    return tuple(dict.fromkeys(each.dialect.value for each in spec.maps.values()))


def checked_map(spec: MapSpec) -> CheckedMap:
    """Describe a map, and those it holds."""
    key, value = (c_type(ref) if ref else "" for ref in (spec.key, spec.value))
    return CheckedMap(
        name=spec.name,
        type=spec.type.name.lower(),
        dialect=spec.dialect.value,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=spec.max_entries,
        key_type=key,
        value_type=value,
        pinning=_pinning(spec),
        flags=_flags(spec.map_flags),
        inner=checked_map(spec.inner) if spec.inner else None,
    )


def _pinning(spec: MapSpec) -> str:
    word = spec.pinning.name.lower()
    return f"{word} {spec.pinning_id}" if spec.pinning is Pinning.UNKNOWN else word


def asked_at_load(spec: ObjectSpec) -> tuple[str, ...]:
    """Return a word on each map whose pinning `load` asks about."""
    return tuple(
        f"map {name}: pinning {each.pinning_id} has no meaning here; load asks for --pinning"
        f" {name}=none or --pinning {name}=by-name"
        for name, each in spec.maps.items()
        if each.pinning is Pinning.UNKNOWN
    )


def _flags(flags: int) -> tuple[str, ...]:
    known = [each for each in MapFlag if flags & each]
    left = flags & ~sum(known)
    return (*(each.name.lower() for each in known if each.name), *([hex(left)] if left else []))


def checked_variables(spec: ObjectSpec) -> tuple[CheckedVariable, ...]:
    """Describe the global variables, static ones too."""
    return tuple(
        CheckedVariable(name, each.section, each.type_name, each.size, _value(each))
        for name, each in spec.variables.items()
    )


def _value(variable: VariableSpec) -> Any:
    if variable.size > MAX_VALUE_BYTES:
        return None
    with contextlib.suppress(BpfError, ValueError):  # types that no value can be read by
        return variable.value
    return None


def checked_relocations(spec: ObjectSpec) -> tuple[CheckedRelocation, ...]:
    """Describe what CO-RE asks for; nothing where that is what every program is refused for."""
    try:
        _, found = resolve.fitted(spec)
    except BpfError:
        return ()
    return tuple(
        CheckedRelocation(each.place, each.question, each.value, each.is_poisoned) for each in found
    )


def checked_externs(spec: ObjectSpec) -> tuple[CheckedExtern, ...]:
    """Describe what the object takes from the running kernel by name."""
    return tuple(
        CheckedExtern(
            name=each.extern.name,
            kind=each.extern.kind.value,
            declaration=each.extern.c_source,
            weak=each.extern.is_weak,
            value=each.text,
            error=each.error,
        )
        for each in resolve.resolve(spec)
    )


@dataclass(frozen=True, kw_only=True)
class CheckChoices:
    """How objects are checked.

    *program_type* is the word for sections with free names; *is_converting* asks for the maps of
    the old dialects in C for section `.maps`. *kernel_btf* are the types that CO-RE takes for the
    kernel's. *variables* are what variables and constants start with. A *log_level* of the verifier
    (1, 2, 4) asks for its log of accepted programs. Maps of more than *max_map_memory* bytes are
    not made.
    """

    program_type: str | None = None
    is_converting: bool = False
    kernel_btf: Btf | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    max_map_memory: int = field(default_factory=map_memory_limit)
    log_level: int = 0

    def with_types_of(self, path: str | None) -> CheckChoices:
        """Return a copy with the kernel's types from a file, which is read once for all objects."""
        return dataclasses.replace(self, kernel_btf=read_btf(path)) if path else self


DEFAULT = CheckChoices()


def sources_in(paths: Sequence[str]) -> list[str]:
    """Return *paths* with each directory replaced by its `*.o`; `UsageError` if it has none."""
    return [source for path in paths for source in _sources_of(path)]


def _sources_of(path: str) -> list[str]:
    if not Path(path).is_dir():
        return [path]
    found = sorted(map(str, Path(path).glob("*.o")))
    if not found:
        raise UsageError(f"{path} is a directory without objects (*.o)")
    return found


def check_all(sources: Sequence[str], choices: CheckChoices = DEFAULT) -> Iterator[CheckReport]:
    """Check several objects, each by itself, and yield each report when it is there."""
    for source in sources:
        yield check(source, choices)


def check(source: str, choices: CheckChoices = DEFAULT) -> CheckReport:
    """Read *source* (a path, or `builtin:NAME`) and have the kernel verify its programs.

    The report carries what refused it, at reading or in the kernel; without CAP_BPF the kernel is
    not asked and a note says so.
    """
    try:
        spec = read_source(source, program_type=choices.program_type)
        spec, _ = with_variables(spec, choices.variables)
    except BpfError as error:
        return CheckReport(source, error=error)
    return _report(source, dataclasses.replace(spec, kernel_btf=choices.kernel_btf), choices)


def _report(source: str, spec: ObjectSpec, choices: CheckChoices) -> CheckReport:
    verdict = verify(spec, max_map_memory=choices.max_map_memory, log_level=choices.log_level)
    externs = checked_externs(spec)
    errors = [verdict.error, *verdict.refusals.values(), *(each.error for each in externs)]
    return CheckReport(
        path=spec.path or source,
        sha256=spec.sha256,
        license=spec.license,
        dialects=dialects(spec),
        maps=tuple(checked_map(each) for each in spec.maps.values()),
        programs=tuple(verdict.program(each) for each in spec.programs.values()),
        variables=checked_variables(spec),
        relocations=checked_relocations(spec),
        externs=externs,
        lacks=lacking(errors),
        notes=(*spec.notes, *asked_at_load(spec), *verdict.notes),
        error=verdict.error,
        is_asked=verdict.is_asked,
        converted=btf_definitions(spec) if choices.is_converting else None,
    )
