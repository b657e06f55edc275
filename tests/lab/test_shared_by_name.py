"""Maps that objects ask to be shared: by name as libbpf does, and where iproute2 keeps its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.pinset import PinSet
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import Here, decisions, id_at, map_ids, maps_used, veth, wait_for_the_end_of
from support.lab import TestLab
from support.objects import compiled
from support.tools import need

OLD = "reload_old"
BY_NAME = ("--prog", "count_before")
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


def outside(here: Here) -> list[str]:
    """Return the shared names that the set says it made."""
    manifest = PinSet.read(here.root, here.device).manifest
    assert manifest is not None
    return [pin.path for pin in manifest.outside]


def test_two_sets_share_a_map_by_its_name(here: Here, beside: Here) -> None:
    source = compiled("shared_by_name")
    shared = here.root / "packets"
    first = here.load(source, *BY_NAME)
    second = beside.load(source, *BY_NAME)

    assert (decisions(first), decisions(second)) == ({"packets": "created"}, {"packets": "shared"})
    assert id_at(shared) == map_ids(first)["packets"] == map_ids(second)["packets"]
    assert maps_used(first) == maps_used(second) == [id_at(shared)]
    assert outside(here) == ["packets"]


@pytest.mark.parametrize(
    "order",
    [pytest.param((0, 1), id="maker-first"), pytest.param((1, 0), id="maker-last")],
)
def test_the_last_of_those_who_share_a_name_takes_it_away(
    here: Here, beside: Here, order: tuple[int, int]
) -> None:
    sets = (here, beside)
    loaded = [one.load(compiled("shared_by_name"), *BY_NAME) for one in sets]
    first, last = (sets[number] for number in order)
    first.ok("unload", first.device)
    wait_for_the_end_of(loaded[order[0]])
    is_left = (here.root / "packets").exists()
    last.ok("unload", last.device)

    assert is_left
    assert not (here.root / "packets").exists()


def test_a_shared_name_outlives_reloads(here: Here, tmp_path: Path) -> None:
    source = compiled("shared_by_name")
    first = here.load(source, *BY_NAME)
    (tmp_path / "another.o").write_bytes(source.read_bytes() + b"\0")
    second = here.load(tmp_path / "another.o", *BY_NAME)
    wait_for_the_end_of(first)
    here.ok("unload", here.device)

    assert second["result"] == "reloaded"
    assert map_ids(second) == map_ids(first)
    assert not (here.root / "packets").exists()


def test_a_shared_name_goes_with_the_map_that_the_new_object_lacks(here: Here) -> None:
    here.load(compiled("shared_by_name"), *BY_NAME)
    here.load(compiled(OLD))

    assert not (here.root / "packets").exists()


def test_a_shared_name_that_was_removed_is_made_again_for_the_same_map(here: Here) -> None:
    first = here.load(compiled("shared_by_name"), *BY_NAME)
    (here.root / "packets").unlink()
    second = here.load(compiled("shared_by_name"), *BY_NAME)

    assert map_ids(second) == map_ids(first)
    assert id_at(here.root / "packets") == map_ids(first)["packets"]


def test_loading_a_shared_name_again_is_unchanged(here: Here) -> None:
    here.load(compiled("shared_by_name"), *BY_NAME)
    before = here.everything()

    assert here.load(compiled("shared_by_name"), *BY_NAME)["result"] == "unchanged"
    assert here.everything() == before


def test_kept_maps_keep_their_shared_name(here: Here) -> None:
    first = here.load(compiled("shared_by_name"), *BY_NAME)
    here.ok("unload", here.device, "--keep-maps")
    is_left = (here.root / "packets").exists()
    second = here.load(compiled("shared_by_name"), *BY_NAME)
    wait_for_the_end_of(first)
    here.ok("unload", here.device)

    assert is_left
    assert map_ids(second) == map_ids(first)
    assert not (here.root / "packets").exists()


def test_a_set_whose_own_pin_of_a_shared_map_was_removed_is_unloaded(here: Here) -> None:
    here.load(compiled("shared_by_name"), *BY_NAME)
    (here.set / "packets").unlink()
    here.ok("unload", here.device)

    assert not here.set.exists()


def test_a_shared_name_taken_over_by_others_is_used_from_then_on(here: Here) -> None:
    here.load(compiled("shared_by_name"), *BY_NAME)
    (here.root / "packets").unlink()
    with Map.create(MapSpec("packets", MapType.ARRAY, 4, 8, 1)) as theirs:
        theirs.pin(here.root / "packets")
        reloaded = here.load(compiled("shared_by_name"), *BY_NAME)
        theirs_id = theirs.id

    assert decisions(reloaded) == {"packets": "shared"}
    assert id_at(here.set / "packets") == theirs_id in maps_used(reloaded)


def test_a_shared_name_that_others_made_is_used_and_stays(here: Here) -> None:
    with Map.create(MapSpec("packets", MapType.ARRAY, 4, 8, 1)) as theirs:
        theirs.pin(here.root / "packets")
        loaded = here.load(compiled("shared_by_name"), *BY_NAME)
        theirs_id = theirs.id
    here.ok("unload", here.device)

    assert decisions(loaded) == {"packets": "shared"}
    assert map_ids(loaded)["packets"] == theirs_id == id_at(here.root / "packets")


def test_a_shared_name_taken_by_another_map_is_refused(here: Here) -> None:
    with Map.create(MINE) as theirs:
        theirs.pin(here.root / "packets")
    refused = here.load_refused(6, compiled("shared_by_name"), *BY_NAME)

    assert "type: hash -> array" in refused.stderr
    assert str(here.root / "packets") in refused.stderr


def a_directory(pin: Path) -> None:
    pin.mkdir()


def a_symlink(pin: Path) -> None:
    pin.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "said"), [(a_directory, "a directory is there"), (a_symlink, "symbolic link")]
)
def test_a_shared_name_taken_by_something_else_is_told(
    here: Here, make: Callable[[Path], None], said: str
) -> None:
    make(here.root / "packets")

    assert said in here.load_refused(6, compiled("shared_by_name"), *BY_NAME).stderr


def test_a_shared_name_taken_by_a_link_is_told(here: Here, beside: Here) -> None:
    beside.load(compiled(OLD))
    with Link.from_pin(beside.set / "links~/xdp") as link:
        link.pin(here.root / "packets")
    refused = here.load_refused(6, compiled("shared_by_name"), *BY_NAME)

    assert "a link is there" in refused.stderr
    assert "it was to be map packets" in refused.stderr


def test_a_dry_run_makes_no_shared_name(here: Here) -> None:
    before = here.everything()
    here.load(compiled("shared_by_name"), *BY_NAME, "--dry-run")
    here.load(compiled("elf_map"), "--dry-run")

    assert here.everything() == before


def test_a_refused_load_makes_no_shared_name(here: Here, beside: Here) -> None:
    beside.load(compiled(OLD), "--name", "holder")
    there = Here(here.root, beside.device)

    there.load_refused(7, compiled("shared_by_name"), *BY_NAME, "--name", "second")


def test_maps_in_the_globals_of_iproute2_are_shared_likewise(here: Here, beside: Here) -> None:
    shared = here.root / "tc/globals/packets"
    first = here.load(compiled("elf_map"))
    second = beside.load(compiled("elf_map"))
    shared_id = id_at(shared)
    beside.ok("unload", beside.device)
    wait_for_the_end_of(second)
    is_left = shared.exists()
    here.ok("unload", here.device)

    assert decisions(second) == {"packets": "shared"}
    assert map_ids(first)["packets"] == map_ids(second)["packets"] == shared_id
    assert is_left
    assert not shared.exists()


def test_a_map_that_tc_made_is_used_and_stays(lab: TestLab) -> None:
    """Tc pins in the bpffs of the host alone, which is the test's own here."""
    need("tc", "clang")
    here = Here(BPFFS, lab.device)
    tc("qdisc", "add", "dev", lab.device, "clsact")
    words = ["bpf", "da", "obj", compiled("shared_by_name", "clang"), "sec", "tc"]
    tc("filter", "add", "dev", lab.device, "ingress", *words)
    pin = BPFFS / "tc/globals/packets"
    loaded = here.load(compiled("elf_map"))
    lab.flood(5)
    with Map.from_pin(pin, read_only=True, key_format="I", value_format="Q") as both:
        counted = both[0]
    here.ok("unload", lab.device)
    is_left = pin.exists()
    for link in ("xdp", "ip"):
        (BPFFS / link).unlink(missing_ok=True)
    shutil.rmtree(BPFFS / "tc")

    assert decisions(loaded) == {"packets": "shared"}
    assert counted >= 10
    assert is_left


def tc(*words: object) -> None:
    subprocess.run(["tc", *map(str, words)], check=True)
