"""Long readers over reloads: only a map that another one replaced ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.errors import BusyError
from bpfpin.map import snapshot
from bpfpin.map.dump import DumpOptions, open_dump
from bpfpin.map.follow import follow
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from support.here import Here, id_at, run_here, veth
from support.shapes import COUNTED, COUNTERS, WIDER, loaded, version

# The same map, and an object of other bytes: a reload, and not "unchanged".
SAME = {"VARIABLES": "int build = 2;"}


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A set with two counters on a device without traffic."""
    with veth() as device:
        yield loaded(Here(bpffs, device), version(), COUNTED)


def nothing(_: Here) -> None:
    """Change nothing."""


def reload(here: Here) -> None:
    document = here.load(version(**SAME))
    assert document["result"] == "reloaded"


def reload_twice(here: Here) -> None:
    reload(here)
    here.load(version())


def pin_anew(here: Here) -> None:
    pin = here.set / COUNTERS
    with Map.from_pin(pin) as held:
        pin.unlink()
        held.pin(pin)


@pytest.mark.parametrize("meanwhile", [nothing, reload, reload_twice, pin_anew])
def test_a_map_that_stays_is_dumped_to_the_end(
    here: Here, meanwhile: Callable[[Here], None]
) -> None:
    before = id_at(here.set / COUNTERS)
    with open_dump(str(here.set / COUNTERS), DumpOptions()) as dump:
        batches = dump.batches()
        rows = [*next(batches)]
        meanwhile(here)
        rows += [row for batch in batches for row in batch]

    assert id_at(here.set / COUNTERS) == before
    assert dict(rows) == COUNTED


def start_afresh(here: Here) -> None:
    here.load(version(**SAME), "--fresh", COUNTERS)


def migrate(here: Here) -> None:
    here.load(version(**WIDER), "--migrate")


def unload(here: Here) -> None:
    here.ok("unload", here.device)


@pytest.mark.parametrize("meanwhile", [start_afresh, migrate, unload])
def test_a_map_whose_name_went_to_another_is_told(
    here: Here, meanwhile: Callable[[Here], None]
) -> None:
    with open_dump(str(here.set / COUNTERS), DumpOptions()) as dump:
        batches = dump.batches()
        rows = [*next(batches)]
        meanwhile(here)
        with pytest.raises(BusyError, match="lost its name while it was read"):
            next(batches)

    assert dict(rows) == COUNTED


def test_a_map_that_is_kept_is_read_while_others_of_its_set_are_migrated(here: Here) -> None:
    """The stage has a link to its pin; what is not linked there is waited for."""
    stage = here.root / f"{here.set.name}{names.STAGE_SUFFIX}"
    stage.mkdir(mode=0o700)
    (stage / COUNTERS).hardlink_to(here.set / COUNTERS)
    (stage / names.FOLDING).mkdir(mode=0o700)
    dumped = run_here("map", "dump", here.set / COUNTERS, "-o", "json")
    with follow(here.set / COUNTERS) as live:
        followed, _ = live.read(lambda held: len(held.to_dict()))
    here.ok("clean")

    assert dumped.exit_code == 0, dumped.stderr
    assert len(dumped.json) == len(COUNTED)
    assert followed == len(COUNTED)


def test_a_reading_that_takes_longer_than_reloads_come_ends(here: Here) -> None:
    """Each reading meets a reload; none of them is begun again for that."""
    versions = iter([version(**SAME), version(), version(**SAME)])
    calls = []

    def once(held: Map) -> int:
        calls.append(held.id)
        here.load(next(versions))
        return len(held.to_dict())

    with follow(here.set / COUNTERS) as live:
        first, _ = live.read(once)
        second, reload = live.read(once)

    assert (first, second, len(calls)) == (2, 2, 2)
    assert reload is not None
    assert not reload.is_other_map


def test_a_map_is_saved_over_a_reload(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_map, calls = snapshot.save_map, []

    def save(held: Map, path: str) -> object:
        saved = save_map(held, path)
        calls.append(held.id)
        here.load(version(**SAME) if len(calls) % 2 else version())
        return saved

    monkeypatch.setattr(snapshot, "save_map", save)
    result = run_here("map", "save", here.set / COUNTERS, tmp_path / "saved")

    assert result.exit_code == 0, result.stderr
    assert len(calls) == 1
