"""`bpfpin demo`: the whole story in a few seconds, and nothing left of it."""

from __future__ import annotations

import functools
import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bpfpin.apps.lab import labs
from bpfpin.attach.cgroup_path import cgroup2_mount
from support.cli import run_cli, run_cli_ok
from support.nobody import run_cli_as_nobody

ROOT = Path("/sys/fs/bpf")


def what_is_there() -> tuple[list[str], list[str], list[str]]:
    """Return devices, namespaces, names in the pin root, but for the lock's, and demo cgroups."""
    devices = sorted(name for _, name in socket.if_nameindex())
    namespaces = sorted(path.name for path in Path("/run/netns").iterdir())
    pins = sorted(path.name for path in ROOT.iterdir() if path.name[0] != "b")
    cgroups = sorted(path.name for path in cgroup2_mount().glob("bpfpin-demo*"))
    return devices, namespaces, [*pins, *cgroups]


@functools.cache
def told() -> list[dict[str, Any]]:
    """Return the scenes of a demo; one is enough for all that looks at what they say."""
    scenes: list[dict[str, Any]] = run_cli_ok("demo", "-o", "json").json["scenes"]
    return scenes


def scene(title: str) -> list[dict[str, Any]]:
    """Return the parts of the scene whose title begins so, one a command."""
    start = next(n for n, part in enumerate(told()) if part["title"].startswith(title))
    more = itertools.takewhile(lambda part: not part["title"], told()[start + 1 :])
    return [told()[start], *more]


def test_the_demo_tells_its_story_and_leaves_nothing() -> None:
    before = what_is_there()
    told.cache_clear()
    scenes = told()
    lines = " ".join(line for part in scenes for line in part["lines"])

    assert [part["title"].partition(" ")[0] for part in scenes if part["title"]] == [
        *("A", "Load", "Send", "Watch", "Another", "Switch", "And", "Reload"),
        *("Let", "Let", "Show", "Add", "Clean"),
    ]
    assert all(part["command"] for part in scenes)
    assert "# 5 sent, 5 counted as XDP_PASS" in lines
    assert "# 5 sent, 5 counted as XDP_DROP" in lines
    assert what_is_there() == before


def test_the_demo_reloads_under_traffic_and_every_packet_is_counted() -> None:
    (part,) = scene("Reload")
    *output, sent_line, shares = part["lines"]
    sent, counted = map(int, re.findall(r"\d+", sent_line))
    by_the_old, by_the_new = map(int, re.findall(r"\d+", shares))

    assert output[-1].startswith("reloaded xdp_protocols on demo")
    assert (counted, by_the_old + by_the_new) == (sent, sent)
    assert min(by_the_old, by_the_new) > 0


def test_the_demo_shares_one_map_of_xdp_tc_and_a_cgroup_and_draws_it() -> None:
    """The graph asks the kernel: what it draws as shared is one map, whatever the pins say."""
    (of_tc,) = scene("Let tc")
    _, of_cgroup, pinged = scene("Let a cgroup")
    (drawing,) = scene("Show everything")
    map_ids = {re.findall(r"id (\d+)", part["lines"][-1])[0] for part in (of_tc, of_cgroup)}
    # Lines that were broken to fit 80 columns, put together again.
    tree = re.sub(r"\n[│ ]+· ", " · ", "\n".join(drawing["lines"])).splitlines()
    drawn = [line for line in tree if "xdp_stats_map · id" in line]
    hooks = ["· xdp ·", "· tc-egress", "· cgroup-inet-ingress ·", "· cgroup-inet-egress ·"]

    assert "# 5 pings from the cgroup, 20 packets counted" in pinged["lines"][-2]
    assert {re.findall(r"id (\d+)", line)[0] for line in drawn} == map_ids
    assert all("shared by 4 programs" in line for line in drawn)
    assert len(drawn) == len(hooks)
    assert all(any(hook in f"{line} ·" for line in tree) for hook in hooks)


def test_the_demo_gives_the_counters_one_member_more_and_no_packet_is_lost() -> None:
    lines = scene("Add")[-1]["lines"]
    before, sent, counted = map(int, re.findall(r"\d+", lines[-2]))
    small = int(re.findall(r"\d+", lines[-1])[0])

    assert any(line.startswith("migrated map xdp_stats_map") for line in lines)
    assert counted == before + sent
    assert 0 < small < sent


def test_the_commands_of_the_demo_work_when_they_are_typed() -> None:
    """A shell runs the commands of an earlier demo as they are shown, one after the other."""
    commands = [part["command"] for part in told()]
    before = what_is_there()
    # Dropped pings are no success, and are not meant to be.
    script = "\n".join(line + (" || [ $? = 1 ]" if "-W 0.3" in line else "") for line in commands)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-e", "-c", script],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert what_is_there() == before


def test_kept_it_stays_until_it_is_taken_down() -> None:
    before = what_is_there()
    last = run_cli_ok("demo", "--keep", "-o", "json").json["scenes"][-1]
    (lab,) = labs()
    state = run_cli_ok("status", lab.device, "--check", "-o", "json").json["sets"][0]["state"]
    run_cli_ok("unload", lab.device)
    run_cli_ok("lab", "down", lab.name)

    assert state == "ok"
    assert f"bpfpin unload {lab.device} && bpfpin lab down {lab.name}" in last["lines"][1]
    assert what_is_there() == before


@pytest.mark.parametrize("options", [[], ["--keep"]])
def test_an_ordinary_user_is_told_what_to_type_and_nothing_is_made(options: list[str]) -> None:
    before = what_is_there()
    result = run_cli_as_nobody("demo", *options, "-o", "json")

    assert (result.exit_code, result.json["error"]["type"]) == (3, "PermissionDeniedError")
    assert result.json["error"]["hint"].startswith("sudo ")
    assert what_is_there() == before


def test_a_failure_in_the_middle_takes_the_lab_down(tmp_path: Path) -> None:
    before = what_is_there()
    result = run_cli("demo", "--pin-root", tmp_path, "-o", "json")

    assert result.exit_code == 4
    assert "one is mounted at /sys/fs/bpf" in result.json["error"]["message"]
    assert what_is_there() == before
