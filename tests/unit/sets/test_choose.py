"""Which programs of an object go to which hook, and which answers are not one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bpfpin.cli.failure import describe
from bpfpin.errors import UsageError, WrongHookError
from bpfpin.hooks import TargetKind
from bpfpin.sets.choose import (
    DEVICE,
    Choice,
    check_options,
    choose,
    left_out,
    parse_hook,
    passed_over,
    programs_to_load,
    types_of_hooks,
)
from bpfpin.spec import Hook, MapSpec, ObjectSpec, ProgramSpec
from bpfpin.uapi import AttachType, MapType, ProgramType


def program(
    name: str,
    section: str = "xdp",
    *,
    kind: ProgramType = ProgramType.XDP,
    hook: Hook | None = Hook.XDP,
    expected: AttachType | None = AttachType.XDP,
) -> ProgramSpec:
    return ProgramSpec(name, kind, section, (), hook=hook, expected_attach_type=expected)


def spec(*programs: ProgramSpec, maps: tuple[MapSpec, ...] = ()) -> ObjectSpec:
    return ObjectSpec(
        {one.name: one for one in maps}, {one.name: one for one in programs}, path="x.o"
    )


FREE = program("free", "mine", hook=None)
UNTYPED = program("untyped", "mine", kind=ProgramType.UNSPEC, hook=None, expected=None)
INGRESS = program(
    "ingress", "tcx/ingress", kind=ProgramType.SCHED_CLS, hook=Hook.TCX_INGRESS, expected=None
)
SAME = program(
    "same", "tcx/ingress", kind=ProgramType.SCHED_CLS, hook=Hook.TCX_INGRESS, expected=None
)
TC = program("count", "tc", kind=ProgramType.SCHED_CLS, hook=None, expected=None)
EGRESS = program(
    "egress",
    "cgroup_skb/egress",
    kind=ProgramType.CGROUP_SKB,
    hook=Hook.CGROUP_INET_EGRESS,
    expected=AttachType.CGROUP_INET_EGRESS,
)
ADDRESS = program("address", "mine", kind=ProgramType.CGROUP_SOCK_ADDR, hook=None, expected=None)
CGROUP = frozenset({TargetKind.CGROUP})
BOTH = frozenset({TargetKind.DEVICE, TargetKind.CGROUP})
DEVMAP = program("devmap", "xdp/devmap", hook=None, expected=AttachType.XDP_DEVMAP)


def test_a_hook_says_the_type_where_no_section_does() -> None:
    there = spec(UNTYPED, INGRESS, ADDRESS)

    assert types_of_hooks(there, hook=Hook.XDP) == {"untyped": "xdp"}
    assert types_of_hooks(there, words=["untyped:tcx-ingress"]) == {"untyped": "sched_cls"}
    assert types_of_hooks(there, words=["untyped:cgroup-inet-egress"], hook=Hook.XDP) == {
        "untyped": "cgroup_skb"
    }
    assert types_of_hooks(there, words=["untyped", "ingress:xdp"]) == {}


def test_what_tail_calls_reach_is_of_the_type_of_the_others() -> None:
    called = replace(UNTYPED, name="called")
    array = MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, 2, initial=((0, "called"),))
    there = spec(UNTYPED, called, maps=(array,))

    assert types_of_hooks(there, words=["untyped:xdp"]) == {"untyped": "xdp", "called": "xdp"}


def chosen(found: list[Choice]) -> dict[str, Hook]:
    return {choice.program.name: choice.hook for choice in found}


def test_a_program_goes_where_its_section_says() -> None:
    assert chosen(choose(spec(program("count"), FREE))) == {"count": Hook.XDP}


def test_a_named_program_goes_where_its_section_or_the_name_says() -> None:
    two = spec(program("count"), program("drop"), FREE)

    assert chosen(choose(two, words=["drop"])) == {"drop": Hook.XDP}
    assert chosen(choose(two, words=["free:xdp"])) == {"free": Hook.XDP}
    assert chosen(choose(two, words=["free"], hook=Hook.XDP)) == {"free": Hook.XDP}
    assert chosen(choose(two, words=["drop", "drop"])) == {"drop": Hook.XDP}


def test_of_a_device_and_a_cgroup_each_program_goes_to_its_own() -> None:
    """What has no place is left out, and told."""
    both = spec(program("count"), EGRESS)

    assert chosen(choose(both)) == {"count": Hook.XDP}
    assert [one.name for one in passed_over(both, choose(both), DEVICE)] == ["egress"]
    assert chosen(choose(both, targets=CGROUP)) == {"egress": Hook.CGROUP_INET_EGRESS}
    assert chosen(choose(both, targets=BOTH)) == {
        "count": Hook.XDP,
        "egress": Hook.CGROUP_INET_EGRESS,
    }


def test_several_programs_go_to_one_hook_if_each_is_named() -> None:
    two = spec(INGRESS, SAME)
    found = choose(two, words=["ingress", "same"])

    assert [(one.program.name, one.hook) for one in found] == [
        ("ingress", Hook.TCX_INGRESS),
        ("same", Hook.TCX_INGRESS),
    ]


def test_one_program_goes_to_several_hooks() -> None:
    found = choose(spec(TC), words=["count:tcx-ingress", "count:tc-egress"])

    assert [one.hook for one in found] == [Hook.TCX_INGRESS, Hook.TC_EGRESS]


def test_a_program_is_loaded_for_the_hook_that_its_section_does_not_say() -> None:
    (found,) = choose(spec(ADDRESS), words=["address:cgroup-inet6-connect"], targets=CGROUP)

    assert found.program.expected_attach_type is AttachType.CGROUP_INET6_CONNECT


def test_an_order_is_for_hooks_that_run_several_programs() -> None:
    check_options(choose(spec(INGRESS)), has_order=True, has_mode=False)

    with pytest.raises(UsageError, match="of tcx and netkit, and these go to: xdp"):
        check_options(choose(spec(program("count"))), has_order=True, has_mode=False)


def test_a_mode_is_for_xdp() -> None:
    check_options(choose(spec(program("count"), INGRESS)), has_order=False, has_mode=True)

    with pytest.raises(UsageError, match="for the programs of xdp, and these go to: tcx-ingress"):
        check_options(choose(spec(INGRESS)), has_order=False, has_mode=True)


def test_programs_that_tail_calls_reach_are_not_meant_by_a_hook() -> None:
    tail = program("tail", "7/0", kind=ProgramType.SCHED_CLS, hook=None, expected=None)
    slots = MapSpec("slots", MapType.PROG_ARRAY, 4, 4, 1, initial=((0, "tail"),))

    assert chosen(choose(spec(TC, tail, maps=(slots,)), hook=Hook.TC_INGRESS)) == {
        "count": Hook.TC_INGRESS
    }


def test_a_hook_is_for_programs_that_have_none() -> None:
    assert chosen(choose(spec(FREE), hook=Hook.XDP)) == {"free": Hook.XDP}


def test_a_hook_picks_the_programs_that_go_there() -> None:
    both = spec(INGRESS, program("count"), FREE)

    assert chosen(choose(both, hook=Hook.XDP)) == {"count": Hook.XDP}


def test_an_object_of_optional_programs_alone_asks_for_one() -> None:
    optional = spec(program("one", "?xdp"), program("two", "?tc"))

    with pytest.raises(
        UsageError, match=r"all programs .* are optional.*section '\?xdp'"
    ) as caught:
        choose(optional)

    assert "--prog one" in describe(caught.value, words=()).hint
    assert "--prog two" in describe(caught.value, words=()).hint
    assert left_out(optional, ["two"]) == ["one"]


def test_an_optional_section_counts_only_when_it_is_named() -> None:
    optional = spec(program("count"), program("other", "?xdp"))

    assert chosen(choose(optional)) == {"count": Hook.XDP}
    assert chosen(choose(optional, words=["other"])) == {"other": Hook.XDP}


@pytest.mark.parametrize(
    ("made", "options", "said", "hint"),
    [
        (spec(), {}, "x.o has no program, only maps", ""),
        (spec(program("a")), {"words": ["b"]}, "no program 'b'; it has: a", ""),
        (spec(program("a")), {"words": ["a:zzz"]}, "no hook 'zzz'; there are: xdp, tcx-", ""),
        (spec(FREE), {}, r"no section says .*: free \(section 'mine'\)", "--prog free:xdp"),
        (spec(FREE, program("a")), {"words": ["free"]}, "no section says", "--prog free:xdp"),
        (
            spec(TC),
            {},
            "no section says",
            "--prog count:tcx-ingress|tcx-egress|tc-ingress|tc-egress",
        ),
        (spec(EGRESS), {}, "goes to cgroup-inet-egress of a cgroup, and none", "--cgroup PATH"),
        (
            spec(EGRESS, program("a")),
            {"targets": CGROUP, "words": ["a"]},
            "goes to xdp of a device, and none was named",
            "--dev DEV",
        ),
        (
            spec(INGRESS, SAME),
            {},
            "2 programs would go to tcx-ingress, and it was not said that all should",
            "  --prog ingress\n  --prog same",
        ),
        (
            spec(program("a"), program("b")),
            {},
            "2 programs would go to xdp, which runs one: a, b",
            "  --prog a\n  --prog b",
        ),
        (spec(UNTYPED), {"hook": Hook.XDP}, "'mine' does not say what type", "--type xdp"),
    ],
)
def test_what_is_not_one_answer_is_a_usage_error_with_the_line_to_type(
    made: ObjectSpec, options: dict[str, object], said: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        choose(made, **options)  # type: ignore[arg-type]  # a table of options

    assert hint in describe(caught.value, words=()).hint


@pytest.mark.parametrize(
    ("made", "word", "said"),
    [
        (INGRESS, "ingress:xdp", "of type sched_cls .* cannot run at xdp"),
        (EGRESS, "egress:cgroup-inet4-bind", "of type cgroup_skb .* cannot run at cgroup-inet4-"),
        (DEVMAP, "devmap:xdp", "'xdp/devmap'.* cannot run at xdp"),
    ],
)
def test_a_program_that_cannot_run_there_is_refused(
    made: ProgramSpec, word: str, said: str
) -> None:
    with pytest.raises(WrongHookError, match=said):
        choose(spec(made), words=[word])


def test_the_programs_of_tail_calls_are_loaded_too() -> None:
    tails = MapSpec("tails", MapType.PROG_ARRAY, 4, 4, 2, initial=((0, "tail"), (1, "count")))
    inner = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 1, initial=((0, "inner"),))
    made = spec(program("count"), program("tail"), program("other"), maps=(tails, inner))
    picked = choose(made, words=["count"])

    assert programs_to_load(made, picked) == ["count", "tail"]


@pytest.mark.parametrize("hook", Hook)
def test_every_hook_is_typed_as_it_is_shown(hook: Hook) -> None:
    assert parse_hook(hook.value) is hook
