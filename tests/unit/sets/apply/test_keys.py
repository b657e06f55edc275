"""The JSON Schema of state files says what the table of keys does."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bpfpin.apps.exporter import rules
from bpfpin.sets.apply import keys
from bpfpin.sets.apply.keys import Kind, json_schema, problems

SHIPPED = Path(keys.__file__).with_name("state.schema.json")
EXAMPLES = Path(__file__).parents[4] / "examples"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a JSON Schema accepts a value, by the keywords that ours has."""
    if (kinds := schema.get("type")) and not any(
        isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in ([kinds] if isinstance(kinds, str) else kinds)
    ):
        return False
    if "anyOf" in schema and not any(accepts(each, value) for each in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, int) and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
    ):
        return False
    if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
        return False
    if isinstance(value, list):
        return all(accepts(schema.get("items", {}), each) for each in value)
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= set(value) and all(
            accepts(known[name], each)
            if name in known
            else others and (others is True or accepts(others, each))
            for name, each in value.items()
        )
    return True


def test_the_schema_that_is_shipped_is_that_of_the_table() -> None:
    """`make generate` writes it anew."""
    assert json.loads(SHIPPED.read_text()) == json_schema()


def test_every_kind_of_value_is_checked_and_has_a_schema() -> None:
    assert set(keys._FITS) == set(keys._SCHEMAS) == set(Kind)


def test_metrics_have_the_keys_of_the_exporter() -> None:
    assert set(keys.METRIC) == set(rules.MetricRule.__annotations__)
    assert keys.METRIC["type"].words == (rules.COUNTER, rules.GAUGE, rules.HISTOGRAM)


GOOD = [
    *(path.read_text() for path in sorted(EXAMPLES.glob("*.toml"))),
    "schema = 1",
    "[[set]]\nobject = 'a'\ndevice = ['a', 'b']\ngroup = 5\nmigrate = true",
    "[[set]]\nobject = 'a'\nmigrate = { rules = { a = 'sum' }, clamp = true }",
    "[[set]]\nobject = 'a'\nmaps.m = { entries = [{ key = { a = 1 }, value = 2 }] }",
    "[[set]]\nobject = 'a'\nmaps.m.slots.0 = { file = 'a.txt', value = [1] }",
    "[[metric]]\nmap = 'm'\nname = 'n'\nhelp = 'h'\ntype = 'gauge'\nscale = 1e-9",
]
WRONG = [
    "[[set]]\ndevice = 'a'",
    "[[set]]\nobject = 'a'\ndevise = 'a'",
    "[[set]]\nobject = 'a'\nmode = 'nativ'",
    "[[set]]\nobject = 'a'\nstub = 1",
    "[[set]]\nobject = 'a'\ndevice = [1]",
    "[[set]]\nobject = 'a'\nmigrate = { rules = { a = 'summ' } }",
    "[[set]]\nobject = 'a'\nmaps.m.max_entries = 0",
    "[[set]]\nobject = 'a'\nmaps.m.max_entries = true",
    "[[set]]\nobject = 'a'\nmaps.m.entries = [{ key = 1 }]",
    "[[set]]\nobject = 'a'\nmaps.m.slots.0.files = 'a'",
    "[[metric]]\nname = 'm'",
    "[[metric]]\nmap = 'm'\nname = 'n'\nhelp = 'h'\nscale = -1",
    "set = 1",
    "sets = []",
]


@pytest.mark.parametrize("text", GOOD)
def test_both_accept_what_is_right(text: str) -> None:
    document = tomllib.loads(text)

    assert problems(document) == []
    assert accepts(json_schema(), document)


@pytest.mark.parametrize("text", WRONG)
def test_both_refuse_what_is_wrong(text: str) -> None:
    document = tomllib.loads(text)

    assert problems(document)
    assert not accepts(json_schema(), document)
