"""The promises of a reload and of a migration, in traffic that a slow guest can take."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.migration.exact import is_realtime
from bpfpin.objects.maps.map import Map
from bpfpin.spec import XdpMode
from bpfpin.uapi import XdpAction
from support.cli import run_cli_ok
from support.lab import TestLab
from support.migration import NO_LOSS, MigratedSet, traffic
from support.objects import compiled
from support.traffic import flow
from support.wait import HANG_S, wait_until

pytestmark = pytest.mark.lab

PER_SECOND = 500
CHANGES = 4


def test_the_doctor_finds_nothing_missing(lab: TestLab, bpffs: Path) -> None:
    checks = run_cli_ok("doctor", lab.device, "--pin-root", bpffs, "-o", "json").json["checks"]
    # The tests have a mount namespace of their own, which is right to be reported.
    missing = [it for it in checks if not it["ok"] and it["name"] != "mount namespace"]

    assert missing == []
    assert {"jit", "kernel BTF", "exchange of names in bpffs"} < {it["name"] for it in checks}


def test_a_reload_loses_no_packet(lab: TestLab, bpffs: Path) -> None:
    words = ("--dev", lab.device, "--pin-root", bpffs)

    def counted() -> int:
        with Map.from_pin(bpffs / lab.device / "xdp_stats_map") as stats:
            return int(stats.total(XdpAction.XDP_DROP)["rx_packets"])

    run_cli_ok("load", compiled("reload_old"), *words)
    with flow(lab, packets=int(HANG_S) * PER_SECOND, per_second=PER_SECOND) as packets:
        for name in ("reload_new", "reload_old") * (CHANGES // 2):
            before = counted()
            run_cli_ok("load", compiled(name), *words)
            wait_until(lambda: counted() > before)  # noqa: B023  (it returns before the next round)
        sent = packets.stopped()
    wait_until(lambda: counted() == sent)

    assert sent > CHANGES


def test_a_migration_loses_no_count(lab: TestLab, bpffs: Path) -> None:
    if is_realtime():
        pytest.skip("PREEMPT_RT: only counters of atomic additions are migrated (test_realtime)")
    loaded = MigratedSet(lab, bpffs, XdpMode.NATIVE)
    with traffic(lab, per_second=PER_SECOND, seconds=HANG_S, cpus=(0,), flows=100) as senders:
        wait_until(lambda: loaded.came() > CHANGES)
        results = [loaded.migrate() for _ in range(CHANGES)]
        was_under_traffic = not senders.is_over
        sent = senders.stopped()
    wait_until(lambda: loaded.came() == sent)

    assert results == ["reloaded"] * CHANGES
    assert was_under_traffic
    assert loaded.losses() == NO_LOSS
