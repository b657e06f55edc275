"""Maps that an object shares with others: those it is given, and those it asks to find."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpfpin.errors import (
    ExitCode,
    IdNotFoundError,
    PinKindError,
    PinNotFoundError,
    UnsafePathError,
    UsageError,
)
from bpfpin.objects.maps.compat import differences
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.pins.bpffs import BPFFS
from bpfpin.sets.given_maps import Given, Shared, open_shared
from bpfpin.spec import MapSpec, ObjectSpec, Pinning
from support.maps import DATAREC, FLOWS, PLAIN, U32
from support.objects import compiled
from support.tools import need

UNIQUE = "sharing_only"
NO_SUCH_ID = "id:4294967290"


def described(*maps: MapSpec) -> ObjectSpec:
    return ObjectSpec({wanted.name: wanted for wanted in maps}, {})


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Map]:
    """A map pinned as `there`, with a name that no other map on the host has."""
    with Map.create(FLOWS.with_changes(name=UNIQUE)) as made:
        made.pin(bpffs / "there")
        yield made


def closed(found: dict[str, Shared]) -> dict[str, Shared]:
    """Return *found* after closing all that it holds."""
    with ExitStack() as stack:
        for shared in found.values():
            if shared.bpf_map:
                stack.enter_context(shared.bpf_map)
    return found


def test_a_map_comes_from_a_path_an_id_a_name_or_a_handle(flows: Map, bpffs: Path) -> None:
    path = bpffs / "there"
    sources: list[tuple[Given, str, Path | None]] = [
        (path, str(path), path),
        (str(path), str(path), path),
        (f"id:{flows.id}", f"id:{flows.id}", None),
        (f"name:{UNIQUE}", f"name:{UNIQUE}", None),
        (flows, f"id:{flows.id}", None),
    ]
    for source, told, where in sources:
        shared = closed(open_shared(described(FLOWS), {"flows": source}, pin_root=bpffs))["flows"]

        assert shared.bpf_map is not None
        assert shared.bpf_map.id == flows.id
        assert (shared.source, shared.path, shared.is_promised) == (told, where, True)


def test_an_index_is_that_of_bpftool(bpffs: Path) -> None:
    """Maps of the user's first, in the order of the file; data sections after them."""
    need("bpftool")
    path = compiled("several_maps")
    spec = read_object(path)
    assert {*list(spec.maps)[2:]} == {".rodata", ".bss"}

    for index, each in enumerate(spec.maps.values()):
        with Map.create(each) as made:
            words = [*("prog", "load", path, bpffs / "program", "map"), "idx", index, "id", made.id]
            subprocess.run(["bpftool", *map(str, words)], check=True)
            with Program.from_pin(bpffs / "program") as program:
                used = program.info.map_ids
            (bpffs / "program").unlink()
            shared = closed(open_shared(spec, {f"idx:{index}": made}, pin_root=bpffs))

            assert made.id in used
            assert list(shared) == [each.name]


def test_the_owner_of_a_handle_keeps_it_with_its_types(bpffs: Path) -> None:
    with Map.create(PLAIN) as plain:
        plain.pin(bpffs / "plain")
        typed = Map.from_pin(bpffs / "plain", key_type=U32, value_type=DATAREC)
    with typed:
        shared = closed(open_shared(described(PLAIN), {"plain": typed}, pin_root=bpffs))["plain"]
        typed[1] = {"rx_packets": 1, "rx_bytes": 2}

    assert shared.bpf_map is not None
    assert shared.bpf_map.value_type is DATAREC


def test_a_map_pinned_by_name_is_taken_from_the_pin_root(flows: Map, bpffs: Path) -> None:
    asked = FLOWS.with_changes(name="there", pinning=Pinning.BY_NAME)
    shared = closed(open_shared(described(asked), {}, pin_root=bpffs))["there"]

    assert shared.bpf_map is not None
    assert shared.bpf_map.id == flows.id
    assert shared.path == bpffs / "there"
    assert not shared.is_promised


def test_what_is_not_pinned_yet_is_told_with_its_place_and_nothing_is_made(bpffs: Path) -> None:
    by_name = FLOWS.with_changes(pinning=Pinning.BY_NAME)
    in_globals = FLOWS.with_changes(name="counts", pinning=Pinning.GLOBAL_NAMESPACE)
    found = open_shared(described(by_name, in_globals, PLAIN), {}, pin_root=bpffs)

    places = {name: shared.path for name, shared in found.items()}
    assert places == {"flows": bpffs / "flows", "counts": bpffs / "tc/globals/counts"}
    assert [shared.bpf_map for shared in found.values()] == [None, None]
    assert [place for place in bpffs.iterdir() if place.is_dir()] == []


def test_outside_of_the_pin_root_a_map_of_iproute2_is_used_but_none_is_promised(
    flows: Map, bpffs: Path
) -> None:
    (bpffs / "tc/globals").mkdir(parents=True)
    (bpffs / "ours").mkdir()
    flows.pin(bpffs / "tc/globals/there")
    there = FLOWS.with_changes(name="there", pinning=Pinning.GLOBAL_NAMESPACE)
    missing = there.with_changes(name="missing")
    found = closed(open_shared(described(there, missing), {}, pin_root=bpffs / "ours"))

    assert list(found) == ["there"]
    assert found["there"].bpf_map is not None
    assert found["there"].bpf_map.id == flows.id
    assert found["there"].path is None
    assert found["there"].source == str(bpffs / "tc/globals/there")


def test_what_the_user_says_wins_over_what_the_object_asks(flows: Map, bpffs: Path) -> None:
    asked = FLOWS.with_changes(pinning=Pinning.BY_NAME)
    found = closed(open_shared(described(asked), {"flows": bpffs / "there"}, pin_root=bpffs))

    assert [shared.path for shared in found.values()] == [bpffs / "there"]


def test_before_bpffs_is_mounted_nothing_is_pinned(tmp_path: Path) -> None:
    asked = FLOWS.with_changes(pinning=Pinning.BY_NAME)

    assert open_shared(described(asked), {}, pin_root=tmp_path)["flows"].bpf_map is None


@pytest.mark.parametrize(
    ("source", "error", "exit_code"),
    [
        ("missing", PinNotFoundError, ExitCode.NOT_FOUND),
        ("set/missing", PinNotFoundError, ExitCode.NOT_FOUND),
        ("set", PinKindError, ExitCode.INCOMPATIBLE),
        ("link", PinKindError, ExitCode.INCOMPATIBLE),
        ("way/there", UnsafePathError, ExitCode.BUSY),
        (NO_SUCH_ID, IdNotFoundError, ExitCode.NOT_FOUND),
        ("name:nobody_is_called_so", IdNotFoundError, ExitCode.NOT_FOUND),
        ("id:x", UsageError, ExitCode.USAGE),
    ],
)
@pytest.mark.usefixtures("flows")
def test_what_cannot_be_used_is_told_and_all_is_closed(
    bpffs: Path, source: str, error: type[Exception], exit_code: ExitCode
) -> None:
    """The map that was opened before the failure is closed: the test's own check of leaks."""
    (bpffs / "set").mkdir()
    (bpffs / "link").symlink_to(bpffs / "there")
    (bpffs / "way").symlink_to(bpffs)
    asked = described(FLOWS.with_changes(name="first"), FLOWS)
    place = source if ":" in source else str(bpffs / source)
    with pytest.raises(error) as caught:
        open_shared(asked, {"first": bpffs / "there", "flows": place}, pin_root=bpffs)

    assert caught.value.exit_code is exit_code  # type: ignore[attr-defined]  # each is a BpfError


def test_another_kind_of_pin_is_told_with_the_map_that_it_was_to_be(bpffs: Path) -> None:
    (bpffs / "flows").mkdir()
    asked = FLOWS.with_changes(pinning=Pinning.BY_NAME)
    with pytest.raises(PinKindError, match="a directory is there") as caught:
        open_shared(described(asked), {}, pin_root=bpffs)

    assert caught.value.hint == "it was to be map flows: the object asks it to be pinned there"


def test_a_map_that_the_object_lacks_is_answered_with_those_it_has(bpffs: Path) -> None:
    with pytest.raises(UsageError, match="no map flow; it has: flows, plain"):
        open_shared(described(FLOWS, PLAIN), {"flow": "id:1"}, pin_root=bpffs)


@pytest.fixture
def pinned_by_tc() -> Iterator[Path]:
    """The map `packets`, pinned by tc where it keeps the maps of all."""
    need("tc", "clang")
    path = compiled("shared_by_name", "clang")
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "clsact"], check=True)
    words = ["filter", "add", "dev", "lo", "ingress", "bpf", "da", "obj", str(path), "sec", "tc"]
    subprocess.run(["tc", *words], check=True)
    yield BPFFS / "tc/globals/packets"
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "clsact"], check=True)
    for link in ("xdp", "ip"):
        (BPFFS / link).unlink(missing_ok=True)
    shutil.rmtree(BPFFS / "tc")


def test_a_map_that_tc_pinned_is_found_by_an_object_of_the_old_kind(pinned_by_tc: Path) -> None:
    spec = read_object(compiled("elf_map"))
    with ExitStack() as stack:
        shared = open_shared(spec, {}, pin_root=BPFFS)["packets"]
        assert shared.bpf_map is not None
        held = stack.enter_context(shared.bpf_map)
        pinned = stack.enter_context(Map.from_pin(pinned_by_tc))

        assert (held.id, shared.path) == (pinned.id, pinned_by_tc)
        assert differences(spec.maps["packets"], held) == []
