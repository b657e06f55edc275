"""Maps that a load is told to use: by --map with a pin or an id, and by the library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin import IncompatibleMapError, load, read_object
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import Here, decisions, id_at, map_ids, maps_used, packets, veth
from support.lab import TestLab
from support.maps import COUNTERS as COUNTERS_SPEC
from support.objects import compiled

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"
NO_SUCH_ID = "id:4294967290"
MINE = MapSpec("mine", MapType.HASH, 4, 8, 16)


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def beside(here: Here) -> Iterator[Here]:
    """Another device with sets in the same pin root."""
    with veth() as device:
        yield Here(here.root, device)


@pytest.fixture
def counters(bpffs: Path) -> Iterator[Map]:
    """A map that is pinned outside of all sets, of the form that the objects ask for."""
    with Map.create(COUNTERS_SPEC) as made:
        made.pin(bpffs / "mine")
        yield made


@pytest.mark.parametrize("word", ["{root}/mine", "id:{id}"], ids=["path", "id"])
def test_a_map_named_by_path_or_id_is_the_one_that_is_used(
    here: Here, counters: Map, word: str
) -> None:
    source = word.format(root=here.root, id=counters.id)
    loaded = here.load(compiled(OLD), "--map", f"{COUNTERS}={source}")
    (told,) = [one for one in loaded["maps"] if one["name"] == COUNTERS]

    assert (told["decision"], told["id"]) == ("shared", counters.id)
    assert source in told["reason"]
    assert counters.id in maps_used(loaded)
    assert id_at(here.set / COUNTERS) == counters.id


def test_a_map_that_is_used_counts_and_stays_after_unload(
    bpffs: Path, lab: TestLab, counters: Map
) -> None:
    here = Here(bpffs, lab.device)
    here.load(compiled(OLD), "--map", f"{COUNTERS}={bpffs}/mine")
    lab.flood(10)
    here.ok("unload", lab.device)

    assert packets(bpffs / "mine") == 10
    assert id_at(bpffs / "mine") == counters.id


def test_a_reload_without_the_option_keeps_the_map(here: Here, counters: Map) -> None:
    here.load(compiled(OLD), "--map", f"{COUNTERS}={here.root}/mine")
    reloaded = here.load(compiled(NEW))

    assert decisions(reloaded)[COUNTERS] == "kept"
    assert map_ids(reloaded)[COUNTERS] == counters.id


def test_the_same_map_named_again_is_unchanged(here: Here, counters: Map) -> None:
    words = ("--map", f"{COUNTERS}=id:{counters.id}")
    here.load(compiled(OLD), *words)
    before = here.everything()

    assert here.load(compiled(OLD), *words)["result"] == "unchanged"
    assert here.everything() == before


def test_the_map_of_the_set_itself_named_is_unchanged(here: Here) -> None:
    here.load(compiled(OLD))

    again = here.load(compiled(OLD), "--map", f"{COUNTERS}={here.set / COUNTERS}")
    assert again["result"] == "unchanged"


def test_a_map_of_another_set_takes_the_place_of_the_live_one(here: Here, beside: Here) -> None:
    other = beside.load(compiled(OLD))
    first = here.load(compiled(OLD))
    second = here.load(compiled(OLD), "--map", f"{COUNTERS}={beside.set / COUNTERS}")
    beside.ok("unload", beside.device)

    assert second["result"] == "reloaded"
    assert decisions(second) == {COUNTERS: "shared", ".bss": "kept", "last_port": "kept"}
    assert map_ids(second)[COUNTERS] == map_ids(other)[COUNTERS] in maps_used(second)
    assert map_ids(second)[".bss"] == map_ids(first)[".bss"]
    assert id_at(here.set / COUNTERS) == map_ids(other)[COUNTERS]


def test_a_dry_run_tells_which_map_would_be_used(here: Here, counters: Map) -> None:
    before = here.everything()
    plan = here.load(compiled(OLD), "--map", f"{COUNTERS}=id:{counters.id}", "--dry-run")

    assert here.everything() == before
    assert decisions(plan)[COUNTERS] == "shared"
    assert map_ids(plan)[COUNTERS] == counters.id


@pytest.mark.parametrize("is_loaded", [False, True], ids=["first", "reload"])
@pytest.mark.parametrize(
    ("place", "exit_code", "said"),
    [
        ("{set}/programs~/count_port", 6, "a program is there"),
        ("{set}/links~/xdp", 6, "a link is there"),
        ("{set}", 6, "a directory is there"),
        ("{root}/symlink", 6, "symbolic link"),
        ("{root}/nosuch", 4, "there is no such name"),
        ("{root}/nosuch/map", 4, "there is no such name"),
        ("/etc/passwd", 4, "does not lie in a bpffs"),
        (NO_SUCH_ID, 4, "there is no such id"),
        ("id:x", 2, "id:x"),
        ("id:", 2, "id:"),
    ],
)
def test_what_is_no_map_is_told(
    here: Here, beside: Here, *, place: str, exit_code: int, said: str, is_loaded: bool
) -> None:
    beside.load(compiled(OLD))
    (here.root / "symlink").symlink_to(beside.set / COUNTERS)
    if is_loaded:
        here.load(compiled(OLD))
    source = place.format(set=beside.set, root=here.root)

    assert (
        said in here.load_refused(exit_code, compiled(NEW), "--map", f"{COUNTERS}={source}").stderr
    )


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["load", "dry-run"])
def test_a_map_that_does_not_fit_is_refused_with_every_difference(
    here: Here, words: tuple[str, ...]
) -> None:
    with Map.create(MINE) as mine:
        mine.pin(here.root / "mine")
    refused = here.load_refused(6, compiled(OLD), "--map", f"{COUNTERS}={here.root}/mine", *words)
    error = refused.json["error"]

    assert {(one["field"], one["old"], one["new"]) for one in error["differences"]} == {
        ("type", "hash", "percpu_array"),
        ("value_size", "8", "16"),
        ("max_entries", "16", "5"),
    }
    assert f"{here.root}/mine" in error["message"]
    assert f"--map {COUNTERS}=PATH" in error["hint"]


def test_a_shared_map_does_not_start_empty(here: Here, counters: Map) -> None:
    words = ("--map", f"{COUNTERS}=id:{counters.id}", "--fresh", COUNTERS)

    assert "cannot start empty" in here.load_refused(2, compiled(OLD), *words).stderr


def test_the_library_refuses_maps_that_do_not_fit_with_every_difference() -> None:
    spec = read_object(compiled(OLD))
    with (
        Map.create(MINE) as counters,
        Map.create(MINE) as last_port,
        pytest.raises(IncompatibleMapError, match="xdp_stats_map, last_port") as refused,
    ):
        load(spec, maps={COUNTERS: counters, "last_port": last_port})

    assert {(one.map, one.field) for one in refused.value.differences} == {
        (COUNTERS, "type"),
        (COUNTERS, "value_size"),
        (COUNTERS, "max_entries"),
        ("last_port", "type"),
        ("last_port", "value_size"),
        ("last_port", "max_entries"),
    }


def test_the_library_uses_maps_that_fit() -> None:
    spec = read_object(compiled(OLD))
    with (
        load(spec) as first,
        load(spec, maps={COUNTERS: Map.from_id(first.maps[COUNTERS].id)}) as second,
    ):
        assert second.maps[COUNTERS].id == first.maps[COUNTERS].id
        assert second.maps[".bss"].id != first.maps[".bss"].id
