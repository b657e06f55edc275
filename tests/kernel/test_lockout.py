"""The lock-out check: which programs it refuses on the device of the default route or of a session.

The programs of `lockout.bpf.c` pass all packets but those of one kind.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.sets.load.deploy import deploy
from bpfpin.spec import Hook
from support.here import Here, run_here, veth
from support.hooks import new_cgroup
from support.objects import compiled

KINDS = [
    "nothing",
    "ipv6",
    "arp",
    "no_syn",
    "large",
    "far",
    "other_net",
    "blocked",
    "neighbours",
    "all",
    "small",
    "limit",
    "state",
    "lpm",
    "inner",
    "options",
]
NET = int.from_bytes(bytes((198, 51, 100)), "little")
CLIENT = int.from_bytes(bytes((198, 51, 100, 9)), "little")
GATEWAY = int.from_bytes(bytes((192, 0, 2, 254)), "little")


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be in one."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


@pytest.fixture
def device() -> Iterator[str]:
    """A device with a default route."""
    with veth() as name:
        for end in (name, f"{name}-peer"):
            ip("link", "set", end, "up")
        ip("addr", "add", "192.0.2.1/24", "dev", name)
        ip("addr", "add", "2001:db8::1/64", "dev", name, "nodad")
        ip("route", "add", "default", "via", "192.0.2.254", "dev", name)
        yield name


@pytest.fixture
def session(device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ssh session over that device."""
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.9 50000 192.0.2.1 22")
    return device


@pytest.fixture
def here(bpffs: Path, device: str) -> Iterator[Here]:
    yield Here(bpffs, device)
    run_here("unload", device, "--pin-root", bpffs)


def chosen(kind: str, program: str = "in_xdp") -> list[object]:
    """Return the words that load the program that stops packets of that kind."""
    return [compiled("lockout"), "--prog", program, "--set", f"drop={KINDS.index(kind)}"]


@pytest.mark.parametrize("program", ["in_xdp", "in_tc"])
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("ipv6", "IPv6"),
        ("arp", "ARP request"),
        ("no_syn", "TCP ACK"),
        ("large", "TCP data"),
        ("small", "TCP"),
        ("options", "TCP data"),
        ("far", "IPv4 TCP"),
        ("other_net", "IPv4 TCP"),
        ("neighbours", "IPv6 neighbour solicitation"),
        ("all", "IPv4 TCP SYN"),
    ],
)
def test_a_program_that_stops_what_a_way_in_is_made_of_is_refused(
    here: Here, kind: str, told: str, program: str
) -> None:
    refused = here.load_refused(2, *chosen(kind, program), "--set", f"net={NET}")
    dry = here.run("load", *chosen(kind, program), "--dev", here.device, "--dry-run")

    assert f"would cut {here.device}, which carries the default route" in refused.stderr
    assert f"{program} answers" in refused.stderr
    assert told in refused.stderr
    assert "--confirm 30" in refused.json["error"]["hint"]
    assert "--force" in refused.json["error"]["hint"]
    assert dry.exit_code == 2


@pytest.mark.parametrize("program", ["in_xdp", "in_tc"])
@pytest.mark.parametrize("kind", ["nothing", "blocked", "limit", "state", "lpm", "inner"])
def test_a_program_that_lets_it_through_is_loaded(here: Here, kind: str, program: str) -> None:
    """A limit of packets is not a cut, nor a state that the first packet makes."""
    document = here.load(*chosen(kind, program))
    with Map.from_pin(here.set / "seen") as seen:
        counted = seen[0]

    assert not [note for note in document["notes"] if "test packets" in note]
    assert counted < 20  # the packets of the check are counted in a copy; the device is idle


def test_a_firewall_for_the_client_of_the_session_is_no_cut(here: Here, session: str) -> None:
    words = [*chosen("other_net"), "--set", f"net={NET}"]
    elsewhere = [*chosen("other_net"), "--set", "net=7"]
    refused = here.load_refused(2, *elsewhere)
    here.load(*words)

    assert "your ssh session from 198.51.100.9" in refused.stderr
    assert "from 198.51.100.9 port 50000 to 192.0.2.1 port 22" in refused.stderr


@pytest.mark.parametrize("kind", ["arp", "no_syn", "large", "far"])
def test_the_session_has_more_than_its_first_packet(here: Here, session: str, kind: str) -> None:
    here.load_refused(2, *chosen(kind))


@pytest.mark.parametrize("words", [("--force",), ("--confirm", "60")])
def test_a_cut_is_done_on_purpose_or_with_a_way_back(here: Here, words: tuple[str, ...]) -> None:
    here.load(*chosen("ipv6"), *words)


def test_the_library_refuses_it_too(here: Here) -> None:
    choices: Any = {
        "device": here.device,
        "pin_root": here.root,
        "programs": ["in_xdp"],
        "variables": {"drop": KINDS.index("ipv6")},
    }
    with pytest.raises(UsageError, match="would cut") as refused:
        deploy(compiled("lockout"), **choices)
    deploy(compiled("lockout"), **choices, force=True).close()

    assert "confirm_s=30" in refused.value.hint


def test_a_map_that_is_given_or_kept_counts_with_what_is_in_it(here: Here) -> None:
    """The same object is loaded where its list is empty, and refused where it is not."""
    here.load(*chosen("nothing"))
    pin = here.set / "blocked"
    tc = (*chosen("blocked", "in_tc"), "--name", "more", "--map", f"blocked={pin}")
    with Map.from_pin(pin) as held:
        held[GATEWAY] = 1
        refused = here.load_refused(2, *chosen("blocked"))
        shared = here.load_refused(2, *tc)
        del held[GATEWAY]
        here.load(*chosen("blocked"))

    assert "from 192.0.2.254" in shared.stderr
    assert "from 192.0.2.254" in refused.stderr


def test_large_maps_and_tries_and_maps_in_maps_are_copied(here: Here, session: str) -> None:
    """The client of the session is blocked in each of them, among 250,000 others in one."""
    here.load(*chosen("nothing"))
    answers = {}
    with Map.from_pin(here.set / "blocked") as large:
        keys = list(range(1, 250_000))
        large.update_batch((key, 1) for key in [*keys, CLIENT])
        answers["blocked"] = here.run("load", *chosen("blocked"), "--dev", here.device)
    with Map.from_pin(here.set / "nets") as trie:
        trie[{"length": 24, "address": [198, 51, 100, 0]}] = 1
        answers["lpm"] = here.run("load", *chosen("lpm"), "--dev", here.device)
    with Map.from_pin(here.set / "outer") as outer, outer.map_at(0) as inner:
        inner[CLIENT] = 1
        answers["inner"] = here.run("load", *chosen("inner"), "--dev", here.device)

    for answer in answers.values():
        assert answer.exit_code == 2, answer.stderr
        assert "your ssh session" in answer.stderr


@pytest.mark.parametrize("hook", [Hook.TC_INGRESS, Hook.TCX_EGRESS, Hook.TC_EGRESS])
def test_every_hook_of_a_device_is_looked_at(here: Here, hook: Hook) -> None:
    words = [compiled("lockout"), "--prog", f"in_tc:{hook.value}"]
    refused = here.load_refused(2, *words, "--set", f"drop={KINDS.index('ipv6')}")
    here.load(*words)

    assert "TC_ACT_SHOT" in refused.stderr


def change(here: Here, *words: object) -> Any:
    return here.run("map", *words)


def test_a_change_of_a_map_that_would_cut_is_refused(here: Here, session: str) -> None:
    here.load(*chosen("blocked"))
    pin = here.set / "blocked"
    refused = change(here, "set", pin, "198.51.100.9", 1)
    other = change(here, "set", pin, "203.0.113.9", 1)
    forced = change(here, "set", pin, "198.51.100.9", 1, "--force")
    back = change(here, "delete", pin, "198.51.100.9")

    assert [one.exit_code for one in (refused, other, forced, back)] == [2, 0, 0, 0]
    assert f"would cut {here.device}, which carries" in refused.stderr
    assert "--force" in refused.json["error"]["hint"]


def test_deleting_and_restoring_are_changes_too(here: Here, session: str, tmp_path: Path) -> None:
    here.load(*chosen("nothing"))
    here.ok("map", "save", here.set / "blocked", tmp_path / "empty")
    with Map.from_pin(here.set / "blocked") as blocked:
        blocked[CLIENT] = 1
    here.ok("map", "save", here.set / "blocked", tmp_path / "full")
    here.ok("map", "restore", tmp_path / "empty", here.set / "blocked", "--exact")
    here.load(*chosen("blocked"))
    refused = change(here, "restore", tmp_path / "full", here.set / "blocked")
    forced = change(here, "restore", tmp_path / "full", here.set / "blocked", "--force")
    back = change(here, "restore", tmp_path / "empty", here.set / "blocked", "--exact")

    assert [one.exit_code for one in (refused, forced, back)] == [2, 0, 0]


def test_what_a_tail_call_reaches_counts(here: Here) -> None:
    """The program in the array is one of another load."""
    here.load(compiled("lockout"), "--prog", "front")
    with load(read_object(compiled("lockout")), programs=["back"]) as other:
        number = other.programs["back"].id
        pin = here.set / "jumps"
        refused = change(here, "set", pin, 0, f"id:{number}")
        forced = change(here, "set", pin, 0, f"id:{number}", "--force")
        reload = here.run("load", compiled("lockout"), "--prog", "front", "--set", "drop=1")
        emptied = change(here, "delete", pin, 0)

    assert [one.exit_code for one in (refused, forced, emptied)] == [2, 0, 0]
    assert "front answers XDP_DROP" in refused.stderr
    assert reload.exit_code == 2


def test_a_verdict_that_is_not_set_is_shown_as_what_the_program_does(here: Here) -> None:
    here.load(compiled("lockout"), "--prog", "by_action")
    shown = here.ok("action", here.device)
    aborted = here.run("action", here.device, "XDP_ABORTED", "--force")
    refused = here.run("action", here.device, "XDP_DROP")
    written = change(here, "set", here.set / "action", 0, "XDP_DROP")
    hint = written.json["error"]["hint"]
    passed = here.ok("action", here.device, "XDP_PASS")

    assert (shown["action"], shown["note"]) == ("XDP_PASS", "not set")
    assert [one.exit_code for one in (aborted, refused, written)] == [2, 2, 2]
    assert f"{here.typed} action --confirm 30 {here.device} XDP_DROP" in hint
    assert passed["before"] == "XDP_PASS"


def test_a_cgroup_with_the_session_is_looked_at(bpffs: Path, session: str, tmp_path: Path) -> None:
    """The process of the test is in the root of all cgroups."""
    with new_cgroup(tmp_path / "cgroups") as empty:
        words = ["load", compiled("lockout"), "--prog", "in_cgroup", "--pin-root", bpffs]
        refused = run_here(*words, "--cgroup", empty.parent, "--set", "drop=9")
        elsewhere = run_here(*words, "--cgroup", empty, "--set", "drop=9", "--name", "empty")
        run_here("unload", "empty", "--pin-root", bpffs)

    assert (refused.exit_code, elsewhere.exit_code) == (2, 0), elsewhere.stderr
    assert "your ssh session from 198.51.100.9" in refused.stderr


@pytest.mark.parametrize(("kind", "exit_code"), [("all", 2), ("large", 0), ("nothing", 0)])
def test_a_tc_program_of_a_device_without_ethernet_is_tried_as_far_as_can_be(
    bpffs: Path, kind: str, exit_code: int
) -> None:
    ip("tuntap", "add", "lockout-tun", "mode", "tun")
    try:
        ip("link", "set", "lockout-tun", "up")
        ip("route", "add", "default", "dev", "lockout-tun")
        there = Here(bpffs, "lockout-tun")
        tc = there.run("load", *chosen(kind, "in_tc"), "--dev", there.device, "--dry-run")
        words = ("--mode", "generic", "--dry-run")
        xdp = there.run("load", *chosen(kind), "--dev", there.device, *words)
    finally:
        ip("link", "del", "lockout-tun")

    assert tc.exit_code == exit_code, tc.stderr
    assert exit_code or any("Ethernet headers" in note for note in tc.json["notes"])
    assert xdp.exit_code == (0 if kind == "nothing" else 2)


def test_a_program_that_sees_no_packets_is_told_not_to_be_tried(
    bpffs: Path, session: str, tmp_path: Path
) -> None:
    with new_cgroup(tmp_path / "cgroups") as empty:
        words = ["--prog", "on_connect", "--cgroup", empty.parent, "--dry-run"]
        planned = run_here("load", compiled("lockout"), *words, "--pin-root", bpffs)

    assert planned.exit_code == 0
    assert "on_connect was not tried on test packets" in planned.stderr


def test_what_is_cut_already_is_not_cut_by_a_change(here: Here) -> None:
    """A counter of a program that keeps IPv6 out may be set."""
    here.load(*chosen("ipv6"), "--force")

    assert change(here, "set", here.set / "seen", 0, 0).exit_code == 0
    assert change(here, "set", here.set / "blocked", "192.0.2.254", 1).exit_code == 0


def test_what_cannot_be_tried_is_told(here: Here, tmp_path: Path) -> None:
    """The object is another one by now: no copy of its program can be made."""
    source = tmp_path / "lockout.bpf.o"
    source.write_bytes(compiled("lockout").read_bytes())
    here.load(source, "--prog", "in_xdp")
    source.write_bytes(source.read_bytes() + b"\0")
    plain = run_here("map", "set", here.set / "seen", 0, 0, "--pin-root", here.root)

    assert plain.exit_code == 0
    assert "was not tried on test packets" in plain.stderr
    assert "is not the object that was loaded any more" in plain.stderr
