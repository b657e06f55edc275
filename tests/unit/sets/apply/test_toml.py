"""What is written as TOML reads back."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.sets.apply.toml import tables_text, value_text

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SCALARS = (
    st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), min_size=1, max_size=3))
def test_tables_read_back(tables: list[dict[str, Any]]) -> None:
    assert tomllib.loads(tables_text("set", tables)) == {"set": tables}


@pytest.mark.parametrize("value", [b"x", None, float("nan"), 1 << 63, "\ud800"])
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"form|fit|surrogates"):
        value_text(value)
