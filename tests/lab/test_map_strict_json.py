"""Whatever bytes a map has, every reader of JSON takes it, and it can be typed again."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin import Map, MapSpec, MapType
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Array, Float, Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from support.map_command import run

TEXTS = (b"eth0", b"\xff\xfe", b"\\xff", b"\\xf\xff", b"hex:ff", b'"\x1b\xed\xa0', b"")
NAN = struct.pack("<d", float("nan"))


def spec() -> MapSpec:
    """Return a hash of texts to a text and a number, `struct { char tag[8]; double load; }`."""
    builder = BtfBuilder()
    char = builder.add(Int("char", 1, 8))
    u32 = builder.add(Int("unsigned int", 4, 32))
    double = builder.add(Float("double", 8))
    text = builder.add(Array(char, u32, 8))
    row = builder.add(Struct("row", 16, (Member("tag", text, 0), Member("load", double, 64))))
    btf = Btf.parse(builder.build())
    return MapSpec("odd", MapType.HASH, 8, 16, 64, key=btf.ref(text), value=btf.ref(row))


@pytest.fixture
def odd() -> Iterator[Map]:
    with Map.create(spec()) as held:
        for text in TEXTS:
            key = text.ljust(8, b"\0")
            held.update_bytes(key, key + NAN)
        held.update_bytes(b"inf".ljust(8, b"\0"), bytes(8) + struct.pack("<d", float("-inf")))
        yield held


def strict(text: str) -> Any:
    """Read JSON as the strictest parser does."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no number in JSON")

    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def entries(held: Map) -> dict[bytes, bytes]:
    return {
        bytes(part.keys[at * 8 : at * 8 + 8]): bytes(part.values[at * 16 : at * 16 + 16])
        for part in held.batches_bytes()
        for at in range(len(part.keys) // 8)
    }


def test_what_is_dumped_can_be_typed_into_another_map(odd: Map) -> None:
    dumped = strict(run("dump", f"id:{odd.id}", "-o", "json").stdout)["entries"]
    lines = [strict(x) for x in run("dump", f"id:{odd.id}", "-o", "ndjson").stdout.splitlines()]

    assert len(dumped) == len(lines) == len(TEXTS) + 1
    with Map.create(spec()) as copy:
        for entry in dumped:
            words = json.dumps(entry["key"]), json.dumps(entry["value"])
            result = run("set", f"id:{copy.id}", *words, "-o", "json")
            assert result.exit_code == 0, result.stderr
            assert strict(result.stdout)["key"] == entry["key"]
            got = run("get", f"id:{odd.id}", words[0], "-o", "json")
            assert strict(got.stdout)["value"] == entry["value"]
        assert entries(copy) == entries(odd)


def test_what_a_table_shows_can_be_typed_again(odd: Map) -> None:
    for key in entries(odd):
        shown = run("dump", f"id:{odd.id}", "--where", f"key=hex:{key.hex()}")
        typed = shown.stdout.splitlines()[1].split("  ")[0]
        assert run("get", f"id:{odd.id}", typed).exit_code == 0, typed


def test_errors_about_odd_names_are_strict_too(odd: Map, bpffs: Path) -> None:
    path = bpffs / b"odd\xff".decode(errors="surrogateescape")
    missing = run("dump", path, "-o", "json")
    assert strict(missing.stdout)["error"]["exit"] == 4
    odd.pin(path)

    shown = strict(run("show", path, "-o", "json").stdout)
    listed = strict(run("list", "-o", "json").stdout)
    snapshot = strict(run("save", path, bpffs.parent / "odd\udcfe.saved", "-o", "json").stdout)

    assert shown["pins"] == [f"{bpffs}/odd\\xff"]
    assert any(shown["pins"] == one["pins"] for one in listed["maps"])
    assert snapshot["file"].endswith("odd\\xfe.saved")
