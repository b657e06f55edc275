"""The hook registry: rows in the kernel's words, and decisions that ask the row alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bpfpin.attach.registry import HookCode, code_of
from bpfpin.errors import UsageError, WrongHookError
from bpfpin.hooks import (
    HeldBy,
    Hook,
    HookTraits,
    TargetKind,
    hooks_at,
    hooks_with_code,
    known_hook,
)
from bpfpin.objfile.elf.section import section_rows
from bpfpin.pins.manifest import AttachPoint
from bpfpin.sets.choose import check_options, choose, has_target, parse_hook, types_of_hooks
from bpfpin.sets.place import target_name
from bpfpin.spec import ObjectSpec, ProgramSpec
from bpfpin.syscall.errno_table import link_type_of
from bpfpin.uapi import AttachType, LinkType, ProgramType
from support.hooks import registered

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
# Infrared receivers have a hook in the kernel, and none here.
LIRC = HookTraits(
    (ProgramType.LIRC_MODE2,),
    AttachType.LIRC_MODE2,
    TargetKind.NOTHING,
    code="lirc",
    since="4.18",
    sections=("lirc_mode2",),
    link_type=LinkType.PERF_EVENT,
    updates_in_place=False,
    checks_attach_type=False,
)


@pytest.fixture
def lirc() -> Iterator[Hook]:
    with registered("lirc", LIRC) as hook:
        yield hook


def test_every_attach_type_of_a_cgroup_has_its_hook() -> None:
    places = {one for one in AttachType if one.name.startswith("CGROUP_")}

    assert {hook.attach_type for hook in Hook if hook.is_cgroup} == places | {AttachType.LSM_CGROUP}


def test_a_hook_is_typed_as_the_kernel_calls_it() -> None:
    assert Hook("tcx-ingress").attach_type is AttachType.TCX_INGRESS
    assert Hook("cgroup-udp4-sendmsg").attach_type is AttachType.CGROUP_UDP4_SENDMSG
    assert [hook.value for hook in Hook] == [hook.name.lower().replace("_", "-") for hook in Hook]


def test_hooks_without_an_attach_type_have_sections_or_filters() -> None:
    for hook in Hook:
        is_told_otherwise = bool(hook.traits.sections) or hook.traits.held_by is HeldBy.FILTER

        assert hook.attach_type is not None or is_told_otherwise


def test_a_row_has_the_attach_type_of_its_word_or_its_section() -> None:
    kinds = [row.kind for row in section_rows().values()]
    for hook in Hook:
        if hook.attach_type is not None:
            of_word = AttachType.__members__.get(hook.name)
            of_sections = {kind.attach_type for kind in kinds if kind.hook is hook}
            # libbpf sets that of USDT when it loads a program.
            expected = {None} if hook is Hook.USDT else {hook.attach_type}
            assert hook.attach_type is of_word or of_sections == expected


def test_a_row_runs_the_programs_of_its_sections() -> None:
    """The table of sections is libbpf's, and does not know the registry's types."""
    kinds = [row.kind for row in section_rows().values()]

    hooks = [hook for hook in Hook if hook.traits.held_by is not HeldBy.FILTER]
    assert {kind.hook for kind in kinds if kind.hook} == set(hooks)
    for kind in kinds:
        assert kind.hook is None or kind.type in kind.hook.traits.program_types


def test_a_row_has_the_link_type_of_its_attach_type() -> None:
    for hook in Hook:
        if hook.attach_type is not None and (kind := link_type_of(hook.attach_type)):
            assert hook.traits.link_type is kind


def test_programs_of_type_xdp_alone_have_actions_and_modes() -> None:
    for hook in Hook:
        runs_xdp = ProgramType.XDP in hook.traits.program_types
        assert (hook.traits.has_actions, hook.traits.has_mode) == (runs_xdp, runs_xdp)


def test_a_word_of_another_version_is_no_known_hook() -> None:
    assert known_hook("xdp") is Hook.XDP
    assert known_hook("lirc") is None


@pytest.mark.parametrize("hook", Hook)
def test_the_code_of_a_hook_does_what_its_row_needs(hook: Hook) -> None:
    traits = hook.traits
    needed = {"attach"}
    needed |= {"running_on"} if traits.target is TargetKind.DEVICE else set()
    needed |= {"running_in"} if traits.target is TargetKind.CGROUP else set()
    needed |= {"complete", "reopen", "detach_line"} if traits.held_by is not HeldBy.LINK else set()
    needed |= {"holder"} if traits.runs_one else set()
    code = type(code_of(hook))

    assert {name for name in needed if getattr(code, name) is getattr(HookCode, name)} == set()
    assert (traits.link_type is not None) == (traits.held_by is HeldBy.LINK)
    # Otherwise a reload could only detach the old program before it attaches the new one.
    assert traits.updates_in_place or not traits.runs_one


def test_the_table_of_the_reference_is_that_of_the_registry() -> None:
    """Hooks of cgroups are too many for it: those whose word is left out have the same code."""
    section = REFERENCE.read_text().partition("\n## Hooks\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    hooks = {Hook(word): row for row in rows for word in re.findall(r"`([^`]+)`", row[1])}

    assert {hook.traits.code for hook in Hook if hook not in hooks} == {"cgroup"}
    assert {hook.traits.code for hook in hooks} == {hook.traits.code for hook in Hook}
    for hook, (_, _, target, _, held_by, _) in hooks.items():
        assert target.strip() == hook.traits.target.value
        assert ("a link" in held_by) == (hook.traits.held_by is HeldBy.LINK)
        assert ("(Linux " not in held_by) or f"(Linux {hook.traits.since}" in held_by


def test_a_new_row_is_typed_and_listed(lirc: Hook) -> None:
    assert parse_hook("lirc") is lirc
    with pytest.raises(UsageError, match="there is no hook 'lirk'; near it: lirc"):
        parse_hook("lirk")
    assert lirc in hooks_at(TargetKind.NOTHING)
    assert hooks_with_code("lirc") == (lirc,)


@pytest.mark.parametrize(
    ("word", "best"),
    [
        ("cgroup-connect4", "cgroup-inet4-connect"),
        ("cgroup/connect6", "cgroup-inet6-connect"),
        ("cgroup_skb/egress", "cgroup-inet-egress"),
        ("tcx_ingres", "tcx-ingress"),
        ("xpd", "xdp"),
    ],
)
def test_a_wrong_hook_is_told_with_a_handful_like_it(word: str, best: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_hook(word)
    near = refused.value.message.partition("; near it: ")[2].split(", ")

    assert near[0] == best
    assert len(near) <= 5


def test_a_word_that_is_like_no_hook_is_told_with_all() -> None:
    with pytest.raises(UsageError) as refused:
        parse_hook("foo")

    listed = refused.value.message.partition("; there are: ")[2].split(", ")
    assert listed == [hook.value for hook in Hook]


def test_a_new_row_says_which_sections_go_there(lirc: Hook) -> None:
    rows = section_rows()

    assert {name for name, row in rows.items() if row.kind.hook is lirc} == {"lirc_mode2"}
    assert rows["xdp"].kind.hook is Hook.XDP


def received(name: str, hook: Hook | None) -> ProgramSpec:
    return ProgramSpec(name, ProgramType.LIRC_MODE2, "lirc_mode2", (), hook=hook)


def traced(name: str, hook: Hook | None, attach_to: str = "") -> ProgramSpec:
    section = f"tracepoint/{attach_to}" if attach_to else "tracepoint"
    return ProgramSpec(name, ProgramType.TRACEPOINT, section, (), hook=hook, attach_to=attach_to)


def objects(*programs: ProgramSpec) -> ObjectSpec:
    return ObjectSpec({}, {program.name: program for program in programs}, path="x.o")


def test_programs_are_chosen_for_a_new_row(lirc: Hook) -> None:
    """It belongs to no device: it goes with whatever target the load was given."""
    xdp = ProgramSpec("count", ProgramType.XDP, "xdp", (), hook=Hook.XDP)
    both = objects(received("receive", lirc), xdp)

    assert has_target(lirc, frozenset())
    assert [(one.program.name, one.hook) for one in choose(both)] == [
        ("receive", lirc),
        ("count", Hook.XDP),
    ]
    (choice,) = choose(both, words=["receive"], targets=frozenset({TargetKind.CGROUP}))
    assert choice.program.expected_attach_type is None
    untyped = replace(received("any", None), type=ProgramType.UNSPEC)
    assert types_of_hooks(objects(untyped), hook=lirc) == {"any": "lirc_mode2"}


def test_each_program_names_its_own_target() -> None:
    switch, fork = traced("a", Hook.TRACEPOINT, "sched/sched_switch"), traced("b", Hook.TRACEPOINT)
    chosen = choose(objects(switch, fork), words=["a", "b:tracepoint=sched/sched_process_fork"])

    assert [(one.program.name, one.target) for one in chosen] == [
        ("a", "sched/sched_switch"),
        ("b", "sched/sched_process_fork"),
    ]
    assert [one.program.attach_to for one in chosen] == [one.target for one in chosen]


def test_a_target_that_nothing_names_is_asked_for() -> None:
    with pytest.raises(UsageError, match="goes to a tracepoint, and none was named") as refused:
        choose(objects(traced("a", Hook.TRACEPOINT)))

    assert "a:tracepoint=syscalls/sys_enter_openat" in refused.value.hint


def test_a_new_row_refuses_what_it_cannot_run(lirc: Hook) -> None:
    xdp = ProgramSpec("count", ProgramType.XDP, "xdp", (), hook=Hook.XDP)

    with pytest.raises(WrongHookError, match=r"is of type xdp .* cannot run at lirc"):
        choose(objects(xdp), words=["count:lirc"])
    chosen = choose(objects(received("receive", lirc)))
    with pytest.raises(UsageError, match="and these go to: lirc"):
        check_options(chosen, has_order=True, has_mode=False)


def test_a_new_row_is_shown_at_its_target(lirc: Hook) -> None:
    place = AttachPoint(netns="blue", device="lab0", cgroup="/web")

    assert target_name(place, lirc.value) == "this host"
    assert target_name(place, "sk-lookup") == "network namespace blue"
    assert target_name(place, "tracepoint", "sched/sched_switch") == "tracepoint sched/sched_switch"
    assert target_name(place, "xdp") == "lab0"
    assert target_name(place, "cgroup-device") == "cgroup /web"
    assert target_name(place, "a hook of another version") == "lab0"
