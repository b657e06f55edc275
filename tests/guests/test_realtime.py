"""PREEMPT_RT: tasks interrupt programs there, which a migration has to take into account."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfpin.migration.exact import is_realtime
from bpfpin.objects.maps.map import Map
from bpfpin.spec import XdpMode
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab
from support.migration import MigratedSet
from support.objects import compiled
from support.traffic import flow
from support.wait import HANG_S, wait_until

pytestmark = pytest.mark.lab

PER_SECOND = 500
CHANGES = 4


def test_a_plain_addition_is_exact_on_kernels_without_preempt_rt_only(
    lab: TestLab, bpffs: Path
) -> None:
    # The kernel names the option in its version; is_realtime() may ask elsewhere.
    assert is_realtime() == ("PREEMPT_RT" in os.uname().version)
    loaded = MigratedSet(lab, bpffs, XdpMode.NATIVE)
    lab.flood(5)
    result = run_cli(*loaded.words())
    if not is_realtime():
        assert (result.exit_code, result.json["result"]) == (0, "reloaded")
        return
    accepted = run_cli(*loaded.words("--best-effort"))

    assert result.exit_code == 6
    assert "counts" in result.stderr
    assert "without an atomic operation, on a PREEMPT_RT kernel" in result.stderr
    assert "--best-effort" in result.json["error"]["hint"]
    assert (accepted.exit_code, accepted.json["result"]) == (0, "reloaded")
    assert "on a PREEMPT_RT kernel" in accepted.stderr


def test_a_migration_of_atomic_counters_loses_nothing_under_traffic(
    lab: TestLab, bpffs: Path
) -> None:
    versions = (compiled("atomic", defines=("NEXT_VERSION",)), compiled("atomic"))
    words = ("--dev", lab.device, "--pin-root", bpffs)
    drop = ("--drop", "version", "--drop", "reserved")

    def counted() -> tuple[int, int]:
        """Return the packets in the map of each CPU, all together, and in the shared one."""
        with Map.from_pin(bpffs / lab.device / "by_cpu") as by_cpu:
            numbers = by_cpu[0]
        with Map.from_pin(bpffs / lab.device / "shared") as shared:
            number = shared[0]["packets"] if 0 in shared else 0
        return sum(each["packets"] for each in numbers), number

    run_cli_ok("load", versions[1], *words)
    with flow(lab, packets=int(HANG_S) * PER_SECOND, per_second=PER_SECOND) as packets:
        for number in range(CHANGES):
            before, _ = counted()
            wait_until(lambda: counted()[0] > before)  # noqa: B023  (it returns before the next round)
            options = drop if number % 2 else ()
            source = versions[number % 2]
            run_cli_ok("load", source, *words, "--migrate", *options)
        was_under_traffic = not packets.is_over
        sent = packets.stopped()
    wait_until(lambda: counted()[0] == sent)

    assert was_under_traffic
    assert counted() == (sent, sent)
