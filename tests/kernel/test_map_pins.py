"""Maps by the names they have in bpffs, and the types a handle gives them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.errors import (
    NotBpffsError,
    PermissionDeniedError,
    PinExistsError,
    PinKindError,
    PinNameError,
    PinNotFoundError,
    ReadOnlyMapError,
    UnsafePathError,
)
from bpfpin.objects.maps.map import Map
from support.maps import DATAREC, FLOWS, PLAIN, U32
from support.nobody import let_everybody_enter

NOBODY = 65534


@pytest.fixture
def flows() -> Iterator[Map]:
    """A hash u32 -> u32 of four entries."""
    with Map.create(FLOWS) as made:
        yield made


def test_without_btf_keys_and_values_are_bytes_or_what_the_caller_says(bpffs: Path) -> None:
    with Map.create(PLAIN) as made:
        made[b"\1\0\0\0"] = bytes(range(16))
        made.pin(bpffs / "plain")

        assert made.to_dict() == {b"\1\0\0\0": bytes(range(16))}
    with Map.from_pin(bpffs / "plain", key_format="I", value_format="QQ") as typed:
        typed[2] = (5, 6)
        assert typed[2] == (5, 6)
    with pytest.raises(ValueError, match="the format takes 8 bytes, the map's 16"):
        Map.from_pin(bpffs / "plain", value_format="Q")


def test_types_from_elsewhere_type_a_map_without_btf(bpffs: Path) -> None:
    with Map.create(PLAIN) as made:
        made.pin(bpffs / "plain")
    with Map.from_pin(bpffs / "plain", key_type=U32, value_type=DATAREC) as typed:
        typed[1] = {"rx_packets": 1, "rx_bytes": 2}

        assert typed[1] == {"rx_packets": 1, "rx_bytes": 2}


def test_a_read_only_handle_reads_and_does_not_write(flows: Map, bpffs: Path) -> None:
    flows[1] = 10
    flows.pin(bpffs / "flows")
    with Map.from_pin(bpffs / "flows", read_only=True) as reader:
        assert reader[1] == 10
        with pytest.raises(ReadOnlyMapError, match="opened for reading only"):
            reader[1] = 11
        with pytest.raises(ReadOnlyMapError):
            del reader[1]
        with pytest.raises(ReadOnlyMapError):
            reader.update_batch({1: 2})


def test_a_pin_is_opened_by_another_handle(flows: Map, bpffs: Path) -> None:
    flows.pin(bpffs / "flows")
    with Map.from_pin(bpffs / "flows") as again:
        assert again.id == flows.id
    with pytest.raises(PinExistsError):
        flows.pin(bpffs / "flows")


def test_each_way_to_miss_a_pin_has_its_error(flows: Map, bpffs: Path, tmp_path: Path) -> None:
    flows.pin(bpffs / "flows")
    (bpffs / "link").symlink_to("flows")
    (bpffs / "folder").mkdir()
    (bpffs / "away").symlink_to("folder")
    elsewhere = tmp_path / "file"
    elsewhere.touch()

    cases: list[tuple[Path, type[Exception], str]] = [
        (bpffs / "none", PinNotFoundError, "there is no such name"),
        (bpffs / "none" / "none", PinNotFoundError, "there is no such name"),
        (bpffs / "link", PinKindError, "is a symbolic link"),
        (bpffs / "folder", PinKindError, "a map was asked for, a directory is there"),
        (bpffs / "away" / "x", UnsafePathError, "a symbolic link stands in the path"),
        (elsewhere, NotBpffsError, "does not lie in a bpffs"),
        (tmp_path / "none", NotBpffsError, "does not lie in a bpffs"),
    ]
    for path, kind, message in cases:
        with pytest.raises(kind, match=message):
            Map.from_pin(path)


def test_each_name_that_cannot_be_pinned_has_its_error(
    flows: Map, bpffs: Path, tmp_path: Path
) -> None:
    cases: list[tuple[Path, type[Exception]]] = [
        (bpffs / "with.dot", PinNameError),
        (bpffs / "none" / "x", PinNotFoundError),
        (tmp_path / "x", NotBpffsError),
    ]
    for path, kind in cases:
        with pytest.raises(kind):
            flows.pin(path)


def test_an_ordinary_user_is_told_the_rights_of_the_pin(flows: Map, bpffs: Path) -> None:
    flows.pin(bpffs / "flows")
    let_everybody_enter(bpffs)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionDeniedError) as caught:
            Map.from_pin(bpffs / "flows")
    finally:
        os.seteuid(0)

    assert "access denied" in str(caught.value)
    assert caught.value.hint == "the pin is mode 0600 of uid 0, gid 0"


def test_an_ordinary_user_reads_a_readable_pin_as_bytes(flows: Map, bpffs: Path) -> None:
    """BTF by id is refused to it, so nothing is typed."""
    flows[1] = 10
    flows.pin(bpffs / "flows")
    (bpffs / "flows").chmod(0o644)
    let_everybody_enter(bpffs)
    del flows.key_type, flows.value_type
    gc.collect()
    os.seteuid(NOBODY)
    try:
        with Map.from_pin(bpffs / "flows", read_only=True) as reader:
            found = reader.to_dict()
    finally:
        os.seteuid(0)

    assert found == {b"\1\0\0\0": b"\n\0\0\0"}
