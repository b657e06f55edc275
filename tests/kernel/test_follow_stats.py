"""Rates of a name's counters through reloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bpfpin.apps.stats import Interval, open_counters, watch_events
from bpfpin.errors import UsageError
from bpfpin.map.counters import Counters
from bpfpin.map.follow import Gone
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import Reload
from support.maps import COUNTERS, FLOWS
from support.sets import Generations, counted, generations, publish, unpublish

SHORT_S = 0.05


@pytest.fixture
def lab0(bpffs: Path) -> Iterator[Generations]:
    with generations(bpffs / "lab0") as made:
        yield made


@pytest.fixture
def counters(lab0: Generations) -> Iterator[Counters]:
    with closing(open_counters(str(lab0.path / "counters"), pin_root=lab0.path.parent)) as opened:
        yield opened


def test_rates_after_another_map_begin_with_its_first_reading(
    counters: Counters, lab0: Generations
) -> None:
    found = watch_events(counters, interval_s=SHORT_S)
    before = next(found)
    lab0.publish(map_=1, program=1)
    told, after = next(found), next(found)

    assert isinstance(before, Interval)
    assert isinstance(told, Reload)
    assert isinstance(after, Interval)
    assert (before.rows[2].packets, after.rows[2].packets) == (1000, 10)
    assert after.rows[2].packets_per_second == 0.0
    assert after.period_s >= SHORT_S


def test_rates_go_on_through_a_reload_that_keeps_the_map(
    counters: Counters, lab0: Generations
) -> None:
    found = watch_events(counters, interval_s=SHORT_S)
    next(found)
    lab0.publish(map_=0, program=1)
    told = next(found)
    lab0.maps[0][2] = counted(1500)
    after = next(found)

    assert isinstance(told, Reload)
    assert isinstance(after, Interval)
    assert after.rows[2].packets_per_second == pytest.approx(500 / after.period_s)


def test_counters_of_another_shape_are_read_by_it(counters: Counters, lab0: Generations) -> None:
    found = watch_events(counters, interval_s=SHORT_S)
    with Map.create(COUNTERS) as typed:
        typed[2] = [{"rx_packets": 3, "rx_bytes": 300}] * len(typed[2])
        publish(lab0.path, {"counters": typed}, {})
        told, after = next(found), next(found)
        per_cpu = len(typed[2])

    assert isinstance(told, Reload)
    assert isinstance(after, Interval)
    assert (after.rows[2].packets, after.rows[2].bytes) == (3 * per_cpu, 300 * per_cpu)


def test_what_counts_no_longer_is_told_and_then_refused(
    counters: Counters, lab0: Generations
) -> None:
    found = watch_events(counters, interval_s=SHORT_S)
    with Map.create(FLOWS) as flows:
        publish(lab0.path, {"counters": flows}, {})

        assert isinstance(next(found), Reload)
        with pytest.raises(UsageError, match="it is a hash"):
            next(found)


def test_an_absence_is_told_once_and_its_intervals_are_counted(
    counters: Counters, lab0: Generations
) -> None:
    unpublish(lab0.path)

    (told,) = watch_events(counters, interval_s=SHORT_S, count=3)
    assert isinstance(told, Gone)
