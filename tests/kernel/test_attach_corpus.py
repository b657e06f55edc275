"""Every program whose section names a hook is attached for real, if this kernel has the hook.

The objects are the examples, the sources of the tests, and what the packages of this machine carry.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import (
    BpfError,
    LimitError,
    NotSupportedError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
    VerifierError,
)
from bpfpin.hooks import Hook, TargetKind, has_table
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec, ProgramSpec
from bpfpin.uapi import MapType
from support.documents import ROOT
from support.found_objects import found_objects
from support.hooks import new_cgroup
from support.objects import NAMES, SOURCES, compiled, compiled_example, compiled_with_headers

EXAMPLES = sorted(
    str(path.relative_to(ROOT / "examples")).removesuffix(".bpf.c")
    for path in (ROOT / "examples").rglob("*.bpf.c")
)
# A unit that has no meaning alone, and one that is compiled with the numbers of its counters.
NOT_ALONE = {"linked_first", "attach/reloads"}
# What a kernel lacks or forbids, and what an object leaves to who loads it.
# The target is not there: another kernel's tracepoint, a program that is not installed.
NOT_THERE = (NotSupportedError, TargetNotFoundError, PermissionDeniedError)
NOT_LOADED = (*NOT_THERE, LimitError, UsageError, VerifierError)
ROUTE = "10.77.0.0/24"
WITH_SIZE_OF_CPUS = {MapType.PERF_EVENT_ARRAY}


@dataclass
class Outcome:
    """What became of the programs, by hook."""

    device: str
    cgroup: Path
    attached: dict[Hook, list[str]] = field(default_factory=dict)
    not_there: dict[Hook, dict[str, BpfError]] = field(default_factory=dict)
    not_loaded: dict[Hook, dict[str, BpfError]] = field(default_factory=dict)
    failed: dict[str, BpfError] = field(default_factory=dict)

    def attach_all(self, name: str, spec: ObjectSpec) -> None:
        """Load the programs that have a hook, and attach each of them alone."""
        for bpf_map in spec.maps.values():
            # The object leaves the size to its loader.
            if not bpf_map.max_entries and bpf_map.type not in WITH_SIZE_OF_CPUS:
                spec = spec.with_map(bpf_map.name, max_entries=2)
        for program in spec.programs.values():
            # The kernel takes a table with all of its programs.
            if program.hook is not None and not has_table(program.hook.value):
                self._attach(f"{name}: {program.name}", spec, program, program.hook)
        for table, programs in spec.linked_tables.items():
            first = spec.programs[programs[0]]
            self._attach(f"{name}: {table}", spec, first, Hook.STRUCT_OPS)

    def missing(self) -> dict[Hook, dict[str, BpfError]]:
        """Return the hooks at which programs load and none could be attached."""
        return {hook: why for hook, why in self.not_there.items() if hook not in self.attached}

    def _attach(self, name: str, spec: ObjectSpec, program: ProgramSpec, hook: Hook) -> None:
        is_table = has_table(hook.value)
        tables = [
            each for each in spec.linked_tables.values() if is_table and each[0] == program.name
        ]
        try:
            loaded = load(spec, programs=[*tables[0]] if tables else [program.name])
        except NOT_LOADED as error:
            self.not_loaded.setdefault(hook, {})[name] = error
            return
        with loaded:
            try:
                with loaded.attach(
                    [program.name], **self._place(program, hook, spec.maps)
                ) as attached:
                    ids = {each.program_id() for each in attached[program.name]}
            except NOT_THERE as error:
                self.not_there.setdefault(hook, {})[name] = error
            except BpfError as error:
                self.failed[name] = error
            else:
                own = [loaded.maps[table].id for table in loaded.linked_tables if is_table]
                assert ids == {*(own or [loaded.programs[program.name].id])}
                self.attached.setdefault(hook, []).append(name)

    def _place(self, program: ProgramSpec, hook: Hook, maps: Iterable[str]) -> dict[str, Any]:
        kind = hook.traits.target
        if kind is TargetKind.DEVICE:
            return {"device": self.device}
        if kind is TargetKind.CGROUP:
            return {"cgroup": self.cgroup}
        if program.attach_to == "bpf_map_elem":  # the section cannot say of which map
            return {"targets": {program.name: f"bpf_map_elem,map={next(iter(maps))}"}}
        if not kind.is_named or program.attach_to or kind is TargetKind.TABLE:
            return {}
        own = {TargetKind.ROUTE: f"{ROUTE},dev={self.device}"}
        return {"targets": {program.name: own.get(kind, hook.traits.example)}}


@pytest.fixture
def outcome(tmp_path: Path) -> Iterator[Outcome]:
    """A device with a route, and a cgroup of the test's own."""
    ip("link", "add", "corpus0", "type", "veth", "peer", "corpus1")
    try:
        ip("link", "set", "corpus0", "up")
        ip("route", "add", ROUTE, "dev", "corpus0")
        with new_cgroup(tmp_path / "cgroups") as cgroup:
            yield Outcome("corpus0", cgroup)
    finally:
        ip("link", "del", "corpus0")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def attach_all(outcome: Outcome, objects: Iterable[tuple[str, Path | bytes]]) -> None:
    for name, data in objects:
        outcome.attach_all(name, read_object(data))
    assert outcome.failed == {}
    # A hook whose programs load is in this kernel, unless the link itself is refused by name.
    assert {
        hook: why
        for hook, why in outcome.missing().items()
        if not all(isinstance(error, NotSupportedError) for error in why.values())
    } == {}


def test_all_programs_of_the_examples_are_attached(outcome: Outcome) -> None:
    attach_all(outcome, ((name, compiled_example(name)) for name in EXAMPLES))

    assert outcome.not_there == {}
    assert {Hook.TRACEPOINT, Hook.RAW_TRACEPOINT, Hook.XDP} <= set(outcome.attached)
    # An older kernel says which kind of program it lacks.
    errors = [error for why in outcome.not_loaded.values() for error in why.values()]
    assert all(isinstance(error, NotSupportedError) for error in errors), errors


def test_all_programs_of_the_tests_are_attached_where_they_load(outcome: Outcome) -> None:
    """Programs that the verifier is to refuse, and kinds that the kernel lacks, do not load."""
    folder = SOURCES / "attach"
    with_headers = [f"attach/{path.name}".removesuffix(".bpf.c") for path in folder.iterdir()]
    with_headers = [name for name in with_headers if name not in NOT_ALONE]
    names = [name for name in NAMES if name not in NOT_ALONE]
    attach_all(
        outcome,
        [
            *((name, compiled(name)) for name in names),
            *((name, compiled_with_headers(name)) for name in with_headers),
        ],
    )

    assert set(outcome.attached) >= {
        *(Hook.XDP, Hook.TRACEPOINT, Hook.RAW_TRACEPOINT, Hook.UPROBE, Hook.SK_LOOKUP),
        *(Hook.CGROUP_INET_EGRESS, Hook.CGROUP_INET4_CONNECT, Hook.CGROUP_SYSCTL),
    }


def test_what_the_machine_carries_is_attached(outcome: Outcome) -> None:
    if not (objects := found_objects()):
        pytest.skip("no package with BPF objects is installed: apt install xdp-tools")
    attach_all(outcome, objects.items())

    assert outcome.attached
