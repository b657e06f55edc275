"""A program of every kind: it loads where this kernel has the kind, else the reason is named."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from bpfpin.btf.types import Function
from bpfpin.errors import (
    BpfError,
    ExitCode,
    NotSupportedError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
    VerifierError,
)
from bpfpin.loading.collection import load
from bpfpin.objects.kernel import attach_target
from bpfpin.objects.kernel.btf import BtfHandle, vmlinux_btf
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.syscall import bpf, call
from bpfpin.syscall.attr import ProgInfoAnswer, ProgLoadAttr
from bpfpin.uapi import Cmd, ProgramFlag, ProgramType
from support.lab import TestLab
from support.objects import compiled

LOADED = "loaded"
# Programs that sleep run at the entry of functions that errors may be injected into, such as system
# calls: bpf_check_attach_target() of kernel/bpf/verifier.c.
SLEEPING_CALL = {"x86_64": "__x64_sys_nanosleep", "aarch64": "__arm64_sys_nanosleep"}[
    os.uname().machine
]
WITHOUT_TARGET = {"entry_without_place", "entry_nowhere", "replacement"}


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compiled("program_kinds", "clang"))


@pytest.fixture
def packet(spec: ObjectSpec) -> Iterator[Program]:
    with load(spec, programs=["packet"]) as loaded:
        yield loaded.programs["packet"]


def outcome(spec: ObjectSpec, name: str) -> str:
    """Return how loading one program ended: in a word, or in those of the refusal."""
    attach_to = {name: SLEEPING_CALL} if name == "entry_sleeping" else {}
    try:
        with load(spec, programs=[name], attach_to=attach_to) as loaded:
            assert loaded.programs[name].type == spec.programs[name].type
    except (NotSupportedError, PermissionDeniedError, VerifierError) as error:
        return f"{error} {error.hint}"
    return LOADED


def test_every_kind_loads_or_is_refused_by_the_kernel_for_a_named_reason(spec: ObjectSpec) -> None:
    outcomes = {name: outcome(spec, name) for name in spec.programs if name not in WITHOUT_TARGET}

    always = {"filter", "packet", "fragments", "admit", "group_in", "look_up", "call", "sample"}
    refused = {name: words for name, words in outcomes.items() if words != LOADED}
    kinds = {name: f"type {spec.programs[name].type.name.lower()}" for name in refused}
    assert always & refused.keys() == set()
    # Kernels without CONFIG_FUNCTION_ERROR_INJECTION have no system call that it may sleep at.
    reasons = {**kinds, "entry_sleeping": f"{SLEEPING_CALL} is not sleepable"}
    assert [
        words
        for name, words in refused.items()
        if kinds[name] not in words and reasons[name] not in words
    ] == []


def test_an_optional_program_is_loaded_only_when_it_is_named(spec: ObjectSpec) -> None:
    optional = spec.only_programs("packet", "only_when_named")
    with load(optional) as usual, load(optional, programs=["only_when_named"]) as asked:
        assert list(usual.programs) == ["packet"]
        assert list(asked.programs) == ["only_when_named"]


@pytest.mark.parametrize(
    ("name", "btf_name"),
    [("typed_trace", "btf_trace_sched_switch"), ("walk", "bpf_iter_task")],
)
def test_what_attaches_to_the_kernel_is_loaded_with_the_id_of_its_type(
    spec: ObjectSpec, name: str, btf_name: str
) -> None:
    with load(spec, programs=[name]) as loaded:
        answer = ProgInfoAnswer()
        bpf.obj_get_info_by_fd(loaded.programs[name].fd, answer)

    assert vmlinux_btf()[answer.attach_btf_id].name == btf_name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("entry", "do_nanosleep"),
        ("leave", "do_nanosleep"),
        ("change", "security_file_open"),
        ("guard_sleeping", "bpf_lsm_file_open"),
        ("guard_group", "bpf_lsm_socket_bind"),
    ],
)
def test_functions_and_lsm_hooks_are_found_in_the_kernels_types(
    spec: ObjectSpec, name: str, wanted: str
) -> None:
    with attach_target.found(spec.programs[name]) as target:
        assert target is not None
        kind = vmlinux_btf()[target.btf_id]

    assert isinstance(kind, Function)
    assert (kind.name, target.fd) == (wanted, 0)


def test_attach_to_takes_the_place_of_what_the_section_says(spec: ObjectSpec) -> None:
    with load(spec, programs=["typed_trace"], attach_to={"typed_trace": "sched_wakeup"}) as loaded:
        answer = ProgInfoAnswer()
        bpf.obj_get_info_by_fd(loaded.programs["typed_trace"].fd, answer)

    assert vmlinux_btf()[answer.attach_btf_id].name == "btf_trace_sched_wakeup"


def test_a_program_that_is_not_there_cannot_be_attached_to(spec: ObjectSpec) -> None:
    with pytest.raises(UsageError, match="no program 'nosuch'"):
        load(spec, attach_to={"nosuch": "sched_wakeup"})


def test_a_section_without_a_place_asks_for_one(spec: ObjectSpec) -> None:
    with pytest.raises(UsageError, match="names no function to attach to") as caught:
        load(spec, programs=["entry_without_place"])

    assert "attach_to={'entry_without_place': NAME}" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("no_such_function_anywhere", "this kernel"),
        ("no_such_module:do_nanosleep", "module no_such_module"),
    ],
)
def test_a_function_that_the_kernel_lacks_is_named(
    spec: ObjectSpec, place: str, where: str
) -> None:
    with pytest.raises(TargetNotFoundError, match=f"which {where} does not have") as caught:
        load(spec, programs=["entry"], attach_to={"entry": place})

    assert caught.value.exit_code == ExitCode.NOT_FOUND


def test_a_function_that_the_kernel_lacks_is_told_with_its_like(spec: ObjectSpec) -> None:
    with pytest.raises(TargetNotFoundError) as caught:
        load(spec, programs=["entry"], attach_to={"entry": "do_nanoslep"})

    assert "near it: do_nanosleep" in caught.value.hint


def test_an_extension_names_the_function_of_its_target(
    spec: ObjectSpec, packet: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    entered = call._enter

    def enter(number: int, command: int, attribute: Any, size: int) -> int:
        asked = getattr(attribute, "_obj", None)
        if command == Cmd.PROG_LOAD and isinstance(asked, ProgLoadAttr):
            seen.append((asked.prog_type, asked.attach_btf_id, asked.attach_btf_obj_fd))
        return entered(number, command, attribute, size)

    monkeypatch.setattr(call, "_enter", enter)
    # Some kernels allow no extensions.
    with contextlib.suppress(NotSupportedError, PermissionDeniedError):
        load(spec, programs=["replacement"], targets={"replacement": packet}).close()
    with BtfHandle.from_id(packet.info.btf_id) as handle:
        function = handle.btf.find("packet", Function)

    assert seen[0] == (ProgramType.EXT, function, packet.fd)


def test_an_extension_without_its_target_is_refused(spec: ObjectSpec) -> None:
    with pytest.raises(UsageError, match="replacement needs a target"):
        load(spec, programs=["replacement"])


def test_an_extension_of_a_function_that_its_target_lacks_is_refused(
    spec: ObjectSpec, packet: Program
) -> None:
    with pytest.raises(TargetNotFoundError, match="no function 'nosuch'"):
        load(
            spec,
            programs=["replacement"],
            attach_to={"replacement": "nosuch"},
            targets={"replacement": packet},
        )


def test_a_program_is_bound_to_a_device(spec: ObjectSpec, lab: TestLab) -> None:
    bound = spec.with_program(
        "packet", program_flags=int(ProgramFlag.XDP_DEV_BOUND_ONLY), ifindex=lab.ifindex
    )
    elsewhere = bound.with_program("packet", ifindex=1)
    try:
        loaded = load(bound, programs=["packet"])
    except NotSupportedError as refused:
        if refused.feature != "program flag XDP_DEV_BOUND_ONLY":
            raise
        pytest.skip(f"this kernel has no {refused.feature}")
    with loaded:
        assert loaded.programs["packet"].type == ProgramType.XDP
    with pytest.raises(BpfError, match="not supported"):
        load(elsewhere, programs=["packet"])


def test_a_flag_that_the_kernel_lacks_is_named(spec: ObjectSpec) -> None:
    unknown = spec.with_program("packet", program_flags=1 << 30)
    with pytest.raises(NotSupportedError, match="this kernel has no program flag 0x40000000"):
        load(unknown, programs=["packet"])


def test_the_kernel_keeps_fifteen_characters_of_a_name(spec: ObjectSpec) -> None:
    with load(spec, programs=["raw_trace_writable"]) as loaded:
        program = loaded.programs["raw_trace_writable"]

        assert program.name == "raw_trace_writable"[:15]


def test_sleepable_and_fragment_programs_carry_their_flags(spec: ObjectSpec) -> None:
    flags = {name: ProgramFlag(each.program_flags) for name, each in spec.programs.items()}

    assert flags["user_probe_sleeping"] == flags["entry_sleeping"] == ProgramFlag.SLEEPABLE
    assert flags["fragments"] == flags["moving"] == ProgramFlag.XDP_HAS_FRAGS
    assert flags["packet"] == ProgramFlag(0)
