"""`bpfpin status` as a user runs it: what it finds wrong, what to type, and that this helps."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.xdp import attach_xdp, xdp_holder
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.spec import MapSpec, XdpMode
from bpfpin.uapi import MapType
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab
from support.objects import compiled_case
from support.sets import xdp_program

ROOT = Path("/sys/fs/bpf")


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli("unload", lab.device)


@contextmanager
def device(name: str) -> Iterator[None]:
    """Make a device that is deleted at the end, unless it was before."""
    words = ["ip", "link", "add", name, "type", "veth", "peer", f"{name}-peer"]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def status(*words: object) -> Any:
    return run_cli_ok("status", *words, "-o", "json").json


def problem(kind: str, *words: object) -> Any:
    """Return the only problem that `status` finds; it is of that kind and fails the check."""
    checked = run_cli("status", *words, "--check", "-o", "json")
    (found,) = checked.json["problems"]
    assert (checked.exit_code, found["kind"]) == (10, kind)
    return found


def run_line(line: str) -> None:
    """Run what was told to be typed."""
    program, *words = shlex.split(line)
    assert program == "bpfpin"
    run_cli_ok(*words)


def names() -> list[str]:
    return sorted(str(path) for path in ROOT.rglob("*"))


def test_a_healthy_set_lists_its_hooks(loaded: TestLab) -> None:
    (found,) = status(loaded.device)["sets"]
    holder = xdp_holder(loaded.ifindex)
    assert holder is not None

    assert found["hooks"] == [
        {
            "hook": "xdp",
            "device": loaded.device,
            "program": "xdp_stats",
            "mode": "native",
            "held": "link",
            "link": holder.link_id,
        }
    ]
    assert run_cli("status", loaded.device, "--check").exit_code == 0


def test_looking_changes_nothing(loaded: TestLab) -> None:
    (ROOT / "left~stage").mkdir(mode=0o700)
    before = names()
    status()
    after = names()
    (ROOT / "left~stage").rmdir()

    assert after == before


def test_a_link_that_was_unpinned_is_healed_by_the_line_told(loaded: TestLab) -> None:
    (ROOT / loaded.device / "links~" / "xdp").unlink()
    found = problem("defunct-link", loaded.device)
    run_line(found["fix"])

    assert "the link at xdp is no longer pinned" in found["text"]
    assert status(loaded.device)["problems"] == []


def test_a_link_that_was_detached_is_healed_by_the_line_told(loaded: TestLab) -> None:
    with Link.from_pin(ROOT / loaded.device / "links~" / "xdp") as link:
        link.detach()
    found = problem("defunct-link", loaded.device)
    state = status(loaded.device)["sets"][0]["state"]
    run_line(found["fix"])

    assert "was detached" in found["text"]
    assert state == "defunct"
    assert status(loaded.device)["problems"] == []


def test_a_program_put_into_the_link_by_somebody_else_is_told(loaded: TestLab) -> None:
    with (
        xdp_program() as other,
        Link.from_pin(ROOT / loaded.device / "links~" / "xdp") as link,
        Program.from_pin(ROOT / loaded.device / "programs~" / "xdp_stats") as own,
    ):
        link.update(other)
        found = problem("program-changed", loaded.device)
        ids = (other.id, own.id)
    run_line(found["fix"].partition(": ")[2])

    assert (
        f"runs program id {ids[0]}, while program id {ids[1]} (xdp_stats) is pinned"
        in (found["text"])
    )
    assert status(loaded.device)["problems"] == []


def test_a_pin_that_holds_another_map_than_the_program_is_told(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / "action"
    pin.unlink()
    with Map.create(MapSpec("action", MapType.ARRAY, 4, 4, 1)) as other:
        other.pin(pin)
        found = problem("map-differs", loaded.device)
        other_id = other.id
    run_line(found["fix"])
    pin.with_name(f"id{other_id}~action").unlink()  # theirs, for which the directory would stay

    assert f"{pin} holds map id {other_id}" in found["text"]
    assert status(loaded.device)["problems"] == []


def test_a_pin_that_others_may_read_is_told_unless_it_was_asked_for(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / "xdp_stats_map"
    pin.chmod(0o644)
    found = problem("access", loaded.device)
    run_cli_ok("load", "--dev", loaded.device, "--chmod", "0644")

    assert f"{pin}: mode 0644 lets group root and everybody read it" in found["text"]
    assert f"chmod 0600 {pin}" in found["fix"]
    assert status(loaded.device)["problems"] == []


def test_a_link_that_no_hook_knows_is_an_orphan(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / "links~" / "mine"
    with Link.from_pin(ROOT / loaded.device / "links~" / "xdp") as link:
        link.pin(pin)
        link_id = link.id
    found = problem("orphan", loaded.device)
    pin.unlink()

    assert f"no hook of the set knows it: link id {link_id}" in found["text"]
    assert f"rm {pin}" in found["fix"]


def test_a_program_pinned_among_the_maps_is_an_orphan(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / "mine"
    with xdp_program() as program:
        program.pin(pin)
    found = problem("orphan", loaded.device)
    pin.unlink()

    assert f"{pin}: a map was asked for, a program is there" in found["text"]


def test_a_hook_held_by_netlink_is_told_with_the_way_to_a_link(lab: TestLab) -> None:
    with xdp_program() as other, Netlink() as netlink:
        netlink.attach_xdp(other.fd, lab.ifindex, XdpMode.NATIVE)
    run_cli_ok("load", "--dev", lab.device, "--take-over")
    found = problem("held-by-netlink", lab.device)
    (hook,) = status(lab.device)["sets"][0]["hooks"]
    unload, _, load = found["fix"].removeprefix("to make it a link: ").partition(", then ")
    run_line(unload)
    run_line(load)
    after = status(lab.device)
    run_cli_ok("unload", lab.device)

    assert (hook["held"], hook["link"]) == ("netlink", None)
    assert "held by netlink, without a link" in found["text"]
    assert (after["problems"], after["sets"][0]["hooks"][0]["held"]) == ([], "link")


def test_a_program_held_by_netlink_that_was_replaced_is_told(lab: TestLab) -> None:
    with xdp_program() as other, Netlink() as netlink:
        netlink.attach_xdp(other.fd, lab.ifindex, XdpMode.NATIVE)
        run_cli_ok("load", "--dev", lab.device, "--take-over")
        netlink.detach_xdp(lab.ifindex, XdpMode.NATIVE)
        gone = problem("defunct-link", lab.device)
        netlink.attach_xdp(other.fd, lab.ifindex, XdpMode.NATIVE)
        changed = problem("program-changed", lab.device)
        netlink.detach_xdp(lab.ifindex, XdpMode.NATIVE)
    run_cli_ok("unload", lab.device)

    assert f"xdp_stats no longer runs at xdp of {lab.device}" in gone["text"]
    assert f"xdp of {lab.device} runs program id" in changed["text"]


def test_the_set_of_a_device_that_is_gone_is_cleaned_by_the_line_told() -> None:
    with device("gone0"):
        run_cli_ok("load", "--dev", "gone0", "--mode", "generic")
    found = problem("defunct-link", "gone0")
    state = status("gone0")["sets"][0]["state"]
    run_line(found["fix"].partition(",")[0])

    assert "device gone0 is gone" in found["text"]
    assert state == "defunct"
    assert not (ROOT / "gone0").exists()


def test_a_set_whose_device_has_a_namesake_is_healed_by_a_load() -> None:
    with device("gone0"):
        run_cli_ok("load", "--dev", "gone0", "--mode", "generic")
    with device("gone0"):
        found = problem("defunct-link", "gone0")
        run_line(found["fix"])
        after = status("gone0")
        run_cli_ok("unload", "gone0")

    assert (after["problems"], after["sets"][0]["state"]) == ([], "ok")


def test_maps_kept_for_a_device_that_is_gone_are_orphans() -> None:
    with device("gone0"):
        run_cli_ok("load", "--dev", "gone0", "--mode", "generic")
        run_cli_ok("unload", "gone0", "--keep-maps")
        before = status("gone0")
    found = problem("orphan", "gone0")
    run_line(found["fix"])

    assert (before["problems"], before["sets"][0]["hooks"]) == ([], [])
    assert "the maps that were kept for its next load are left" in found["text"]
    assert not (ROOT / "gone0").exists()


def test_a_half_built_set_is_healed_by_the_line_told() -> None:
    (ROOT / "left~stage").mkdir(mode=0o700)
    found = problem("half-built")
    run_line(found["fix"].partition(";")[0])

    assert found["text"].startswith("left: half-built by a dead process")
    assert not (ROOT / "left~stage").exists()


def test_a_set_that_was_published_but_not_cleaned_is_half_built(loaded: TestLab) -> None:
    """Killed between the exchange of the names and the end: only the mark in the set is left."""
    mark = ROOT / loaded.device / "commit~"
    mark.mkdir(mode=0o700)
    with Directory.open(ROOT) as root, locked(root, timeout_s=0):
        running = status()["problems"]
    found = problem("half-built")
    run_line(found["fix"].partition(";")[0])

    assert running == []
    assert found["text"].startswith(f"{loaded.device}: half-built by a dead process")
    assert not mark.exists()
    assert status()["problems"] == []


@pytest.mark.parametrize("mark", ["commit~", "abort~"])
def test_a_stage_with_a_mark_and_no_manifest_is_no_dead_end(lab: TestLab, mark: str) -> None:
    stage = ROOT / f"{lab.device}~stage"
    (stage / mark).mkdir(parents=True, mode=0o700)
    stage.chmod(0o700)
    found = problem("foreign")
    for words in (["load", "--dev"], ["load", "--dry-run", "--dev"], ["unload"]):
        refused = run_cli(*words, lab.device, "-o", "json")

        assert refused.exit_code == 7
        assert f"{stage} is not a stage of ours" in refused.json["error"]["message"]
        assert refused.json["error"]["hint"] == found["fix"]
    cleaned = run_cli_ok("clean", "-o", "json").json
    subprocess.run(shlex.split(found["fix"].partition("needs it: ")[2]), check=True)
    run_cli_ok("load", "--dev", lab.device)
    run_cli_ok("unload", lab.device)

    assert "it has no manifest, so bpfpin did not make it" in found["text"]
    assert cleaned["removed"] == []
    assert [left["path"] for left in cleaned["left"]] == [str(stage)]
    assert found["fix"] in cleaned["left"][0]["reason"]


def test_a_set_that_somebody_is_changing_is_no_problem() -> None:
    with Directory.open(ROOT) as root, locked(root, timeout_s=0):
        (ROOT / "left~stage").mkdir(mode=0o700)
        found = status()
        (ROOT / "left~stage").rmdir()

    (left,) = [one for one in found["sets"] if one["set"] == "left"]
    assert found["problems"] == []
    assert left["reason"] == f"process {os.getpid()} is changing it"


def test_a_stage_that_is_not_ours_is_told_and_left() -> None:
    stage = ROOT / "left~stage"
    (stage / "mine").mkdir(parents=True)
    found = problem("foreign")
    (stage / "mine").rmdir()
    stage.rmdir()

    assert f"{stage} is in the way of the next load: it holds 'mine'" in found["text"]
    assert found["fix"] == f"find out who made it: ls -la {stage}"


def test_a_program_of_somebody_else_is_told_as_that(lab: TestLab) -> None:
    with xdp_program("theirs") as theirs, attach_xdp(theirs, lab.device):
        told = run_cli_ok("status")
        (other,) = [one for one in status()["others"] if one["device"] == lab.device]
        theirs_id = theirs.id

    assert other == {
        "device": lab.device,
        "hook": "xdp",
        "id": theirs_id,
        "name": "theirs",
        "mode": "native",
        "extensions": [],
    }
    assert f"not bpfpin's: theirs (id {theirs_id}) at xdp of {lab.device}" in told.stderr


def test_a_program_of_ours_is_none_of_others(loaded: TestLab) -> None:
    assert [one for one in status()["others"] if one["device"] == loaded.device] == []


def test_what_an_object_says_of_itself_is_shown(lab: TestLab) -> None:
    run_cli_ok("load", compiled_case("rodata_bind"), "--dev", lab.device)
    (shown,) = run_cli_ok("status", lab.device, "-o", "json").json["sets"]
    text = run_cli_ok("status", lab.device).stderr
    run_cli_ok("unload", lab.device)

    assert shown["metadata"] == {"version": "1.2"}
    assert f"metadata of {lab.device}: version = 1.2" in text
