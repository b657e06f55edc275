"""`bpfpin demo`: the whole story in a few seconds, and nothing left of it."""

from __future__ import annotations

import functools
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bpfpin.apps.lab import labs
from bpfpin.attach.cgroup_path import cgroup2_mount
from support.cli import run_cli, run_cli_ok
from support.nobody import run_cli_as_nobody

ROOT = Path("/sys/fs/bpf")
LIMIT_S = 15


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


def packets(scene: dict[str, dict[str, int]]) -> int:
    return scene.get("packets", {}).get("XDP_PASS", 0)


def test_the_demo_tells_its_story_and_leaves_nothing() -> None:
    before = what_is_there()
    start = time.monotonic()
    document = run_cli_ok("demo", "-o", "json").json
    taken_s = time.monotonic() - start
    scenes = document["scenes"]
    lines = " ".join(line for scene in scenes for line in scene["lines"])

    assert (document["schema"], taken_s < LIMIT_S) == (1, True)
    assert [scene["title"].partition(" ")[0] for scene in scenes if scene["title"]] == [
        *("A", "Load", "Send", "Watch", "Another", "Switch", "And", "Reload"),
        *("Let", "And", "See", "Give", "Clean"),
    ]
    assert "5 sent, 5 answered; the map counted 5 XDP_PASS" in lines
    assert "5 pings sent, 0 answered: dropped" in lines
    assert max(map(packets, scenes)) > 5
    assert what_is_there() == before


def test_the_demo_reloads_under_traffic_and_every_packet_is_counted() -> None:
    (lines,) = [scene["lines"] for scene in told() if scene["title"].startswith("Reload")]
    *changes, counts = lines
    sent, counted, by_the_old, by_the_new = map(int, re.findall(r"\d+", counts))

    assert [line.partition(" (")[0] for line in changes] == [
        *("program xdp_protocols", "map xdp_stats_map kept"),
        *("map protocols created", "map action removed"),
    ]
    assert (counted, by_the_old + by_the_new) == (sent, sent)
    assert min(by_the_old, by_the_new) > 0


def test_the_demo_shares_one_map_of_xdp_tc_and_a_cgroup_and_draws_it() -> None:
    """The graph asks the kernel: what it draws as shared is one map, whatever the pins say."""
    of_tc, of_cgroup, tree = (scene["lines"] for scene in told()[-5:-2])
    (map_id,) = {line for line in of_tc + of_cgroup if line.startswith("map ")}
    drawn = [line for line in tree if "xdp_stats_map · id" in line]
    hooks = ["· xdp ·", "· tc-egress", "· cgroup-inet-ingress ·", "· cgroup-inet-egress ·"]

    assert "5 pings from the cgroup: 20 XDP_PASS" in of_cgroup[-1]
    assert {re.findall(r"id (\d+)", line)[0] for line in drawn} == set(re.findall(r"\d+", map_id))
    assert all("shared by 4 programs" in line for line in drawn)
    assert len(drawn) == len(hooks)
    assert all(any(hook in line for line in tree) for hook in hooks)


def test_the_demo_gives_the_counters_one_member_more_and_no_packet_is_lost() -> None:
    first, *members, counts = told()[-2]["lines"]
    before, sent, counted, small = map(int, re.findall(r"\d+", counts))

    assert first.endswith("values of 16 -> 24 bytes")
    assert [line.split()[0] for line in members] == ["rx_packets", "rx_bytes", "rx_small", "exact:"]
    assert counted == before + sent
    assert 0 < small < sent


def test_on_a_screen_each_scene_has_its_number_and_its_command() -> None:
    lines = run_cli_ok("demo").stdout.splitlines()
    typed = [line.split()[2] for line in lines if line.startswith("   $ bpfpin ")]

    assert [line[:3] for line in lines if line[:1].isdigit()] == [
        f"{n}. "[:3] for n in range(1, 14)
    ]
    assert typed == [
        "lab",
        "load",
        "lab",
        "stats",
        "map",
        "map",
        "map",
        "load",
        "load",
        "load",
        "graph",
        "load",
        "unload",
    ]


def test_kept_it_stays_until_it_is_taken_down() -> None:
    before = what_is_there()
    last = run_cli_ok("demo", "--keep", "-o", "json").json["scenes"][-1]
    (lab,) = labs()
    state = run_cli_ok("status", lab.device, "--check", "-o", "json").json["sets"][0]["state"]
    run_cli_ok("unload", lab.device)
    run_cli_ok("lab", "down", lab.name)

    assert state == "ok"
    assert f"bpfpin unload {lab.device} && bpfpin lab down {lab.name}" in last["lines"][0]
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

    assert (result.exit_code, result.json["error"]["type"]) == (4, "NotBpffsError")
    assert what_is_there() == before
