"""`bpfpin map events` as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.errors import BusyError
from bpfpin.map.watch import TimedEvent, events, open_events
from bpfpin.objects.events.ring_buffer import RingBuffer
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import online_cpus
from bpfpin.uapi import MapType
from support.events import Teller, on_cpu, teller
from support.here import run_here
from support.wait import HANG_S, wait_until

TYPED = ("--type", "struct event")
AT_ONCE = ("--timeout", "0")


@pytest.fixture
def programs(bpffs: Path) -> Iterator[Teller]:
    """Programs whose maps are pinned in *bpffs*."""
    with teller() as made:
        for name in ("events", "samples", "commands"):
            made.loaded.maps[name].pin(bpffs / name)
        yield made


def test_a_line_an_event_with_its_members(programs: Teller, bpffs: Path) -> None:
    programs.tell(2)
    result = run_here("map", "events", bpffs / "events", *TYPED, "--count", 2)

    lines = [line.split("  ", 1)[1].split() for line in result.stdout.splitlines()]
    assert [(words[0], words[2]) for words in lines] == [
        ("number=0", "change=0"),
        ("number=1", "change=-1"),
    ]
    assert (result.exit_code, result.stderr) == (0, "")


def test_ndjson_has_a_document_an_event(programs: Teller, bpffs: Path) -> None:
    programs.tell(3)
    result = run_here("map", "events", bpffs / "events", *TYPED, *AT_ONCE, "-o", "ndjson")

    first, *_ = documents = result.json_lines
    assert [document["event"]["number"] for document in documents] == [0, 1, 2]
    assert first.keys() == {"schema", "time", "event"}
    assert first["time"] > 1_700_000_000


def test_json_is_one_document_of_as_many_as_asked(programs: Teller, bpffs: Path) -> None:
    programs.tell(5)
    asked = ("map", "events", f"id:{programs.map_id}", *TYPED, "-o", "json")

    found = run_here(*asked, "--count", 2).json
    assert [each["event"]["number"] for each in found["events"]] == [0, 1]
    assert found["schema"] == 1
    rest = run_here(*asked, *AT_ONCE).json
    assert [each["event"]["number"] for each in rest["events"]] == [2, 3, 4]


def test_json_without_an_end_is_a_usage_error(programs: Teller, bpffs: Path) -> None:
    result = run_here("map", "events", bpffs / "events", "-o", "json")

    assert (result.exit_code, result.json["error"]["exit"]) == (2, 2)
    assert "-o ndjson" in result.stderr


def test_without_a_type_events_are_bytes_with_a_note_of_what_they_may_be(
    programs: Teller, bpffs: Path
) -> None:
    programs.tell_bytes(b"\x01\x02\xff")
    result = run_here("map", "events", bpffs / "events", "--count", 1)

    assert result.stdout.endswith("  hex:0102ff\n")
    assert "--type may be: " in result.stderr
    assert "struct event (16 bytes)" in result.stderr


def test_a_format_reads_events_too(programs: Teller, bpffs: Path) -> None:
    programs.tell(1)
    asked = ("map", "events", bpffs / "events", "--count", 1, "-o", "json")

    number, _, change = run_here(*asked, "--format", "<QIi").json["events"][0]["event"]
    assert (number, change) == (0, 0)


def test_lost_events_of_a_perf_array_are_told_among_the_others(
    programs: Teller, bpffs: Path
) -> None:
    """The programs write 20 MB at once into the 256 KiB of a CPU."""
    cpu = online_cpus()[0]
    programs.set(size=4096)

    def is_read() -> bool:
        refused = programs.seen("refused")
        programs.run("tell_perf_bytes")
        return bool(programs.seen("refused") == refused)

    def flood() -> None:
        with on_cpu(cpu):
            wait_until(is_read)
            programs.run("tell_perf_bytes", repeat=4999)

    flooder = threading.Thread(target=flood)
    flooder.start()
    with on_cpu(cpu):
        result = run_here("map", "events", bpffs / "samples", "--timeout", 2, "-o", "ndjson")
    flooder.join()

    documents = result.json_lines
    lost = [document for document in documents if "lost" in document]
    assert result.exit_code == 0
    assert lost
    assert lost[0].keys() == {"schema", "time", "lost", "cpu"}
    assert lost[0]["cpu"] == cpu
    assert len(documents) - len(lost) + sum(each["lost"] for each in lost) == 5000


def test_events_that_come_faster_than_they_are_read_do_not_put_the_end_off(
    programs: Teller, bpffs: Path
) -> None:
    seen = 0
    with open_events(str(bpffs / "events"), event_type=None, form=None) as source:
        programs.tell(100)
        for _ in events(source, timeout_s=0.05):
            programs.tell(1)  # so it is never empty
            seen += 1
            assert seen < 5_000

    assert seen >= 100


def test_ctrl_c_ends_it_well(programs: Teller, bpffs: Path) -> None:
    # In a process of its own: Ctrl-C may come between an open and the statement that closes it.
    programs.tell(1)
    command = [sys.executable, "-m", "bpfpin", "map", "events", str(bpffs / "events"), *TYPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"number=0" in process.stdout.readline()
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=HANG_S) == 0
        assert process.stderr.read() == b""


def test_a_closed_pipe_ends_it_well(programs: Teller, bpffs: Path) -> None:
    programs.tell(100)
    command = [sys.executable, "-m", "bpfpin", "map", "events", str(bpffs / "events"), *TYPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"number=0" in process.stdout.readline()
        process.stdout.close()
        programs.tell(100)

        assert process.wait(timeout=HANG_S) == 0
        assert process.stderr.read() == b""


def test_a_ring_that_a_reload_replaced_ends_with_the_reason(programs: Teller, bpffs: Path) -> None:
    """After the events that are left in the old one."""
    programs.tell(3)
    replaced = bpffs / "events"

    with open_events(str(replaced), event_type=None, form=None) as source:
        replaced.unlink()
        with Map.create(MapSpec("events", MapType.RINGBUF, 0, 0, 4096)) as other:
            other.pin(replaced)
            told: list[TimedEvent] = []
            with pytest.raises(BusyError) as ended:
                told.extend(events(source, path=replaced))
            told.extend(events(source, timeout_s=0))

    assert f"a reload put map id {other_id(replaced)} in the place of id" in str(ended.value)
    assert ended.value.hint.endswith(f"bpfpin map events {replaced}")


def other_id(path: Path) -> int:
    with Map.from_pin(path, read_only=True) as held:
        return held.id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--type", "struct evnt"), "no type 'struct evnt'"),
        (("--type", "struct event", "--format", "Q"), "give one of them"),
        (("--format", "zz"), "format 'zz'"),
    ],
)
def test_a_wrong_type_is_a_usage_error(
    programs: Teller, bpffs: Path, words: tuple[str, ...], said: str
) -> None:
    result = run_here("map", "events", bpffs / "events", *words, *AT_ONCE)

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_map_without_events_is_a_usage_error(programs: Teller, bpffs: Path) -> None:
    result = run_here("map", "events", bpffs / "commands", *AT_ONCE)

    assert result.exit_code == 2
    assert "of type user_ringbuf; events come from a ringbuf" in result.stderr


def test_a_ring_that_is_read_already_is_busy(programs: Teller, bpffs: Path) -> None:
    with RingBuffer.from_pin(bpffs / "events") as ring:
        ring.consume()
        result = run_here("map", "events", bpffs / "events", *AT_ONCE)

    assert result.exit_code == 7
    assert f"process {os.getpid()}" in result.stderr
