"""`--set NAME=VALUE`: what is typed, what it becomes, and what it may not do to a kept map."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.objfile.reader import read_object
from bpfpin.pins.plan import Decision, MapPlan
from bpfpin.sets.variables import Settings, check_kept, with_variables
from bpfpin.spec import ObjectSpec
from support.objects import compiled

KEPT = MapPlan(".data", Decision.KEPT, 7)


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compiled("globals"))


def test_a_text_is_read_by_the_type_of_the_variable(spec: ObjectSpec) -> None:
    typed = {"limit": "0x10", "weights": "[4, 3, 2, 1]", "greeting": "seen %d", "packets": 12}
    changed, _ = with_variables(spec, typed)

    assert {name: changed.variables[name].value for name in typed} == {
        "limit": 16,
        "weights": [4, 3, 2, 1],
        "greeting": "seen %d",
        "packets": 12,
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("limits", "1", "no variable 'limits'; there are: verdict, weights, limit"),
        ("limit", "4294967296", "limit"),
        ("limit", "many", "limit"),
        ("weights", "[1, 2]", "weights"),
        ("greeting", "much longer than it was", "greeting"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    spec: ObjectSpec, name: str, value: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        with_variables(spec, {name: value})


def test_a_variable_is_set_once(spec: ObjectSpec) -> None:
    with pytest.raises(UsageError, match="limit is set twice"):
        with_variables(spec, {"limit": "1", ".rodata:limit": "2"})


def test_settings_are_compared_by_section_and_bytes(spec: ObjectSpec) -> None:
    hashes = [
        with_variables(spec, given)[1].hashes
        for given in (
            {"limit": "16", "verdict": "1"},
            {"verdict": 1, "limit": "0x10"},
            {"limit": "17", "verdict": "1"},
        )
    ]

    assert hashes[0] == hashes[1]
    assert hashes[0][".data"] == hashes[2][".data"]
    assert hashes[0][".rodata"] != hashes[2][".rodata"]


def test_a_map_that_is_kept_goes_on_with_its_values(spec: ObjectSpec) -> None:
    _, settings = with_variables(spec, {"verdict": "1"})

    with pytest.raises(UsageError, match=r"map \.data .* keeps its values") as e:
        check_kept(settings, [KEPT], {})
    assert "bpfpin map set id:7 0 verdict=VALUE" in e.value.hint
    assert "fresh=['.data']" in e.value.hint


def test_what_was_set_when_the_map_was_made_may_be_said_again(spec: ObjectSpec) -> None:
    _, settings = with_variables(spec, {"verdict": "1"})
    check_kept(settings, [KEPT], settings.hashes)

    with pytest.raises(UsageError):
        check_kept(settings, [MapPlan(".data", Decision.SHARED, 7)], settings.hashes)


@pytest.mark.parametrize("decision", [Decision.CREATED, Decision.FRESH])
def test_new_maps_start_as_they_are_told(spec: ObjectSpec, decision: Decision) -> None:
    _, settings = with_variables(spec, {"verdict": "1"})

    check_kept(settings, [MapPlan(".data", decision)], {})
    check_kept(Settings(), [KEPT], {".data": "was set"})
