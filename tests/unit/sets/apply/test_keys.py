"""The JSON Schema of state files is that of the table of keys."""

from __future__ import annotations

import json
from pathlib import Path

from bpfpin.sets.apply import keys
from bpfpin.sets.apply.keys import Kind, json_schema

SHIPPED = Path(keys.__file__).with_name("state.schema.json")


def test_the_schema_that_is_shipped_is_that_of_the_table() -> None:
    """`python scripts/gen_state_schema.py` writes it anew."""
    assert json.loads(SHIPPED.read_text()) == json_schema()


def test_every_kind_of_value_is_checked_and_has_a_schema() -> None:
    assert set(keys._FITS) == set(keys._SCHEMAS) == set(Kind)
