"""`bpfpin apply` and `bpfpin state` as a user runs them, on real devices."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from support import isolation
from support.cli import CliResult, run_cli, run_cli_ok
from support.lab import TestLab, new_lab
from support.objects import compiled
from support.wait import wait_until

ROOT = Path("/sys/fs/bpf")
LAST_PORT = 7999


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    run_cli("unload", "--all")


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def a_set(source: object, device: str = "", more: str = "") -> str:
    place = f"device = '{device}'\n" if device else ""
    return f"[[set]]\nobject = '{source}'\n{place}{more}\n"


def actions(result: CliResult) -> dict[str, str]:
    """Return what was done with each set."""
    return {each["set"]: each["action"] for each in result.json["sets"]}


def changes(result: CliResult) -> list[str]:
    return [
        f"{change['what']}: {change['old']} -> {change['new']}"
        for each in result.json["sets"]
        for change in each["changes"]
    ]


def generation(name: str) -> int:
    (one,) = run_cli_ok("status", name, "-o", "json").json["sets"]
    return int(one["generation"])


def test_apply_makes_it_so_once(lab: TestLab, tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", a_set("builtin:xdp_stats", lab.device))
    checked = run_cli("apply", file, "--check", "--diff")
    was_loaded = (ROOT / lab.device).exists()
    first = run_cli_ok("apply", file, "-o", "json")
    again = run_cli_ok("apply", tmp_path, "-o", "json")

    assert (checked.exit_code, was_loaded) == (10, False)
    assert f"hook xdp of {lab.device}: xdp_stats" in checked.stdout
    assert f"{lab.device}: would be loaded ({file}:1)" in checked.stderr
    assert (first.json["result"], actions(first)) == ("applied", {lab.device: "load"})
    assert (again.json["result"], actions(again)) == ("unchanged", {lab.device: "unchanged"})
    assert run_cli("apply", file, "--check").exit_code == 0
    assert generation(lab.device) == 1


def test_what_fails_leaves_the_other_sets_right(lab: TestLab, tmp_path: Path) -> None:
    broken = a_set(compiled("verifier_refused"), "lo")
    text = broken + a_set("builtin:xdp_stats", lab.device) + a_set("builtin:xdp_pass", "none0")
    result = run_cli("apply", write(tmp_path / "a.toml", text), "-o", "json")
    document = result.json

    assert actions(result) == {"none0": "fail", "lo": "fail", lab.device: "load"}
    assert (document["result"], document["error"]["exit"], result.exit_code) == ("failed", 4, 4)
    errors = {each["set"]: each.get("error", {}) for each in document["sets"]}
    assert (errors["lo"]["type"], errors["lo"]["exit"]) == ("VerifierError", 5)
    assert errors["none0"]["message"].startswith(f"{tmp_path}/a.toml:9: set none0: ")
    assert (ROOT / lab.device).exists()


@pytest.mark.parametrize(
    ("text", "exit_code", "said"),
    [
        ("[[set]]\nobjet = 'a.o'", 2, "a.toml:2: set 1, objet: there is no such key; did you mean"),
        ("[[set]]\nobject = 'none.o'\ndevice = 'lo'", 4, "a.toml:1: set lo: "),
        (f"{a_set('builtin:xdp_pass', 'nothing*')}", 4, "no network device matches nothing*"),
        (
            a_set("builtin:xdp_pass", "lo", "name = 'a'")
            + a_set("builtin:xdp_stats", "lo", "name = 'b'"),
            2,
            "a.toml:5: set b: {file}:1 has the set a at the same hook, xdp of lo",
        ),
        (a_set("builtin:xdp_pass", "lo", f"sha256 = '{'0' * 64}'"), 5, "not the object that is"),
        (a_set("builtin:xdp_stats", "lo", "maps.actoin.max_entries = 1"), 2, "no map actoin"),
        (a_set("builtin:xdp_stats", "lo", "maps.action.use = 'none/x'"), 4, "none/x"),
        (
            a_set("builtin:xdp_stats", "lo", "name = 'a'\nmaps.action.use = 'b/action'")
            + a_set("builtin:xdp_stats", "", "name = 'b'\nmaps.action.use = 'a/action'"),
            2,
            "sets use maps of each other",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_done(
    tmp_path: Path, text: str, exit_code: int, said: str
) -> None:
    file = write(tmp_path / "a.toml", text)
    result = run_cli("apply", file)

    assert (result.exit_code, said.format(file=file) in result.stderr) == (exit_code, True), result
    assert not list(ROOT.glob("*/manifest~"))


def test_an_optional_device_may_be_missing(lab: TestLab, tmp_path: Path) -> None:
    text = a_set("builtin:xdp_stats", "nothing*", "optional = true")
    text += a_set("builtin:xdp_stats", f"{lab.device[:-1]}[{lab.device[-1]}]")
    result = run_cli_ok("apply", write(tmp_path / "a.toml", text), "-o", "json")

    assert actions(result) == {lab.device: "load"}


def test_only_sets_that_apply_made_are_pruned(lab: TestLab, tmp_path: Path) -> None:
    run_cli_ok("load", "builtin:xdp_pass", "--dev", "lo", "--force")
    file = write(tmp_path / "a.toml", a_set("builtin:xdp_stats", lab.device))
    run_cli_ok("apply", file)
    write(file, a_set("builtin:xdp_pass", "none0"))
    failing = run_cli("apply", file, "--prune")
    still = (ROOT / lab.device).exists()
    write(file, "")
    checked = run_cli("apply", file, "--prune", "--check", "-o", "json")
    pruned = run_cli_ok("apply", file, "--prune", "-o", "json")

    assert (failing.exit_code, still) == (4, True)
    assert f"not unloaded while a set fails: {lab.device}" in failing.stderr
    assert (checked.exit_code, actions(checked)) == (10, {lab.device: "unload"})
    assert actions(pruned) == {lab.device: "unload"}
    assert [(ROOT / name).exists() for name in ("lo", lab.device)] == [True, False]


def test_a_changed_file_changes_the_set_and_says_what(lab: TestLab, tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", a_set("builtin:xdp_stats", lab.device))
    run_cli_ok("apply", file)
    write(file, a_set(compiled("stated"), lab.device, "variables.answer = 5"))
    planned = run_cli("apply", file, "--check", "-o", "json")
    reloaded = run_cli("apply", file, "-o", "json")

    # Another object, and neither a program nor a hook differ: apply made the set, so it may.
    assert (planned.exit_code, reloaded.exit_code) == (10, 0), reloaded.stderr
    assert changes(planned)[0].startswith("object: builtin:xdp_stats (sha256 ")
    assert "variable answer: the object's -> 5" in changes(planned)
    assert changes(planned) == changes(reloaded)
    assert generation(lab.device) == 2


def passes(lab: TestLab, port: int) -> bool:
    """Whether a packet to *port* reaches a socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((lab.host_address, port))
        with Map.from_pin(ROOT / lab.device / "seen") as seen:
            lab.flood(1, port=port)
            # Another packet behind it: once the program has seen that, the first one is decided.
            lab.flood(1, port=LAST_PORT)
            wait_until(lambda: LAST_PORT in seen)
            del seen[LAST_PORT]
        receiver.settimeout(0.5)
        try:
            receiver.recv(64)
        except TimeoutError:
            return False
        return True


def test_stated_entries_are_what_packets_meet(lab: TestLab, tmp_path: Path) -> None:
    maps = """
[set.maps.blocked]
file = "blocked.txt"
value = 1
[set.maps.lists.slots.0]
entries = { 7001 = 1 }
[set.maps.choices]
entries = { 0 = "XDP_DROP" }
"""
    (tmp_path / "blocked.txt").write_text("198.51.100.0/24\n")
    file = write(tmp_path / "a.toml", a_set(compiled("stated"), lab.device, maps))
    run_cli_ok("apply", file)
    path = ROOT / lab.device
    with Map.from_pin(path / "lists") as lists, Map.from_pin(path / "choices") as choices:
        outer, inner, chosen = lists.id, lists.lookup_bytes(bytes(4)), dict(choices.items())
    again = run_cli_ok("apply", file, "-o", "json")
    write(file, file.read_text().replace("7001", "7002"))
    filled = run_cli_ok("apply", file, "-o", "json")
    after_fill = generation(lab.device)
    with Map.from_pin(path / "lists") as lists:
        outer_after, inner_after = lists.id, lists.lookup_bytes(bytes(4))
    is_open = {port: passes(lab, port) for port in (7001, 7002)}
    (tmp_path / "blocked.txt").write_text(f"198.51.100.0/24\n{lab.peer_address}\n")
    blocked = run_cli_ok("apply", file, "-o", "json")
    is_open_after = passes(lab, 7001)
    run_cli_ok("map", "delete", f"{lab.device}/blocked", "198.51.100.0/24")
    mended = run_cli_ok("apply", file, "-o", "json")

    assert chosen == {0: 1, 1: 0, 2: 0, 3: 0}
    assert actions(again) == {lab.device: "unchanged"}
    assert actions(filled) == {lab.device: "fill"}
    assert [change.partition(":")[0] for change in changes(filled)] == [
        "map lists, slot 0",
        "map lists, slot 0, added",
        "map lists, slot 0, removed",
    ]
    # The programs and the outer map stay; only the inner map is another one.
    assert (after_fill, outer_after == outer, inner_after == inner) == (1, True, False)
    assert is_open == {7001: True, 7002: False}
    assert actions(blocked) == {lab.device: "reload"}
    assert f"map blocked, added:  -> {lab.peer_address}/32" in changes(blocked)
    assert not is_open_after
    assert "map blocked, added:  -> 198.51.100.0/24" in changes(mended)
    assert generation(lab.device) == 3
    assert actions(run_cli_ok("apply", file, "-o", "json")) == {lab.device: "unchanged"}


class Traffic:
    """Packets from the peer to one port, all the time, and how many of them reached a socket."""

    def __init__(self, lab: TestLab, port: int) -> None:
        self._lab, self._port = lab, port
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.passed = 0

    def _send(self) -> None:
        while not self._ends.is_set():
            self._lab.flood(10, port=self._port)

    def __enter__(self) -> Traffic:
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.bind((self._lab.host_address, self._port))
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ends.set()
        self._thread.join()
        with self._receiver:
            self._receiver.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while self._receiver.recv(64):
                    self.passed += 1


def wait_for_packet(seen: Map, port: int) -> None:
    """Wait until the program has seen one more packet to *port*."""
    seen.clear()
    wait_until(lambda: port in seen)


def test_packets_never_meet_a_part_of_the_entries(lab: TestLab, tmp_path: Path) -> None:
    """Both lists have the peer, or the port: a packet that passes met neither of them whole."""

    def a_file(maps: str) -> Path:
        return write(tmp_path / "a.toml", a_set(compiled("stated"), lab.device, maps))

    done: list[str] = []
    for maps in (
        "maps.blocked.entries = {{ '{peer}' = 1, '198.51.100.{number}' = 1 }}",
        "maps.lists.slots.0.entries = {{ 7001 = 1, '800{number}' = 1 }}",
    ):
        run_cli_ok("apply", a_file(maps.format(peer=lab.peer_address, number=0)))
        with Traffic(lab, 7001) as traffic:
            for number in range(1, 3):
                file = a_file(maps.format(peer=lab.peer_address, number=number))
                done += actions(run_cli_ok("apply", file, "-o", "json")).values()
                with Map.from_pin(ROOT / lab.device / "seen") as seen:
                    wait_for_packet(seen, 7001)

        assert traffic.passed == 0
    assert done == ["reload"] * 2 + ["fill"] * 2


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_a_dump_of_a_map_is_a_file_with_its_entries(
    lab: TestLab, tmp_path: Path, form: str
) -> None:
    maps = """
[set.maps.limits]
entries = [
    { key = { port = 443, zone = 1 }, value = { rate = 5, inner = { burst = 7 } } },
    { key = { port = 80 }, value = { rate = "18446744073709551615" } },
]
[set.maps.blocked]
entries = { "10.0.0.0/8" = 1, "192.0.2.7" = 2 }
"""
    file = write(tmp_path / "a.toml", a_set(compiled("stated"), lab.device, maps))
    run_cli_ok("apply", file)
    for name in ("limits", "blocked"):
        dump = run_cli_ok("map", "dump", f"{lab.device}/{name}", "-o", form)
        write(tmp_path / f"{name}.{form}", dump.stdout)
    maps = "".join(f"maps.{name}.file = '{name}.{form}'\n" for name in ("limits", "blocked"))
    write(file, a_set(compiled("stated"), lab.device, maps))

    assert actions(run_cli_ok("apply", file, "-o", "json")) == {lab.device: "unchanged"}


def test_a_set_waits_for_its_device(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", a_set("builtin:xdp_pass", "late0"))
    words = [sys.executable, "-m", "bpfpin", "apply", str(file), "--wait", "600"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as waiting:
        missing = run_cli("apply", file, "--wait", "0.2")
        subprocess.run(["ip", "link", "add", "late0", "type", "veth"], check=True)
        said = waiting.communicate()[1]
    subprocess.run(["ip", "link", "del", "late0"], check=True)

    assert (missing.exit_code, waiting.returncode) == (4, 0), said
    assert "late0: loaded" in said


def reboot() -> None:
    """Take every pin away, as a reboot does."""
    isolation.umount(ROOT)
    isolation.mount("bpf", ROOT)


def test_the_state_is_the_same_after_a_reboot(tmp_path: Path) -> None:
    state = tmp_path / "state.toml"
    with new_lab() as lab:
        run_cli_ok("load", compiled("stated"), "--dev", lab.device, "--set", "answer=5")
        run_cli_ok(
            *("load", compiled("several_programs"), "--dev", "lo", "--name", "other", "--force"),
            *("--prog", "pass:xdp", "--mode", "generic", "--chmod", "0644"),
        )
        run_cli_ok("apply", write(state, run_cli_ok("state").stdout), "--check")
        before = run_cli_ok("status", "-o", "json").json["sets"]
    reboot()
    subprocess.run(["ip", "link", "add", lab.device, "type", "veth"], check=True)
    try:
        applied = run_cli_ok("apply", state, "-o", "json")
        after = run_cli_ok("status", "-o", "json").json["sets"]
        again = run_cli_ok("apply", state, "-o", "json")
        written = run_cli_ok("state").stdout
    finally:
        run_cli("unload", "--all")
        subprocess.run(["ip", "link", "del", lab.device], check=True)

    def shown(sets: list[dict[str, object]]) -> object:
        keys = ("set", "object", "state")
        programs = ("name", "hook", "device", "mode")
        return [
            (
                [one[key] for key in keys],
                [[each[key] for key in programs] for each in one["programs"]],  # type: ignore[attr-defined]
            )
            for one in sets
        ]

    assert shown(after) == shown(before)
    assert set(actions(applied).values()) == {"load"}
    assert set(actions(again).values()) == {"unchanged"}
    assert tomllib.loads(written) == tomllib.loads(state.read_text())


def test_shared_maps_are_shared_again(lab: TestLab, tmp_path: Path) -> None:
    run_cli_ok("load", "builtin:xdp_stats", "--dev", lab.device)
    run_cli_ok(
        *("load", "builtin:xdp_stats", "--dev", "lo", "--force"),
        *("--map", f"xdp_stats_map={lab.device}/xdp_stats_map"),
    )
    state = write(tmp_path / "a.toml", run_cli_ok("state").stdout)
    # The set that uses the map comes first here: it is loaded behind the other one all the same.
    first, second = state.read_text().split("[[set]]")[1:]
    write(state, f"[[set]]{second}\n[[set]]{first}")
    run_cli_ok("unload", "--all")
    applied = run_cli_ok("apply", state, "-o", "json")
    ids = []
    for name in (lab.device, "lo"):
        with Map.from_pin(ROOT / name / "xdp_stats_map") as counters:
            ids.append(counters.id)

    assert f'use = "{lab.device}/xdp_stats_map"' in state.read_text()
    assert list(actions(applied)) == [lab.device, "lo"]
    assert ids[0] == ids[1]
    assert run_cli("apply", state, "--check").exit_code == 0


def test_a_saved_state_brings_objects_and_counts_back(lab: TestLab, tmp_path: Path) -> None:
    source = tmp_path / "counting.o"
    source.write_bytes(compiled("reload_old").read_bytes())
    run_cli_ok("load", source, "--dev", lab.device)
    lab.flood(7)
    with Map.from_pin(ROOT / lab.device / "xdp_stats_map") as counters:
        wait_until(lambda: counters.total(1)["rx_packets"] == 7)
    saved = run_cli_ok("state", "--save", tmp_path / "saved", "-o", "json").json
    source.unlink()
    gone = run_cli("state")
    run_cli_ok("unload", "--all")
    run_cli_ok("apply", saved["file"])
    with Map.from_pin(ROOT / lab.device / "xdp_stats_map") as counters:
        counted = counters.total(1)["rx_packets"]
    lab.flood(1)
    again = run_cli_ok("apply", saved["file"], "-o", "json")

    assert (saved["objects"], saved["problems"]) == (1, [])
    assert ((tmp_path / "saved").stat().st_mode & 0o777) == 0o700
    assert (gone.exit_code, "cannot be read: " in gone.stderr) == (4, True)
    assert counted == 7
    # The contents are those of a new map: what is counted since stays.
    assert actions(again) == {lab.device: "unchanged"}
    # Saved again over itself, by way of objects that are only there.
    assert run_cli_ok("state", "--save", tmp_path / "saved", "-o", "json").json["objects"] == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["saved"]


def test_a_directory_that_is_unsafe_or_full_is_refused(lab: TestLab, tmp_path: Path) -> None:
    run_cli_ok("load", "builtin:xdp_stats", "--dev", lab.device)
    used = tmp_path / "used"
    used.mkdir()
    (used / "letter").touch()
    opened = tmp_path / "open"
    opened.mkdir()
    opened.chmod(0o777)
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", full], check=True)
    try:
        refused = [run_cli("state", "--save", path) for path in (used, opened / "s", full / "s")]
        left = [list(path.iterdir()) for path in (used, opened, full)]
    finally:
        isolation.umount(full)

    assert [each.exit_code for each in refused] == [7, 7, 1], refused
    assert left == [[used / "letter"], [], []]
    assert "No space left" in refused[2].stderr
    assert run_cli("state", "--save", tmp_path / "none/s").exit_code == 4
