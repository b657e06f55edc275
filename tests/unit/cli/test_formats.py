"""Rows as JSON and CSV, in pieces: the same text as in one, and an end whatever happens."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfpin.cli.failure import describe
from bpfpin.cli.formats import Report, RowBatches, json_rows, to_json
from bpfpin.cli.map.dump import cell, lines
from bpfpin.cli.output import Output
from bpfpin.errors import LimitError

NAMES = ("key", "value")
NUMBERS = st.integers(-(2**63), 2**64)
STRUCTS = st.tuples(NUMBERS, NUMBERS).map(lambda pair: {"rx %d": pair[0], "b": pair[1]})
TEXTS = st.text(alphabet='aZ9_ %"\\\n\u00e4\u20ac\U0001f600')
NAMED = st.one_of(NUMBERS, TEXTS)  # an enumeration: names, and numbers that have none
STATES = st.tuples(NAMED, NUMBERS).map(lambda pair: {"state": pair[0], "n": pair[1]})
OTHERS = [st.booleans(), st.lists(NUMBERS), st.floats(allow_nan=False)]
PARTS = [NUMBERS, STRUCTS, NAMED, STATES, *OTHERS]
ROWS = st.sampled_from([(key, value) for key in PARTS for value in PARTS]).flatmap(
    lambda parts: st.lists(st.tuples(*parts), min_size=1, max_size=5)
)


@settings(max_examples=50)
@given(ROWS)
def test_rows_are_what_json_makes_of_them(batch: list[tuple[Any, ...]]) -> None:
    assert [json.loads(row) for row in json_rows(NAMES, batch)] == [
        json.loads(to_json(dict(zip(NAMES, row, strict=True)))) for row in batch
    ]


def test_truths_are_no_numbers() -> None:
    assert json_rows(NAMES, [(1, True)]) == ['{"key": 1, "value": true}']
    assert json_rows(NAMES, [(1, {"is_on": False})]) == ['{"key": 1, "value": {"is_on": false}}']


def batches(*sizes: int, then: BaseException | None = None) -> Iterator[list[tuple[int, int]]]:
    for size in sizes:
        yield [(number, size) for number in range(size)]
    if then:
        raise then


def rows(batches: Iterator[list[tuple[int, int]]]) -> RowBatches:
    return RowBatches((NAMES, batch) for batch in batches)


def written(*sizes: int, then: BaseException | None = None) -> Any:
    """Return the document of rows; with *then* reading ends in that, which is reported."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        out = Output("json")
        report = Report({"entries": rows(batches(*sizes, then=then))})
        if then is None:
            out.show(report)
        else:
            with pytest.raises(type(then)):
                out.show(report)
            failure = describe(then, words=["map"])
            out.fail(failure.document(), failure.message)
    return json.loads(stdout.getvalue())


@pytest.mark.parametrize("sizes", [(), (1,), (2, 3), (1, 1, 1)])
def test_a_document_in_pieces_is_one_document(sizes: tuple[int, ...]) -> None:
    entries = [{"key": key, "value": value} for batch in batches(*sizes) for key, value in batch]

    assert written(*sizes) == {"schema": 1, "entries": entries}
    assert list(rows(batches(*sizes))) == entries


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (LimitError("too many", limit=1, asked=2), "LimitError", 5),
        (KeyboardInterrupt(), "KeyboardInterrupt", 130),
    ],
)
def test_a_failure_after_the_first_rows_closes_the_document_and_is_raised(
    error: BaseException, kind: str, exit_code: int
) -> None:
    document = written(2, then=error)

    assert len(document["entries"]) == 2
    assert (document["error"]["type"], document["error"]["exit"]) == (kind, exit_code)


def test_a_failure_before_the_first_rows_has_a_document_of_its_own() -> None:
    assert list(written(then=LimitError("too many", limit=1, asked=2))) == ["schema", "error"]


def test_lines_are_a_document_each() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        Output("ndjson").show(Report(dict, records=lambda: rows(batches(1, 2))))

    assert [json.loads(line) for line in stdout.getvalue().splitlines()] == [
        {"schema": 1, "key": 0, "value": 1},
        {"schema": 1, "key": 0, "value": 2},
        {"schema": 1, "key": 1, "value": 2},
    ]


def test_nothing_is_kept_of_the_rows_that_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without end would show it: each batch is written before the next one is read."""
    read, written_then = 0, []

    class Counting(io.StringIO):
        def write(self, text: str) -> int:
            written_then.append(read)
            return len(text)

    def counted() -> Iterator[list[tuple[int, int]]]:
        nonlocal read
        for _ in range(4):
            read += 1
            yield [(1, 1)]

    monkeypatch.setattr(sys, "stdout", Counting())
    Output("json").show(Report({"entries": rows(counted())}))

    assert sorted(set(written_then)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+SUM(A1)", "-2+3", "@SUM(A1)", "  =cmd|' /C calc'!A0", "'=1", "'", "-", '="a",b'],
)
def test_text_that_a_spreadsheet_would_run_is_defused_and_comes_back(text: str) -> None:
    shown = cell(text)
    (read,) = csv.reader(io.StringIO(lines([[shown]])))

    assert shown == "'" + text
    assert read[0].removeprefix("'") == text


@pytest.mark.parametrize("text", ["\t=1+1", "\r=1+1", "\n=1+1"])
def test_control_characters_before_a_formula_are_written_out(text: str) -> None:
    assert str(cell(text)).startswith("\\")


@pytest.mark.parametrize("value", [-1, -0.5, 0, 17, True, "10.0.0.1", "XDP_PASS", b"=1", [-1, 2]])
def test_numbers_and_plain_words_stay_as_they_are(value: object) -> None:
    assert not str(cell(value)).startswith("'")


def test_csv_quotes_what_must_be_and_writes_values_as_they_are_typed() -> None:
    values = [1, -0.5, True, "a,b", 'say "x"', "\x1b[2J\n", b"\x0a\x00", [80, 443]]

    assert lines([[cell(value) for value in values]]) == (
        '1,-0.5,true,"a,b","say ""x""",\\x1b[2J\\n,hex:0a00,"[80, 443]"\n'
    )
