"""The scene of the demo in which the counters become a larger structure while packets come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bpfpin.apps.demo_scene import AROUND_RELOAD_S, Scene, packets, require, settled
from bpfpin.apps.deploy import deploy
from bpfpin.apps.lab import Lab
from bpfpin.apps.reports import LoadReport
from bpfpin.apps.traffic import traffic
from bpfpin.objects.map import Map
from bpfpin.uapi import XdpAction

WIDER_OBJECT = "builtin:xdp_sizes"
COUNTERS = "xdp_stats_map"


def migrate_scene(lab: Lab, pin_root: Path) -> Scene:
    """Load counters with one member more under traffic; `BpfError` if a packet is not in them."""
    counters = pin_root / lab.device / COUNTERS
    before = packets(counters, XdpAction.XDP_PASS)
    with traffic(lab) as meanwhile:
        time.sleep(AROUND_RELOAD_S)
        with deploy(WIDER_OBJECT, device=lab.device, pin_root=pin_root, migrate=True) as deployment:
            report = deployment.report
        time.sleep(AROUND_RELOAD_S)
    expected = before + meanwhile.sent
    counted = settled(counters, expected)
    require(counted == expected, f"of {expected} packets the new counters have {counted}")
    small = _small(counters)
    require(0 < small < meanwhile.sent, f"the new program counted {small} small packets")
    return Scene(
        "Give the counters one member more under traffic: what was counted goes over, exactly.",
        f"bpfpin load {WIDER_OBJECT} --dev {lab.device} --migrate",
        (
            *_migrated(report),
            f"{before} packets counted before, {meanwhile.sent} sent meanwhile: {counted} in the"
            f" new map, {small} of them small, as the new program saw",
        ),
    )


def _small(counters: Path) -> int:
    with Map.from_pin(counters, read_only=True) as opened:
        return int(opened.total(XdpAction.XDP_PASS)["rx_small"])


def _migrated(report: LoadReport) -> Iterator[str]:
    for held in report.maps:
        if held.migration is not None:
            old, new = held.migration.shapes
            yield (
                f"map {held.name} migrated (id {held.migration.old_id} -> {held.id}):"
                f" values of {old.value_size} -> {new.value_size} bytes"
            )
            yield from held.migration.lines()[1:]
