"""The entries of state files and of the files that they name, as bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import ObjectNotFoundError, UsageError
from bpfpin.objects.maps.contents import ContentsChange, change_to
from bpfpin.objfile.reader import read_object
from bpfpin.sets.apply.contents import entries_for, key_text, slots_for
from bpfpin.sets.apply.model import WantedMap, parse_state
from bpfpin.spec import MapSpec, ObjectSpec
from support.objects import compiled


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compiled("stated"))


def wanted(folder: Path, name: str, keys: str) -> WantedMap:
    """Return what a file in *folder* says of one map."""
    text = f"[[set]]\nobject = 'o.o'\n[set.maps.{name}]\n{keys}\n"
    return parse_state(text, folder / "a.toml").sets[0].maps[name]


def pairs(spec: ObjectSpec, asked: WantedMap) -> dict[bytes, bytes]:
    """Return the entries as they are in the map."""
    map_spec, (keys, values) = spec.maps[asked.name], entries_for(spec, asked)
    size, value_size = map_spec.key_size, map_spec.value_size
    return {
        keys[at * size : (at + 1) * size]: values[at * value_size : (at + 1) * value_size]
        for at in range(len(keys) // size)
    }


def prefix(length: int, *address: int) -> bytes:
    return struct.pack("=I4B", length, *address)


TEN, HOST = prefix(8, 10, 0, 0, 0), prefix(32, 192, 0, 2, 7)
ONE, TWO = struct.pack("=I", 1), struct.pack("=I", 2)
FLOW = struct.pack("=HH", 443, 0)
LIMIT = struct.pack("=QII", 5, 7, 0)


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("blocked", 'entries = { "10.1.2.3/8" = 1, "192.0.2.7" = "0x2" }', {TEN: ONE, HOST: TWO}),
        ("blocked", "entries = {}", {}),
        (
            "limits",
            "entries = [{ key = { port = 443 }, value = { rate = 5, inner = { burst = 7 } } }]",
            {FLOW: LIMIT},
        ),
        ("limits", "entries = { 'port=443,zone=0' = 'hex:0500000000000000070000000000000' }", None),
        (
            "choices",
            "entries = { 1 = 'XDP_DROP', 3 = 2 }",
            {
                struct.pack("=I", key): struct.pack("=I", value)
                for key, value in enumerate((0, 1, 0, 2))
            },
        ),
    ],
)
def test_entries_are_written_as_people_write_them(
    spec: ObjectSpec, name: str, keys: str, expected: dict[bytes, bytes] | None
) -> None:
    asked = wanted(Path("/"), name, keys)
    if expected is None:
        with pytest.raises(UsageError, match="hex"):
            pairs(spec, asked)
        return

    assert pairs(spec, asked) == expected


FILES = {
    "a.csv": ("limits", "key.port,rate,inner.burst\n443,5,7\n", {FLOW: LIMIT}),
    "b.csv": ("blocked", "key,value\n10.0.0.0/8,1\n192.0.2.7/32,2\n", {TEN: ONE, HOST: TWO}),
    "c.ndjson": (
        "limits",
        '{"schema": 1, "key": {"port": 443, "zone": 0}, "value": {"rate": 5, "inner":'
        ' {"burst": 7, "grace": 0}}}\n\n',
        {FLOW: LIMIT},
    ),
    "d.txt": (
        "blocked",
        "# all of them\n10.0.0.0/8  # private\n\n192.0.2.7\n",
        {TEN: ONE, HOST: ONE},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_have_the_forms_of_map_dump(spec: ObjectSpec, tmp_path: Path, name: str) -> None:
    map_name, text, expected = FILES[name]
    (tmp_path / name).write_text(text)
    more = "\nvalue = 1" if name.endswith(".txt") else ""

    assert pairs(spec, wanted(tmp_path, map_name, f"file = '{name}'{more}")) == expected


WRONG: list[tuple[str, str, str]] = [
    ("a.csv", "key,value\n10.0.0.0/8,1\n10.0.0.0/33,1\n", "a.csv:3: key '10.0.0.0/33'"),
    ("a.csv", "key,value\n10.0.0.0/8\n", "a.csv:2: it has 1 cells, and there are 2 columns"),
    ("a.csv", "key,price\n", "a.csv:1: "),
    ("a.csv", "key\n", "a.csv:1: no column is the value"),
    ("a.csv", "", "a.csv:1: it is empty"),
    ("a.csv", 'key,value\n"10', "a.csv:2: it is not CSV"),
    ("a.csv", "key,value\n10.0.0.0/8,1\n10.0.0.1/8,2\n", "a.csv:3: map blocked: 10.0.0.0/8 has"),
    ("a.ndjson", '{"key": 1}\n', "a.ndjson:1: an entry has the members key and value"),
    ("a.ndjson", '{"key": "10.0.0.0/8", "value": 1}\n{', "a.ndjson:2: it is not JSON"),
    ("a.ndjson", "[]\n", "a.ndjson:1: it is not a JSON object"),
    ("a.ndjson", '{"key": "10.0.0.0/8", "value": {"a": 1}}\n', "a.ndjson:1: value"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong[2])
def test_a_wrong_line_of_a_file_is_named(
    spec: ObjectSpec, tmp_path: Path, wrong: tuple[str, str, str]
) -> None:
    name, text, said = wrong
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as raised:
        pairs(spec, wanted(tmp_path, "blocked", f"file = '{name}'"))

    assert raised.value.message.startswith(f"{tmp_path}/{said}")


def test_the_rest_that_is_wrong_is_said(spec: ObjectSpec, tmp_path: Path) -> None:
    cases: list[tuple[str, str, type[Exception], str]] = [
        (
            "choices",
            "entries = { 4 = 1 }",
            UsageError,
            "a.toml:4: map choices has the elements 0 to 3",
        ),
        ("lists", "entries = {}", UsageError, "are not plain bytes"),
        ("seen", "entries = {}", UsageError, "written by program stated"),
        ("blocked", "file = 'none.csv'", ObjectNotFoundError, "no such file"),
    ]
    for name, keys, kind, said in cases:
        with pytest.raises(kind, match=said):
            pairs(spec, wanted(tmp_path, name, keys))
    many = ", ".join(f'"10.0.0.{number}" = 1' for number in range(17))
    with pytest.raises(UsageError, match="room for 16 entries, and 17 are stated"):
        pairs(spec, wanted(tmp_path, "blocked", f"entries = {{ {many} }}"))


def test_a_map_of_maps_has_slots(spec: ObjectSpec, tmp_path: Path) -> None:
    ((key, inner),) = slots_for(
        spec, wanted(tmp_path, "lists", "slots = { 1 = { entries = { 9 = 1 } } }")
    )

    assert (key, inner.entries) == (ONE, (struct.pack("=I", 9), ONE))
    with pytest.raises(UsageError, match="has the slots 0 to 1, not 2"):
        slots_for(spec, wanted(tmp_path, "lists", "slots = { 2 = { entries = {} } }"))
    with pytest.raises(UsageError, match="has no slots"):
        slots_for(spec, wanted(tmp_path, "blocked", "slots = { 2 = { entries = {} } }"))


@pytest.mark.parametrize(
    ("name", "key", "text"),
    [("blocked", TEN, "10.0.0.0/8"), ("choices", ONE, "1"), ("limits", FLOW, None)],
)
def test_keys_are_shown_as_people_write_them(
    spec: ObjectSpec, name: str, key: bytes, text: str | None
) -> None:
    shown = key_text(spec.maps[name], key)

    assert shown == text if text else "443" in shown


def test_a_new_map_is_told_by_what_is_added() -> None:
    def change(kind: Any, keys: bytes, values: bytes) -> ContentsChange:
        return change_to(None, MapSpec("m", kind, 4, 4, 4, entries=(keys, values)))

    assert str(change("hash", ONE + TWO, ONE + ONE)) == "entries: 2 added"
    assert str(change("array", bytes(4) + ONE, bytes(4) + ONE)) == "entries: 1 changed"
    assert not change("hash", b"", b"")
