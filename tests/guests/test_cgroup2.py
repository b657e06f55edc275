"""Hosts with cgroup version 2 alone, and hosts that mount it elsewhere than /sys/fs/cgroup."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.syscall import fs
from support.here import packets
from support.wait import HANG_S

pytestmark = pytest.mark.lab

PASSED = 2
SENT = 3
NAME = "bpfpin-web"
SEND = """
import os, socket, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(int(sys.argv[2])): sender.sendto(b"x", ("127.0.0.1", 9))
"""


@dataclass(frozen=True)
class Host:
    """Commands in a mount namespace in which *mounts*, lines of a shell, have been run."""

    root: Path
    mounts: str

    def shell(self, line: str, *, is_ok: bool = True) -> str:
        """Run lines of a shell, and return what they write."""
        script = f"set -e; {self.mounts}\n{line}"
        result = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert (result.returncode == 0) == is_ok, result.stdout + result.stderr
        return result.stdout

    def line(self, *words: str) -> str:
        """Return a line of the command, for this pin root."""
        return f"{sys.executable} -m bpfpin {' '.join(words)} --pin-root {self.root} -o json"

    def run(self, *words: str, is_ok: bool = True) -> Any:
        """Run the command, and return its document."""
        return json.loads(self.shell(self.line(*words), is_ok=is_ok))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the test's own, at the top of the hierarchy."""
    made = cgroup2_mount() / NAME
    made.mkdir()
    yield made
    made.rmdir()


def check_host(host: Host, mount: str) -> None:
    """Load on the cgroup, count in it, look at it and unload it."""
    loaded = host.run("load", "builtin:cgroup_stats", "--cgroup", NAME, "--prog", "cgroup_egress")
    host.shell(f"{sys.executable} -c '{SEND}' {mount}/{NAME} {SENT}")
    graph = host.run("graph")
    by_path = host.run("status", f"{mount}/{NAME}")["sets"]
    (program,) = loaded["programs"]
    places = {node["id"]: node["name"] for node in graph["nodes"] if node["kind"] == "cgroup"}
    attached = [
        (places.get(edge["from"]), edge["hook"], edge["link"])
        for edge in graph["edges"]
        if (edge["kind"], edge["to"]) == ("attached", f"program:{program['id']}")
    ]

    assert attached == [(f"/{NAME}", "cgroup-inet-egress", program["link"])]
    assert [(one["set"], one["state"]) for one in by_path] == [(loaded["set"], "ok")]
    assert packets(host.root / f"@{NAME}" / "xdp_stats_map", PASSED) == SENT
    assert host.run("unload", f"{mount}/{NAME}")["result"] == "unloaded"
    assert host.run("status")["sets"] == []


def test_a_host_with_version_2_alone(bpffs: Path, cgroup: Path) -> None:
    if [mount for mount in fs.mounts() if mount.fs_type == "cgroup"]:
        pytest.skip("this host has cgroups of version 1, too")
    assert cgroup.parent == Path("/sys/fs/cgroup")
    check_host(Host(bpffs, ":"), "/sys/fs/cgroup")


def test_a_host_that_mounts_cgroups_elsewhere(bpffs: Path, cgroup: Path, tmp_path: Path) -> None:
    assert cgroup.is_dir()
    place = tmp_path / "cgroups"
    place.mkdir()
    # What a container is shown of the hierarchy comes first, and is a part of it.
    part = tmp_path / "part"
    part.mkdir()
    lines = (
        f"mount -t cgroup2 none {place}; mount --bind {place}/{NAME} {part}; umount {place};"
        f" umount -R -l /sys/fs/cgroup; mount -t cgroup2 none {place}"
    )
    check_host(Host(bpffs, lines), str(place))


def test_the_line_that_mounts_cgroups_works_when_it_is_typed(bpffs: Path, cgroup: Path) -> None:
    assert cgroup.is_dir()
    host = Host(bpffs, "umount -R -l /sys/fs/cgroup")
    refused = host.run("load", "builtin:cgroup_stats", "--cgroup", NAME, is_ok=False)["error"]
    mount = refused["hint"].removeprefix("mount one: ")
    answered = Host(bpffs, f"{host.mounts}; {mount}")

    assert refused["exit"] == 4
    assert answered.run("status")["sets"] == []
    check_host(answered, "/sys/fs/cgroup")
