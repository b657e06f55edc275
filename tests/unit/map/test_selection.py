"""Which maps a list is narrowed to."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.map.list import MapFilter, MapRow, known_types
from bpfpin.objects.kernel.info import MapInfo
from bpfpin.uapi import MapType


def row(name: str = "flows", kind: MapType | int = MapType.HASH, **facts: bool) -> MapRow:
    info = MapInfo(kind, 7, 4, 8, 2, 0, name, 0, 0, 0, 0, 0)
    pins = ("/sys/fs/bpf/flows",) if facts.get("is_pinned") else ()
    return MapRow(info, pins, is_orphan=facts.get("is_orphan", False))


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("flows", "flows", True),
        ("flows", "flow", False),
        ("flows", "f*s", True),
        ("flows", "F*", False),
        ("a_very_long_nam", "a_very_long_name", True),
        ("a_very_long_nam", "a_very_long_na[m]e", False),
        ("", "*", True),
    ],
)
def test_names_fit_as_file_names_do(name: str, pattern: str, *, fits: bool) -> None:
    assert MapFilter(names=(pattern,)).matches(row(name)) is fits


def test_nothing_asked_is_everything() -> None:
    assert MapFilter().matches(row())


@pytest.mark.parametrize(
    ("selection", "one", "has"),
    [
        (MapFilter(types=frozenset({"hash"})), row(), True),
        (MapFilter(types=frozenset({"array"})), row(), False),
        (MapFilter(types=frozenset({"999"})), row(kind=999), True),
        (MapFilter(is_pinned=True), row(is_pinned=True), True),
        (MapFilter(is_pinned=True), row(), False),
        (MapFilter(is_orphan=True), row(is_orphan=True), True),
        (MapFilter(is_orphan=True), row(), False),
        (MapFilter(ids=frozenset({7})), row(), True),
        (MapFilter(ids=frozenset()), row(), False),
        (MapFilter(names=("x",), is_pinned=True), row(is_pinned=True), False),
    ],
)
def test_a_map_must_be_all_that_is_asked(selection: MapFilter, one: MapRow, *, has: bool) -> None:
    assert selection.matches(one) is has


def test_types_are_the_kernels_words() -> None:
    assert known_types(["HASH", "lpm_trie", "999"]) == {"hash", "lpm_trie", "999"}
    with pytest.raises(UsageError) as caught:
        known_types(["lru-hash"])

    assert "lru_hash" in caught.value.hint
