"""`bpfpin map dump`: all of a map, chosen and ordered, in every form."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType
from support.cli import CliResult
from support.here import run_here
from support.maps import COUNTERS, FLOWS, U32

FEW, MANY = 10_000, 100_000
GROWTH_BYTES = 1 << 20


def dumped(*words: object) -> CliResult:
    result = run_here("map", "dump", *words)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*words: object) -> str:
    result = run_here("map", "dump", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


@pytest.fixture
def flows() -> Iterator[str]:
    """A hash u32 -> u32, whose values are the squares."""
    with Map.create(FLOWS.with_changes(max_entries=100)) as made:
        made.update({key: key * key for key in range(20)})
        yield f"id:{made.id}"


@pytest.fixture
def counters() -> Iterator[str]:
    """A per-CPU array of packets and bytes; CPU n has counted n + 1 packets under key 2."""
    with Map.create(COUNTERS) as made:
        made[2] = [{"rx_packets": cpu + 1, "rx_bytes": 60} for cpu in range(possible_cpus())]
        made[4] = [{"rx_packets": 1, "rx_bytes": 0}] * possible_cpus()
        yield f"id:{made.id}"


CPUS = possible_cpus()
PACKETS = CPUS * (CPUS + 1) // 2


def test_conditions_choose_and_sort_orders_in_every_form(flows: str) -> None:
    words = [flows, "--where", "value>=9", "--where", "key<6", "--sort", "-value"]
    pairs = [(5, 25), (4, 16), (3, 9)]
    rows = [{"key": key, "value": value} for key, value in pairs]

    assert dumped(*words, "-o", "json").json == {"schema": 1, "entries": rows}
    assert dumped(*words, "-o", "ndjson").json_lines == [{"schema": 1, **row} for row in rows]
    assert dumped(*words, "-o", "csv").stdout == "key,value\n5,25\n4,16\n3,9\n"
    assert dumped(*words).stdout == "key  value\n5    25\n4    16\n3    9\n"


def test_top_takes_the_first_of_the_order_or_of_the_walk(flows: str) -> None:
    greatest = dumped(flows, "--sort", "-value", "--top", 2, "-o", "json").json["entries"]
    least = dumped(flows, "--sort", "key", "--top", 2, "-o", "json").json["entries"]

    assert [entry["key"] for entry in greatest] == [19, 18]
    assert [entry["key"] for entry in least] == [0, 1]
    assert len(dumped(flows, "--top", 3, "-o", "ndjson").json_lines) == 3


def test_what_does_not_fit_the_map_exits_2(flows: str, counters: str) -> None:
    assert "the fields are: key, value" in refused(flows, "--where", "rx_packets>1")
    assert "the fields are: key, rx_packets, rx_bytes" in refused(counters, "--sort", "value.rx")
    assert "rx_packets, value.rx_bytes" in refused(counters, "--sort", "value")
    assert "is not a condition" in refused(flows, "--where", "value")
    assert "without --per-cpu" in refused(flows, "--per-cpu")


def test_tables_and_csv_add_up_the_cpus(counters: str) -> None:
    table = dumped(counters, "--where", "rx_packets>0").stdout.splitlines()
    rows = list(csv.DictReader(io.StringIO(dumped(counters, "-o", "csv").stdout)))

    assert table[1].split(maxsplit=1) == [
        "2",
        f'{{"rx_packets": {PACKETS}, "rx_bytes": {60 * CPUS}}}',
    ]
    assert len(table) == 3
    assert rows[2] == {"key": "2", "rx_packets": str(PACKETS), "rx_bytes": str(60 * CPUS)}


def test_json_has_the_value_of_each_cpu_and_conditions_see_the_sum(counters: str) -> None:
    words = [counters, "--where", f"rx_packets={PACKETS}", "--sort", "-rx_packets", "-o", "json"]
    (entry,) = dumped(*words).json["entries"]

    assert entry["key"] == 2
    assert [value["rx_packets"] for value in entry["values"]] == list(range(1, CPUS + 1))


def test_a_row_for_each_cpu_is_had_by_asking(counters: str) -> None:
    words = [counters, "--per-cpu", "--where", "key=2", "--where", "cpu=0"]

    assert dumped(*words, "-o", "csv").stdout == "key,cpu,rx_packets,rx_bytes\n2,0,1,60\n"
    assert dumped(*words, "-o", "json").json["entries"] == [
        {"key": 2, "cpu": 0, "value": {"rx_packets": 1, "rx_bytes": 60}}
    ]


def test_values_that_are_no_numbers_have_a_row_each_cpu() -> None:
    with Map.create(MapSpec("plain", MapType.PERCPU_ARRAY, 4, 4, 1)) as plain:
        name = f"id:{plain.id}"

        assert len(dumped(name).stdout.splitlines()) == 1 + CPUS
        result = run_here("map", "dump", name, "--where", "value=1", "-o", "ndjson")
        assert "cannot be added up" in result.json["error"]["message"]
        assert dumped(name, "--where", "key=1", "-o", "json").json["entries"] == []


def test_maps_without_entries_say_what_to_use() -> None:
    with Map.create(MapSpec("jobs", MapType.QUEUE, 0, 4, 1, value=U32)) as jobs:
        assert "bpfpin map pop" in refused(f"id:{jobs.id}")


def test_nothing_met_is_told(flows: str) -> None:
    result = dumped(flows, "--where", "value>1000")

    assert (result.stdout, result.stderr) == ("key  value\n", "no entry matches\n")


MEASURE = """
import sys, tracemalloc
from bpfpin.cli.main import main
main(["map", "dump", sys.argv[1], "-o", "csv"])
tracemalloc.start()
for form in ("json", "ndjson", "csv"):
    for name in sys.argv[1:]:
        tracemalloc.reset_peak()
        main(["map", "dump", name, "-o", form])
        print(tracemalloc.get_traced_memory()[1], file=sys.stderr)
"""


def test_memory_does_not_grow_with_the_map() -> None:
    with Map.create(spec_of(FEW)) as few, Map.create(spec_of(MANY)) as many:
        few.update({key: key for key in range(FEW)})
        many.update({key: key for key in range(MANY)})
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, f"id:{few.id}", f"id:{many.id}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
        )
    peaks = list(map(int, done.stderr.split()))

    assert len(peaks) == 6
    assert [large - small < GROWTH_BYTES for small, large in pairwise(peaks)][::2] == [True] * 3


def spec_of(size: int) -> MapSpec:
    return FLOWS.with_changes(max_entries=size)


def test_a_reader_who_goes_away_ends_it_quietly(flows: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "bpfpin", "map", "dump", flows, "-o", "json"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, b"")


def test_raw_gives_numbers(flows: str) -> None:
    entries: list[dict[str, Any]] = dumped(flows, "--raw", "-o", "json").json["entries"]

    assert {entry["key"]: entry["value"] for entry in entries}[7] == 49
    assert json.dumps(entries[0]).count('"') == 4
