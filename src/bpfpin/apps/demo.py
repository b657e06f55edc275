"""The whole story on a throw-away lab, scene by scene, every claim of it checked as it goes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from bpfpin.apps.demo_migrate import migrate_scene
from bpfpin.apps.demo_scene import AROUND_RELOAD_S, PINGS, Scene, packets, require, settled
from bpfpin.apps.demo_share import share_scenes
from bpfpin.apps.deploy import deploy
from bpfpin.apps.lab import Lab, lab_down, lab_up
from bpfpin.apps.ping import PingResult, ping
from bpfpin.apps.reports import LoadReport
from bpfpin.apps.stats import open_counters, watch
from bpfpin.apps.traffic import traffic
from bpfpin.apps.undeploy import undeploy
from bpfpin.errors import BusyError
from bpfpin.objects.map import Map
from bpfpin.pins.bpffs import BPFFS
from bpfpin.uapi import XdpAction

OBJECT = "builtin:xdp_stats"
NEXT_OBJECT = "builtin:xdp_protocols"
INTERVAL_S = 0.5
INTERVALS = 4
_LABS = 10


def demo(*, keep: bool = False, pin_root: Path = BPFFS) -> Generator[Scene, None, None]:
    """Play the story; close the iterator to end it early, the lab goes with it.

    With *keep* the lab stays up and the program loaded. Needs root. Raises `BpfError` if the kernel
    does not do what the scene says.
    """
    with ExitStack() as clean_up:
        lab = _free_lab()
        clean_up.callback(lab_down, lab.name)
        yield _lab_scene(lab)
        yield _load_scene(lab, pin_root)
        clean_up.callback(undeploy, lab.device, pin_root=pin_root)
        counters = pin_root / lab.device / "xdp_stats_map"
        action = pin_root / lab.device / "action"
        yield _ping_scene(lab, counters)
        yield from _live_scenes(lab, counters)
        yield _reader_scene(counters)
        yield _drop_scene(lab, action)
        yield _pass_scene(lab, action)
        yield _reload_scene(lab, pin_root)
        yield from share_scenes(lab, pin_root)
        yield migrate_scene(lab, pin_root)
        if keep:
            clean_up.pop_all()
            yield _kept_scene(lab)
            return
    yield Scene(
        "Clean up: nothing of it is left.",
        f"bpfpin unload {lab.device} && bpfpin lab down {lab.name}",
    )


def _free_lab() -> Lab:
    for number in range(_LABS):
        try:
            return lab_up(f"demo{number}")
        except BusyError as error:
            busy = error
    raise busy


def _lab_scene(lab: Lab) -> Scene:
    lines = (
        f"device {lab.device} here: {', '.join(lab.addresses.host)}",
        f"device {lab.peer} in namespace {lab.netns}: {', '.join(lab.addresses.peer)}",
    )
    return Scene(
        "A throw-away lab: a cable into a network namespace.", _typed("lab up", lab.name), lines
    )


def _load_scene(lab: Lab, pin_root: Path) -> Scene:
    with deploy(OBJECT, device=lab.device, pin_root=pin_root) as deployment:
        report = deployment.report
    (program,) = report.programs
    lines = (
        f"program {program.name} (id {program.id}) at {program.hook}, {program.mode} mode",
        *(f"map {held.name} (id {held.id}) pinned at {held.path}" for held in report.maps),
    )
    return Scene(
        "Load a compiled object: attached and pinned, it outlives this process.",
        f"bpfpin load {OBJECT} --dev {lab.device}",
        lines,
    )


def _ping_scene(lab: Lab, counters: Path) -> Scene:
    before = packets(counters, XdpAction.XDP_PASS)
    result = _ping(lab)
    counted = packets(counters, XdpAction.XDP_PASS) - before
    require(result.received == PINGS, f"only {result.received} of {PINGS} pings were answered")
    require(counted == PINGS, f"{PINGS} packets were sent, {counted} counted")
    return Scene(
        "Send packets, and count them exactly.",
        f"bpfpin lab exec {lab.name} -- ping -c {PINGS} {lab.addresses.host[0]}",
        (f"{result.sent} sent, {result.received} answered; the map counted {counted} XDP_PASS",),
    )


def _live_scenes(lab: Lab, counters: Path) -> Iterator[Scene]:
    yield Scene("Watch the counters under traffic.", f"bpfpin stats {lab.device}")
    with traffic(lab), closing(open_counters(str(counters), pin_root=counters.parent)) as opened:
        for interval in watch(opened, interval_s=INTERVAL_S, count=INTERVALS):
            yield Scene("", interval=interval)


def _reader_scene(counters: Path) -> Scene:
    command = ["map", "get", str(counters), str(int(XdpAction.XDP_PASS))]
    completed = subprocess.run(
        [sys.executable, "-m", "bpfpin", *command], capture_output=True, text=True, check=False
    )
    require(completed.returncode == 0, f"the reader failed: {completed.stderr.strip()}")
    return Scene(
        "Another process reads the pin, typed, without the object file.",
        f"bpfpin {' '.join(command)}",
        tuple(completed.stdout.splitlines()),
    )


def _drop_scene(lab: Lab, action: Path) -> Scene:
    _set_action(action, XdpAction.XDP_DROP)
    result = _ping(lab, timeout_s=0.3)
    require(result.received == 0, f"{result.received} pings were answered in spite of XDP_DROP")
    return Scene(
        "Switch the running program to XDP_DROP by a map entry.",
        f"bpfpin map set {action} 0 {int(XdpAction.XDP_DROP)}",
        (f"{result.sent} pings sent, {result.received} answered: dropped",),
    )


def _pass_scene(lab: Lab, action: Path) -> Scene:
    _set_action(action, XdpAction.XDP_PASS)
    result = _ping(lab)
    require(result.received == PINGS, f"only {result.received} of {PINGS} pings were answered")
    return Scene(
        "And back to XDP_PASS.",
        f"bpfpin map set {action} 0 {int(XdpAction.XDP_PASS)}",
        (f"{result.sent} pings sent, {result.received} answered",),
    )


def _reload_scene(lab: Lab, pin_root: Path) -> Scene:
    counters = pin_root / lab.device / "xdp_stats_map"
    before = packets(counters, XdpAction.XDP_PASS)
    with traffic(lab) as meanwhile:
        time.sleep(AROUND_RELOAD_S)
        with deploy(NEXT_OBJECT, device=lab.device, pin_root=pin_root) as deployment:
            report = deployment.report
        time.sleep(AROUND_RELOAD_S)
    counted = settled(counters, before + meanwhile.sent) - before
    require(counted == meanwhile.sent, f"{meanwhile.sent} packets were sent, {counted} counted")
    by_the_new = packets(pin_root / lab.device / "protocols", socket.IPPROTO_UDP)
    require(0 < by_the_new < counted, f"of {counted} packets the new program saw {by_the_new}")
    return Scene(
        "Reload another object under traffic: no packet goes uncounted.",
        f"bpfpin load {NEXT_OBJECT} --dev {lab.device}",
        (
            *_reloaded(report),
            f"{meanwhile.sent} packets sent meanwhile, {counted} counted in the same map:"
            f" {counted - by_the_new} by the old program, {by_the_new} by the new one",
        ),
    )


def _reloaded(report: LoadReport) -> Iterator[str]:
    for program in report.programs:
        yield f"program {program.name} (id {program.id}) in the old one's place"
    for held in report.maps:
        decision = held.decision.value if held.decision else ""
        yield f"map {held.name} {decision}" + (f" (id {held.id})" if held.id else "")


def _kept_scene(lab: Lab) -> Scene:
    return Scene(
        "Kept, as asked: look around.",
        f"bpfpin stats {lab.device}",
        (f"when done: bpfpin unload {lab.device} && bpfpin lab down {lab.name}",),
    )


def _ping(lab: Lab, *, timeout_s: float = 2.0) -> PingResult:
    """Ping the lab's device; an answer takes microseconds, on a busy machine a moment."""
    address = lab.addresses.host[0]
    return ping(address, count=PINGS, netns=lab.netns, interval_s=0.05, timeout_s=timeout_s)


def _set_action(path: Path, action: XdpAction) -> None:
    with Map.from_pin(path) as opened:
        opened[0] = int(action)


def _typed(verb: str, *words: str) -> str:
    return " ".join(["bpfpin", verb, *words])
