"""Who opens the pin during reloads never finds it missing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bpfpin import deploy
from bpfpin.sets.reports import LoadResult
from support.lab import TestLab
from support.objects import compiled
from support.traffic import our_reader, reader, reader_in_c

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

VERSIONS = ("reload_new", "reload_old")


def test_readers_never_fail_during_reloads(
    lab: TestLab, bpffs: Path, tmp_path: Path, table: Table, *, is_full: bool
) -> None:
    reloads = 1000 if is_full else 30
    deploy(compiled("reload_old"), device=lab.device, pin_root=bpffs).close()
    pin = bpffs / lab.device / "xdp_stats_map"
    with reader(our_reader(), pin) as ours, reader(reader_in_c(tmp_path), pin) as plain:
        for version in itertools.islice(itertools.cycle(VERSIONS), reloads):
            with deploy(compiled(version), device=lab.device, pin_root=bpffs) as deployment:
                assert deployment.report.result is LoadResult.RELOADED
        found = {"bpfpin": ours.stopped(), "C, BPF_OBJ_GET": plain.stopped()}
    table.begin(f"Readers during {reloads:,} reloads", ("reader", "opened", "failed"))
    for name, readings in found.items():
        table.row((name, f"{readings.reads:,}", readings.failures))

    assert [(name, seen.first_error) for name, seen in found.items() if seen.failures] == []
    assert all(seen.reads > reloads for seen in found.values())
