"""An LRU hash that evicts loses counts, more where it migrates: how many, and that it is told."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bpfpin.spec import XdpMode
from proof.test_migration import IS_FULL
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab
from support.migration import FLOWS, MAPS, NO_LOSS, OLD, Loss, MigratedSet, traffic, use_both_cpus
from support.traffic import dropped
from support.wait import HANG_S, wait_until

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

RATE = 20_000
SECONDS = 20  # about as long as 20 migrations take
JUST_FULL, TOO_SMALL = FLOWS, 8000
SIZES = (JUST_FULL, TOO_SMALL)
TOLD = "the new map is an LRU hash: it may evict about "


@pytest.fixture
def road(lab: TestLab, tmp_path: Path) -> TestLab:
    """A lab whose device takes packets on both CPUs."""
    use_both_cpus(lab, tmp_path)
    return lab


def counting(road: TestLab, root: Path, size: int) -> MigratedSet:
    """Load the old version, whose LRU hash has *size* entries."""
    return MigratedSet(road, root, XdpMode.NATIVE, defines=(f"RECENT={size}",))


@pytest.fixture(scope="module")
def evicting_table(table: Table) -> Table:
    """The table of LRU hashes without room; lost packets / bytes / flows that are wrong."""
    head = ("way", "recent holds", "packets/s", "migrations", "sent", "came", *MAPS)
    table.begin(
        "Migrations under traffic, LRU hash that evicts: lost packets / bytes / flows", head
    )
    return table


@pytest.mark.parametrize("size", SIZES if IS_FULL else (TOO_SMALL,))
def test_an_lru_hash_that_may_evict_is_told_and_refused(
    road: TestLab, bpffs: Path, size: int
) -> None:
    loaded = counting(road, bpffs, size)
    with traffic(road, per_second=RATE) as senders:
        wait_until(lambda: loaded.came() > 2 * FLOWS)
        planned = run_cli_ok(*loaded.words("--best-effort", "--dry-run")).json["maps"]
        refused = run_cli(*loaded.words())
        sent = senders.stopped()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: loaded.came() == sent)
    (plan,) = (each["migration"] for each in planned if each["name"] == "recent")
    (told,) = plan["reasons"]
    lost = loaded.losses()

    assert not plan["is_exact"]
    assert told.startswith(TOLD)
    assert refused.exit_code == 6
    assert TOLD in refused.stdout  # how many changes with each packet
    assert loaded.version == OLD
    assert loaded.came() == sent
    assert {**lost, "recent": None} == {**NO_LOSS, "recent": None}


CASES = [
    pytest.param(size, count, id=f"{size}, {count} migrations")
    for size, count in itertools.product(SIZES, (0, 20) if IS_FULL else (1,))
    if IS_FULL or size == TOO_SMALL
]


@pytest.mark.parametrize(("size", "count"), CASES)
def test_what_an_lru_hash_loses_is_measured_and_other_maps_lose_nothing(  # noqa: PLR0917  (a table)
    road: TestLab, bpffs: Path, evicting_table: Table, size: int, count: int
) -> None:
    before, loaded = dropped(road), counting(road, bpffs, size)
    with traffic(road, per_second=RATE, seconds=HANG_S) as senders:
        wait_until(lambda: loaded.came() > FLOWS)
        results = [loaded.migrate("--best-effort") for _ in range(count)]
        was_under_traffic = not senders.is_over
        wait_until(lambda: loaded.came() > (SECONDS if IS_FULL else 3) * RATE)
        sent = senders.stopped()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: loaded.came() == sent)
    came, lost = loaded.came(), loaded.losses()
    way = "bpfpin load --migrate --best-effort" if count else "no migration"
    cells = (f"{size:,}", f"{RATE:,}", count, f"{sent:,}", f"{came:,}")
    evicting_table.row((way, *cells, *map(str, lost.values())))
    recent = lost.pop("recent")

    assert results == ["reloaded"] * count
    assert was_under_traffic
    assert (came, dropped(road)) == (sent, before)
    assert lost == {"counts": Loss(0), "flows": Loss(0, 0, 0)}
    assert 0 <= recent.packets <= sent
    assert size != TOO_SMALL or recent.packets
