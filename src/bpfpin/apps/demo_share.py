"""The scenes of the demo in which XDP, tc and a cgroup count into one map."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from bpfpin.apps.demo_scene import PINGS, Scene, packets, require
from bpfpin.apps.deploy import deploy
from bpfpin.apps.lab import Lab
from bpfpin.apps.reports import LoadReport
from bpfpin.apps.undeploy import undeploy
from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.errors import CgroupNotFoundError
from bpfpin.objects.map import Map
from bpfpin.spec import Hook
from bpfpin.uapi import XdpAction

TC_OBJECT = "builtin:tc_stats"
CGROUP_OBJECT = "builtin:cgroup_stats"
COUNTERS = "xdp_stats_map"
_PLACES = 4  # where a ping is counted: the cgroup and tc, and back by XDP and the cgroup

# Run by a process of its own, which enters the cgroup before it opens the socket that is counted.
_PING_FROM = """
import sys
from pathlib import Path
from bpfpin.apps.ping import ping
Path(sys.argv[1], "cgroup.procs").write_text("0")
print(ping(sys.argv[2], count=int(sys.argv[3]), interval_s=0.05, timeout_s=2.0).received)
"""


def share_scenes(lab: Lab, pin_root: Path) -> Iterator[Scene]:
    """Share the counters of the lab's device with tc and a new cgroup; both are gone at the end.

    Where no cgroup can be made, with tc alone. `BpfError` if the kernel does not do what is said.
    """
    counters = pin_root / lab.device / COUNTERS
    with ExitStack() as clean_up:
        yield _tc_scene(lab, counters, clean_up)
        if cgroup := _new_cgroup(lab, clean_up):
            yield _cgroup_scene(lab, counters, cgroup, clean_up)
        yield _graph_scene(lab, pin_root)


def _tc_scene(lab: Lab, counters: Path, clean_up: ExitStack) -> Scene:
    name = f"{lab.device}-tc"
    report = _shared(counters, TC_OBJECT, device=lab.device, hook=Hook.TC_EGRESS, name=name)
    clean_up.callback(undeploy, report.set, pin_root=report.path.parent)
    return Scene(
        "Let tc count into the same map what leaves.",
        f"bpfpin load {TC_OBJECT} --dev {lab.device} --hook tc-egress --name {name}"
        f" --map {COUNTERS}={counters}",
        tuple(_told(report, counters)),
    )


def _cgroup_scene(lab: Lab, counters: Path, cgroup: Path, clean_up: ExitStack) -> Scene:
    report = _shared(counters, CGROUP_OBJECT, cgroup=cgroup)
    clean_up.callback(undeploy, report.set, pin_root=report.path.parent)
    before = packets(counters, XdpAction.XDP_PASS)
    _ping_from(cgroup, lab.addresses.peer[0])
    counted = packets(counters, XdpAction.XDP_PASS) - before
    require(counted == PINGS * _PLACES, f"{PINGS} pings were counted as {counted} packets")
    return Scene(
        "And a cgroup, what its processes send and receive.",
        f"bpfpin load {CGROUP_OBJECT} --cgroup {cgroup} --map {COUNTERS}={counters}",
        (
            *_told(report, counters),
            f"{PINGS} pings from the cgroup: {counted} XDP_PASS, for each was counted"
            " by the cgroup and tc on its way out, by XDP and the cgroup on its way back",
        ),
    )


def _shared(
    counters: Path,
    source: str,
    *,
    device: str | None = None,
    cgroup: Path | None = None,
    hook: Hook | None = None,
    name: str | None = None,
) -> LoadReport:
    """Load *source* with the map pinned at *counters* in the place of its own."""
    with deploy(
        source,
        device=device,
        cgroup=cgroup,
        hook=hook,
        name=name,
        maps={COUNTERS: counters},
        pin_root=counters.parent.parent,
    ) as deployment:
        return deployment.report


def _told(report: LoadReport, counters: Path) -> Iterator[str]:
    """Tell what was loaded, and that its map is the one that XDP counts into."""
    with Map.from_pin(counters, read_only=True) as of_xdp:
        map_id = of_xdp.id
    for program in report.programs:
        yield f"program {program.name} (id {program.id}) at {program.hook}"
    for held in report.maps:
        require(held.id == map_id, f"map {held.name} is id {held.id}, that of XDP id {map_id}")
        yield f"map {held.name} shared (id {held.id})"


def _new_cgroup(lab: Lab, clean_up: ExitStack) -> Path | None:
    """Make a cgroup; None where there is no cgroup2, or not for us, as in many containers."""
    with suppress(CgroupNotFoundError, OSError):
        made = cgroup2_mount() / f"bpfpin-{lab.name}"
        made.mkdir()
        clean_up.callback(made.rmdir)
        return made
    return None


def _ping_from(cgroup: Path, address: str) -> None:
    command = [sys.executable, "-c", _PING_FROM, str(cgroup), address, str(PINGS)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    require(completed.returncode == 0, f"the ping failed: {completed.stderr.strip()}")
    received = int(completed.stdout)
    require(received == PINGS, f"only {received} of {PINGS} pings were answered")


def _graph_scene(lab: Lab, pin_root: Path) -> Scene:
    command = [sys.executable, "-m", "bpfpin", "graph", lab.device, "--pin-root", str(pin_root)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    require(completed.returncode == 0, f"the graph failed: {completed.stderr.strip()}")
    return Scene(
        "See who shares it, asked of the kernel.",
        f"bpfpin graph {lab.device}",
        tuple(completed.stdout.splitlines()),
    )
