"""`bpfpin map list` and `show`: which maps, who uses them, and what the kernel tells of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.sets.choose import read_source
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType
from support.here import Here, bpftool, id_at, map_ids, veth
from support.kernel_needs import need_map_type
from support.map_command import SESSIONS, ok, refused, said
from support.nobody import run_cli_as_nobody
from support.tools import need

COUNTERS = "xdp_stats_map"


@pytest.fixture
def counters(bpffs: Path) -> Iterator[Path]:
    """A per-CPU array with types, pinned."""
    with Map.create(read_source("builtin:xdp_stats").maps[COUNTERS]) as made:
        made.pin(bpffs / COUNTERS)
        yield bpffs / COUNTERS


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Path]:
    """A hash without types, pinned."""
    with Map.create(MapSpec("flows", MapType.HASH, 4, 8, max_entries=2)) as made:
        made.pin(bpffs / "flows")
        yield bpffs / "flows"


def listed(*words: object) -> dict[int, Any]:
    """Return the maps of a list by id."""
    return {row["id"]: row for row in ok("list", *words)["maps"]}


def test_the_list_has_every_map_with_its_pins(counters: Path, flows: Path) -> None:
    os.link(flows, flows.with_name("again"))
    by_id = listed("--pin-root", flows.parent)

    row = by_id[id_at(counters)]
    assert row.pop("memory_bytes") > 0
    assert row == {
        "id": id_at(counters),
        "name": COUNTERS,
        "type": "percpu_array",
        "key_size": 4,
        "value_size": 16,
        "max_entries": 5,
        "entries": 5,
        "frozen": False,
        "pins": [str(counters)],
        "programs": [],
        "outer_maps": [],
        "links": [],
        "orphan": False,
    }
    assert by_id[id_at(flows)]["pins"] == [f"{flows.with_name('again')}", str(flows)]


def test_a_map_that_nothing_else_keeps_is_an_orphan(flows: Path) -> None:
    with Map.create(MapSpec("lonely", MapType.ARRAY, 4, 4, max_entries=1)) as made:
        orphans = listed("--orphans")

        assert (orphans[made.id]["pins"], orphans[made.id]["orphan"]) == ([], True)
        assert id_at(flows) not in orphans
        assert made.id not in listed("--pinned")


def test_a_map_in_another_map_is_no_orphan() -> None:
    inner = MapSpec("inner", MapType.ARRAY, 4, 4, 1)
    with (
        Map.create(MapSpec("outer", MapType.HASH_OF_MAPS, 4, 4, 2, inner=inner)) as outside,
        Map.create(inner) as inside,
    ):
        outside[bytes(4)] = inside
        rows = listed()

        assert (rows[inside.id]["outer_maps"], rows[inside.id]["orphan"]) == ([outside.id], False)


def test_a_list_is_narrowed(counters: Path, flows: Path) -> None:
    ids = {"counters": id_at(counters), "flows": id_at(flows)}

    def found(*words: object) -> set[str]:
        rows = listed(*words, "--pin-root", flows.parent)
        return {name for name, id_ in ids.items() if id_ in rows}

    assert found("--type", "hash") == {"flows"}
    assert found("--type", "HASH", "--type", "percpu_array") == set(ids)
    assert found("--name", "flow?") == {"flows"}
    assert found("--name", "flow") == set()
    assert found("--name", "xdp_*", "--name", "flows") == set(ids)
    assert found("--pinned", "--name", "flows", "--type", "lru_hash") == set()


def test_a_list_is_sorted(counters: Path, flows: Path) -> None:
    ids = {id_at(counters), id_at(flows)}

    def sorted_by(field: str) -> list[int]:
        return [row["id"] for row in ok("list", "--sort", field)["maps"] if row["id"] in ids]

    assert sorted_by("entries") == [id_at(flows), id_at(counters)]
    assert sorted_by("-entries") == [id_at(counters), id_at(flows)]
    assert sorted_by("name") == [id_at(flows), id_at(counters)]
    assert sorted_by("-memory") == sorted_by("memory")[::-1]
    assert sorted_by("id") == sorted(ids)


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("--type", "hsh"), 2, "'hsh' is not a type of map"),
        (("--sort", "colour"), 2, "no field 'colour' to sort by: id, name"),
        (("--user", "nosuch_program"), 4, "no program is called 'nosuch_program'"),
        (("--user", "pid:99999999"), 4, "there is no process '99999999'"),
        (("--user", "pid:"), 4, "there is no process ''"),
    ],
)
def test_what_a_list_cannot_be_narrowed_to(
    words: tuple[str, ...], exit_code: int, message: str
) -> None:
    assert message in refused(exit_code, "list", *words)["message"]


def test_users_are_programs_and_processes(bpffs: Path) -> None:
    with veth() as device:
        here = Here(bpffs, device)
        document = here.load("builtin:xdp_stats")
        program = document["programs"][0]
        id_ = map_ids(document)[COUNTERS]

        assert listed()[id_]["programs"] == [{"id": program["id"], "name": program["name"]}]
        assert id_ in listed("--user", program["name"])
        assert set(listed("--user", program["id"])) == set(map_ids(document).values())
        with Map.from_id(id_):
            assert id_ in listed("--user", f"pid:{os.getpid()}")
        assert f"{program['id']}:{program['name']}" in said("list").stdout
        shown = ok("show", f"id:{id_}", "--pin-root", bpffs)
        assert (shown["programs"][0]["id"], shown["pins"]) == (
            program["id"],
            [str(here.set / COUNTERS)],
        )
        assert f"xdp of {device}" in shown["programs"][0]["attached"]
        here.ok("unload", device)


def test_processes_are_looked_for_when_asked(flows: Path) -> None:
    row = listed("--users")[id_at(flows)]

    assert row["processes"] == []  # this process, which has it open, does not count
    assert "processes" not in listed()[id_at(flows)]
    assert "processes" in said("list", "-v").stdout.splitlines()[0]


def test_the_list_follows_no_symlink_and_escapes_names(flows: Path) -> None:
    (flows.parent / "link").symlink_to(flows)
    os.link(flows, flows.parent / "\x1b[2J")

    result = said("list")

    assert f"{flows.parent}/\\x1b[2J {flows}" in result.stdout
    assert "\x1b" not in result.stdout
    assert "/link" not in result.stdout


def test_an_empty_list_says_so() -> None:
    assert said("list", "--name", "nosuch").stderr.endswith("no map matches\n")


def test_show_tells_types_and_flags(counters: Path) -> None:
    with Map.from_pin(counters) as held:
        held.freeze()
    document = ok("show", counters)

    assert document["key_type"] == "u32"
    assert document["value_type"] == "struct datarec { u64 rx_packets; u64 rx_bytes; }"
    assert document["frozen"] is True
    assert document["memory_bytes"] > 0
    lines = said("show", counters).stdout
    assert "max_entries  5\n" in lines
    assert f"for each of {document['cpus']} CPUs" in lines
    assert f"pin          {counters}\n" in lines


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        (MapSpec("ring", MapType.RINGBUF, 0, 0, 4096), "max_entries is its size in bytes"),
        (MapSpec("line", MapType.QUEUE, 0, 4, 4), "used with bpfpin map pop"),
        (MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=SESSIONS), "it holds no map"),
        (
            MapSpec("seen", MapType.BLOOM_FILTER, 0, 4, 4, map_extra=3),
            "map_extra is the number of its hash functions",
        ),
        (
            MapSpec("arena", MapType.ARENA, 0, 0, 1, map_flags=MapFlag.MMAPABLE),
            "max_entries counts pages",
        ),
    ],
    ids=lambda one: one.name if isinstance(one, MapSpec) else "",
)
def test_show_tells_what_a_type_means(spec: MapSpec, note: str) -> None:
    need_map_type(spec.type)
    with Map.create(spec) as held:
        assert note in " ".join(ok("show", f"id:{held.id}")["notes"])
        assert note in said("show", f"id:{held.id}").stdout


def test_bpftool_shows_the_same_maps(counters: Path, flows: Path) -> None:
    need("bpftool")
    ours = listed()
    theirs = {row["id"]: row for row in bpftool("map", "show")}

    for id_ in (id_at(counters), id_at(flows)):
        wanted = [theirs[id_][key] for key in ("type", "bytes_key", "bytes_value", "max_entries")]
        assert [ours[id_][key] for key in ("type", "key_size", "value_size", "max_entries")] == (
            wanted
        )
        assert ours[id_]["memory_bytes"] == int(theirs[id_]["bytes_memlock"])


def test_an_ordinary_user_sees_the_maps_that_are_pinned(flows: Path) -> None:
    with Map.create(MapSpec("lonely", MapType.ARRAY, 4, 4, max_entries=1)):
        result = run_cli_as_nobody("map", "list", "-o", "json", "--pin-root", flows.parent)

    assert [row["pins"] for row in result.json["maps"] if row["name"] == "flows"] == [[str(flows)]]
    assert "lonely" not in result.stdout
    assert "only pinned maps are listed" in result.stderr
