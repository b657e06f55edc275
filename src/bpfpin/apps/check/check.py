"""Checks objects: reads each, has the kernel verify its programs as loading would, and reports."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
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
    BpfError,
    NotSupportedError,
    PermissionDeniedError,
    UsageError,
    VerifierError,
)
from bpfpin.hints import Argument, Fix
from bpfpin.loading import resolve
from bpfpin.loading.collection import Loaded, load, selected
from bpfpin.loading.entries import check_byte_order
from bpfpin.objects.maps.create import map_memory_limit
from bpfpin.objects.verifier.table import Cause
from bpfpin.objfile.reader import read_btf
from bpfpin.records import dataclass
from bpfpin.sets.choose import read_source
from bpfpin.sets.variables import with_variables
from bpfpin.spec import MapSpec, ObjectSpec, Pinning, ProgramSpec
from bpfpin.uapi import MapFlag, ProgramType

MAX_VALUE_BYTES = 4096  # of one variable; a longer value is not shown


@dataclass
class Verification:
    """The answer of the kernel: refusals and logs by program, *error* about the whole object.

    *optional* are the programs that are loaded only if they are named.
    """

    is_asked: bool = True
    error: BpfError | None = None
    refusals: dict[str, BpfError] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    optional: frozenset[str] = frozenset()

    def program(self, spec: ProgramSpec) -> CheckedProgram:
        """Describe a program, with the answer of the kernel."""
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
    """Load the default programs, and each optional program by itself, and close them again.

    Without the capabilities the kernel is not asked, and a note says so.
    """
    default = selected(spec, None).programs
    result = Verification(optional=frozenset(spec.programs.keys() - default.keys()))
    try:
        # The kernel does not know of byte orders, and would refuse a foreign object with words
        # about its first instruction.
        check_byte_order(spec)
    except BpfError as error:
        result.is_asked, result.error = False, error
        return result
    asking = _Asking(spec, result, max_map_memory, log_level)
    try:
        # Together first, as `load` does it: maps are made once, and programs may call each other
        # through them.
        asking.together(list(default))
        asking.one_by_one(name for name in spec.programs if name in result.optional)
    except PermissionDeniedError as error:
        result.is_asked = False
        result.notes.append(f"read only, the kernel was not asked: {error}")
    return result


@dataclass
class _Asking:
    spec: ObjectSpec
    result: Verification
    max_map_memory: int
    log_level: int

    def together(self, names: list[str]) -> None:
        """Load these programs; if that fails, each by itself, to get all refusals."""
        try:
            with self._load(names) as loaded:
                self._keep(loaded)
                self.result.notes += loaded.notes
        except BpfError as error:
            # Without the capability every single program would fail in the same way.
            if isinstance(error, PermissionDeniedError) and error.missing:
                raise
            self.one_by_one(names)
            # An error that no program has by itself is one of the object.
            self.result.error = next(iter(self.result.refusals.values()), error)

    def one_by_one(self, names: Iterable[str]) -> None:
        """Load each of these programs by itself, and keep its log or its refusal."""
        for name in names:
            program = self.spec.programs[name]
            # The kernel cannot be asked: BPF_PROG_LOAD takes the type with the program.
            if program.type is ProgramType.UNSPEC:
                self.result.refusals[name] = _untyped(program)
                continue
            try:
                with self._load([name]) as loaded:
                    self._keep(loaded)
            except BpfError as error:
                self.result.refusals[name] = error

    def _load(self, names: list[str]) -> Loaded:
        return load(
            self.spec,
            programs=names,
            max_map_memory=self.max_map_memory,
            log_level=self.log_level,
        )

    def _keep(self, loaded: Loaded) -> None:
        self.result.logs |= {name: program.log for name, program in loaded.programs.items()}


def _untyped(program: ProgramSpec) -> UsageError:
    return UsageError(
        f"section {program.section!r} does not give the type of program {program.name}",
        hint=Fix.of("give it: ", Argument("program_type", "xdp")),
    )


def lacking(errors: Iterable[BpfError | None]) -> tuple[str, ...]:
    """Return the features that the kernel lacks, by the errors of refused programs."""
    return tuple(dict.fromkeys(_features(errors)))


def _features(errors: Iterable[BpfError | None]) -> Iterator[str]:
    for error in errors:
        if isinstance(error, NotSupportedError):
            yield error.feature or error.message
        elif isinstance(error, VerifierError) and error.cause == Cause.HELPER_MISSING.value:
            yield error.telling_line


def dialects(spec: ObjectSpec) -> tuple[str, ...]:
    """Return the dialects in which the maps are defined."""
    return tuple(dict.fromkeys(map_.dialect.value for map_ in spec.maps.values()))


def checked_map(spec: MapSpec) -> CheckedMap:
    """Describe a map and its inner maps."""
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
    """Return a note on each map whose pinning `load` asks about."""
    return tuple(
        f"map {name}: pinning {map_.pinning_id} has no meaning here; load asks for --pinning"
        f" {name}=none or --pinning {name}=by-name"
        for name, map_ in spec.maps.items()
        if map_.pinning is Pinning.UNKNOWN
    )


def _flags(flags: int) -> tuple[str, ...]:
    known = [flag for flag in MapFlag if flags & flag]
    left = flags & ~sum(known)
    return (*(flag.name.lower() for flag in known if flag.name), *([hex(left)] if left else []))


def checked_variables(spec: ObjectSpec) -> tuple[CheckedVariable, ...]:
    """Describe the global variables, also static ones."""
    return tuple(
        CheckedVariable(name, variable.section, variable.type_name, variable.size, _value(variable))
        for name, variable in spec.variables.items()
    )


def _value(variable: VariableSpec) -> Any:
    if variable.size > MAX_VALUE_BYTES:
        return None
    with contextlib.suppress(BpfError, ValueError):  # the type cannot be decoded
        return variable.value
    return None


def checked_relocations(spec: ObjectSpec) -> tuple[CheckedRelocation, ...]:
    """Describe the CO-RE relocations; none if they fail and so refuse every program."""
    try:
        _, relocations = resolve.fitted(spec)
    except BpfError:
        return ()
    return tuple(
        CheckedRelocation(
            relocation.place, relocation.question, relocation.value, relocation.is_poisoned
        )
        for relocation in relocations
    )


def checked_externs(spec: ObjectSpec) -> tuple[CheckedExtern, ...]:
    """Describe the externs, which the running kernel provides by name."""
    return tuple(
        CheckedExtern(
            name=resolved.extern.name,
            kind=resolved.extern.kind.value,
            declaration=resolved.extern.c_source,
            weak=resolved.extern.is_weak,
            value=resolved.text,
            error=resolved.error,
        )
        for resolved in resolve.resolve(spec)
    )


@dataclass(frozen=True, kw_only=True)
class CheckChoices:
    """How objects are checked.

    Attributes:
        program_type: The type of programs in sections whose names do not give it.
        is_converting: Convert maps of the old dialects to C for the section `.maps`.
        kernel_btf: The types that CO-RE uses instead of those of the running kernel.
        variables: Initial values of variables and constants.
        max_map_memory: The size in bytes of the largest map that is created.
        log_level: The log level of the verifier (1, 2, 4) for accepted programs; 0 for no log.
    """

    program_type: str | None = None
    is_converting: bool = False
    kernel_btf: Btf | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    max_map_memory: int = field(default_factory=map_memory_limit)
    log_level: int = 0

    def with_types_of(self, path: str | None) -> CheckChoices:
        """Return a copy with kernel types from a file, which is read once for all objects."""
        return dataclasses.replace(self, kernel_btf=read_btf(path)) if path else self


DEFAULT = CheckChoices()


def sources_in(paths: Sequence[str]) -> list[str]:
    """Return *paths* with each directory replaced by its `*.o`; `UsageError` without any."""
    return [source for path in paths for source in _sources_of(path)]


def _sources_of(path: str) -> list[str]:
    if not Path(path).is_dir():
        return [path]
    # Sorted, so that two runs over a directory can be compared.
    objects = sorted(map(str, Path(path).glob("*.o")))
    if not objects:
        raise UsageError(f"{path} is a directory without objects (*.o)")
    return objects


def check_all(sources: Sequence[str], choices: CheckChoices = DEFAULT) -> Iterator[CheckReport]:
    """Check several objects, each by itself, and yield each report as soon as it is done."""
    for source in sources:
        yield check(source, choices)


def check(source: str, choices: CheckChoices = DEFAULT) -> CheckReport:
    """Read *source* (a path, or `builtin:NAME`) and have the kernel verify its programs.

    Errors, of the reader or of the kernel, are part of the report. Without CAP_BPF the kernel is
    not asked, and a note says so.
    """
    try:
        spec = read_source(source, program_type=choices.program_type)
        spec, _ = with_variables(spec, choices.variables)
    except BpfError as error:
        return CheckReport(source, error=error)
    return _report(source, dataclasses.replace(spec, kernel_btf=choices.kernel_btf), choices)


def _report(source: str, spec: ObjectSpec, choices: CheckChoices) -> CheckReport:
    result = verify(spec, max_map_memory=choices.max_map_memory, log_level=choices.log_level)
    externs = checked_externs(spec)
    # A missing symbol says what the kernel lacks, even if another error came first.
    errors = [result.error, *result.refusals.values(), *(extern.error for extern in externs)]
    return CheckReport(
        path=spec.path or source,
        sha256=spec.sha256,
        license=spec.license,
        dialects=dialects(spec),
        maps=tuple(checked_map(map_) for map_ in spec.maps.values()),
        programs=tuple(result.program(program) for program in spec.programs.values()),
        variables=checked_variables(spec),
        relocations=checked_relocations(spec),
        externs=externs,
        lacks=lacking(errors),
        notes=(*spec.notes, *asked_at_load(spec), *result.notes),
        error=result.error,
        is_asked=result.is_asked,
        converted=btf_definitions(spec) if choices.is_converting else None,
    )
