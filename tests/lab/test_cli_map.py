"""`bpfpin map` as a user runs it: any map, by path, id and name."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.sets.choose import read_source
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.cli import CliResult
from support.here import run_here
from support.nobody import run_cli_as_nobody
from support.tools import need

COUNTERS = "xdp_stats_map"


@pytest.fixture
def counters(bpffs: Path) -> Iterator[Path]:
    """A per-CPU array with types, pinned."""
    spec = read_source("builtin:xdp_stats").maps[COUNTERS]
    with Map.create(spec) as made:
        made.pin(bpffs / COUNTERS)
        yield bpffs / COUNTERS


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Path]:
    """A hash without types, pinned."""
    with Map.create(MapSpec("flows", MapType.HASH, 4, 8, max_entries=2)) as made:
        made.pin(bpffs / "flows")
        yield bpffs / "flows"


def run_ok(*words: object) -> CliResult:
    result = run_here(*words)
    assert result.exit_code == 0, result.stderr
    return result


def id_of(path: Path) -> int:
    with Map.from_pin(path) as held:
        return held.id


# Names are the host's: no other process of tests has a map of this one.
OWN = MapSpec(f"own{os.getpid()}", MapType.ARRAY, 4, 8, max_entries=2)


def test_a_map_has_three_names(bpffs: Path) -> None:
    with Map.create(OWN) as held:
        held.pin(bpffs / "own")
        held.update_bytes(bytes(4), b"\x02".ljust(8, b"\0"))
        for name in (bpffs / "own", f"id:{held.id}", f"name:{OWN.name}"):
            assert run_ok("map", "get", name, "0").stdout == "hex:0200000000000000\n"


def test_a_name_that_the_kernel_changed_finds_its_map() -> None:
    """It keeps 15 characters, and bpfpin replaces those that it refuses."""
    name = f"ü-{os.getpid()}$of_everything"
    with Map.create(dataclasses.replace(OWN, name=name)) as held:
        shown = run_here("map", "show", f"name:{name}", "-o", "json")
        listed = run_here("map", "list", "--name", name, "-o", "json")
        drawn = run_here("graph", f"name:{name}", "-o", "json")

    assert held.name == f"__{os.getpid()}_of_everything"[:15]
    assert (shown.exit_code, shown.json["id"]) == (0, held.id), shown.stderr
    assert [row["id"] for row in listed.json["maps"]] == [held.id]
    assert [node["number"] for node in drawn.json["nodes"] if node["kind"] == "map"] == [held.id]


def test_a_name_of_several_maps_lists_their_ids() -> None:
    with Map.create(OWN) as one, Map.create(OWN) as other:
        result = run_here("map", "get", f"name:{OWN.name}", "0")

    assert result.exit_code == 2
    assert f"2 maps are named {OWN.name!r}: id:{one.id}, id:{other.id}" in result.stderr


def test_a_typed_percpu_value_is_set_and_read(counters: Path) -> None:
    run_ok("map", "set", counters, "2", "rx_packets=5", "rx_bytes=0x10")
    run_ok("map", "set", counters, "2", "rx_bytes=7")

    document = run_ok("map", "get", counters, "2", "-o", "json").json
    values = document["values"]
    assert (document["schema"], document["key"]) == (1, 2)
    assert values == [{"rx_packets": 5, "rx_bytes": 7}] * len(values)
    assert run_ok("map", "get", counters, "2").stdout.startswith(
        'cpu 0: {"rx_packets": 5, "rx_bytes": 7}\n'
    )


def test_a_percpu_list_has_a_value_for_each_cpu(counters: Path) -> None:
    values = [{"rx_packets": cpu, "rx_bytes": 0} for cpu in range(_cpus(counters))]

    run_ok("map", "set", counters, "0x3", json.dumps(values))
    too_few = run_here("map", "set", counters, "3", json.dumps([*values, values[0]]))

    assert run_ok("map", "get", counters, "3", "-o", "json").json["values"] == values
    assert too_few.exit_code == 2


def _cpus(counters: Path) -> int:
    with Map.from_pin(counters) as held:
        return len(held[0])


def test_set_says_what_is_there_now(flows: Path) -> None:
    result = run_ok("map", "set", flows, "hex:01000000", "hex:0200000000000000", "-o", "json")

    assert result.json == {"schema": 1, "key": "hex:01000000", "value": "hex:0200000000000000"}
    assert "set hex:01000000 to" in run_ok("map", "set", flows, "1", "3").stderr


def test_a_negative_number_is_no_option(flows: Path) -> None:
    run_ok("map", "set", flows, "-1", "-2")

    assert run_ok("map", "get", flows, "-1").stdout == "hex:feffffffffffffff\n"


def test_dump_has_a_form_for_everybody(flows: Path) -> None:
    run_ok("map", "set", flows, "1", "2")
    entry = {"key": "hex:01000000", "value": "hex:0200000000000000"}

    assert run_ok("map", "dump", flows, "-o", "json").json == {"schema": 1, "entries": [entry]}
    assert run_ok("map", "-o", "ndjson", "dump", flows).json_lines == [{"schema": 1, **entry}]
    assert run_ok("map", "dump", flows).stdout == (
        "key           value\nhex:01000000  hex:0200000000000000\n"
    )


def test_an_empty_map_dumps_as_nothing(flows: Path) -> None:
    assert run_ok("map", "dump", flows, "-o", "json").json["entries"] == []
    assert run_ok("map", "dump", flows).stderr == "the map is empty\n"


def fails(*words: object) -> CliResult:
    result = run_here("map", *words)
    with_json = run_here("map", *words, "-o", "json")
    assert with_json.exit_code == with_json.json["error"]["exit"] == result.exit_code
    assert result.stdout == ""
    return result


def test_what_is_not_there_exits_4(flows: Path) -> None:
    assert fails("get", flows, "9").exit_code == 4
    assert fails("get", "id:4294967295", "0").exit_code == 4
    assert fails("get", flows.with_name("none"), "0").exit_code == 4
    assert fails("dump", "/etc/passwd").exit_code == 4
    nameless = fails("get", "name:flow", "0")
    assert (nameless.exit_code, "near it: flows" in nameless.stderr) == (4, True)


def test_something_else_than_a_map_exits_6(flows: Path) -> None:
    (flows.parent / "link").symlink_to(flows)

    assert fails("dump", flows.parent / "link").exit_code == 6
    assert fails("dump", flows.parent).exit_code == 6


def test_a_full_map_exits_7_and_a_frozen_one_3(flows: Path, counters: Path) -> None:
    for key in ("1", "2"):
        run_ok("map", "set", flows, key, "0")
    with Map.from_pin(counters) as held:
        held.freeze()

    assert fails("set", flows, "3", "0").exit_code == 7
    assert fails("set", counters, "0", "rx_bytes=1").exit_code == 3


def test_what_does_not_fit_exits_2(flows: Path, counters: Path) -> None:
    assert fails("set", flows, "1", "x").exit_code == 2
    assert fails("set", flows, "1", "2", "3").exit_code == 2
    assert fails("set", flows, "hex:01", "2").exit_code == 2
    assert fails("set", counters, "0", "rx_bits=1").exit_code == 2
    assert fails("set", counters, "0", '{"rx_packets": 1}').exit_code == 2
    assert fails("set", counters, "0", f"rx_bytes={2**64}").exit_code == 2


def test_bpftool_reads_what_we_wrote(flows: Path) -> None:
    need("bpftool")
    run_ok("map", "set", flows, "258", "1")
    done = subprocess.run(
        ["bpftool", "-j", "map", "dump", "pinned", str(flows)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout)[0]["key"] == ["0x02", "0x01", "0x00", "0x00"]


def test_an_ordinary_user_is_told_what_to_type(flows: Path) -> None:
    result = run_cli_as_nobody("map", "get", f"id:{id_of(flows)}", "1")

    assert result.exit_code == 3
    assert "CAP_SYS_ADMIN" in result.stderr
    assert f"-m bpfpin map get id:{id_of(flows)} 1" in result.stderr
