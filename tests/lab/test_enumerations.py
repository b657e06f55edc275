"""Enumerations: wide, negative, of two compilers, and with more names after a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfpin
from bpfpin import Map, MapSpec
from bpfpin.btf.compare import differences
from support.here import Here, decisions, veth
from support.objects import compiled_case

COMPILERS = ("zig", "clang")
PACKET = bytes(64)


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def spec_of(name: str, compiler: str, *defines: str) -> dict[str, MapSpec]:
    return dict(bpfpin.read_object(compiled_case(name, compiler, defines=defines)).maps)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_values_read_as_their_names(compiler: str) -> None:
    path = compiled_case("enum64", compiler)
    # Clang 14 keeps the lower half of a number of 64 bits: what is above reads as the number.
    wide = "E_B" if compiler == "zig" else 0x123456789ABC
    with bpfpin.load(bpfpin.read_object(path)) as loaded:
        loaded.programs["enums"].test_run(PACKET)

        assert loaded.maps["ev"][0] == {
            "n": "N_BLUE", "b": "B_HIGH", "e": wide, "s": "S_A", "o": "O_X", "f": 5,
        }  # fmt: skip
        assert loaded.maps["eh"].to_dict() == {wide: "S_A"}
        row = loaded.maps["ev"][0]
        loaded.maps["ev"][0] = row
        assert loaded.maps["ev"][0] == row
        assert loaded.maps["ev"].lookup_bytes(bytes(4)).hex().startswith("fdffffff00000080")


@pytest.mark.parametrize(("name", "defines"), [("enum64", ()), ("enum_reason", ("V=2",))])
def test_two_compilers_make_one_type(name: str, defines: tuple[str, ...]) -> None:
    old, new = (spec_of(name, compiler, *defines) for compiler in COMPILERS)
    for one in old:
        for before, after in ((old[one], new[one]), (new[one], old[one])):
            assert differences(before.key, after.key) == []
            assert differences(before.value, after.value) == []


def test_a_map_that_is_kept_is_read_by_the_names_of_the_new_object(here: Here) -> None:
    here.load(compiled_case("enum_reason", "clang", defines=("V=0",)))
    with bpfpin.follow(here.set / "by_reason") as live:
        live.map[2] = 7
        assert list(live.map) == [2]
        changes = live.watch(interval_s=0.2, count=2)
        report = here.load(compiled_case("enum_reason", "zig", defines=("V=1",)))

        assert decisions(report) == {"m": "kept", "by_reason": "kept"}
        assert [dict(change.entries) for change in changes][-1] == {"R_RATE": 7}
        assert list(live.map) == ["R_RATE"]
    with Map.from_pin(here.set / "by_reason") as held:
        assert held["R_RATE"] == 7
    assert here.ok("map", "dump", here.set / "by_reason")["entries"] == [
        {"key": "R_RATE", "value": 7}
    ]
    with Map.from_pin(here.set / "by_reason") as held:
        assert here.ok("map", "get", f"id:{held.id}", "R_RATE")["value"] == 7
    assert here.ok("map", "set", here.set / "m", 0, "last=R_RATE")["values"][0]["last"] == "R_RATE"
    # What the new names stand for may be in the map: an object without them does not fit.
    error = here.load_refused(6, compiled_case("enum_reason", "zig", defines=("V=0",))).json
    assert [one["field"] for one in error["error"]["differences"]][-1] == "key"


def test_the_same_source_by_another_compiler_keeps_its_maps(here: Here) -> None:
    for name, defines in (("enum_reason", ("V=2",)), ("enum64", ())):
        for compiler in ("clang", "zig", "clang"):
            report = here.load(
                compiled_case(name, compiler, defines=defines), "--name", name, "--replace"
            )
        assert set(decisions(report).values()) == {"kept"}, report
        here.ok("unload", name)
