"""`bpfpin map watch`: what comes, changes and goes, told in every form and through reloads."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from bpfpin.cli.map.watch import line
from bpfpin.errors import UsageError
from bpfpin.map.watch import EntryEvent, EventKind, open_watch
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType
from support.here import run_here
from support.maps import COUNTERS, FLOWS, U32
from support.sets import counted, generations, unpublish
from support.wait import HANG_S

SHORT_S = 0.02


@contextlib.contextmanager
def writing(held: Map) -> Iterator[None]:
    """Let key 1 count, and keys from 1000 on come and go, until the block ends."""
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.wait(SHORT_S / 4):
            number += 1
            held[1] = number
            held[1000 + number] = number
            held.pop(1000 + number - 8, None)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        is_over.set()
        writer.join()


@pytest.fixture
def flows() -> Iterator[Map]:
    with Map.create(FLOWS.with_changes(max_entries=100)) as made:
        made.update({1: 0, 2: 20})
        yield made


def test_all_that_happens_is_told_and_nothing_else(flows: Map) -> None:
    words = ["map", "watch", f"id:{flows.id}", "--interval", 4 * SHORT_S, "--count", 5]
    with writing(flows):
        lines = run_here(*words).stdout.splitlines()
        documents = run_here(*words, "-o", "ndjson").json_lines

    assert {text.split()[1] for text in lines} == {"+", "~", "-"}
    assert {document["event"] for document in documents} == {"added", "changed", "removed"}
    assert all(document["schema"] == 1 and document["time"] > 0 for document in documents)
    changes = [one for one in documents if one["event"] == "changed"]
    assert {one["key"] for one in changes} == {1}
    assert all(one["old"] < one["value"] for one in changes)
    assert [old["value"] for old in changes[:-1]] == [new["old"] for new in changes[1:]]


def test_conditions_see_the_entry_as_it_is_or_was(flows: Map) -> None:
    words = ["map", "watch", f"id:{flows.id}", "--interval", 4 * SHORT_S, "--count", 3]
    with writing(flows):
        documents = run_here(*words, "--where", "key<1000", "-o", "ndjson").json_lines

    assert {document["key"] for document in documents} == {1}


def test_watching_changes_nothing(flows: Map) -> None:
    before = flows.to_dict()
    result = run_here("map", "watch", f"id:{flows.id}", "--interval", SHORT_S, "--count", 2)

    assert (result.exit_code, result.stdout, flows.to_dict()) == (0, "", before)


def event(kind: EventKind, value: Any, old: Any) -> EntryEvent:
    return EntryEvent(kind, 0.0, 2, value, old, False, lambda row: row)


@pytest.mark.parametrize(
    ("value", "old", "text"),
    [
        (7, 5, "~ 2: 5 -> 7"),
        ({"a": 1, "b": 7}, {"a": 1, "b": 5}, "~ 2: b 5 -> 7"),
        ({"in": {"a": 2, "b": 1}}, {"in": {"a": 1, "b": 0}}, "~ 2: in.a 1 -> 2, in.b 0 -> 1"),
        ([1, 3], [1, 2], "~ 2: [1, 2] -> [1, 3]"),
    ],
)
def test_a_change_is_told_member_by_member(value: Any, old: Any, text: str) -> None:
    assert line(event(EventKind.CHANGED, value, old)).split(maxsplit=1)[1] == text


def test_what_came_has_its_value_and_what_went_its_key() -> None:
    assert line(event(EventKind.ADDED, {"a": 1}, None)).endswith(' + 2 = {"a": 1}')
    assert line(event(EventKind.REMOVED, None, 5)).endswith(" - 2")


def test_the_cpus_are_added_up_in_lines_and_listed_in_json() -> None:
    with Map.create(COUNTERS) as counters, open_watch(f"id:{counters.id}") as watching:
        found = watching.events(interval_s=SHORT_S)
        first: list[Any] = []
        reader = threading.Thread(target=lambda: first.append(next(found)))
        reader.start()
        number = 0
        while reader.is_alive():
            number += 1
            values = [{"rx_packets": number, "rx_bytes": 0}] * possible_cpus()
            counters[3] = values
        reader.join()
        (told,) = first

    document = told.to_json()
    packets = document["values"][0]["rx_packets"]
    assert (document["event"], document["key"]) == ("changed", 3)
    assert len(document["values"]) == len(document["old"]) == possible_cpus()
    assert line(told).endswith(f" -> {packets * possible_cpus()}")


def test_what_cannot_be_watched_exits_2(flows: Map) -> None:
    with Map.create(MapSpec("jobs", MapType.QUEUE, 0, 4, 1, value=U32)) as jobs:
        result = run_here("map", "watch", f"id:{jobs.id}")
        assert (result.exit_code, "bpfpin map pop" in result.stderr) == (2, True)
    with pytest.raises(UsageError, match="no field 'packets'"):
        open_watch(f"id:{flows.id}", conditions=["packets>1"])


@contextlib.contextmanager
def watched(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Run `map watch` until the block ends, then end it by Ctrl-C, which is no failure."""
    command = [sys.executable, "-m", "bpfpin", "map", "watch", *map(str, words)]
    with subprocess.Popen(
        [*command, "--interval", "0.05", "-o", "ndjson"], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0


def event_of(stream: IO[str] | None, word: str) -> Any:
    assert stream is not None
    return json.loads(next(line for line in stream if f'"{word}"' in line))


def test_a_path_is_followed_through_reloads_and_absence(bpffs: Path) -> None:
    with generations(bpffs / "lab0") as lab0, watched(lab0.path / "counters") as process:
        with counting(lab0.maps[0]):
            changed = event_of(process.stdout, "changed")
        lab0.publish(map_=1, program=1)
        reload = event_of(process.stdout, "reload")
        with counting(lab0.maps[1]):
            after = event_of(process.stdout, "changed")
        unpublish(lab0.path)
        gone = event_of(process.stdout, "gone")

        assert changed["key"] == after["key"] == 4
        assert reload == {
            "schema": 1,
            "event": "reload",
            "program": lab0.program_ids,
            "map": lab0.map_ids,
        }
        assert gone["path"] == str(lab0.path / "counters")


def test_a_reader_who_goes_away_ends_it_quietly(flows: Map) -> None:
    command = [sys.executable, "-m", "bpfpin", "map", "watch", f"id:{flows.id}"]
    reading, writing_end = os.pipe()
    os.close(reading)
    with os.fdopen(writing_end, "w") as closed, writing(flows):
        done = subprocess.run(
            [*command, "--interval", str(SHORT_S)],
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=HANG_S,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, b"")


@contextlib.contextmanager
def counting(held: Map) -> Iterator[None]:
    """Let key 4 of a map of packets and bytes count until the block ends."""
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.wait(SHORT_S):
            number += 1
            held[4] = counted(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        is_over.set()
        writer.join()
