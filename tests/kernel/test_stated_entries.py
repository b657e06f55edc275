"""Entries and inner maps that a spec states are in the maps before a program can see them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bpfpin.errors import BpfError
from bpfpin.loading.collection import load
from bpfpin.objects.maps.contents import change_to
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.sets.load.deploy import deploy
from bpfpin.sets.reports import LoadResult
from bpfpin.spec import ObjectSpec
from support.objects import compiled

ONE, TWO = struct.pack("=I", 1), struct.pack("=I", 2)
TEN = struct.pack("=I4B", 8, 10, 0, 0, 0)


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compiled("stated"))


def test_a_load_fills_its_new_maps(spec: ObjectSpec) -> None:
    assert spec.maps["lists"].inner is not None
    inner = spec.maps["lists"].inner.with_changes(name="inner", entries=(ONE + TWO, TWO + TWO))
    stated = spec.with_map("blocked", entries=(TEN, ONE)).with_map(
        "lists", slots=((TWO[:4], inner),)
    )
    with pytest.raises(BpfError):
        load(stated).close()  # there is no slot 2
    with load(stated.with_map("lists", slots=((ONE, inner),))) as loaded:
        blocked, lists = loaded.maps["blocked"], loaded.maps["lists"]
        held = int.from_bytes(lists.lookup_bytes(ONE), "little")
        with Map.from_id(held) as inside:
            inner_entries = dict(inside.items())

        assert blocked.lookup_bytes(TEN) == ONE
        assert inner_entries == {1: 2, 2: 2}
        with pytest.raises(KeyError):
            lists.lookup_bytes(bytes(4))


def test_a_deployed_map_is_replaced_if_its_entries_differ(spec: ObjectSpec, bpffs: Path) -> None:
    def deployed(entries: tuple[bytes, bytes]) -> tuple[LoadResult, int, str]:
        stated = spec.with_map("blocked", entries=entries)
        with deploy(stated, device="lo", pin_root=bpffs, force=True) as deployment:
            (report,) = (each for each in deployment.report.maps if each.name == "blocked")
            return deployment.report.result, deployment.maps["blocked"].id, report.reason

    other_bits = struct.pack("=I4B", 8, 10, 9, 9, 9)
    first = deployed((TEN, ONE))
    same = deployed((other_bits, ONE))
    changed = deployed((TEN, TWO))

    assert (first[0], same[0], changed[0]) == (
        LoadResult.LOADED,
        LoadResult.UNCHANGED,
        LoadResult.RELOADED,
    )
    assert (first[1] == same[1], first[1] == changed[1]) == (True, False)
    assert (first[2], changed[2]) == ("entries: 1 added", "entries: 1 changed")


def test_the_change_of_a_map_is_counted(spec: ObjectSpec) -> None:
    limits = spec.maps["limits"]
    keys = [struct.pack("=HH", port, 0) for port in range(3)]
    values = [bytes(limits.value_size), b"\1" * limits.value_size]
    with Map.create(limits) as bpf_map:
        bpf_map.update_arrays(keys[0] + keys[1], values[0] + values[0])
        change = change_to(
            bpf_map, limits.with_changes(entries=(keys[1] + keys[2], values[1] + values[0]))
        )

    assert (change.added, change.removed, change.changed) == (1, 1, 1)
    assert (change.added_keys, change.removed_keys, change.changed_keys) == (
        (keys[2],),
        (keys[0],),
        (keys[1],),
    )
