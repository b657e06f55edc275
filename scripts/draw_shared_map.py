"""Draw docs/images/shared-map.svg: one map that programs of XDP, tc and a cgroup share.

The script creates a lab in its own namespaces and bpffs, loads three programs that come with
bpfpin, starts a reader, and lets `bpfpin graph` draw the picture. Ids and pids are those of this
run. Needs root. Only the cgroup is created on the host, and it is removed again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.host.users import UserKind, users_of
from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "shared-map.svg"
INSIDE = "BPFPIN_PICTURE_INSIDE"
DEVICE, CGROUP = "lab0", "web"
COUNTERS = BPFFS / DEVICE / "xdp_stats_map"
SHARED = ("--map", f"{COUNTERS.name}={COUNTERS}")
READER_S = 5.0


def main() -> int:
    """Create the lab, draw it, and return the exit status."""
    if os.environ.get(INSIDE) != "1":
        return inside_namespaces()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    with ExitStack() as held:
        cgroup = held.enter_context(new_cgroup())
        bpfpin("lab", "up", DEVICE)
        held.callback(bpfpin, "lab", "down", DEVICE)
        bpfpin("load", "builtin:xdp_stats", "--dev", DEVICE)
        held.callback(bpfpin, "unload", DEVICE)
        tc = ("--dev", DEVICE, "--hook", "tcx-egress", "--name", f"{DEVICE}-tc")
        bpfpin("load", "builtin:tc_stats", *tc, *SHARED)
        held.callback(bpfpin, "unload", f"{DEVICE}-tc")
        bpfpin("load", "builtin:cgroup_stats", "--cgroup", cgroup, *SHARED)
        held.callback(bpfpin, "unload", cgroup)
        held.enter_context(reader())
        picture = bpfpin("graph", DEVICE, "-o", "svg")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture)
    return 0


def inside_namespaces() -> int:
    """Run this program again in its own namespaces, and return its exit status."""
    own = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, __file__]
    environment = {**os.environ, INSIDE: "1", "BPFPIN_PRIVATE_MOUNT": "1"}
    return subprocess.run(own, env=environment, check=False).returncode


def bpfpin(*words: object) -> str:
    """Run the command and return its output."""
    command = [sys.executable, "-P", "-m", "bpfpin", "--quiet", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def new_cgroup() -> Iterator[Path]:
    """Create a cgroup, which must not exist yet, and remove it at the end."""
    path = cgroup2_mount() / CGROUP
    if path.exists():
        sys.exit(f"the cgroup {path} is there already; if nobody needs it: rmdir {path}")
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


@contextmanager
def reader() -> Iterator[None]:
    """Start another process that reads the counters."""
    command = [str(Path(sys.executable).parent / "bpfpin"), "-q", "stats", str(COUNTERS)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as watching:
        try:
            wait_for_a_reader()
            yield
        finally:
            watching.send_signal(signal.SIGINT)


def wait_for_a_reader() -> None:
    """Wait until a process has the map open."""
    with Map.from_pin(COUNTERS, read_only=True) as held:
        map_id = held.id
    deadline = time.monotonic() + READER_S
    while not any(user.kind is UserKind.PROCESS for user in users_of(map_id)):
        if time.monotonic() > deadline:
            sys.exit(f"no process opened {COUNTERS} within {READER_S:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
