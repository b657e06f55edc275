"""What is read from /proc and /sys, and files beyond `os`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfpin.errors import NamespaceNotFoundError, PinExistsError, PinNotFoundError, UnsafePathError
from bpfpin.syscall import cpu, fs, netns


@pytest.mark.parametrize(("ranges", "count"), [("0\n", 1), ("0-3\n", 4), ("0-1,4,6-7\n", 5)])
def test_possible_cpus_are_counted_over_ranges(ranges: str, count: int) -> None:
    assert cpu.count_cpus(ranges) == count


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
