"""`load` of programs that name their own targets: no device, no cgroup."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfpin.errors import IdNotFoundError
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.syscall import netns
from support.cli import run_cli_ok
from support.here import Here
from support.lab import TestLab
from support.objects import compiled
from support.trials import take_back
from support.wait import wait_until

pytestmark = pytest.mark.usefixtures("only_caller")

ON_CALL, ON_OTHER, ON_RAW, ON_LOOKUP = range(4)
CALLS = 20
PARAM = "syscalls/sys_enter_sched_getparam"
INTERVAL = "syscalls/sys_enter_sched_rr_get_interval"


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


@pytest.fixture
def source() -> Path:
    return compiled("tracing")


def newer() -> Path:
    return compiled("tracing", defines=("STEP=1000",))


def load(here: Here, source: Path, *words: object) -> dict[str, object]:
    document: dict[str, object] = here.ok("load", source, "--name", "seen", *words)
    return document


def call(function: Callable[[int], object] = os.sched_getparam) -> None:
    for _ in range(CALLS):
        function(0)


def counted(here: Here, kind: int) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def is_gone(program_id: int) -> bool:
    try:
        Program.from_id(program_id).close()
    except IdNotFoundError:
        return True
    return False


def test_programs_go_where_their_sections_say(here: Here, source: Path) -> None:
    document = load(here, source)
    call()
    call(os.sched_rr_get_interval)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        socket.create_connection(listener.getsockname()).close()
    programs = {one["name"]: one for one in document["programs"]}  # type: ignore[attr-defined]

    assert {name: one["hook"] for name, one in programs.items()} == {
        "on_call": "tracepoint",
        "on_other": "tracepoint",
        "on_raw": "raw-tracepoint",
        "on_lookup": "sk-lookup",
    }
    assert programs["on_call"]["target"] == PARAM
    assert [counted(here, kind) for kind in (ON_CALL, ON_OTHER, ON_LOOKUP)] == [CALLS, CALLS, 1]
    assert counted(here, ON_RAW) > 2 * CALLS


def test_status_and_graph_show_the_targets(here: Here, source: Path) -> None:
    load(here, source, "--prog", "on_call", "--prog", "on_lookup")
    (shown,) = here.ok("status")["sets"]
    graph = here.ok("graph")

    assert shown["state"] == "ok"
    assert {hook["hook"]: hook["device"] for hook in shown["hooks"]} == {
        "tracepoint": f"tracepoint {PARAM}",
        "sk-lookup": f"network namespace {netns.inode()}",
    }
    assert {"on_call", "on_lookup"} <= {node["name"] for node in graph["nodes"]}


def test_the_same_again_changes_nothing_and_another_object_keeps_the_counts(
    here: Here, source: Path
) -> None:
    load(here, source)
    call()
    unchanged = load(here, source)
    reloaded = load(here, newer())
    call()

    assert (unchanged["result"], reloaded["result"]) == ("unchanged", "reloaded")
    assert counted(here, ON_CALL) == CALLS + 1000 * CALLS
    assert here.ok("status")["sets"][0]["state"] == "ok"


def links(here: Here) -> dict[str, tuple[str, int]]:
    (shown,) = here.ok("status")["sets"]
    return {hook["program"]: (hook["held"], hook["link"]) for hook in shown["hooks"]}


def test_a_reload_replaces_the_program_of_a_stub_and_keeps_its_link(
    here: Here, source: Path
) -> None:
    load(here, source)
    before = links(here)
    load(here, newer())

    assert {name: held for name, (held, _) in before.items()} == {
        "on_call": "stub",
        "on_other": "stub",
        "on_raw": "stub",
        "on_lookup": "link",
    }
    assert links(here) == before


def test_without_a_stub_the_program_itself_is_attached(here: Here, source: Path) -> None:
    words = ("--prog", "on_call", "--no-stub")
    load(here, source, *words)
    before = links(here)
    load(here, newer(), *words)
    call()

    assert before["on_call"][0] == links(here)["on_call"][0] == "link"
    assert before != links(here)
    assert counted(here, ON_CALL) == 1000 * CALLS


def test_a_stub_comes_and_goes_as_it_is_asked_for(here: Here, source: Path) -> None:
    held = []
    for version, words in enumerate([(), ("--no-stub",), ()]):
        load(here, compiled("tracing", defines=(f"VERSION={version}",)), "--prog=on_call", *words)
        call()
        held.append(links(here)["on_call"][0])

    assert held == ["stub", "link", "stub"]
    assert counted(here, ON_CALL) == 3 * CALLS


def test_a_stub_leaves_when_that_is_all_that_is_asked(here: Here, source: Path) -> None:
    results = [load(here, source, "--prog=on_call", *words) for words in [(), ("--no-stub",)]]
    again = load(here, source, "--prog=on_call", "--no-stub")
    call()

    assert [each["result"] for each in (*results, again)] == ["loaded", "reloaded", "unchanged"]
    assert links(here)["on_call"][0] == "link"
    assert counted(here, ON_CALL) == CALLS


def test_a_stub_lets_no_program_read_beyond_the_context(here: Here) -> None:
    """Attached itself it is refused by the kernel, which does not look behind a stub."""
    words = ("--prog", f"reads_far:tracepoint={PARAM}")
    far, near = (compiled("tracing", defines=(f"FAR={number}",)) for number in (50, 0))
    refused = here.run("load", far, "--name", "seen", *words)
    load(here, near, *words)
    before = links(here)
    again = here.run("load", far, "--name", "seen", *words)

    assert (refused.exit_code, again.exit_code) == (1, 1), again.stderr
    assert "reads more than its record" in refused.stderr
    assert before["reads_far"][0] == "stub"
    assert links(here) == before


def test_a_slot_that_was_unpinned_is_told_and_healed(here: Here, source: Path) -> None:
    load(here, source, "--prog", "on_call")
    (here.set / "slots~" / "tracepoint~on_call").unlink()
    broken = here.ok("status")
    load(here, source, "--prog", "on_call")
    call()

    assert broken["sets"][0]["state"] == "defunct"
    assert any("calls no program" in problem["text"] for problem in broken["problems"])
    assert counted(here, ON_CALL) == CALLS


def test_a_load_on_trial_goes_back_to_the_program_before(here: Here, source: Path) -> None:
    load(here, source, "--prog", "on_call")
    load(here, newer(), "--prog", "on_call", "--confirm", "600")
    call()
    take_back(here.root)
    call()

    assert counted(here, ON_CALL) == 1000 * CALLS + CALLS


def test_a_confirmed_load_stays(here: Here, source: Path) -> None:
    load(here, source, "--prog", "on_call", "--confirm", "600")
    here.ok("confirm", "seen")
    call()

    assert counted(here, ON_CALL) == CALLS
    assert here.ok("status")["sets"][0]["state"] == "ok"


def test_a_target_is_named_where_the_section_names_none_or_another(
    here: Here, source: Path
) -> None:
    target = INTERVAL
    load(here, source, "--prog", f"anywhere:tracepoint={target}", "--prog", "on_other")
    call()
    call(os.sched_rr_get_interval)

    assert counted(here, ON_CALL) == CALLS  # `anywhere` at the other call
    assert counted(here, ON_OTHER) == CALLS


def test_one_program_at_two_targets_keeps_both_over_a_reload(here: Here, source: Path) -> None:
    targets = [
        f"anywhere:tracepoint=syscalls/sys_enter_sched_{call}"
        for call in ("rr_get_interval", "getparam")
    ]
    words = [word for target in targets for word in ("--prog", target)]
    load(here, source, *words)
    first = here.ok("status")["sets"][0]["hooks"]
    load(here, newer(), *words)
    call()
    call(os.sched_rr_get_interval)

    assert [hook["device"] for hook in first] == [
        f"tracepoint {INTERVAL}",
        f"tracepoint {PARAM}",
    ]
    assert counted(here, ON_CALL) == 2 * 1000 * CALLS


def test_a_program_moves_to_another_target(here: Here, source: Path) -> None:
    load(here, source, "--prog", f"anywhere:tracepoint={INTERVAL}")
    load(here, source, "--prog", f"anywhere:tracepoint={PARAM}")
    call(os.sched_rr_get_interval)
    call()

    assert counted(here, ON_CALL) == CALLS
    assert len(here.ok("status")["sets"][0]["hooks"]) == 1


def test_unload_detaches_and_leaves_nothing(here: Here, source: Path) -> None:
    document = load(here, source)
    here.ok("unload", "seen")

    assert not here.set.exists()
    for program in document["programs"]:  # type: ignore[attr-defined]
        wait_until(lambda: is_gone(program["id"]))  # noqa: B023  (it returns before the next one)


def test_a_dry_run_changes_nothing(here: Here, source: Path) -> None:
    planned = load(here, source, "--dry-run")

    assert planned["result"] == "planned"
    assert not here.set.exists()


@pytest.mark.parametrize(
    "word",
    ["anywhere:tracepoint=syscalls/sys_enter_sched_getparan", "on_raw:raw-tracepoint=sys_enterr"],
)
def test_a_dry_run_looks_for_the_target(here: Here, source: Path, word: str) -> None:
    here.refused(4, "load", source, "--name", "seen", "--prog", word, "--dry-run")


def test_the_set_is_called_after_the_file(here: Here, source: Path) -> None:
    document = here.ok("load", source, "--prog", "on_call")

    assert document["set"] == source.name.partition(".")[0]


def test_status_says_what_loads_it_again(here: Here, source: Path) -> None:
    load(here, source, "--prog", f"anywhere:tracepoint={INTERVAL}")
    (here.set / "links~" / "tracepoint~anywhere").unlink()
    problems = here.ok("status")["problems"]

    assert any(f"--prog=anywhere:tracepoint={INTERVAL}" in it["fix"] for it in problems)


@pytest.mark.parametrize(
    ("word", "refused"),
    [
        ("anywhere", (2, "anywhere:tracepoint=syscalls/sys_enter_openat")),
        ("anywhere:tracepoint=", (2, "names no target")),
        ("anywhere:tracepoint=sys_enter", (2, "a category and a name")),
        (
            "anywhere:tracepoint=syscalls/sys_enter_sched_getparan",
            (4, PARAM),
        ),
        ("on_raw:raw-tracepoint=sys_enterr", (4, "sys_enter")),
        ("on_lookup:sk-lookup=lab0", (2, "takes no target")),
        ("on_call:raw-tracepoint=sys_enter", (2, "cannot run at raw-tracepoint")),
    ],
)
def test_a_wrong_target_is_refused_with_what_is_there(
    here: Here, source: Path, word: str, refused: tuple[int, str]
) -> None:
    exit_code, words = refused
    result = here.refused(exit_code, "load", source, "--name", "seen", "--prog", word)

    assert words in result.stderr


def test_an_object_of_a_device_still_needs_one(here: Here) -> None:
    result = here.refused(2, "load", compiled("reload_old"), "--name", "seen")

    assert "--dev DEV" in result.stderr


def test_a_lookup_is_of_the_network_namespace_that_is_named(
    here: Here, source: Path, lab: TestLab
) -> None:
    words = ("--name", "seen", "--prog", "on_lookup", "-n", lab.lab.netns)
    here.ok("load", source, *words)
    (shown,) = here.ok("status")["sets"]
    run_cli_ok("status", "seen", "--pin-root", here.root)

    assert shown["hooks"][0]["device"] == f"network namespace {lab.lab.netns}"
    assert here.ok("load", source, *words)["result"] == "unchanged"
