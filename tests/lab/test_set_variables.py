"""`load --set`: constants and first values by name, a choice of the load like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.sets.load.deploy import deploy
from support.here import Here, decisions, map_ids, veth
from support.objects import compiled

GLOBALS = compiled("globals")
DATA = "%2edata"
RODATA = "%2erodata"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def value(here: Here, pin: str, name: str) -> object:
    with Map.from_pin(here.set / pin, read_only=True) as held:
        return held[0][name]


def test_a_constant_is_set_and_another_value_is_another_load(here: Here) -> None:
    first = here.load(GLOBALS, "--set", "limit=5")
    set_to_5 = value(here, RODATA, "limit")
    again = here.load(GLOBALS, "--set", "limit=0x5")
    other = here.load(GLOBALS, "--set", "limit=6")

    assert (first["result"], again["result"], other["result"]) == (
        "loaded", "unchanged", "reloaded"
    )  # fmt: skip
    assert (set_to_5, value(here, RODATA, "limit")) == (5, 6)
    assert map_ids(other)[".rodata"] != map_ids(first)[".rodata"]
    assert map_ids(other)[".data"] == map_ids(first)[".data"]
    assert here.load(GLOBALS)["result"] == "reloaded"
    assert value(here, RODATA, "limit") == 100


def test_a_variable_that_is_kept_is_not_set_by_the_way(here: Here) -> None:
    here.load(GLOBALS)
    refused = here.load_refused(2, GLOBALS, "--set", "verdict=1")
    fresh = here.load(GLOBALS, "--set", "verdict=1", "--fresh", ".data")

    assert "keeps its values" in refused.json["error"]["message"]
    assert "bpfpin map set id:" in refused.json["error"]["hint"]
    assert decisions(fresh)[".data"] == "fresh"
    assert value(here, DATA, "verdict") == 1


def test_the_same_line_again_is_unchanged_whatever_the_program_made_of_it(here: Here) -> None:
    line = ("--set", "verdict=1", "--set", "weights=[1,1,1,1]")
    here.load(GLOBALS, *line)
    here.ok("map", "set", here.set / DATA, 0, "verdict=3")

    assert here.load(GLOBALS, *line)["result"] == "unchanged"
    assert value(here, DATA, "verdict") == 3
    here.load_refused(2, GLOBALS, "--set", "verdict=2")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("limits=5", "no variable 'limits'; there are: "),
        ("limit=4294967296", "limit"),
        ("limit=lots", "limit"),
        ("limit", "not understood"),
    ],
)
def test_what_cannot_be_set_is_said_before_anything_is_done(
    here: Here, word: str, said: str
) -> None:
    refused = here.load_refused(2, GLOBALS, "--set", word)

    assert said in refused.json["error"]["message"]


def test_an_object_without_types_is_set_by_its_symbols(here: Here) -> None:
    here.load(compiled("globals", has_debug=False), "--set", "limit=7")

    with Map.from_pin(here.set / RODATA, read_only=True) as held:
        assert held.lookup_bytes(bytes(4))[:4] == b"\7\0\0\0"


def test_a_deployment_has_its_variables(here: Here) -> None:
    given = {"limit": 9, "verdict": "1"}
    with deploy(GLOBALS, device=here.device, pin_root=here.root, variables=given) as deployment:
        deployment.variables["packets"].value = 12

        assert {name: deployment.variables[name].value for name in ("limit", "verdict")} == {
            "limit": 9,
            "verdict": 1,
        }
        assert deployment.maps[".bss"][0]["packets"] == 12


def test_a_dry_run_says_what_would_be_refused(here: Here) -> None:
    here.load(GLOBALS)

    assert here.load(GLOBALS, "--dry-run", "--set", "limit=5")["result"] == "planned"
    here.load_refused(2, GLOBALS, "--dry-run", "--set", "verdict=1")
    assert value(here, RODATA, "limit") == 100
