"""`bpfpin map pin` and `unpin`: names in bpffs, made and taken away, and what stands in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.errors import PinNotFoundError
from bpfpin.map.pinning import set_around, unpin_map
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import Here, bpftool, id_at, tree, veth
from support.map_command import ok, refused, said
from support.nobody import NOBODY, let_everybody_enter, nobody
from support.sets import xdp_program
from support.tools import need

FLOWS = MapSpec("flows", MapType.HASH, 4, 8, max_entries=2)


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Map]:
    """A hash that only this test holds."""
    with Map.create(FLOWS) as made:
        yield made


def names(bpffs: Path) -> list[str]:
    """Return what is in the bpffs, without the kernel's own files."""
    return sorted(name for name in tree(bpffs) if "." not in name)


def test_a_map_gets_a_name_and_loses_it(bpffs: Path, flows: Map) -> None:
    path = bpffs / "flows"
    assert ok("pin", f"id:{flows.id}", path) == {
        "schema": 1,
        "id": flows.id,
        "name": "flows",
        "path": str(path),
    }
    assert id_at(path) == flows.id
    assert said("pin", path, bpffs / "again").stderr == (
        f"pinned map id {flows.id} (flows) at {bpffs}/again\n"
    )

    done = ok("unpin", path, "--pin-root", bpffs)

    assert (done["id"], done["gone"], done["users"]) == (flows.id, False, [f"pin {bpffs}/again"])
    assert names(bpffs) == ["again"]


def test_a_map_goes_with_its_last_user(bpffs: Path) -> None:
    with Map.create(FLOWS) as made:
        made.pin(bpffs / "flows")
        id_ = made.id

    assert said("unpin", bpffs / "flows").stderr == (
        f"unpinned map id {id_} (flows) from {bpffs}/flows; nothing uses it any more: it is gone\n"
    )
    assert refused(4, "show", f"id:{id_}")["type"] == "IdNotFoundError"


def test_a_map_in_another_map_stays(bpffs: Path, flows: Map) -> None:
    flows.pin(bpffs / "flows")
    with Map.create(MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=FLOWS)) as outer:
        outer[0] = flows
        flows.close()

        done = ok("unpin", bpffs / "flows")

        assert (done["gone"], done["users"]) == (False, [f"map {outer.id}, which holds it"])
        assert outer[0] == done["id"]


def test_a_path_may_be_relative(bpffs: Path, flows: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bpffs)

    assert ok("pin", f"id:{flows.id}", "here")["path"] == f"{bpffs}/here"
    assert ok("unpin", "here")["path"] == f"{bpffs}/here"


def test_where_no_pin_can_be(bpffs: Path, flows: Map, tmp_path: Path) -> None:
    name = f"id:{flows.id}"
    flows.pin(bpffs / "taken")
    (bpffs / "directory").mkdir()
    (bpffs / "symlink").symlink_to(bpffs / "directory")
    (bpffs / "everybodys").mkdir()
    (bpffs / "everybodys").chmod(0o777)
    before = tree(bpffs)

    errors = [
        refused(4, "pin", name, bpffs / "none" / "x"),
        refused(4, "pin", name, tmp_path / "x"),
        refused(5, "pin", name, bpffs / "a.b"),
        refused(7, "pin", name, bpffs / "taken"),
        refused(7, "pin", name, bpffs / "directory"),
        refused(7, "pin", name, bpffs / "symlink" / "x"),
        refused(7, "pin", name, bpffs / "everybodys" / "x"),
        refused(4, "pin", "id:4294967295", bpffs / "x"),
        refused(6, "pin", bpffs / "directory", bpffs / "x"),
    ]

    assert [error["type"] for error in errors] == [
        "PinNotFoundError",
        "NotBpffsError",
        "PinNameError",
        "PinExistsError",
        "PinExistsError",
        "UnsafePathError",
        "UnsafePathError",
        "IdNotFoundError",
        "PinKindError",
    ]
    assert f"map id {flows.id} (flows)" in errors[3]["message"]
    assert "a directory" in errors[4]["message"]
    assert tree(bpffs) == before


def test_what_is_no_map_stays_pinned(bpffs: Path) -> None:
    (bpffs / "directory").mkdir()
    with xdp_program("kept") as program:
        program.pin(bpffs / "program")
    before = tree(bpffs)

    assert refused(6, "unpin", bpffs / "program")["type"] == "PinKindError"
    assert refused(6, "unpin", bpffs / "directory")["type"] == "PinKindError"
    assert refused(4, "unpin", bpffs / "none")["type"] == "PinNotFoundError"
    assert tree(bpffs) == before


def test_a_pin_set_is_left_to_load_and_unload(bpffs: Path, flows: Map) -> None:
    with veth() as device:
        here = Here(bpffs, device)
        here.load("builtin:xdp_stats")
        pin = here.set / "xdp_stats_map"
        program = here.ok("map", "show", pin)["programs"][0]
        before = tree(bpffs)

        errors = [
            refused(7, "unpin", pin),
            refused(7, "pin", f"id:{flows.id}", here.set / "mine"),
            refused(7, "pin", f"id:{flows.id}", here.set / "programs~" / "mine"),
        ]

        assert {error["type"] for error in errors} == {"UnsafePathError"}
        assert f"bpfpin unload {device}" in errors[0]["hint"]
        assert tree(bpffs) == before
        assert set_around(pin) == here.set
        done = ok("unpin", pin, "--force", "--pin-root", bpffs)
        assert any(f"program {program['id']} " in user for user in done["users"])
        assert (done["gone"], pin.exists()) == (False, False)
        here.ok("unload", device)


def test_what_a_trial_keeps_is_left_to_it(bpffs: Path, flows: Map) -> None:
    with veth() as device:
        here = Here(bpffs, device)
        here.load("builtin:xdp_stats")
        here.load("builtin:xdp_pass", "--replace", "--confirm", 600)
        before = here.set / "confirm~" / "before"
        kept = bpffs / "bpfpin~" / "confirm~7"
        kept.mkdir()
        flows.pin(kept / "map")

        error = refused(7, "unpin", before / "xdp_stats_map")
        also = refused(7, "unpin", kept / "map")
        assert f"is in the pin set {here.set}, " in error["message"]
        assert f"bpfpin unload {device}" in error["hint"]
        assert "a change is on trial" in also["message"]
        assert set_around(before / "programs~" / "xdp_stats") == here.set
        here.ok("confirm", device)
        here.ok("clean")
        assert not kept.exists()
        here.ok("unload", device)


def test_bpftool_sees_the_pin(bpffs: Path, flows: Map) -> None:
    need("bpftool")
    ok("pin", f"id:{flows.id}", bpffs / "flows")

    assert bpftool("map", "show", "pinned", bpffs / "flows")["id"] == flows.id


def test_an_ordinary_user_reads_what_the_group_may_read_and_changes_nothing(
    bpffs: Path, flows: Map
) -> None:
    flows[bytes([1, 0, 0, 0])] = bytes([2]) + bytes(7)
    path = bpffs / "flows"
    flows.pin(path)
    os.chown(path, 0, NOBODY)
    path.chmod(0o640)
    bpffs.chmod(0o755)
    let_everybody_enter(bpffs)

    with nobody():
        value = ok("get", path, "1")["value"]
        listed = ok("list", "--pin-root", bpffs, "--pinned")["maps"]
        errors = [
            refused(3, "set", path, "1", "3"),
            refused(3, "delete", path, "1"),
            refused(3, "pin", path, bpffs / "again"),
            refused(3, "unpin", path),
        ]

    assert value == "hex:0200000000000000"
    assert [row["pins"] for row in listed] == [[str(path)]]
    assert {error["type"] for error in errors} == {"PermissionDeniedError"}
    assert names(bpffs) == ["flows"]


def test_an_unpinned_name_is_gone_for_the_library(bpffs: Path, flows: Map) -> None:
    flows.pin(bpffs / "flows")

    assert unpin_map(bpffs / "flows", pin_root=bpffs).id == flows.id
    with pytest.raises(PinNotFoundError):
        unpin_map(bpffs / "flows", pin_root=bpffs)
