"""Counters to rates, and how they are written."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.apps.stats import CounterRate, Interval, interval_between, tutorial_format
from bpfpin.btf.types import Array, BtfType, Member, Modifier, ModifierKind, Struct
from bpfpin.cli.live import block, header, sparkline
from bpfpin.errors import UsageError
from bpfpin.map.counters import (
    Count,
    CounterField,
    CounterFields,
    Sample,
    fields_of_size,
    fields_of_type,
    sample_across_migration,
    total,
)
from bpfpin.uapi import XdpAction
from support.btf_tables import U32, U64, table


def sample(at_s: float, *counts: Sequence[Count]) -> Sample:
    return Sample(at_s, 1_700_000_000 + at_s, tuple(tuple(cpus) for cpus in counts))


def test_rates_are_differences_per_second_over_all_cpus() -> None:
    before = sample(10.0, [Count(100, 1000), Count(10, 500)])
    now = sample(12.0, [Count(140, 3000), Count(20, 500)])

    interval = interval_between(before, now, keys=("XDP_PASS",))

    assert interval.period_s == 2.0
    assert interval.rows == (CounterRate("XDP_PASS", 160, 3500, 25.0, 1000.0),)


def test_each_cpu_has_its_row_when_asked() -> None:
    before, now = sample(0, [Count(0, None), Count(5, None)]), sample(1, [Count(1, None)] * 2)

    rows = interval_between(before, now, keys=("0",), is_percpu=True).rows

    assert rows == (
        CounterRate("0", 1, None, 1.0, None, cpu=0),
        CounterRate("0", 1, None, 0.0, None, cpu=1),
    )


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.floats(0, 1e6, allow_nan=False))
def test_a_rate_is_never_negative(old: int, new: int, period_s: float) -> None:
    """A counter that goes back was set by somebody."""
    row = interval_between(
        sample(0, [Count(old, old)]), sample(period_s, [Count(new, new)]), keys=("0",)
    ).rows[0]

    assert row.packets_per_second >= 0
    assert row.bytes_per_second is not None
    assert row.bytes_per_second >= 0


@pytest.mark.parametrize(
    ("old", "new", "carried_over"),
    [
        ([[Count(5, None)]], [[Count(6, 60)]], [[Count(5, 0)]]),
        ([[Count(5, 50)]], [[Count(6, None)]], [[Count(5, None)]]),
        ([[Count(5, 1)]] * 2, [[Count(6, 1)]] * 3, [[Count(5, 1)], [Count(5, 1)], [Count(0, 0)]]),
        ([[Count(5, 1)]] * 2, [[Count(6, 1)]], [[Count(5, 1)]]),
        ([[Count(5, 1), Count(2, 3)]], [[Count(9, 4)]], [[Count(7, 4)]]),
        ([[Count(7, 4)]], [[Count(9, 4), Count(1, 1)]], [[Count(7, 4), Count(0, 0)]]),
    ],
    ids=["new bytes", "no bytes", "longer", "shorter", "one", "each CPU"],
)
def test_a_sample_takes_the_form_of_the_map_after_a_migration(
    old: list[list[Count]], new: list[list[Count]], carried_over: list[list[Count]]
) -> None:
    assert sample_across_migration(sample(1, *old), sample(2, *new)) == sample(1, *carried_over)


def test_a_total_of_packets_alone_has_no_bytes() -> None:
    assert total([Count(1, None), Count(2, None)]) == Count(3, None)
    assert total([Count(1, 10), Count(2, 20)]) == Count(3, 30)


@pytest.mark.parametrize(
    ("types", "shape"),
    [
        ([U64], CounterFields(CounterField(0, 8), None)),
        ([U32], CounterFields(CounterField(0, 4), None)),
        ([U64, Array(1, 1, 2)], CounterFields(CounterField(0, 8), CounterField(8, 8))),
        ([U64, Array(1, 1, 1)], CounterFields(CounterField(0, 8), None)),
        ([U64, Array(1, 1, 3)], None),
        (
            [U64, Struct("datarec", 16, (Member("rx_packets", 1, 0), Member("rx_bytes", 1, 64)))],
            CounterFields(CounterField(0, 8), CounterField(8, 8)),
        ),
        (
            [U64, Struct("swapped", 16, (Member("bytes", 1, 0), Member("pkts", 1, 64)))],
            CounterFields(CounterField(8, 8), CounterField(0, 8)),
        ),
        (
            [U64, Struct("unnamed", 16, (Member("a", 1, 0), Member("b", 1, 64)))],
            CounterFields(CounterField(0, 8), CounterField(8, 8)),
        ),
        (
            [U64, Struct("one", 8, (Member("rx_packets", 1, 0),))],
            CounterFields(CounterField(0, 8), None),
        ),
        (
            [U64, Struct("r", 8, (Member("n", 1, 0),)), Modifier(ModifierKind.TYPEDEF, "t", 2)],
            CounterFields(CounterField(0, 8), None),
        ),
        ([Struct("empty", 0, ())], None),
    ],
    ids=lambda value: value[-1].name or type(value[-1]).__name__ if isinstance(value, list) else "",
)
def test_packets_and_bytes_are_found_by_type(
    types: list[BtfType], shape: CounterFields | None
) -> None:
    assert fields_of_type(table(*types).ref(len(types))) == shape


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (8, CounterFields(CounterField(0, 8), None)),
        (16, CounterFields(CounterField(0, 8), CounterField(8, 8))),
        (4, None),
        (24, None),
    ],
)
def test_without_types_the_size_decides(size: int, shape: CounterFields | None) -> None:
    assert fields_of_size(size) == shape


def actions(row: CounterRate) -> tuple[CounterRate, ...]:
    """Return the rows of the five actions, *row* for XDP_PASS and zeros for the others."""
    others = [CounterRate(action.name, 0, 0, 0.0, 0.0) for action in XdpAction]
    return tuple(row if row.action == other.action else other for other in others)


FORMAT = "%-12s %'11lld pkts (%'10.0f pps) %'11lld Kbytes (%'6.0f Mbits/s) period:%f"


def printed_by_c(row: CounterRate, period_s: float) -> str:
    """Return what C's printf makes of the tutorial's format, in this process's C locale."""
    assert row.bytes is not None
    assert row.bytes_per_second is not None
    buffer = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).snprintf(
        buffer,
        ctypes.c_size_t(256),
        FORMAT.encode(),
        row.action.encode(),
        ctypes.c_longlong(row.packets),
        ctypes.c_double(row.packets_per_second),
        ctypes.c_longlong(row.bytes // 1000),
        ctypes.c_double(row.bytes_per_second * 8 / 1_000_000),
        ctypes.c_double(period_s),
    )
    return buffer.value.decode()


@given(
    st.integers(0, 10**15),
    st.integers(0, 10**15),
    st.floats(0, 1e12, allow_nan=False),
    st.floats(0.01, 100, allow_nan=False),
)
def test_a_classic_line_is_what_c_prints(
    packets: int, in_bytes: int, rate: float, period_s: float
) -> None:
    row = CounterRate("XDP_PASS", packets, in_bytes, rate, rate)

    lines = tutorial_format(Interval(0.0, period_s, actions(row)), is_grouped=False)

    assert lines[1 + XdpAction.XDP_PASS] == printed_by_c(row, period_s)


def test_a_classic_block_is_a_heading_five_actions_and_an_empty_line() -> None:
    rows = actions(CounterRate("XDP_PASS", 1234567, 99_999_999, 1000.4, 125_000_000.0))

    lines = tutorial_format(Interval(0.0, 2.000123, rows), is_grouped=True)

    assert lines == [
        "XDP-action  ",
        "XDP_ABORTED            0 pkts (         0 pps)           0 Kbytes (     0 Mbits/s)"
        " period:2.000123",
        "XDP_DROP               0 pkts (         0 pps)           0 Kbytes (     0 Mbits/s)"
        " period:2.000123",
        "XDP_PASS       1,234,567 pkts (     1,000 pps)      99,999 Kbytes ( 1,000 Mbits/s)"
        " period:2.000123",
        "XDP_TX                 0 pkts (         0 pps)           0 Kbytes (     0 Mbits/s)"
        " period:2.000123",
        "XDP_REDIRECT           0 pkts (         0 pps)           0 Kbytes (     0 Mbits/s)"
        " period:2.000123",
        "",
    ]


def test_classic_is_for_xdp_actions_alone() -> None:
    with pytest.raises(UsageError, match="five XDP actions"):
        tutorial_format(Interval(0.0, 1.0, (CounterRate("0", 1, 1, 0.0, 0.0),)), is_grouped=False)


@pytest.mark.parametrize(
    ("rates", "bars"),
    [([], ""), ([0.0, 0.0], "▁▁"), ([0.0, 50.0, 100.0], "▁▅█"), ([3.0], "█")],
)
def test_a_sparkline_is_as_high_as_its_highest_rate(rates: list[float], bars: str) -> None:
    assert sparkline(rates) == bars


def test_a_block_has_a_line_for_each_of_a_few_rows() -> None:
    lines = block(Interval(0.0, 1.0, actions(CounterRate("XDP_PASS", 1500, 98_000, 2.0, 1e6))))

    assert [line.split()[1] for line in lines] == [action.name for action in XdpAction]
    assert lines[2].split()[2:] == ["1,500", "2.0", "98,000", "8.000"]
    assert header().split() == ["time", "action", "packets", "pkts/s", "bytes", "Mbit/s"]
    assert {len(line) for line in [header(), *lines]} == {79}


def test_of_many_rows_those_that_counted_are_shown() -> None:
    rows = tuple(CounterRate(str(key), int(key == 7), None, 0.0, None) for key in range(100))

    (line,) = block(Interval(0.0, 1.0, rows))

    assert line.split()[1:] == ["7", "1", "0.0", "-", "-"]
    assert "nothing counted yet" in block(Interval(0.0, 1.0, rows[:7] + rows[8:]))[0]
