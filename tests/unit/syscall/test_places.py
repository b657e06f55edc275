"""What is read from /proc and /sys, and files beyond `os`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.cli.formats import value_lines
from bpfpin.errors import NamespaceNotFoundError, PinExistsError, PinNotFoundError, UnsafePathError
from bpfpin.map.dump import _row_per_cpu
from bpfpin.map.entries import MapEntry
from bpfpin.objects.maps.create import entries_asked
from bpfpin.spec import MapSpec
from bpfpin.syscall import cpu, fs, netns
from bpfpin.uapi import MapType


@pytest.mark.parametrize(("ranges", "count"), [("0\n", 1), ("0-3\n", 4), ("0-1,4,6-7\n", 5)])
def test_possible_cpus_are_counted_over_ranges(ranges: str, count: int) -> None:
    assert len(cpu.list_cpus(ranges)) == count


@pytest.fixture
def holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose possible CPUs are 0, 1 and 8."""
    path = tmp_path / "possible"
    path.write_text("0-1,8\n")

    def forget() -> None:
        cpu.possible_cpus.cache_clear()
        cpu.possible_cpu_numbers.cache_clear()

    with monkeypatch.context() as patched:
        patched.setattr(cpu, "POSSIBLE", path)
        forget()
        yield
    forget()


@pytest.mark.usefixtures("holes")
def test_a_value_of_a_cpu_is_found_by_its_place_and_not_by_its_number() -> None:
    assert (cpu.possible_cpus(), cpu.possible_cpu_numbers(), cpu.cpu_ids()) == (3, (0, 1, 8), 9)
    assert [cpu.cpu_index(number) for number in (0, 1, 8)] == [0, 1, 2]
    assert list(cpu.cpus_of_values(3)) == [0, 1, 8]
    assert list(cpu.cpus_of_values(2)) == [0, 1]  # of another host
    with pytest.raises(ValueError, match="there is no CPU 2: the possible ones are 0, 1 and 8"):
        cpu.cpu_index(2)


@pytest.mark.usefixtures("holes")
def test_maps_that_are_indexed_by_cpu_reach_the_last_one() -> None:
    kinds = (MapType.PERF_EVENT_ARRAY, MapType.CPUMAP)

    assert [entries_asked(MapSpec("map", kind, 4, 4, 0)) for kind in kinds] == [9, 9]
    assert entries_asked(MapSpec("map", MapType.CPUMAP, 4, 4, 100)) == 9


@pytest.mark.usefixtures("holes")
def test_values_of_cpus_are_shown_with_their_numbers() -> None:
    assert value_lines(MapEntry(1, [10, 11, 18], is_percpu=True)) == [
        "cpu 0: 10",
        "cpu 1: 11",
        "cpu 8: 18",
    ]
    assert _row_per_cpu([(1, [10, 11, 18])]) == [(1, 0, 10), (1, 1, 11), (1, 8, 18)]


def test_a_mount_is_read_with_its_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("36 35 0:28 / /mnt/a\\040b rw,nosuid shared:1 master:2 - bpf none rw\n")
    monkeypatch.setattr(fs, "MOUNTINFO", table)

    expected = fs.Mount("/mnt/a b", "bpf", "none", "/", frozenset({"rw", "nosuid"}), (0, 28), 1, 36)
    assert fs.mounts() == [expected]


def test_a_path_through_a_symbolic_link_is_not_walked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    os.close(fs.openat2(tmp_path / "real" / "file", resolve=fs.Resolve.NO_SYMLINKS))

    with pytest.raises(UnsafePathError, match="a symbolic link stands in the path"):
        fs.openat2(tmp_path / "link" / "file", resolve=fs.Resolve.NO_SYMLINKS)
    with pytest.raises(PinNotFoundError):
        fs.openat2(tmp_path / "none", resolve=fs.Resolve.NO_SYMLINKS)


def test_rename_exchanges_and_does_not_replace(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    with pytest.raises(PinExistsError):
        fs.renameat2(old, new, flags=fs.Rename.NOREPLACE)
    fs.renameat2(old, new, flags=fs.Rename.EXCHANGE)

    assert (old.read_text(), new.read_text()) == ("new", "old")


def test_an_ordinary_directory_is_no_bpffs(tmp_path: Path) -> None:
    assert not fs.is_bpffs(tmp_path)
    with pytest.raises(PinNotFoundError):
        fs.is_bpffs(tmp_path / "none")


def test_a_lock_is_held_once_and_its_holder_is_known(tmp_path: Path) -> None:
    first, second = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        assert fs.lock_holder(tmp_path.stat()) is None
        assert fs.try_lock(first)
        assert not fs.try_lock(second)
        assert fs.lock_holder(os.fstat(first)) == os.getpid()
        fs.unlock(first)
        assert fs.try_lock(second)
    finally:
        os.close(first)
        os.close(second)


def test_a_missing_namespace_is_told_with_the_near_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blue").touch()
    monkeypatch.setattr(netns, "NAMED", tmp_path)
    with pytest.raises(NamespaceNotFoundError, match="blu: there is no such") as caught:
        netns.inode("blu")

    assert caught.value.hint == "there are: blue"


def test_no_namespace_means_to_stay() -> None:
    before = netns.inode()
    with netns.enter(None):
        assert netns.inode() == before
