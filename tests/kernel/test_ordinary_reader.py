"""An ordinary user reads a map by the types that are stored beside its pin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import PermissionDeniedError, ReadOnlyMapError
from bpfpin.objects.maps import layouts
from bpfpin.objects.maps.map import Map
from bpfpin.pins.directory import Directory
from bpfpin.pins.shared import write_types
from bpfpin.uapi import MapType
from support.maps import DATAREC, KEY, PLAIN, U32
from support.nobody import NOBODY, let_everybody_enter, nobody

GROUP = 4242
STRANGER = 1234
ROW = {"rx_packets": 7, "rx_bytes": 700}
BYTES = (7).to_bytes(8, "little") + (700).to_bytes(8, "little")
COUNTERS = PLAIN.with_changes(name="counters", key=U32, value=DATAREC)


@pytest.fixture
def pin(bpffs: Path) -> Path:
    """A map with one entry, pinned with its types for readers in a group."""
    let_everybody_enter(bpffs)
    folder = bpffs / "lab0"
    folder.mkdir()
    with Map.create(COUNTERS) as made, Directory.open(folder) as directory:
        made[1] = ROW
        made.pin(folder / "counters")
        with directory.make(layouts.DIRECTORY) as stored:
            write_types(stored, "counters", key=U32, value=DATAREC)
    for place, mode in [(folder, 0o750), (stored_in(folder), 0o750), (folder / "counters", 0o640)]:
        os.chown(place, 0, GROUP)
        place.chmod(mode)
    return folder / "counters"


def stored_in(folder: Path) -> Path:
    return folder / layouts.DIRECTORY


def read_as_member(pin: Path, **options: Any) -> object:
    with nobody(group=GROUP), Map.from_pin(pin, read_only=True, **options) as reader:
        return reader.to_dict()


def test_a_member_of_the_group_reads_typed_entries(pin: Path) -> None:
    assert read_as_member(pin) == {1: ROW}


def test_a_member_of_the_group_does_not_write(pin: Path) -> None:
    with nobody(group=GROUP):
        with Map.from_pin(pin, read_only=True) as reader, pytest.raises(ReadOnlyMapError):
            reader[1] = ROW
        with pytest.raises(PermissionDeniedError):
            Map.from_pin(pin)


def test_anybody_else_is_refused(pin: Path) -> None:
    with nobody(), pytest.raises(PermissionDeniedError, match="counters"):
        Map.from_pin(pin, read_only=True)


def test_what_the_caller_says_wins(pin: Path) -> None:
    assert read_as_member(pin, key_format="I", value_format="QQ") == {1: (7, 700)}


def test_without_stored_types_entries_are_bytes(pin: Path) -> None:
    (stored_in(pin.parent) / "counters").unlink()

    assert read_as_member(pin) == {b"\1\0\0\0": BYTES}


def forge(folder: Path, text: str, *, uid: int = 0) -> None:
    """Put *text* in the place of the stored types."""
    place = stored_in(folder) / "counters"
    place.unlink()
    place.symlink_to(text)
    os.chown(place, uid, uid, follow_symlinks=False)


def text_of(folder: Path) -> str:
    return os.readlink(stored_in(folder) / "counters")  # noqa: PTH115  (a text, no path)


def by_a_stranger(folder: Path) -> None:
    forge(folder, text_of(folder), uid=STRANGER)


def in_a_directory_of_a_stranger(folder: Path) -> None:
    os.chown(stored_in(folder), STRANGER, GROUP)


def in_a_directory_that_the_group_may_write(folder: Path) -> None:
    stored_in(folder).chmod(0o770)


def in_a_directory_reached_by_a_symlink(folder: Path) -> None:
    stored_in(folder).rename(folder / "elsewhere")
    stored_in(folder).symlink_to(folder / "elsewhere")


def damaged(folder: Path) -> None:
    forge(folder, text_of(folder)[:-8])


def of_other_sizes(folder: Path) -> None:
    (stored_in(folder) / "counters").unlink()
    with Directory.open(stored_in(folder)) as stored:
        write_types(stored, "counters", key=DATAREC, value=KEY)


def with_a_part_of_a_stranger(folder: Path) -> None:
    part = stored_in(folder) / "counters~1"
    part.symlink_to("AAAA")
    os.chown(part, STRANGER, STRANGER, follow_symlinks=False)


@pytest.mark.parametrize(
    "forged",
    [
        by_a_stranger,
        in_a_directory_of_a_stranger,
        in_a_directory_that_the_group_may_write,
        in_a_directory_reached_by_a_symlink,
        damaged,
        of_other_sizes,
        with_a_part_of_a_stranger,
    ],
    ids=lambda forged: forged.__name__,
)
def test_forged_or_damaged_types_count_for_nothing(
    pin: Path, forged: Callable[[Path], None]
) -> None:
    forged(pin.parent)

    assert read_as_member(pin) == {b"\1\0\0\0": BYTES}


@pytest.mark.parametrize("uid", [STRANGER, NOBODY])
def test_types_of_the_owner_of_the_pin_count(pin: Path, uid: int) -> None:
    for place in (pin, stored_in(pin.parent), stored_in(pin.parent) / "counters"):
        os.chown(place, uid, GROUP, follow_symlinks=False)

    assert read_as_member(pin) == {1: ROW}


def test_types_of_a_map_that_took_the_name_are_not_those_of_the_old_one(pin: Path) -> None:
    """The directory of a set may be exchanged between the look at the pin and at its types."""
    with Map.create(COUNTERS) as other:
        assert layouts.beside(pin, other.info) == (None, None)


def test_a_map_that_has_no_btf_is_typed_for_root_too(bpffs: Path) -> None:
    with Map.create(PLAIN) as made, Directory.open(bpffs) as directory:
        made[b"\1\0\0\0"] = BYTES
        made.pin(bpffs / "plain")
        with directory.make(layouts.DIRECTORY) as stored:
            write_types(stored, "plain", key=U32, value=DATAREC)
    with Map.from_pin(bpffs / "plain") as reader:
        assert reader.type is MapType.HASH
        assert reader.info.btf_id == 0
        assert reader.to_dict() == {1: ROW}
