"""Hooks that somebody else holds: told, left alone, and taken over on purpose."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.hooks import HeldBy
from bpfpin.objects.link import Link
from bpfpin.spec import XdpMode
from support.here import Here, bpftool, veth
from support.holders import held, running, their_link, their_program
from support.objects import compiled
from support.sets import xdp_program
from support.tools import need
from support.wait import wait_until

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--replace",)])
def test_a_link_of_somebody_else_is_told_and_left(here: Here, words: tuple[str, ...]) -> None:
    with their_link(here) as link:
        refused = here.load_refused(7, compiled(OLD), *words)
        program, link_id = f"program id {link.program_id()} (theirs)", f"link id {link.id}"

    assert refused.json["error"]["type"] == "HookBusyError"
    assert program in refused.stderr
    assert link_id in refused.stderr
    assert here.device in refused.stderr


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["load", "dry-run"])
def test_how_to_take_over_is_told(here: Here, words: tuple[str, ...]) -> None:
    with their_link(here):
        refused = here.load_refused(7, compiled(OLD), *words)

    assert "--take-over" in refused.json["error"]["hint"]


def test_a_link_taken_over_is_the_same_link_with_our_program(here: Here) -> None:
    with their_link(here) as link:
        before, link_id = link.program_id(), link.id
        taken = here.load(compiled(OLD), "--take-over")
        running_in_their_link = link.program_id()
    (program,) = taken["programs"]

    assert running_in_their_link == program["id"] == running(here)
    assert (program["link"], held(here)) == (link_id, [HeldBy.LINK])
    assert taken["hooks"][0] == {
        "hook": "xdp",
        "device": here.device,
        "action": "update",
        "program": "count_port",
        "link": link_id,
        "before": before,
    }
    assert f"xdp was taken over from program id {before}" in taken["notes"]


def test_a_link_taken_over_is_seen_by_bpftool(here: Here) -> None:
    need("bpftool")
    with their_link(here) as link:
        link_id = link.id
        taken = here.load(compiled(OLD), "--take-over")
    shown = bpftool("-f", "link", "show", "id", link_id)

    assert shown["prog_id"] == taken["programs"][0]["id"]
    assert shown["pinned"] == [str(here.set / "links~/xdp")]


def test_a_set_with_a_link_taken_over_is_reloaded_and_unloaded_like_any(here: Here) -> None:
    with their_link(here):
        taken = here.load(compiled(OLD), "--take-over")
    again = here.load(compiled(OLD))
    reloaded = here.load(compiled(NEW))
    here.ok("unload", here.device)
    wait_until(lambda: here.holder() is None)

    assert (again["result"], reloaded["result"]) == ("unchanged", "reloaded")
    assert reloaded["programs"][0]["link"] == taken["programs"][0]["link"]
    assert not here.set.exists()


def test_a_link_that_others_pinned_stays_pinned_and_attached_after_unload(here: Here) -> None:
    pin = here.root / "theirs"
    with their_link(here) as link:
        link.pin(pin)
    taken = here.load(compiled(OLD), "--take-over")
    here.ok("unload", here.device)
    with Link.from_pin(pin) as link:
        link_id, program_id = link.id, link.program_id()

    assert link_id == taken["programs"][0]["link"]
    assert program_id == taken["programs"][0]["id"] == running(here)


def test_a_dry_run_of_taking_over_changes_nothing_and_tells_it(here: Here) -> None:
    with their_link(here) as link:
        before = here.everything()
        plan = here.load(compiled(OLD), "--take-over", "--dry-run")
        after = here.everything()
        done = here.load(compiled(OLD), "--take-over")
        link_id = link.id

    assert after == before
    assert plan["result"] == "planned"
    planned = [note.replace("would be taken over", "was taken over") for note in plan["notes"]]
    assert (plan["hooks"], planned) == (done["hooks"], done["notes"])
    assert planned != plan["notes"]
    assert plan["hooks"][0]["link"] == link_id


def test_a_failed_take_over_leaves_their_program(here: Here) -> None:
    with their_link(here):
        here.load_refused(5, compiled("reload_refused"), "--take-over")
    wait_until(lambda: here.holder() is None)
    with their_program(here):
        here.load_refused(5, compiled("reload_refused"), "--take-over")


def test_a_program_of_ip_link_is_taken_over(here: Here) -> None:
    need("ip")
    words = ["xdpdrv", "obj", str(compiled("several_programs")), "sec", "xdp"]
    attached = subprocess.run(
        ["ip", "link", "set", "dev", here.device, *words], capture_output=True, check=False
    )
    if attached.returncode:
        pytest.skip(f"this ip(8) cannot load it: {attached.stderr.decode()}")
    before = running(here)
    refused = here.load_refused(7, compiled(OLD))
    taken = here.load(compiled(OLD), "--take-over")
    here.ok("unload", here.device)

    assert "held by netlink, without a link" in refused.stderr
    assert taken["hooks"][0]["before"] == before != 0
    assert running(here) == 0


def test_another_mode_than_theirs_is_told(here: Here) -> None:
    with their_program(here, XdpMode.GENERIC):
        refused = here.load_refused(7, compiled(OLD), "--take-over", "--mode", "native")
        taken = here.load(compiled(OLD), "--take-over")

    assert "a mode cannot change in place" in refused.stderr
    assert taken["programs"][0]["mode"] == "generic"


def test_another_mode_than_theirs_is_not_reached_by_unloading_what_is_not_loaded(
    here: Here,
) -> None:
    with their_program(here, XdpMode.GENERIC):
        refused = here.load_refused(7, compiled(OLD), "--take-over", "--mode", "native")

    assert "bpfpin unload" not in refused.stderr


def test_take_over_where_nobody_is_is_a_plain_load(here: Here) -> None:
    loaded = here.load(compiled(OLD), "--take-over")

    assert (loaded["result"], loaded["hooks"][0]["action"]) == ("loaded", "attach")
    assert loaded["notes"] == []


@pytest.fixture
def changed(here: Here) -> Iterator[tuple[Here, int]]:
    """A set into whose link somebody put another program, and the id of that."""
    here.load(compiled(OLD))
    with xdp_program("theirs") as theirs:
        with Link.from_pin(here.set / "links~/xdp") as link:
            link.update(theirs)
        yield here, theirs.id


@pytest.mark.parametrize("source", [OLD, NEW], ids=["same-object", "other-object"])
@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["load", "dry-run"])
def test_our_link_with_another_program_is_told_by_load(
    changed: tuple[Here, int], source: str, words: tuple[str, ...]
) -> None:
    here, theirs_id = changed
    refused = here.load_refused(7, compiled(source), *words)

    assert refused.json["error"]["type"] == "ProgramChangedError"
    assert f"program id {theirs_id}" in refused.stderr
    assert "--take-over" in refused.stderr


@pytest.mark.parametrize("words", [(), ("--keep-maps",)], ids=["unload", "keep-maps"])
def test_our_link_with_another_program_is_told_by_unload(
    changed: tuple[Here, int], words: tuple[str, ...]
) -> None:
    here, theirs_id = changed
    refused = here.refused(7, "unload", here.device, *words)

    assert f"program id {theirs_id}" in refused.stderr


@pytest.mark.parametrize("source", [OLD, NEW], ids=["same-object", "other-object"])
def test_our_link_is_healed_by_taking_it_over(changed: tuple[Here, int], source: str) -> None:
    here, theirs_id = changed
    link_id = here.ok("status", here.device)["sets"][0]["hooks"][0]["link"]
    healed = here.load(compiled(source), "--take-over")
    (program,) = healed["programs"]

    assert (healed["result"], program["link"]) == ("reloaded", link_id)
    assert running(here) == program["id"] != theirs_id
    assert here.ok("status", here.device)["problems"] == []
    here.ok("unload", here.device)
