"""Which programs of an object go to which hook, and which answers are not one."""

from __future__ import annotations

import pytest

from bpfpin.apps.choose import Choice, choose, parse_hook, programs_to_load
from bpfpin.errors import UsageError, WrongHookError
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
DEVMAP = program("devmap", "xdp/devmap", hook=None, expected=AttachType.XDP_DEVMAP)


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


def test_a_hook_is_for_programs_that_have_none() -> None:
    assert chosen(choose(spec(FREE), hook=Hook.XDP)) == {"free": Hook.XDP}


def test_a_hook_picks_the_programs_that_go_there() -> None:
    both = spec(INGRESS, program("count"), FREE)

    assert chosen(choose(both, hook=Hook.XDP)) == {"count": Hook.XDP}


def test_an_optional_section_counts_only_when_it_is_named() -> None:
    optional = spec(program("count"), program("other", "?xdp"))

    assert chosen(choose(optional)) == {"count": Hook.XDP}
    assert chosen(choose(optional, words=["other"])) == {"other": Hook.XDP}


@pytest.mark.parametrize(
    ("made", "options", "said", "hint"),
    [
        (spec(), {}, "x.o has no program, only maps", ""),
        (spec(program("a")), {"words": ["b"]}, "no program 'b'; it has: a", ""),
        (spec(program("a")), {"words": ["a:up"]}, "no hook 'up'; there are: xdp, tcx-", ""),
        (spec(FREE), {}, r"no section says .*: free \(section 'mine'\)", "--prog free:HOOK"),
        (spec(FREE, program("a")), {"words": ["free"]}, "no section says", "--prog free:HOOK"),
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

    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("made", "word", "said"),
    [
        (INGRESS, "ingress", "goes to tcx-ingress, where bpfpin cannot attach yet; it can at: xdp"),
        (INGRESS, "ingress:xdp", "of type sched_cls .* cannot run at xdp"),
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
