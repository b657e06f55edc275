"""`bpfpin stats` through reloads: told in every form, and no rate ever negative."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from support.cli import run_cli_ok
from support.lab import TestLab
from support.sets import Generations, generations, unpublish
from support.wait import HANG_S, wait_until

BPFPIN = [sys.executable, "-m", "bpfpin"]


@pytest.fixture
def lab0(bpffs: Path) -> Iterator[Generations]:
    with generations(bpffs / "lab0") as made:
        yield made


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli_ok("unload", lab.device)


@contextlib.contextmanager
def watching(lab0: Generations, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `stats` of the set until the block ends, then end it by Ctrl-C."""
    words = ["--pin-root", str(lab0.path.parent), "--interval", "0.1", *options]
    with subprocess.Popen(
        [*BPFPIN, "stats", "lab0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0


def line_with(stream: IO[str] | None, word: str) -> str:
    assert stream is not None
    return next(line for line in stream if word in line)


def test_a_reload_that_keeps_the_map_is_told_and_counting_goes_on(
    lab0: Generations,
) -> None:
    old, new = lab0.program_ids
    with watching(lab0) as process:
        line_with(process.stdout, "XDP_PASS")
        lab0.publish(map_=0, program=1)
        told = line_with(process.stderr, "reload")
        after = line_with(process.stdout, "XDP_PASS")

    assert told == f"reload followed: program {old} -> {new}, same map\n"
    assert after.split()[1:3] == ["XDP_PASS", "1,000"]


def test_a_reload_with_another_map_never_makes_a_rate_negative(lab0: Generations) -> None:
    programs, maps = lab0.program_ids, lab0.map_ids
    with watching(lab0, "-o", "ndjson") as process:
        line_with(process.stdout, "XDP_PASS")
        lab0.publish(map_=1, program=1)
        event = json.loads(line_with(process.stdout, "event"))
        told = line_with(process.stderr, "map")
        after = json.loads(line_with(process.stdout, "XDP_PASS"))

    assert event == {"schema": 1, "event": "reload", "program": programs, "map": maps}
    assert told == f"map {maps[0]} -> {maps[1]}: counters restart\n"
    assert (after["packets"], after["packets_per_second"]) == (10, 0.0)


def test_what_is_unloaded_is_waited_for(lab0: Generations) -> None:
    with watching(lab0, "--classic") as process:
        line_with(process.stdout, "XDP_PASS")
        unpublish(lab0.path)
        gone = line_with(process.stderr, "gone")
        lab0.publish(map_=1, program=1)
        back = line_with(process.stderr, "map")
        after = line_with(process.stdout, "XDP_PASS")

    assert gone == f"{lab0.path}/counters is gone; waiting for it\n"
    assert "counters restart" in back
    assert after.startswith("XDP_PASS ")


def test_events_stand_in_the_json_document(lab0: Generations) -> None:
    words = ["--pin-root", str(lab0.path.parent), "--interval", "0.2", "--count", "2"]
    with subprocess.Popen(
        [*BPFPIN, "stats", "lab0", *words, "-v", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line_with(process.stderr, "reading map")
        lab0.publish(map_=0, program=1)
        document = json.loads(process.communicate()[0])

    programs, kept = lab0.program_ids, lab0.maps[0].id
    assert document["events"] == [{"event": "reload", "program": programs, "map": [kept, kept]}]
    assert len(document["rows"]) == 10


def test_a_document_without_events_says_so(lab0: Generations) -> None:
    root = lab0.path.parent
    document = run_cli_ok(
        "stats", "lab0", "--pin-root", root, "-o", "json", "--interval", "0.1"
    ).json

    assert (len(document["rows"]), document["events"]) == (5, [])


def test_a_map_by_id_is_not_followed(lab0: Generations) -> None:
    held = lab0.maps[0]
    command = [*BPFPIN, "stats", f"id:{held.id}", "-o", "ndjson", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line_with(process.stdout, "XDP_PASS")
        lab0.publish(map_=1, program=1)
        assert process.stdout is not None
        rows = [json.loads(process.stdout.readline()) for _ in range(10)]
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert {row["packets"] for row in rows if row["action"] == "XDP_PASS"} == {1000}


def test_the_live_table_has_a_line_for_a_reload(lab0: Generations) -> None:
    ours, theirs = pty.openpty()
    words = ["--pin-root", str(lab0.path.parent), "--interval", "0.1"]
    with subprocess.Popen(
        [*BPFPIN, "stats", "lab0", *words],
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as watched:
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = bytearray()
        wait_until(lambda: "XDP_REDIRECT" in _drained(ours, shown))
        lab0.publish(map_=0, program=1)
        wait_until(lambda: "reload followed: program" in _drained(ours, shown))
        watched.send_signal(signal.SIGINT)
        watched.wait(timeout=HANG_S)
    os.close(ours)

    assert watched.returncode == 0


def test_unloading_and_loading_again_is_followed(loaded: TestLab) -> None:
    command = [*BPFPIN, "stats", loaded.device, "-o", "ndjson", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line_with(process.stdout, "XDP_PASS")
        run_cli_ok("unload", loaded.device)
        gone = json.loads(line_with(process.stdout, "event"))
        run_cli_ok("load", "--dev", loaded.device)
        loaded.flood(7)
        event = json.loads(line_with(process.stdout, "event"))
        wait_until(lambda: json.loads(line_with(process.stdout, "XDP_PASS"))["packets"] == 7)
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert (gone["event"], event["event"]) == ("gone", "reload")
    assert event["map"][0] == gone["map"] != event["map"][1]
    assert None not in event["program"]


def test_reloads_by_load_are_followed(loaded: TestLab) -> None:
    command = [*BPFPIN, "stats", loaded.device, "-o", "ndjson", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line_with(process.stdout, "XDP_PASS")
        run_cli_ok("load", "builtin:xdp_protocols", "--dev", loaded.device)
        kept = json.loads(line_with(process.stdout, "event"))
        run_cli_ok("load", "--fresh", "xdp_stats_map", "--dev", loaded.device)
        fresh = json.loads(line_with(process.stdout, "event"))
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert kept["map"][0] == kept["map"][1] == fresh["map"][0] != fresh["map"][1]
    assert kept["program"][0] != kept["program"][1] == fresh["program"][0] != fresh["program"][1]


def _drained(fd: int, shown: bytearray) -> str:
    with contextlib.suppress(BlockingIOError):
        shown += os.read(fd, 65536)
    return shown.decode(errors="replace")
