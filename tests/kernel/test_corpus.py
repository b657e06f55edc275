"""Objects of the world: each one is read, and loads or is refused for a reason that is named.

Ours are built from C by both compilers; the others are what the packages of this machine carry.
"""

from __future__ import annotations

import pytest

from bpfpin.errors import (
    BpfError,
    LimitError,
    NotSupportedError,
    ObjectFileError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
    VerifierError,
)
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.uapi import MapType, ProgramType
from support.found_objects import found_objects
from support.objects import COMPILERS, NAMES, compiled

# What the kernel lacks or forbids, and what the object leaves to who loads it.
NAMED = (NotSupportedError, TargetNotFoundError, PermissionDeniedError, LimitError, UsageError)
# Of these the verifier is to refuse programs; what it says of each their own tests hold.
FOR_THE_VERIFIER = {
    "core_missing",
    "core_relocations",
    "kernel_absent",
    "kernel_symbols",
    "kernel_variable",
    "module_types",
    "reload_refused",
    "verifier_causes",
    "verifier_refused",
}
UNITS = {"linked_first": "count uses step, which the object does not define"}
UNBOUNDED = {MapType.PERF_EVENT_ARRAY}  # no entries stand for one a CPU


def refusals(spec: ObjectSpec) -> dict[str, BpfError]:
    """Return by program how the kernel, or we, refused it; nothing of what loaded.

    Maps whose size the object leaves to its loader get two entries.
    """
    for name, each in spec.maps.items():
        if not each.max_entries and each.type not in UNBOUNDED:
            spec = spec.with_map(name, max_entries=2)
    found: dict[str, BpfError] = {}
    for name in spec.programs:
        try:
            load(spec, programs=[name]).close()
        except BpfError as error:
            found[name] = error
    return found


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNITS])
def test_what_we_compile_loads_or_is_refused_for_a_named_reason(name: str, compiler: str) -> None:
    found = refusals(read_object(compiled(name, compiler)))

    allowed = (*NAMED, VerifierError) if name in FOR_THE_VERIFIER else NAMED
    assert {program: e for program, e in found.items() if not isinstance(e, allowed)} == {}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("name", "reason"), UNITS.items())
def test_a_unit_alone_names_what_it_lacks(name: str, reason: str, compiler: str) -> None:
    with pytest.raises(ObjectFileError, match=reason):
        read_object(compiled(name, compiler))


def test_what_the_machine_carries_is_read_and_loads() -> None:
    """Debian's xdp-tools alone carry 23 objects; tracepoints come and go with the kernel."""
    if not (objects := found_objects()):
        pytest.skip("no package with BPF objects is installed: apt install xdp-tools")
    programs = 0
    left: dict[str, BpfError] = {}
    for place, data in objects.items():
        spec = read_object(data)
        programs += len(spec.programs)
        for name, error in refusals(spec).items():
            is_expected = isinstance(error, NAMED) and spec.programs[name].type != ProgramType.XDP
            if not is_expected:
                left[f"{place}: {name}"] = error

    assert programs >= len(objects)
    assert left == {}
