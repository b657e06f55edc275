"""Maps that change their layout under traffic: every packet is counted once, in the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from bpfpin.spec import XdpMode
from support import migration_controls as controls
from support.lab import TestLab
from support.migration import (
    FLOWS,
    MAPS,
    NO_LOSS,
    PLACES,
    Fold,
    Migrate,
    MigratedSet,
    Pieces,
    copy_then_switch,
    steer,
    switch_then_copy,
    traffic,
    truth_of,
    use_both_cpus,
)
from support.traffic import dropped
from support.wait import wait_until

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

MODES = (XdpMode.NATIVE, XdpMode.GENERIC)
RATES = (20_000, 100_000)
HOLD = "hold"
IS_FULL = os.environ.get("BPFPIN_FULL_PROOF") == "1"
SLOW = 10_000  # readings of the clock: about 300 us
SLOW_RATE = 2000  # packets a second on both CPUs, which a slow program can take


@pytest.fixture
def road(lab: TestLab, tmp_path: Path) -> TestLab:
    """A lab whose device takes packets on both CPUs."""
    use_both_cpus(lab, tmp_path)
    return lab


@pytest.fixture
def hold() -> Iterator[str]:
    """A second pair of devices, where the programs stay attached while they are switched."""
    subprocess.run(["ip", "link", "add", HOLD, "type", "veth", "peer", f"{HOLD}p"], check=True)
    yield HOLD
    subprocess.run(["ip", "link", "del", HOLD], check=True)


@contextlib.contextmanager
def pieces(device: str, mode: XdpMode, **variables: int) -> Iterator[Pieces]:
    """Attach the old version."""
    made = Pieces(device, mode, **variables)
    try:
        yield made
    finally:
        made.close()


def arrived(made: Pieces, sent: int) -> int:
    """Return how many packets came, when all that were sent have come."""

    def came() -> int:
        return sum(packets for packets, _ in truth_of(made.maps["truth"]).values())

    with contextlib.suppress(AssertionError):
        wait_until(lambda: came() == sent)
    return came()


class Way(NamedTuple):
    """How a map goes to the new layout, and whether nothing may be lost."""

    migrate: Migrate
    is_exact: bool


WAYS = {
    "fold": Way(Fold(), True),
    "user space: copy, then switch": Way(copy_then_switch, False),
    "user space: switch, wait, then copy": Way(switch_then_copy, False),
}


@pytest.fixture(scope="module")
def migrations_table(table: Table) -> Table:
    """The table of all ways; lost packets / bytes / flows that are wrong."""
    head = ("way", "mode", "packets/s", "migrations", "sent", "came", *MAPS)
    table.begin("Migrations under traffic: lost packets / bytes / wrong flows", head)
    return table


CASES = [
    pytest.param(name, rate, mode, id=f"{name}, {rate}, {mode.value}")
    for name, rate, mode in itertools.product(WAYS, RATES, MODES)
    if IS_FULL or (rate, mode) == (RATES[WAYS[name].is_exact], XdpMode.NATIVE)
]


@pytest.mark.parametrize(("name", "rate", "mode"), CASES)
def test_a_fold_under_traffic_loses_nothing_and_copies_do(  # noqa: PLR0917  (a table)
    road: TestLab,
    hold: str,
    migrations_table: Table,
    name: str,
    rate: int,
    mode: XdpMode,
    *,
    is_full: bool,
) -> None:
    count = 20 if is_full else 4
    before = dropped(road)
    with pieces(road.device, mode) as made:
        with traffic(road, per_second=rate) as senders:
            wait_until(lambda: len(truth_of(made.maps["truth"])) > 1000)
            for _ in range(count):
                made.migrate(WAYS[name].migrate, hold=hold)
            was_under_traffic = not senders.is_over
            sent = senders.stopped()
        came, lost = arrived(made, sent), made.losses()
    cells = (mode.value, f"{rate:,}", count, f"{sent:,}", f"{came:,}")
    migrations_table.row((name, *cells, *map(str, lost.values())))

    assert was_under_traffic
    assert (came, dropped(road)) == (sent, before)
    assert lost == NO_LOSS or not WAYS[name].is_exact


COMMANDS = [
    pytest.param(rate, mode, id=f"{rate}, {mode.value}")
    for rate, mode in itertools.product(RATES, MODES)
    if IS_FULL or (rate, mode) == (RATES[0], XdpMode.GENERIC)
]


@pytest.mark.parametrize(("rate", "mode"), COMMANDS)
def test_loads_that_migrate_under_traffic_lose_nothing(  # noqa: PLR0917  (a table)
    road: TestLab,
    bpffs: Path,
    migrations_table: Table,
    rate: int,
    mode: XdpMode,
    *,
    is_full: bool,
) -> None:
    count, before = 20 if is_full else 4, dropped(road)
    loaded = MigratedSet(road, bpffs, mode)
    with traffic(road, per_second=rate, seconds=300) as senders:
        wait_until(lambda: loaded.came() > FLOWS)
        results = [loaded.migrate() for _ in range(count)]
        was_under_traffic = not senders.is_over
        sent = senders.stopped()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: loaded.came() == sent)
    came, lost = loaded.came(), loaded.losses()
    cells = (mode.value, f"{rate:,}", count, f"{sent:,}", f"{came:,}")
    migrations_table.row(("bpfpin load --migrate", *cells, *map(str, lost.values())))

    assert results == ["reloaded"] * count
    assert was_under_traffic
    assert (came, dropped(road)) == (sent, before)
    assert lost == NO_LOSS


# what a mistake would lose


@pytest.fixture(scope="module")
def controls_table(table: Table) -> Table:
    """The table of folds that are wrong on purpose."""
    head = ("what", "way", "tries", "packets that came", "lost packets")
    table.begin("Folds that are wrong on purpose, beside the right one", head)
    return table


class Race(NamedTuple):
    """A slow program, and a fold that forgets what this makes necessary."""

    variables: dict[str, int]
    wrong: Fold


RACES = {
    "no barrier, a slow program": Race(
        {"slow_lookup": SLOW}, Fold(waits=False, inserts_first=False, maps=("flows",))
    ),
    "no insertion beforehand, programs insert with BPF_ANY": Race(
        {"slow_insert": SLOW, "inserts_any": 1}, Fold(inserts_first=False, maps=("flows",))
    ),
}


# What loses now and then is looked for in the full form alone.
@pytest.mark.parametrize(
    "is_right", [True, False] if IS_FULL else [True], ids=lambda it: "right" if it else "wrong"
)
@pytest.mark.parametrize("name", RACES)
def test_each_step_of_a_fold_is_needed(
    road: TestLab, hold: str, controls_table: Table, name: str, *, is_right: bool, is_full: bool
) -> None:
    count = 40 if is_full else 3
    race, tries = RACES[name], 0
    fold = Fold(maps=("flows",)) if is_right else race.wrong
    with pieces(road.device, XdpMode.GENERIC, **race.variables) as made:
        with traffic(road, per_second=SLOW_RATE, flows=600) as senders:
            while tries < count or (not fold.waits and not made.left and tries < 400):
                made.migrate(fold, hold=hold)
                tries += 1
            sent = senders.stopped()
        came = arrived(made, sent)
        lost = made.losses()["flows"].packets
    controls_table.row((name, "right" if is_right else "wrong", tries, f"{came:,}", f"{lost:,}"))

    assert came == sent
    assert (lost == 0) is is_right


class Addition(NamedTuple):
    """How the fold adds to a counter of a per-CPU map, and which CPU takes the packets."""

    spoiled: controls.Spoiled
    cpu: int


ADDITIONS = {
    "the fold adds plainly": Addition(controls.plain_add, 0),
    "the fold adds to another CPU's values": Addition(controls.other_slot, controls.OTHER_CPU),
}


@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("name", ADDITIONS)
def test_a_packet_that_interrupts_the_fold_is_counted(
    road: TestLab,
    tmp_path: Path,
    controls_table: Table,
    name: str,
    *,
    is_right: bool,
    is_full: bool,
) -> None:
    addition = ADDITIONS[name]
    offset = PLACES["migrate_old", "counts"]["packets"]
    tries = 10 if is_full else 2
    steer(road, tmp_path, addition.cpu)
    spoiled = contextlib.nullcontext() if is_right else addition.spoiled()
    with (
        spoiled,
        controls.ones() as source,
        pieces(road.device, XdpMode.GENERIC, slow_add=20) as made,
        traffic(road, per_second=30_000, cpus=(1,)) as senders,
    ):
        added = 0
        for _ in range(tries):
            added += controls.fold_into_one(source, made.maps["counts"], offset)
        sent = senders.stopped()
        came = arrived(made, sent)
        lost = added + made.losses()["counts"].packets
    controls_table.row((name, "right" if is_right else "wrong", tries, f"{came:,}", f"{lost:,}"))

    assert came == sent
    assert (lost == 0) is is_right
