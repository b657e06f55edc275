"""`load` at the hooks of tc: tcx by a link, classic tc by a filter, each beside those of others."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach import clsact
from bpfpin.attach.clsact import PRIORITY, attach_clsact, clsact_filters
from bpfpin.attach.query import tcx_programs
from bpfpin.attach.tcx import attach_tcx
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook
from support.crash import calls_of_a_process
from support.here import Here, decisions, map_ids, packets, veth, wait_for_the_end_of
from support.hooks import idle, without_tcx
from support.kernel_needs import need_hook, need_tcx
from support.lab import TestLab
from support.moments import stopped
from support.objects import compiled
from support.tools import need

TC_STATS = "builtin:tc_stats"
COUNTERS = "xdp_stats_map"
PASSED = 2
HOOKS = ("tcx-ingress", "tcx-egress", "tc-ingress", "tc-egress")
FILTERS = HOOKS[2:]
OLD, NEW = "places_old", "places_new"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def counting(bpffs: Path, lab: TestLab) -> Here:
    """A device with a peer that sends, and a pin root of its own."""
    return Here(bpffs, lab.device)


def at(hook: str, program: str = "tc_in") -> tuple[str, str]:
    return "--prog", f"{program}:{hook}"


def tc(*words: str) -> Any:
    """Return what the real tool says."""
    need("tc")
    shown = subprocess.run(["tc", "-j", *words], check=True, capture_output=True, text=True).stdout
    return json.loads(shown or "[]")


def filters(here: Here, hook: str) -> list[tuple[int, str, int]]:
    """Return priority, handle and program of the filters at a hook of classic tc, as tc(8) does."""
    side = hook.removeprefix("tc-")
    shown = [one for one in tc("filter", "show", "dev", here.device, side) if "options" in one]
    return [(one["pref"], one["options"]["handle"], one["options"]["prog"]["id"]) for one in shown]


def has_clsact(here: Here) -> bool:
    """Whether tc(8) sees the qdisc."""
    return "clsact" in [one["kind"] for one in tc("qdisc", "show", "dev", here.device)]


def order(here: Here, hook: Hook = Hook.TCX_INGRESS) -> list[int]:
    """Return the programs of a tcx hook as they run."""
    index = socket.if_nametoindex(here.device)
    return [one.program_id for one in tcx_programs(index, hook)]


def running(here: Here) -> set[int]:
    """Return the programs at all hooks of tc."""
    ids = set(order(here) + order(here, Hook.TCX_EGRESS))
    for hook in FILTERS:
        ids |= {program for _, _, program in filters(here, hook)} if has_clsact(here) else set()
    return ids


def counted(here: Here, place: int) -> int:
    """Return what the program at that place of places.h has counted."""
    with Map.from_pin(here.set / "counts", read_only=True) as counts:
        return int(counts[place])


def send(lab: TestLab, times: int) -> None:
    """Send out of the lab's device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(times):
            sender.sendto(b"x", (lab.peer_address, 9999))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_program_counts_at_each_hook_through_a_reload(
    counting: Here, lab: TestLab, hook: str
) -> None:
    need_hook(hook)
    flow = lab.flood if hook.endswith("ingress") else lambda times: send(lab, times)
    first = counting.load(compiled(OLD), *at(hook))
    flow(10)
    again = counting.load(compiled(OLD), *at(hook))
    second = counting.load(compiled(NEW), *at(hook))
    flow(7)
    (old,), (new,) = first["programs"], second["programs"]

    assert [one["result"] for one in (first, again, second)] == ["loaded", "unchanged", "reloaded"]
    assert (again["programs"], again["generation"]) == (first["programs"], 1)
    assert (new["hook"], new["device"], new["link"]) == (hook, counting.device, old["link"])
    assert (old["link"] is None) == (hook in FILTERS)
    assert decisions(second) == {"counts": "kept", ".bss": "kept", "since": "created"}
    assert counted(counting, 2) == 17
    assert running(counting) == {new["id"]}


def test_a_hook_without_update_in_place_runs_the_new_program_before_the_old_one_leaves(
    counting: Here, lab: TestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a hook that is easy to test is changed: as of a tracing hook."""
    need_tcx()
    hook = Hook.TCX_INGRESS
    words = (*at(hook.value), "--no-stub")
    monkeypatch.setattr(hook, "traits", hook.traits._replace(updates_in_place=False))
    first = counting.load(compiled(OLD), *words)
    lab.flood(10)
    again = counting.load(compiled(OLD), *words)
    foreseen = counting.load(compiled(NEW), *words, "--dry-run")
    second = counting.load(compiled(NEW), *words)
    wait_for_the_end_of(first)
    lab.flood(7)
    (old,), (dry,), (new,) = (one["programs"] for one in (first, foreseen, second))

    assert [one["result"] for one in (first, again, second)] == ["loaded", "unchanged", "reloaded"]
    assert again["programs"] == first["programs"]
    assert [one["hooks"][0]["action"] for one in (again, foreseen, second)] == [
        "keep",
        "attach",
        "attach",
    ]
    assert (dry["link"], second["hooks"][0]["link"]) == (None, new["link"])
    assert new["link"] not in {None, old["link"]}
    assert order(counting) == [new["id"]]
    assert counted(counting, 2) == 17


@pytest.mark.parametrize("hook", HOOKS)
def test_unloading_takes_all_of_it_away(here: Here, hook: str) -> None:
    before = here.everything()
    here.load(TC_STATS, "--hook", hook)
    told = here.run("unload", here.device)

    assert (told.exit_code, here.everything()) == (0, before)
    assert f"detached from {here.device}" in told.stderr


@pytest.mark.parametrize("hook", HOOKS)
def test_a_dry_run_changes_nothing(here: Here, hook: str) -> None:
    before = here.everything()
    planned = here.load(TC_STATS, "--hook", hook, "--dry-run")

    assert here.everything() == before
    assert (planned["result"], planned["hooks"][0]["hook"]) == ("planned", hook)


@pytest.mark.parametrize("hook", ["tcx-ingress", "tc-ingress"])
def test_kept_maps_go_on_and_fresh_ones_start_anew(counting: Here, lab: TestLab, hook: str) -> None:
    first = counting.load(TC_STATS, "--hook", hook)
    lab.flood(5)
    counting.ok("unload", counting.device, "--keep-maps")
    lab.flood(5)
    second = counting.load(TC_STATS, "--hook", hook)
    kept = packets(counting.set / COUNTERS, PASSED)
    third = counting.load(TC_STATS, "--hook", hook, "--fresh", COUNTERS)

    assert (decisions(second), map_ids(second)) == ({COUNTERS: "kept"}, map_ids(first))
    assert kept >= 5
    assert decisions(third) == {COUNTERS: "fresh"}
    assert packets(counting.set / COUNTERS, PASSED) < kept
    assert running(counting) == {third["programs"][0]["id"]}


def test_tc_sees_our_filter_at_the_same_handle_after_a_reload(here: Here) -> None:
    (first,) = here.load(compiled(OLD), *at("tc-ingress"))["programs"]
    before = filters(here, "tc-ingress")
    (second,) = here.load(compiled(NEW), *at("tc-ingress"))["programs"]

    assert before == [(PRIORITY, hex(first["id"]), first["id"])]
    assert filters(here, "tc-ingress") == [(PRIORITY, hex(first["id"]), second["id"])]


@pytest.mark.parametrize("hook", FILTERS)
def test_a_qdisc_that_was_there_before_stays(here: Here, hook: str) -> None:
    subprocess.run(["tc", "qdisc", "add", "dev", here.device, "clsact"], check=True)
    here.load(TC_STATS, "--hook", hook)
    here.ok("unload", here.device)

    assert has_clsact(here)
    assert running(here) == set()


def test_a_qdisc_with_a_filter_of_somebody_else_stays(here: Here) -> None:
    here.load(TC_STATS, "--hook", "tc-ingress")
    with idle("theirs") as theirs:
        attach_clsact(theirs, here.device, Hook.TC_EGRESS, priority=7, handle=3)
        here.ok("unload", here.device)

        assert filters(here, "tc-egress") == [(7, "0x3", theirs.id)]


def test_the_qdisc_goes_after_a_set_has_changed_sides(here: Here) -> None:
    """The filter that was made with the qdisc has left; the one that is there knows whose it is."""
    here.load(TC_STATS, "--hook", "tc-ingress")
    here.load(TC_STATS, "--hook", "tc-egress")
    sides = [len(filters(here, hook)) for hook in FILTERS]
    here.ok("unload", here.device)

    assert sides == [0, 1]
    assert not has_clsact(here)


def test_the_qdisc_goes_after_the_filter_was_removed_by_hand(here: Here) -> None:
    before = here.everything()
    here.load(TC_STATS, "--hook", "tc-ingress")
    subprocess.run(["tc", "filter", "del", "dev", here.device, "ingress"], check=True)
    here.ok("unload", here.device)

    assert here.everything() == before


def test_a_filter_that_was_removed_by_hand_is_told_and_made_again(here: Here) -> None:
    here.load(TC_STATS, "--hook", "tc-ingress")
    subprocess.run(["tc", "filter", "del", "dev", here.device, "ingress"], check=True)
    (problem,) = here.ok("status", here.device)["problems"]
    healed = here.load(TC_STATS, "--hook", "tc-ingress")

    assert problem["kind"] == "defunct-link"
    assert "tc_stats no longer runs at tc-ingress" in problem["text"]
    assert running(here) == {healed["programs"][0]["id"]}


@pytest.mark.parametrize("hook", ["tcx-ingress", "tc-ingress"])
def test_a_program_that_somebody_put_in_our_place_is_left_by_load_and_replaced_on_purpose(
    here: Here, hook: str
) -> None:
    need_hook(hook)
    here.load(compiled(OLD), *at(hook))
    with idle("theirs") as theirs:
        replace_by_hand(here, hook, theirs)
        refused = here.load_refused(7, compiled(NEW), *at(hook))
        theirs_id = theirs.id
    taken = here.load(compiled(NEW), *at(hook), "--take-over")

    assert f"program id {theirs_id}" in refused.stderr
    assert "--take-over" in refused.stderr
    assert running(here) == {taken["programs"][0]["id"]}


@pytest.mark.parametrize("hook", ["tcx-ingress", "tc-ingress"])
def test_unload_leaves_a_program_that_somebody_put_in_our_place(here: Here, hook: str) -> None:
    need_hook(hook)
    here.load(compiled(OLD), *at(hook))
    with idle("theirs") as theirs:
        replace_by_hand(here, hook, theirs)
        refused = here.refused(7, "unload", here.device)

        assert f"program id {theirs.id}" in refused.stderr
        assert running(here) == {theirs.id}


def replace_by_hand(here: Here, hook: str, theirs: Program) -> None:
    """Put another program where ours is, as others do it."""
    if hook.startswith("tcx"):
        with Link.from_pin(here.set / "links~" / hook) as link:
            link.update(theirs)
        return
    (found,) = clsact_filters(socket.if_nametoindex(here.device))
    clsact.change_filter(found.place, theirs.fd, theirs.name)


def test_a_filter_that_somebody_changes_during_a_reload_leaves_the_old_set(
    here: Here, tmp_path: Path
) -> None:
    """They come between the look at the filter and the switch."""
    here.load(compiled(OLD), *at("tc-ingress"))
    names_before = here.everything()[0]
    words = [*("load", compiled(NEW), "--dev", here.device), *at("tc-ingress")]
    command = [sys.executable, "-m", "bpfpin", *map(str, (*words, "--pin-root", here.root))]
    calls = calls_of_a_process([*command, "--dry-run"], folder=tmp_path)
    loads = [call for call in calls if "BPF_PROG_LOAD" in call.arguments]
    with idle("theirs") as theirs:
        last = f"{loads[-1].call}:{loads[-1].number}"
        with stopped(command, last, folder=tmp_path) as reload:
            replace_by_hand(here, "tc-ingress", theirs)
            ended = reload.go_on()

        assert (ended.exit_code, running(here)) == (7, {theirs.id})
        assert f"program id {theirs.id}" in ended.stderr
    assert here.everything()[0] == names_before


def test_a_load_that_waited_for_the_lock_takes_the_set_that_the_device_has_by_then(
    here: Here, tmp_path: Path
) -> None:
    """Two first loads at once: the second finds the set of the first, whatever its name is."""
    words = ["load", compiled(OLD), "--dev", here.device, *at("tcx-ingress", "tcx_in")]
    command = [sys.executable, "-m", "bpfpin", *map(str, (*words, "--pin-root", here.root))]
    # It makes the directory of the lock right before it takes the lock.
    with stopped([*command, "-o", "json"], "mkdirat:1", folder=tmp_path) as second:
        first = here.ok(*words, "--name", "web")
        ended = second.go_on()
    sets = here.ok("status")["sets"]

    assert (ended.exit_code, ended.json["result"], ended.json["set"]) == (0, "unchanged", "web")
    assert [one["set"] for one in sets] == ["web"]
    assert running(here) == {first["programs"][0]["id"]}


@pytest.mark.parametrize(("word", "place"), [("first", 0), ("last", 2), (None, 2)])
def test_an_order_puts_a_program_among_those_of_others(
    here: Here, word: str | None, place: int
) -> None:
    need_tcx()
    with (
        idle("one") as one,
        idle("two") as two,
        attach_tcx(one, here.device, Hook.TCX_INGRESS),
        attach_tcx(two, here.device, Hook.TCX_INGRESS),
    ):
        words = ("--order", word) if word else ()
        (ours,) = here.load(TC_STATS, "--hook", "tcx-ingress", *words)["programs"]
        expected = [one.id, two.id]
        expected.insert(place, ours["id"])

        assert order(here) == expected


@pytest.mark.parametrize("side", ["before", "after"])
def test_an_order_beside_a_program_is_kept_by_a_reload(here: Here, side: str) -> None:
    need_tcx()
    with (
        idle("one") as one,
        idle("two") as two,
        attach_tcx(one, here.device, Hook.TCX_INGRESS),
        attach_tcx(two, here.device, Hook.TCX_INGRESS),
    ):
        anchor = two if side == "before" else one
        here.load(compiled(OLD), *at("tcx-ingress"), "--order", f"{side}:{anchor.id}")
        (ours,) = here.load(compiled(NEW), *at("tcx-ingress"))["programs"]

        assert order(here) == [one.id, ours["id"], two.id]


def test_a_reload_says_that_an_order_does_not_move_a_program(here: Here) -> None:
    need_tcx()
    with (
        idle("one") as one,
        idle("two") as two,
        attach_tcx(one, here.device, Hook.TCX_INGRESS),
        attach_tcx(two, here.device, Hook.TCX_INGRESS),
    ):
        words = (*at("tcx-ingress"), "--order")
        here.load(compiled(OLD), *words, f"before:{two.id}")
        # Some of these loads change nothing, and say it all the same.
        asked = [
            *((NEW, f"before:{two.id}"), (NEW, f"after:{one.id}"), (OLD, f"before:{two.id}")),
            *((OLD, "first"), (OLD, "last"), (NEW, f"before:{one.id}")),
        ]
        notes = [
            " ".join(here.load(compiled(source), *words, where)["notes"]) for source, where in asked
        ]

    said = "keeps its place at tcx-ingress, which is not "
    assert not any(said in note for note in notes[:3])
    for note, where in zip(notes[3:], ("before all", "after all", "before program"), strict=True):
        assert said + where in note


@pytest.mark.parametrize(("word", "code"), [("middle", 2), ("before:", 2), ("before:0x1", 2)])
def test_an_order_that_is_none_is_a_usage_error(here: Here, word: str, code: int) -> None:
    refused = here.load_refused(code, TC_STATS, "--hook", "tcx-ingress", "--order", word)

    assert "first, last, before:ID, after:ID" in refused.stderr


def test_an_order_beside_a_program_that_is_gone_is_not_found(here: Here) -> None:
    need_tcx()
    words = ("--hook", "tcx-ingress", "--order", f"after:{2**31}")

    assert f"{2**31}" in here.load_refused(4, TC_STATS, *words).stderr


@pytest.mark.parametrize("hook", ["tcx-ingress", "tcx-egress"])
def test_classic_tc_is_taken_where_the_kernel_has_no_tcx(
    here: Here, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    classic = hook.replace("tcx", "tc")
    without_tcx(monkeypatch)
    first = here.load(compiled(OLD), *at(hook))
    again = here.load(compiled(OLD), *at(hook))
    second = here.load(compiled(NEW), *at(hook))
    at_filter = filters(here, classic)
    monkeypatch.undo()
    here.ok("unload", here.device)
    (new,) = second["programs"]

    assert f"this kernel has no tcx: tc_in is at {classic}" in first["programs"][0]["note"]
    assert [again["result"], second["result"]] == ["unchanged", "reloaded"]
    assert (new["hook"], at_filter[0][2]) == (classic, new["id"])
    assert running(here) == set()


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_an_order_is_refused_where_the_kernel_has_no_tcx(
    here: Here, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A filter has a priority, but no place beside another program."""
    without_tcx(monkeypatch)
    before = here.everything()
    ordered = (*at("tcx-ingress"), "--order", "first", *words)
    refused = here.load_refused(8, compiled(OLD), *ordered)

    assert "this kernel has no tcx-ingress" in refused.stderr
    assert "at tc-ingress a program has no place before all others" in refused.stderr
    assert "leave out --order" in refused.json["error"]["hint"]
    assert here.everything() == before
    assert filters(here, "tc-ingress") == []


def test_a_dry_run_says_that_the_kernel_has_no_tcx(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tcx(monkeypatch)
    (program,) = here.load(compiled(OLD), *at("tcx-egress"), "--dry-run")["programs"]

    assert program["note"] == "this kernel has no tcx: tc_in is at tc-egress"
    assert program["mode"] is None
    assert filters(here, "tc-egress") == []


def test_a_mode_is_refused_where_no_program_goes_to_xdp(here: Here) -> None:
    refused = here.load_refused(2, compiled(OLD), *at("tcx-ingress"), "--mode", "generic")

    assert "--mode is for the programs of xdp" in refused.stderr
    assert "leave out --mode" in refused.json["error"]["hint"]


def test_classic_tc_instead_of_tcx_is_reloaded_under_another_name_of_the_program(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tcx(monkeypatch)
    here.load(compiled(OLD), *at("tcx-ingress"))
    second = here.load(TC_STATS, *at("tcx-ingress", "tc_stats"), "--order", "first")

    assert second["result"] == "reloaded"
    assert any("tc_stats keeps its place at tc-ingress" in note for note in second["notes"])
    assert running(here) == {second["programs"][0]["id"]}


def test_a_section_without_a_direction_asks_for_a_hook(here: Here) -> None:
    refused = here.load_refused(2, TC_STATS)
    hint = refused.json["error"]["hint"]

    assert "tc_stats (section 'tc')" in refused.stderr
    assert "--prog tc_stats:tcx-ingress|tcx-egress|tc-ingress|tc-egress" in hint


def test_a_hook_that_runs_other_programs_is_refused(here: Here) -> None:
    refused = here.load_refused(2, compiled(OLD), *at("tc-ingress", "xdp_in"))

    assert "type xdp" in refused.stderr
    assert "cannot run at tc-ingress" in refused.stderr


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("--hook", "tc"), {"tcx-ingress", "tcx-egress", "tc-ingress", "tc-egress"}),
        (("--prog", "tc_stats:ingress"), {"tcx-ingress", "tc-ingress", "cgroup-inet-ingress"}),
        (("--hook", "cgroup_skb/egress"), {"cgroup-inet-egress"}),
        (("--hook", "nothing"), {"xdp", "tc-ingress", "cgroup-sock-ops"}),  # all
    ],
)
def test_an_unknown_hook_is_told_with_those_near_it(
    here: Here, words: tuple[str, str], near: set[str]
) -> None:
    refused = here.load_refused(2, TC_STATS, *words)

    assert near <= set(re.split(r"[,;:\s]+", refused.stderr))


def test_a_qdisc_without_egress_is_told(here: Here) -> None:
    subprocess.run(["tc", "qdisc", "add", "dev", here.device, "ingress"], check=True)
    refused = here.load_refused(7, TC_STATS, "--hook", "tc-egress")

    assert f"tc qdisc del dev {here.device} ingress" in refused.json["error"]["hint"]


def test_a_set_at_tc_of_a_device_that_is_gone_is_defunct_and_cleaned(here: Here) -> None:
    here.load(TC_STATS, "--hook", "tc-ingress")
    subprocess.run(["ip", "link", "del", here.device], check=True)
    (told,) = here.ok("status", here.device)["sets"]
    here.ok("clean")

    assert told["state"] == "defunct"
    assert not here.set.exists()
