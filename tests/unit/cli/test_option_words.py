"""The words of options that may be given several times: `NAME=VALUE` and its like."""

from __future__ import annotations

import pytest

from bpfpin.cli.load import parse_map_words
from bpfpin.cli.migrate import parse_migration
from bpfpin.cli.options import parse_set_words
from bpfpin.errors import ExitCode, UsageError
from bpfpin.migration.request import Migration, Rule


def test_words_name_maps_by_path_id_and_name() -> None:
    words = ["a=/sys/fs/bpf/x", "b=id:27", "c=name:flows", "d=/sys/fs/bpf/with=sign"]
    words.append("idx:0=id:27")

    assert parse_map_words(words) == {
        "a": "/sys/fs/bpf/x",
        "b": "id:27",
        "c": "name:flows",
        "d": "/sys/fs/bpf/with=sign",
        "idx:0": "id:27",
    }


@pytest.mark.parametrize("word", ["", "a", "a=", "=x", "="])
def test_a_word_without_name_or_place_is_answered_with_the_form(word: str) -> None:
    with pytest.raises(UsageError, match="not understood") as caught:
        parse_map_words([word])

    assert caught.value.hint == "--map NAME=PATH or NAME=id:N"
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_map_cannot_come_from_two_places() -> None:
    with pytest.raises(UsageError, match="names 'a' twice: /x and id:1"):
        parse_map_words(["a=/x", "b=/x", "a=id:1"])


def test_words_are_names_and_values() -> None:
    assert parse_set_words(["limit=5", "greeting=a=b"]) == {"limit": "5", "greeting": "a=b"}


@pytest.mark.parametrize("words", [["limit"], ["=5"], ["limit=1", "limit=2"]])
def test_other_words_are_usage_errors(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_set_words(words)


def test_words_of_a_migration_are_its_settings() -> None:
    migration = parse_migration(
        rule=["packets=sum", "flows:packets=max", "value=sum"],
        rename=["key.port=key.sport", "n=packets"],
        drop=["drops"],
        start=["seen=5"],
        layout=["flows=u64 a", "flows=u64 a; u64 b"],
        clamp=True,
    )

    assert migration == Migration(
        rules={"packets": Rule.SUM, "flows:packets": Rule.MAX, "value": Rule.SUM},
        renamed={"key.port": "key.sport", "n": "packets"},
        dropped=("drops",),
        start={"seen": "5"},
        layouts={"flows": ("u64 a", "u64 a; u64 b")},
        clamp=True,
    )


@pytest.mark.parametrize(
    "words",
    [
        {"rule": ["packets"]},
        {"rule": ["packets=most"]},
        {"rename": ["packets="]},
        {"start": ["=3"]},
        {"rule": ["packets=sum", "packets=max"]},
    ],
)
def test_words_that_do_not_read_are_refused(words: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError):
        parse_migration(**words)  # type: ignore[arg-type]  # lists of words alone
