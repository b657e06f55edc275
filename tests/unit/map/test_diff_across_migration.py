"""An old value in the form of a new one."""

from __future__ import annotations

from typing import Any

import pytest

from bpfpin.map.diff_across_migration import in_form_of


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (5, 7, 5),
        (True, 7, 7),
        ("A", "B", "A"),
        ("A", 3, 3),
        ({"packets": 1}, {"bytes": 5, "packets": 2}, {"bytes": 0, "packets": 1}),
        ({"gone": 1, "n": 2}, {"n": 3}, {"n": 2}),
        ({"in": {"a": 1}}, {"in": {"a": 2, "b": [3, 4]}}, {"in": {"a": 1, "b": [0, 0]}}),
        ([1, 2], [3, 4, 5], [1, 2, 0]),
        ([1, 2, 3], [4], [1]),
        (9, {"n": 4, "name": "x"}, {"n": 0, "name": "x"}),
        (9, [{"n": 1}], [{"n": 0}]),
    ],
)
def test_members_are_found_by_name_and_new_ones_began_at_0(
    old: Any, new: Any, expected: Any
) -> None:
    assert in_form_of(old, new) == expected
