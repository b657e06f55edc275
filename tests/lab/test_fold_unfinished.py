"""A migration whose new map turned out too small: told by `status`, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.migration.fold import FoldCounts, FoldPrograms
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from support.here import Here, veth
from support.shapes import COUNTED, COUNTERS, WIDER, loaded, read, version

LATE = {9: {"packets": 3, "bytes": 30}}


def wider(counted: dict[Any, Any]) -> dict[Any, Any]:
    return {key: {**value, "drops": 0} for key, value in counted.items()}


@pytest.fixture
def here(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """A set with two counters in a map that has room for two; a third came after the plan."""
    with veth() as device:
        here = Here(bpffs, device)
        loaded(here, version(), COUNTED)
        insert = FoldPrograms.insert

        def late(self: FoldPrograms) -> FoldCounts:
            with Map.from_id(self.old.id) as old:
                old.update_bytes(*next(iter(_encoded(old))))
            return insert(self)

        with monkeypatch.context() as patched:
            patched.setattr(FoldPrograms, "insert", late)
            here.load(version(**WIDER, ENTRIES=2), "--migrate")
        yield here


def _encoded(held: Map) -> Iterator[tuple[bytes, bytes]]:
    for key, value in LATE.items():
        yield held.key_codec.encode(key), held.value_codec.encode(value)


def folds(here: Here) -> list[str]:
    return sorted(path.name for path in (here.set / names.FOLDS).iterdir())


def test_status_tells_what_to_type_and_a_larger_map_takes_it_all(here: Here) -> None:
    before = read(here.set / COUNTERS)
    (problem,) = here.ok("status", here.device)["problems"]
    checked = here.run("status", here.device, "--check")
    here.load(version(**WIDER, ENTRIES=100), "--migrate", "--rule", "drops=sum")

    assert len(before) == 2
    assert problem["kind"] == "fold-unfinished"
    assert f"map {COUNTERS} had no room for all" in problem["text"]
    assert problem["fix"].startswith("bpfpin load ")
    assert f"--dev {here.device} " in problem["fix"]
    assert " --migrate" in problem["fix"]
    assert checked.exit_code == 10
    assert read(here.set / COUNTERS) == wider(COUNTED | LATE)
    assert here.ok("status", here.device)["problems"] == []


def test_maps_that_are_kept_are_kept_with_what_is_left(here: Here) -> None:
    before = folds(here)
    here.ok("unload", here.device, "--keep-maps")
    after = folds(here)
    here.load(version(**WIDER, ENTRIES=100), "--migrate", "--rule", "drops=sum")

    assert after == before
    assert read(here.set / COUNTERS) == wider(COUNTED | LATE)


def test_unloading_takes_it_away_and_says_so(here: Here) -> None:
    result = here.run("unload", here.device)

    assert result.exit_code == 0
    assert (
        f"the entries that map {COUNTERS} had no room for when it was migrated were removed with it"
        in result.stderr
    )
    assert not here.set.exists()


def test_a_set_that_is_half_built_in_a_fold_says_so(here: Here) -> None:
    stage = here.root / f"{here.device}{names.STAGE_SUFFIX}"
    for folder in (stage, stage / names.FOLDING):
        folder.mkdir(mode=0o700)
    (problem,) = here.ok("status", here.device)["problems"]
    here.ok("clean")

    assert problem["kind"] == "half-built"
    assert "while it migrated maps" in problem["text"]
    assert not stage.exists()


@pytest.mark.parametrize(("give_ups", "is_left"), [(2, False), (1000, True)])
def test_numbers_that_were_given_up_are_tried_again_and_told(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch, give_ups: int, is_left: bool
) -> None:
    move, runs = FoldPrograms.move, list[int]()

    def contended(self: FoldPrograms) -> FoldCounts:
        runs.append(1)
        return move(self) + FoldCounts(gave_up=int(len(runs) <= give_ups))

    with veth() as device:
        here = Here(bpffs, device)
        loaded(here, version(), COUNTED)
        monkeypatch.setattr(FoldPrograms, "move", contended)
        document = here.load(version(**WIDER), "--migrate")
        notes = [note for note in document["notes"] if "changed its numbers at every try" in note]

        assert read(here.set / COUNTERS) == wider(COUNTED)
        assert (bool(notes), (here.set / names.FOLDS).exists()) == (is_left, is_left)
