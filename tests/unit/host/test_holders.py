"""Who has what open, read from a process table of our own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfpin.host.processes import Holder, all_holders
from bpfpin.objects.kernel.object import ObjectKind

MAP, PROGRAM, LINK = ObjectKind.MAP, ObjectKind.PROGRAM, ObjectKind.LINK


def make(proc: Path, pid: int, *descriptors: tuple[str, str], mounts: str = "mnt:[1]") -> None:
    """Make a process that has those open: what /proc/PID/fd says, and the line of fdinfo."""
    process = proc / str(pid)
    for name in ("fd", "fdinfo", "ns"):
        (process / name).mkdir(parents=True)
    (process / "comm").write_text(f"command{pid}\n")
    (process / "ns/mnt").symlink_to(mounts)
    for number, (target, line) in enumerate(descriptors):
        (process / f"fd/{number}").symlink_to(target)
        (process / f"fdinfo/{number}").write_text(f"pos:\t0\n{line}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    make(tmp_path, os.getpid(), ("anon_inode:bpf-map", "map_id:\t1"))
    (tmp_path / "self").symlink_to(str(os.getpid()))
    return tmp_path


def test_maps_programs_and_links_are_found_each_once(proc: Path) -> None:
    make(
        proc,
        7,
        ("anon_inode:bpf-map", "map_id:\t5"),
        ("anon_inode:bpf-map", "map_id:\t5"),
        ("anon_inode:bpf-prog", "prog_id:\t6"),
        ("anon_inode:bpf_link", "link_id:\t8"),
        ("/dev/null", "map_id:\t9"),
    )

    assert all_holders(proc=proc).processes == [
        Holder(7, "command7", ((LINK, 8), (MAP, 5), (PROGRAM, 6)))
    ]


def test_a_process_in_another_mount_namespace_is_told_apart(proc: Path) -> None:
    make(proc, 7, ("anon_inode:bpf-map", "map_id:\t5"), mounts="mnt:[2]")

    (holder,) = all_holders(proc=proc).processes
    assert holder.is_elsewhere


def test_after_so_many_descriptors_the_rest_is_left_out(proc: Path) -> None:
    make(proc, 7, *[("anon_inode:bpf-map", "map_id:\t5")] * 3)

    found = all_holders(proc=proc, descriptors_max=2)
    assert (found.processes, found.is_cut) == ([], True)


def test_a_user_who_opens_very_many_hides_no_process_of_others(proc: Path) -> None:
    one, many = [("anon_inode:bpf-map", "map_id:\t5")], [("/dev/null", "flags:\t2")] * 2
    for pid, uid, descriptors in ((7, 1000, many), (8, 1000, many), (9, 1000, one), (10, 0, one)):
        make(proc, pid, *descriptors)
        (proc / f"{pid}/status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n")

    found = all_holders(proc=proc, descriptors_max=2)
    assert ([holder.pid for holder in found.processes], found.is_cut) == ([10], True)


def test_a_descriptor_without_an_id_is_left_out(proc: Path) -> None:
    make(proc, 7, ("anon_inode:bpf-map", "flags:\t2"))

    assert all_holders(proc=proc).processes == []
