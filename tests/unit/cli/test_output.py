"""Data on stdout, messages on stderr, and no control characters on a terminal."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfpin.cli.formats import Report, to_json
from bpfpin.cli.output import Color, Output, escape, escape_lines, table_lines
from bpfpin.map.form import unescaped
from bpfpin.uapi import MapType


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("xdp_stats_map", "xdp_stats_map"),
        ("a b", "a b"),
        ("Grüße", "Grüße"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202egnp", "\\u202egnp"),
        (b"\xff".decode(errors="surrogateescape"), "\\xff"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_lines_stay_lines_where_a_text_may_have_several() -> None:
    assert escape_lines("one\n\ttwo\x07") == "one\n        two\\x07"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x0a\x00", '"hex:0a00"'),
        (Path("/sys"), '"/sys"'),
        (Color.AUTO, '"auto"'),
        (MapType.ARRAY, "2"),
        ({"key": "\x1b"}, '{"key": "\\u001b"}'),
    ],
)
def test_values_without_a_json_type_are_written_as_text(value: object, text: str) -> None:
    assert to_json(value) == text


def strict(text: str) -> object:
    """Read JSON as the strictest parser does: no NaN, no half of a surrogate pair."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no number in JSON")

    value = json.loads(text, parse_constant=refuse)
    assert json.dumps(value, ensure_ascii=False).encode()
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\udcff", "a\\xff"),
        ("\\xff", "\\x5cxff"),
        ("\\udcff \\x \\\\xf", "\\udcff \\x \\\\xf"),
        ("\ud800", "\\ud800"),
        ("Gr\u00fc\u00dfe \U0001f41d", "Gr\u00fc\u00dfe \U0001f41d"),
        (Path("/sys/\udc80"), "/sys/\\x80"),
        ({"\udcff": ["\udcfe", 1.5, True, None]}, {"\\xff": ["\\xfe", 1.5, True, None]}),
        (math.nan, "NaN"),
        ([math.inf, -math.inf, -0.0], ["Infinity", "-Infinity", -0.0]),
        (
            {"load": math.nan, "raw": b"\xff", "path": Path("a")},
            {"load": "NaN", "raw": "hex:ff", "path": "a"},
        ),
        (1 << 128, 1 << 128),
    ],
)
def test_every_value_is_json_that_a_strict_parser_takes(value: object, shown: object) -> None:
    assert strict(to_json(value)) == shown


@settings(deadline=None)
@given(st.binary())
def test_every_text_of_bytes_can_be_had_back(raw: bytes) -> None:
    text = strict(to_json(raw.decode(errors="surrogateescape")))

    assert isinstance(text, str)
    assert unescaped(text) == raw


def test_an_object_without_a_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_json(object())


def test_a_document_is_one_line_with_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").show(Report({"maps": []}))

    assert json.loads(capsys.readouterr().out) == {"schema": 1, "maps": []}


def test_a_table_in_a_pipe_is_columns_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("id", "name"), [(7, "a"), (1234, "\x1b[31mb")], right=("id",))

    assert capsys.readouterr().out == "  id  name\n   7  a\n1234  \\x1b[31mb\n"


COLUMNS = ("id", "name", "pins")
PINS = "/sys/fs/bpf/lab0/xdp_stats_map /sys/fs/bpf/tc/globals/xdp_stats_map"
ROWS = [["1234567", "flows", PINS], ["8", "a_much_longer_name", "-"]]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200, None])
def test_a_table_fits_its_terminal_and_no_word_is_broken(width: int | None) -> None:
    lines = table_lines(COLUMNS, ROWS, [True, False, False], width)
    words = {word for row in ROWS for cell in row for word in cell.split()} - {"-"}

    assert words <= {word for line in lines for word in line.split()}
    assert max(map(len, lines)) <= max(width or 200, 4 + len("pins: ") + len(PINS.split()[1]))
    assert len(lines) == (3 if width in (200, None) else len(lines))


def test_a_column_without_room_goes_below_its_row() -> None:
    assert table_lines(COLUMNS, ROWS, [True, False, False], 40) == [
        "     id  name",
        "1234567  flows",
        "    pins: /sys/fs/bpf/lab0/xdp_stats_map",
        "      /sys/fs/bpf/tc/globals/xdp_stats_map",
        "      8  a_much_longer_name",
    ]


def test_columns_limit_a_table_in_a_pipe_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BPFPIN_COLUMNS", "20")

    Output().table(("id", "what"), [(1, "some words that are wrapped")])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 20


def test_a_table_for_a_terminal_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Output(color=Color.ALWAYS).table(("name",), [("[red]x[/red]",)])

    assert "[red]x[/red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "heard"),
    [
        (Output(), "said\n"),
        (Output(is_quiet=True), ""),
        (Output(is_verbose=True), "said\nin detail\n"),
    ],
    ids=["plain", "quiet", "verbose"],
)
def test_messages_go_to_stderr_by_verbosity(
    out: Output, heard: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out.say("said")
    out.detail("in detail")

    assert capsys.readouterr() == ("", heard)


def test_an_error_is_written_even_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Output(is_quiet=True).complain("no map 'a\x1b'", hint="bpfpin map list")

    assert capsys.readouterr().err == "bpfpin: no map 'a\\x1b'\nhint: bpfpin map list\n"


FAILURE = {"error": {"type": "BpfError"}}


@pytest.mark.parametrize(
    ("format_name", "stdout"),
    [
        ("table", ""),
        ("csv", ""),
        ("json", '{"schema": 1, "error": {"type": "BpfError"}}\n'),
        ("ndjson", '{"schema": 1, "error": {"type": "BpfError"}}\n'),
    ],
)
def test_a_failure_has_a_document_in_the_formats_of_documents(
    format_name: str, stdout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Output(format_name).fail(FAILURE, "it failed", hint="bpfpin status")

    assert capsys.readouterr() == (stdout, "bpfpin: it failed\nhint: bpfpin status\n")


def test_a_failure_after_the_document_is_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output("json")
    out.show(Report({"maps": []}))
    out.fail(FAILURE, "it failed")

    assert capsys.readouterr() == ('{"schema": 1, "maps": []}\n', "bpfpin: it failed\n")


@pytest.mark.parametrize(
    ("format_name", "stdout"),
    [
        ("table", "text\n"),
        ("json", '{"schema": 1, "rows": [1, 2]}\n'),
        ("ndjson", '{"schema": 1, "row": 1}\n{"schema": 1, "row": 2}\n'),
        ("dot", "digraph\n"),
    ],
)
def test_a_report_is_written_in_the_format_that_was_asked_for(
    format_name: str, stdout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the parts of that format are made; the others may read without end."""
    made = []

    def part(name: str, value: Any) -> Any:
        made.append(name)
        return value

    report = Report(
        lambda: part("data", {"rows": [1, 2]}),
        lambda out: out.line(part("text", "text")),
        records=lambda: part("records", [{"row": 1}, {"row": 2}]),
        own={"dot": lambda out: out.line(part("dot", "digraph"))},
    )

    Output(format_name).show(report)

    assert capsys.readouterr().out == stdout
    assert len(made) == 1


def test_a_report_without_text_writes_nothing_for_people(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output().show(Report({"result": "unloaded"}))

    assert capsys.readouterr().out == ""


def test_a_report_without_records_is_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    Output("ndjson").show(Report({"id": 7}))

    assert capsys.readouterr().out == '{"schema": 1, "id": 7}\n'


@pytest.mark.parametrize(("value", "is_colored"), [(None, True), ("", True), ("1", False)])
def test_no_color_counts_unless_it_is_empty(
    monkeypatch: pytest.MonkeyPatch, value: str | None, *, is_colored: bool
) -> None:
    """As https://no-color.org says, and as rich does for the tree of `graph`."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    terminal, side = os.openpty()
    with os.fdopen(terminal), os.fdopen(side, "w") as stream:
        assert Output()._is_colored(stream) is is_colored
        assert Output(color=Color.ALWAYS)._is_colored(stream)
        assert not Output(color=Color.NEVER)._is_colored(stream)
