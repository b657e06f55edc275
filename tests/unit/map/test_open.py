"""How maps are named and described."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.cli.formats import value_lines, value_text
from bpfpin.errors import NotBpffsError, UsageError
from bpfpin.map.entries import MapEntry
from bpfpin.map.open import is_map_name, open_map
from bpfpin.map.show import flag_names
from bpfpin.objects.kernel.info import type_name
from bpfpin.uapi import MapType


@pytest.mark.parametrize(
    ("target", "is_map"),
    [
        ("/sys/fs/bpf/m", True),
        ("./m", True),
        ("id:4", True),
        ("name:flows", True),
        ("lab0", False),
        ("ns@lab0", False),
    ],
)
def test_a_map_is_told_from_a_device(target: str, is_map: bool) -> None:
    assert is_map_name(target) is is_map


@pytest.mark.parametrize("target", ["id:", "id:x", "id:-1", "id:4294967296", "id:\uff11"])
def test_an_id_is_a_number_of_32_bits(target: str) -> None:
    with pytest.raises(UsageError, match="is not an id"):
        open_map(target)


def test_a_bare_word_is_answered_with_the_ways_to_name_a_map() -> None:
    with pytest.raises(UsageError) as caught:
        open_map("flows")

    assert caught.value.hint == (
        "name a map by its path (/sys/fs/bpf/…, or DEV/MAP), id:N, or name:flows"
    )


def test_a_plain_file_is_no_pin(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotBpffsError):
        open_map(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("flags", "names"),
    [(0, ()), (0x81, ("NO_PREALLOC", "RDONLY_PROG")), (0x80000001, ("NO_PREALLOC", "0x80000000"))],
)
def test_flags_are_named(flags: int, names: tuple[str, ...]) -> None:
    assert flag_names(flags) == names


def test_a_type_that_is_not_known_is_a_number() -> None:
    assert (type_name(MapType.PERCPU_ARRAY), type_name(999)) == ("percpu_array", "999")


def test_an_entry_says_value_or_values() -> None:
    assert MapEntry(1, 2, is_percpu=False).to_json() == {"key": 1, "value": 2}
    assert MapEntry(1, [2, 3], is_percpu=True).to_json() == {"key": 1, "values": [2, 3]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (b"\x0a\0", "hex:0a00"),
        ({"a": b"\1"}, '{"a": "hex:01"}'),
        ([1], "[1]"),
        ("PASS", "PASS"),
        ("two words", "two words"),
        ("", '""'),
        ("hex:00", '"hex:00"'),
        ('"', '"\\""'),
        ("[1]", '"[1]"'),
        ("\x1b", '"\\u001b"'),
    ],
)
def test_values_are_written_as_they_can_be_typed(value: object, text: str) -> None:
    assert value_text(value) == text


def test_a_percpu_value_has_a_line_a_cpu() -> None:
    assert value_lines(MapEntry(0, [b"\0", b"\1"], is_percpu=True)) == [
        "cpu 0: hex:00",
        "cpu 1: hex:01",
    ]
