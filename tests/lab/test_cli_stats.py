"""`bpfpin stats` as a user runs it: of our sets, of others' maps, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab
from support.wait import HANG_S, wait_until

ROOT = Path("/sys/fs/bpf")
BPFPIN = [sys.executable, "-m", "bpfpin"]
ONCE = ("--count", "1", "--interval", "0.1")


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli_ok("unload", lab.device)


def pinned(path: Path, *, kind: MapType = MapType.ARRAY, value_size: int = 16) -> Path:
    """Pin a map without BTF that somebody else could have made, with XDP_PASS at 7."""
    with Map.create(MapSpec("theirs", kind, 4, value_size, max_entries=5)) as made:
        value = (7).to_bytes(8, "little") + bytes(value_size - 8)
        made[2] = [value] * len(made[2]) if made.is_per_cpu else value
        made.pin(path)
    return path


def test_packets_to_the_device_are_counted_exactly(loaded: TestLab) -> None:
    loaded.flood(250, size_bytes=58)

    rows = run_cli_ok("stats", loaded.device, "-o", "ndjson", *ONCE).json_lines

    by_action = {row["action"]: row for row in rows}
    assert list(by_action) == ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"]
    assert (by_action["XDP_PASS"]["packets"], by_action["XDP_PASS"]["bytes"]) == (250, 25000)
    assert set(rows[0]) == {
        *("schema", "time", "action", "packets", "bytes"),
        *("packets_per_second", "bytes_per_second"),
    }


def test_rates_are_those_of_the_interval(loaded: TestLab) -> None:
    command = [*BPFPIN, "stats", "--dev", loaded.device, "-o", "ndjson", "--interval", "0.3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for _ in range(5):  # the first interval has begun
            watching.stdout.readline()
        loaded.flood(90)
        rows = [json.loads(watching.stdout.readline()) for _ in range(10)]
        watching.send_signal(signal.SIGINT)
        watching.communicate()

    counted = sum(row["packets_per_second"] for row in rows) * 0.3
    assert watching.returncode == 0
    assert counted == pytest.approx(90, rel=0.2)


def test_each_cpu_has_a_row_when_asked(loaded: TestLab) -> None:
    loaded.flood(10)
    document = run_cli_ok("stats", loaded.device, "-o", "json", "--per-cpu", *ONCE).json

    passed = [row for row in document["rows"] if row["action"] == "XDP_PASS"]
    assert [row["cpu"] for row in passed] == list(range(len(passed)))
    assert sum(row["packets"] for row in passed) == 10


def test_the_classic_format_is_the_tutorials(loaded: TestLab) -> None:
    loaded.flood(5)
    lines = run_cli_ok("stats", loaded.device, "--classic", *ONCE).stdout.split("\n")

    assert lines[0] == "XDP-action  "
    assert re.fullmatch(
        r"XDP_PASS     {11}5 pkts \( {9}0 pps\) {11}0 Kbytes \( {5}0 Mbits/s\) period:0\.1\d{5}",
        lines[3],
    )
    assert lines[6:] == ["", ""]


def test_in_a_pipe_each_interval_is_a_block_of_lines(loaded: TestLab) -> None:
    result = run_cli_ok("stats", loaded.device, "--count", "2", "--interval", "0.1")

    header, *rows = result.stdout.splitlines()
    assert header.split() == ["time", "action", "packets", "pkts/s", "bytes", "Mbit/s"]
    assert len(rows) == 10
    assert "\x1b" not in result.stdout


def test_a_terminal_has_a_live_table_that_ctrl_c_ends_well(loaded: TestLab) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*BPFPIN, "stats", loaded.device, "--interval", "0.1"],
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as watching:
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = bytearray()
        wait_until(lambda: "XDP_REDIRECT" in _drained(ours, shown))
        watching.send_signal(signal.SIGINT)
        exit_code = watching.wait(timeout=HANG_S)
    os.close(ours)

    assert exit_code == 0
    assert "▁" in shown.decode()


def _drained(fd: int, shown: bytearray) -> str:
    with contextlib.suppress(BlockingIOError):
        shown += os.read(fd, 65536)
    return shown.decode(errors="replace")


def test_sigterm_ends_a_live_view_with_143(loaded: TestLab) -> None:
    command = [*BPFPIN, "stats", loaded.device, "-o", "ndjson", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        watching.terminate()
        watching.communicate()

    assert watching.returncode == 143


def test_a_closed_pipe_ends_a_live_view_well(loaded: TestLab) -> None:
    command = [*BPFPIN, "stats", loaded.device, "-o", "ndjson", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        watching.stdout.close()
        assert watching.stderr is not None
        talk = watching.stderr.read()

    assert (watching.returncode, talk) == (0, b"")


@pytest.mark.parametrize("kind", [MapType.ARRAY, MapType.PERCPU_ARRAY])
@pytest.mark.parametrize(("value_size", "in_bytes"), [(16, 0), (8, None)])
def test_maps_of_others_are_read_without_types(
    bpffs: Path, kind: MapType, value_size: int, in_bytes: int | None
) -> None:
    path = pinned(bpffs / "theirs", kind=kind, value_size=value_size)

    rows = run_cli_ok("stats", path, "-o", "ndjson", *ONCE).json_lines

    assert rows[2]["packets"] % 7 == 0 < rows[2]["packets"]
    assert rows[2]["bytes"] == in_bytes


def test_a_directory_that_others_made_is_read_by_its_name(bpffs: Path) -> None:
    (bpffs / "eth9").mkdir()
    pinned(bpffs / "eth9/xdp_stats_map")
    pinned(bpffs / "eth9/other")

    rows = run_cli_ok("stats", "--pin-root", bpffs, "--dev", "eth9", "-o", "ndjson", *ONCE)

    assert rows.json_lines[2]["packets"] == 7


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ((), 2, "no target: give a device"),
        (("nodev",), 4, "nothing is loaded for 'nodev'"),
        (("/sys/fs/bpf/nothing",), 4, "nothing"),
        (("/proc/self/exe",), 6, "symbolic link"),
        (("lab0", "--dev", "lab1"), 2, "give one of them"),
        (("lab0", "--classic", "-o", "json"), 2, "--classic"),
        (("lab0", "--interval", "0"), 2, "--interval"),
        (("lab0", "--count", "0"), 2, "--count"),
        (("id:4", "--map", "flows"), 2, "--map chooses from a set"),
    ],
)
def test_what_cannot_be_counted_is_said(
    words: tuple[str, ...], exit_code: int, message: str
) -> None:
    result = run_cli("stats", *words)

    assert result.exit_code == exit_code
    assert message in result.stderr


def test_a_set_with_several_counter_maps_asks_which(bpffs: Path) -> None:
    (bpffs / "two").mkdir()
    pinned(bpffs / "two/first")
    pinned(bpffs / "two/second")

    asked = run_cli("stats", bpffs / "two")
    chosen = run_cli_ok("stats", bpffs / "two", "--map", "second", "-o", "ndjson", *ONCE)
    missing = run_cli("stats", bpffs / "two", "--map", "third")

    assert (asked.exit_code, missing.exit_code) == (2, 2)
    assert "has 2 maps of counters: first, second" in asked.stderr
    assert "has no map 'third'; it has: first, second" in missing.stderr
    assert chosen.json_lines[2]["packets"] == 7


@pytest.mark.parametrize(
    ("kind", "value_size", "why"),
    [(MapType.HASH, 16, "it is a hash"), (MapType.ARRAY, 24, "24 bytes without BTF")],
)
def test_a_map_of_something_else_is_no_counter_map(
    bpffs: Path, kind: MapType, value_size: int, why: str
) -> None:
    with Map.create(MapSpec("flows", kind, 4, value_size, max_entries=5)) as made:
        made.pin(bpffs / "flows")
        result = run_cli("stats", bpffs / "flows")

    assert result.exit_code == 2
    assert why in result.stderr
