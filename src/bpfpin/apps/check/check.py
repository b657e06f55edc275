"""Checks objects: reads each, has the kernel verify it, and reports what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpfpin.apps.check import describe
from bpfpin.apps.check.report import CheckReport
from bpfpin.apps.check.verify import lacking, verify
from bpfpin.apps.convert import btf_definitions
from bpfpin.apps.load.variables import with_variables
from bpfpin.apps.sources import read_source
from bpfpin.btf.btf import Btf
from bpfpin.errors import BpfError, UsageError
from bpfpin.objects.load_choices import map_memory_limit
from bpfpin.objfile.reader import read_btf
from bpfpin.spec import ObjectSpec


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
    externs = describe.checked_externs(spec)
    errors = [verdict.error, *verdict.refusals.values(), *(each.error for each in externs)]
    return CheckReport(
        path=spec.path or source,
        sha256=spec.sha256,
        license=spec.license,
        dialects=describe.dialects(spec),
        maps=tuple(describe.checked_map(each) for each in spec.maps.values()),
        programs=tuple(verdict.program(each) for each in spec.programs.values()),
        variables=describe.checked_variables(spec),
        relocations=describe.checked_relocations(spec),
        externs=externs,
        lacks=lacking(errors),
        notes=(*spec.notes, *describe.asked_at_load(spec), *verdict.notes),
        error=verdict.error,
        is_asked=verdict.is_asked,
        converted=btf_definitions(spec) if choices.is_converting else None,
    )
