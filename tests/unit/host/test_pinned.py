"""The walk over a bpffs that anybody may fill: bounded, in order, and open about what it left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach import cgroup_path
from bpfpin.host import attachments, pins
from bpfpin.host.pins import DEPTH_MAX, BpffsWalk
from bpfpin.syscall import fs

NOBODY = 65534


def dig(place: Path, depth: int) -> None:
    """Make directories within directories, *depth* of them, deeper than a path can name."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is removed in spite of its depth."""
    yield tmp_path
    if (tmp_path / "d").exists():
        fill_in(tmp_path / "d")


def fill_in(place: Path) -> None:
    """Remove a deep tree without recursion: each directory in turn moves up to the top."""
    above = place.parent
    while (place / "d").exists():
        (place / "d").rename(above / "next~")
        place.rmdir()
        (above / "next~").rename(place)
    place.rmdir()


def test_a_tree_deeper_than_python_recurses_is_cut_and_told(place: Path) -> None:
    (place / "lab0").mkdir()
    (place / "lab0" / "flows").touch()
    (place / "zone").touch()
    dig(place, 1500)
    walk = BpffsWalk()

    assert walk.files(place) == [f"{place}/lab0/flows", f"{place}/zone"]
    (note,) = walk.notes()
    assert note.startswith(f"not looked into, more than {DEPTH_MAX} directories deep: {place}/d/d")


def test_what_lies_at_the_limit_is_found(place: Path) -> None:
    deepest = place.joinpath(*["e"] * DEPTH_MAX)
    deepest.mkdir(parents=True)
    (deepest / "flows").touch()
    walk = BpffsWalk()

    assert walk.files(place) == [f"{deepest}/flows"]
    assert walk.notes() == []


def test_a_flood_of_directories_of_another_user_hides_nothing_of_root(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "OTHER_DIRECTORIES_MAX", 5)
    monkeypatch.setattr(pins, "_is_trusted", lambda entry: not entry.name.startswith("a"))
    for number in range(20):
        (place / f"a{number:02}" / "inner").mkdir(parents=True)
    (place / "lab0" / "links~").mkdir(parents=True)
    (place / "lab0" / "links~" / "xdp").touch()
    walk = BpffsWalk()

    assert walk.files(place) == [f"{place}/lab0/links~/xdp"]
    (note,) = walk.notes()
    assert note.startswith("not looked into, too many directories of other users: ")
    assert note.endswith(" more")
    assert len(note) < 2000


def test_the_order_is_that_of_a_listing_and_symlinks_are_not_followed(place: Path) -> None:
    for name in ("b/y", "b/x/deep", "a", "c"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    (place / "loop").symlink_to(place)
    (place / "maps.debug").touch()

    assert BpffsWalk().files(place) == [f"{place}/{n}" for n in ("a", "b/x/deep", "b/y", "c")]


def test_cgroups_are_walked_to_any_depth_and_to_a_limit(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = fs.Mount(str(place), "cgroup2", "none", "/", frozenset(), (0, 1))
    monkeypatch.setattr(fs, "mounts", lambda: [mount])
    monkeypatch.setattr(cgroup_path, "_is_seen", lambda point: True)  # no mount of its own
    (place / "web" / "blue").mkdir(parents=True)
    dig(place, 1500)
    notes: list[str] = []

    found = [node.name for _, node in attachments._cgroups(notes)]
    assert found[:3] == ["/", "/d", "/d/d"]
    assert len(found) > 1100  # until its path is longer than the kernel takes
    assert found[-2:] == ["/web", "/web/blue"]
    assert notes == []

    monkeypatch.setattr(attachments, "CGROUPS_MAX", 10)
    assert len(list(attachments._cgroups(notes))) == 10
    assert notes == ["this host has more than 10 cgroups; the rest was not looked at"]
