"""The exporter without a kernel: text, counters over reloads, rules, addresses and messages."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bpfpin.apps.exporter import channel
from bpfpin.apps.exporter.metrics import Exposition, Family, Totals, labels_text
from bpfpin.apps.exporter.rule_series import RuleSeries
from bpfpin.apps.exporter.rules import HISTOGRAM, MetricRule, read_rules
from bpfpin.apps.exporter.scrape import FAMILIES
from bpfpin.apps.exporter.server import HOST, PORT, parse_address
from bpfpin.errors import UsageError

RULE = """
[[metric]]
map = "flows"
name = "flow_bytes_total"
help = "Bytes by source."
value = "bytes"
labels = { source = "saddr" }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return path


def test_labels_are_escaped_and_empty_ones_left_out() -> None:
    labels = (("set", ""), ("map", 'a"b\\c\nd'))

    assert labels_text(labels) == '{map="a\\"b\\\\c\\nd"}'
    assert labels_text((("set", ""),)) == ""


def test_large_counters_are_written_exactly() -> None:
    text = Exposition()
    text.add(Family("x_total", "counter", "Help."), [("", (1 << 64) - 1)])
    text.add(Family("empty", "gauge", "Help."), [])

    assert (
        text.text()
        == "# HELP x_total Help.\n# TYPE x_total counter\nx_total 18446744073709551615\n"
    )


def test_every_metric_follows_the_conventions() -> None:
    for family in FAMILIES:
        assert family.name.startswith("bpfpin_")
        assert (family.type == "counter") == family.name.endswith("_total")
        assert family.help.endswith(".")


def test_a_counter_goes_on_when_another_map_counts_from_0() -> None:
    totals = Totals()

    assert totals.add("s", {1: [100, 5]}) == [100, 5]
    assert totals.add("s", {2: [3, 0]}) == [103, 5]
    assert totals.add("s", {2: [4, 1]}) == [104, 6]


def test_a_map_that_was_migrated_is_the_same_part() -> None:
    totals = Totals()
    totals.add("s", {1: [100]})

    assert totals.add("s", {1: [107, 0]}) == [107, 0]


def test_a_part_that_was_missing_for_a_reading_is_not_counted_twice() -> None:
    totals = Totals()
    totals.add("s", {1: [100], 2: [50]})

    assert totals.add("s", {2: [51]}) == [151]
    assert totals.add("s", {1: [101], 2: [51]}) == [152]


def test_many_reloads_are_added_up_and_take_no_memory() -> None:
    totals = Totals()
    for number in range(100):
        last = totals.add("s", {number: [10]})

    assert last == [1000]
    assert len(totals._parts["s"]) < 20


def test_a_counter_that_somebody_set_back_goes_back() -> None:
    totals = Totals()
    totals.add("s", {1: [100]})

    assert totals.goes_back("s", {1: [3]})
    assert not totals.goes_back("s", {2: [3]})
    assert totals.add("s", {1: [3]}) == [3]


def test_series_that_stay_away_are_forgotten() -> None:
    totals = Totals()
    totals.add("s", {1: [100]})
    for _ in range(11):
        totals.end_reading()

    assert totals.last("s") == [100]
    for _ in range(12):
        totals.end_reading()
    assert totals.last("s") is None


def test_rules_are_read(tmp_path: Path) -> None:
    (rule,) = read_rules(written(tmp_path, RULE))
    (same,) = read_rules(written(tmp_path, f"schema = 1\n[[set]]\nobject = 'a.o'\n{RULE}"))

    assert (rule.name, rule.value, rule.labels) == (
        "flow_bytes_total",
        "bytes",
        {"source": "saddr"},
    )
    assert same == rule
    assert rule.takes({"flows"}, "lab0")
    assert not rule.takes({"flow"}, "lab0")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value =", "valeu =", "toml:6: metric 1, valeu: there is no such key; did you mean value"),
        ("_total", "", "the name of a counter ends with _total"),
        ('"flow_bytes_total"', '"bpfpin_x_total"', "names that begin with bpfpin_"),
        ('"flow_bytes_total"', '"a-b_total"', "is not a name of a metric"),
        ("source", "le", "'le' cannot be a label"),
        ('map = "flows"\n', "", "rules.toml:2: metric 1: the key map is missing"),
        ('"flows"', "3", "metric 1, map: it is a text, not 3"),
        ("[[metric]]", "[metric]", "metric: it is a list of tables, not a table"),
        ("[[metric]]", "[[metric", "it is not TOML"),
        ("value =", "max_series = 0\nvalue =", "max_series: 0 is not a number from 1 to 100000"),
        ("value =", "scale = -1\nvalue =", "scale: it is a number above 0, not -1"),
        ("value =", 'type = "sum"\nvalue =', "type: there is no 'sum'; there are: counter, gauge"),
    ],
)
def test_a_rule_that_is_wrong_is_refused_by_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        read_rules(written(tmp_path, RULE.replace(old, new)))


def test_two_rules_for_one_metric_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="several rules make the metric flow_bytes_total"):
        read_rules(written(tmp_path, RULE + RULE))


def test_a_histogram_has_cumulative_buckets_with_the_bounds_of_powers_of_two() -> None:
    series = RuleSeries(MetricRule("m", "latency_seconds", "Help.", type=HISTOGRAM, scale=0.5))

    assert list(series._lines('{cpu="1"}', {1: 2, 3: 1})) == [
        'latency_seconds_bucket{cpu="1",le="0.5"} 0\n',
        'latency_seconds_bucket{cpu="1",le="1.5"} 2\n',
        'latency_seconds_bucket{cpu="1",le="3.5"} 2\n',
        'latency_seconds_bucket{cpu="1",le="7.5"} 3\n',
        'latency_seconds_bucket{cpu="1",le="+Inf"} 3\n',
        'latency_seconds_count{cpu="1"} 3\n',
    ]


def test_series_above_the_limit_are_left_out_and_known_ones_stay() -> None:
    series = RuleSeries(MetricRule("m", "x", "Help.", type="gauge", max_series=2))

    assert series._admit({"a": 0, "b": 0, "c": 0}) == ["a", "b"]
    assert series._admit({"c": 0, "b": 0, "a": 0}) == ["b", "a"]
    assert series._admit({"c": 0, "b": 0}) == ["b", "c"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9", ("127.0.0.1", 9)),
        (":9", (HOST, 9)),
        ("9", (HOST, 9)),
        ("host", ("host", PORT)),
        ("[::1]:9", ("::1", 9)),
        ("[::1]", ("::1", PORT)),
    ],
)
def test_an_address_may_lack_host_or_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["::1:9", "a:b", "a:65536", "a:-1"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        parse_address(text)


def test_a_message_brings_more_descriptors_than_one_call_takes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open() as file:
        channel.send(ours, {"version": 1}, [file.fileno()] * 450)
        message, fds = channel.receive(theirs)

        assert message == {"version": 1}
        assert {os.fstat(fd).st_rdev for fd in fds} == {os.fstat(file.fileno()).st_rdev}
        assert len(fds) == 450
        for fd in fds:
            os.close(fd)


def test_the_end_of_the_other_side_is_told() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(channel.ChannelClosedError, match="ended"):
            channel.receive(theirs)
