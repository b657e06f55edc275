"""What an object is, and whether this kernel would take it; nothing is attached or pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bpfpin.apps.convert import btf_definitions
from bpfpin.apps.sources import read_source
from bpfpin.btf.c_source import c_type
from bpfpin.errors import BpfError, PermissionDeniedError, UsageError
from bpfpin.objects import core
from bpfpin.objects.collection import MAP_MEMORY_LIMIT, load
from bpfpin.spec import MapSpec, ObjectSpec, ProgramSpec
from bpfpin.uapi import MapType, ProgramType


@dataclass(frozen=True, slots=True)
class CheckedMap:
    """A map definition; types as C, empty without BTF, sizes in bytes."""

    name: str
    type: str
    dialect: str
    key_size: int
    value_size: int
    max_entries: int
    key_type: str
    value_type: str
    pinning: str


@dataclass(frozen=True, slots=True)
class CheckedProgram:
    """A program; *error* is what the kernel has against it, *is_verified* False if not asked."""

    name: str
    section: str
    type: str
    hook: str | None
    note: str
    is_verified: bool
    error: BpfError | None


@dataclass(frozen=True, slots=True)
class CheckedRelocation:
    """What CO-RE asks of the kernel, where, and the answer; None: the kernel has no such thing.

    An instruction that is *poisoned* is refused if the program gets there.
    """

    place: str
    question: str
    value: int | None
    poisoned: bool


@dataclass(frozen=True)
class CheckReport:
    """One object; *error* is why it would not load, *is_asked* whether the kernel was asked.

    *converted* is C that defines its old maps by BTF, None if it was not asked for.
    """

    path: str
    sha256: str = ""
    license: str = ""
    maps: tuple[CheckedMap, ...] = ()
    programs: tuple[CheckedProgram, ...] = ()
    relocations: tuple[CheckedRelocation, ...] = ()
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

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows; the error is added by who shows it."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "license": self.license,
            "loads": self.loads,
            "maps": [_record(one) for one in self.maps],
            "programs": [_record(one) for one in self.programs],
            "relocations": [_record(one) for one in self.relocations],
            "notes": list(self.notes),
            **({} if self.converted is None else {"converted": self.converted}),
        }


def _record(one: CheckedMap | CheckedProgram | CheckedRelocation) -> dict[str, Any]:
    shown = {name: getattr(one, name) for name in one.__slots__ if name != "is_verified"}
    if isinstance(one, CheckedProgram):
        shown |= {"verified": one.is_verified, "error": str(one.error) if one.error else None}
    return shown


def check(
    source: str,
    *,
    program_type: str | None = None,
    convert: bool = False,
    kernel_btf: str | None = None,
    max_map_memory: int = MAP_MEMORY_LIMIT,
) -> CheckReport:
    """Read *source* (a path, or `builtin:NAME`) and have the kernel verify its programs.

    The report carries what refused it, at reading or in the kernel; without CAP_BPF the kernel is
    not asked and a note says so. *program_type* is the word for sections with free names; *convert*
    asks for the maps of the old dialects in C for section `.maps`. *kernel_btf* is a file with the
    types that CO-RE takes for the kernel's.
    """
    try:
        spec = read_source(source, program_type=program_type, kernel_btf=kernel_btf)
    except BpfError as error:
        return CheckReport(source, error=error)
    try:
        refusals, notes = _verify(spec, max_map_memory)
    except PermissionDeniedError as error:
        refusals, notes = None, [f"read only, the kernel was not asked: {error}"]
    maps = tuple(_checked_map(each) for each in spec.maps.values())
    return CheckReport(
        path=spec.path or source,
        sha256=spec.sha256,
        license=spec.license,
        maps=maps,
        programs=tuple(_checked_program(each, refusals) for each in spec.programs.values()),
        relocations=_checked_relocations(spec),
        notes=(*spec.notes, *notes),
        error=next(filter(None, (refusals or {}).values()), None),
        is_asked=refusals is not None,
        converted=btf_definitions(spec) if convert else None,
    )


Refusals = dict[str, BpfError | None]  # by program; "" is the object as a whole


def _verify(spec: ObjectSpec, max_map_memory: int) -> tuple[Refusals, list[str]]:
    try:
        with load(spec, max_map_memory=max_map_memory) as loaded:
            return dict.fromkeys(spec.programs), list(loaded.notes)
    except PermissionDeniedError:
        raise
    except BpfError as error:
        refusals = _one_by_one(spec, max_map_memory)
        # What only all of them together meet is the object's.
        return refusals if any(refusals.values()) else refusals | {"": error}, []


def _one_by_one(spec: ObjectSpec, max_map_memory: int) -> Refusals:
    refusals: Refusals = {}
    for name, program in spec.programs.items():
        refusals[name] = None
        if program.type is ProgramType.UNSPEC:
            refusals[name] = _untyped(program)
            continue
        try:
            load(spec, programs=[name], max_map_memory=max_map_memory).close()
        except BpfError as error:
            refusals[name] = error
    return refusals


def _untyped(program: ProgramSpec) -> UsageError:
    return UsageError(
        f"section {program.section!r} does not say what type program {program.name} is of",
        hint="say it: --type xdp",
    )


def _checked_program(spec: ProgramSpec, refusals: Refusals | None) -> CheckedProgram:
    return CheckedProgram(
        name=spec.name,
        section=spec.section,
        type=_word(spec.type),
        hook=spec.hook.value if spec.hook else None,
        note=spec.section_note,
        is_verified=refusals is not None,
        error=(refusals or {}).get(spec.name),
    )


def _checked_relocations(spec: ObjectSpec) -> tuple[CheckedRelocation, ...]:
    try:
        _, found = core.fitted(spec)
    except BpfError:
        return ()  # it is what every program is refused for
    return tuple(
        CheckedRelocation(each.place, each.question, each.value, each.is_poisoned) for each in found
    )


def _checked_map(spec: MapSpec) -> CheckedMap:
    types = [c_type(ref) if ref else "" for ref in (spec.key, spec.value)]
    return CheckedMap(
        name=spec.name,
        type=_word(spec.type),
        dialect=spec.dialect.value,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=spec.max_entries,
        key_type=types[0],
        value_type=types[1],
        pinning=spec.pinning.name.lower(),
    )


def _word(kind: MapType | ProgramType) -> str:
    return kind.name.lower()


def check_all(
    sources: Sequence[str],
    *,
    program_type: str | None = None,
    convert: bool = False,
    kernel_btf: str | None = None,
) -> list[CheckReport]:
    """Check several objects, each by itself."""
    return [
        check(source, program_type=program_type, convert=convert, kernel_btf=kernel_btf)
        for source in sources
    ]
