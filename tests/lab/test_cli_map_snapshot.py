"""`bpfpin map save` and `restore` as they are typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.uapi import MapType
from support.here import run_here
from support.maps import FLOWS


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Path]:
    """A pinned hash with two entries."""
    with Map.create(FLOWS) as made:
        made.update_batch({1: 10, 2: 20})
        made.pin(bpffs / "flows")
        yield bpffs / "flows"


def content(pin: Path) -> dict[int, int]:
    with Map.from_pin(pin) as held:
        return held.to_dict()


def test_what_was_saved_is_put_back(flows: Path, tmp_path: Path) -> None:
    file = tmp_path / "flows.snapshot"
    saved = run_here("map", "save", flows, file)
    run_here("map", "set", flows, "1", "11")
    run_here("map", "set", flows, "3", "30")
    merged = run_here("map", "restore", file, flows)
    after_merging = content(flows)
    exactly = run_here("map", "restore", file, flows, "--exact")

    assert saved.stderr.startswith(f"saved 2 entries of {flows} (id ")
    assert f"bpfpin map restore {file} {flows}" in saved.stderr
    assert merged.stderr.startswith(f"restored 2 entries into {flows} (id ")
    assert after_merging == {1: 10, 2: 20, 3: 30}
    assert exactly.stderr.endswith("deleted 1\n")
    assert content(flows) == {1: 10, 2: 20}


def test_json_tells_counts(flows: Path, tmp_path: Path) -> None:
    file = tmp_path / "flows.snapshot"
    saved = run_here("map", "save", flows, file, "-o", "json").json
    restored = run_here("map", "restore", file, f"id:{saved['map']}", "-o", "json").json

    assert (saved["result"], saved["entries"], saved["size_bytes"]) == (
        "saved", 2, file.stat().st_size
    )  # fmt: skip
    assert (restored["result"], restored["file"]) == ("restored", str(file))
    assert (restored["entries"], restored["deleted"]) == (2, 0)


def test_what_cannot_be_is_refused_with_its_exit_code(
    flows: Path, bpffs: Path, tmp_path: Path
) -> None:
    file, other = tmp_path / "flows.snapshot", bpffs / "other"
    run_here("map", "save", flows, file)
    with Map.create(FLOWS.with_changes(value_size=8, value=None)) as made:
        made.pin(other)
    refused = {
        "no file": run_here("map", "restore", tmp_path / "nosuch", flows),
        "no snapshot": run_here("map", "restore", __file__, flows),
        "another map": run_here("map", "restore", file, other, "-o", "json"),
        "no directory": run_here("map", "save", flows, tmp_path / "no/such"),
        "no plain file": run_here("map", "save", flows, "/dev/null"),
    }

    assert {name: result.exit_code for name, result in refused.items()} == {
        "no file": 4,
        "no snapshot": 5,
        "another map": 6,
        "no directory": 4,
        "no plain file": 2,
    }
    assert refused["another map"].json["error"]["differences"] == [
        {"map": "flows", "field": "value_size", "old": "4", "new": "8"}
    ]
    assert content(flows) == {1: 10, 2: 20}


def test_a_map_without_room_is_left_as_it_is(flows: Path, bpffs: Path, tmp_path: Path) -> None:
    file, small = tmp_path / "flows.snapshot", bpffs / "small"
    run_here("map", "save", flows, file)
    with Map.create(FLOWS.with_changes(max_entries=1)) as made:
        made.pin(small)
    refused = run_here("map", "restore", file, small)

    assert refused.exit_code == 7
    assert "would have 2, and there is room for 1; nothing was written" in refused.stderr
    assert content(small) == {}


def test_maps_of_kernel_objects_are_not_saved(bpffs: Path, tmp_path: Path) -> None:
    spec = FLOWS.with_changes(type=MapType.PROG_ARRAY, key=None, value=None)
    with Map.create(spec) as made:
        made.pin(bpffs / "jumps")
    refused = run_here("map", "save", bpffs / "jumps", tmp_path / "file")

    assert refused.exit_code == 2
    assert "of type prog_array" in refused.stderr
