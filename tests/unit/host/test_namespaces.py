"""The network namespaces of a host, by name and by process."""

from __future__ import annotations

import os
from pathlib import Path

from bpfpin.host.processes import Namespace, all_namespaces
from bpfpin.syscall import netns


def test_each_namespace_is_found_once_and_names_come_first(tmp_path: Path) -> None:
    """Two processes share a namespace without a name, one is in ours, one in a named one."""
    named, proc = tmp_path / "netns", tmp_path / "proc"
    named.mkdir()
    (named / "blue").touch()
    blue, own = (named / "blue").stat().st_ino, netns.inode()
    for pid, inode in ((9, 77), (10, own), (11, blue), (20, 77)):
        (proc / str(pid) / "ns").mkdir(parents=True)
        (proc / str(pid) / "ns/net").symlink_to(f"net:[{inode}]")
    (proc / "12").mkdir()

    assert all_namespaces(named=named, proc=proc) == [
        Namespace(own),
        Namespace(blue, "blue", named / "blue"),
        Namespace(77, "pid:9", proc / "9/ns/net"),
    ]


def test_only_a_device_of_another_namespace_carries_its_name() -> None:
    assert Namespace(1).device_name("eth0") == "eth0"
    assert Namespace(2, "blue").device_name("eth0") == "blue@eth0"


def test_without_any_named_namespace_there_is_ours(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()

    found = all_namespaces(named=tmp_path / "none", proc=tmp_path / "proc")
    assert [one.inode for one in found] == [os.stat("/proc/thread-self/ns/net").st_ino]  # noqa: PTH116
