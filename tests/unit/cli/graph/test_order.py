"""Few lines cross, and boxes come as near to their neighbours as they can."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.cli.graph.layout import crossings, heights, ordered, placed


def neighbours_of(*pairs: str) -> dict[str, list[str]]:
    """Return who is beside whom, from pairs such as `aX`."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        one, other = pair[0], pair[1]
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


def test_two_lines_that_swap_sides_cross_once() -> None:
    beside = neighbours_of("aY", "bX")

    assert crossings([["a", "b"], ["X", "Y"]], beside) == 1
    assert crossings([["a", "b"], ["Y", "X"]], beside) == 0


def test_lines_that_meet_do_not_cross() -> None:
    assert crossings([["a", "b"], ["X"]], neighbours_of("aX", "bX")) == 0


def test_an_order_without_crossings_is_found() -> None:
    beside = neighbours_of("aZ", "bY", "cX", "X1", "Y2", "Z3")
    columns = ordered([["a", "b", "c"], ["X", "Y", "Z"], ["3", "1", "2"]], beside)

    assert crossings(columns, beside) == 0


def test_a_box_stands_beside_the_middle_of_its_neighbours() -> None:
    sizes = dict.fromkeys("abX", 10.0)
    found = heights([["a", "b"], ["X"]], neighbours_of("aX", "bX"), sizes, gap=20)

    assert found["X"] == pytest.approx((found["a"] + found["b"]) / 2)
    assert found["b"] - found["a"] == pytest.approx(30)


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(1, 100)), min_size=1, max_size=30))
def test_boxes_keep_their_order_and_their_gaps(wishes: list[tuple[float, float]]) -> None:
    column = [str(number) for number in range(len(wishes))]
    wanted = {item: wish for item, (wish, _) in zip(column, wishes, strict=True)}
    sizes = {item: size for item, (_, size) in zip(column, wishes, strict=True)}
    found = placed(column, wanted, sizes, gap=12)

    for upper, lower in pairwise(column):
        distance = found[lower] - found[upper]
        assert distance >= (sizes[upper] + sizes[lower]) / 2 + 12 - 1e-6


def test_a_box_that_has_room_stands_where_it_wants() -> None:
    found = placed(["a", "b"], {"a": 5.0, "b": 90.0}, {"a": 10.0, "b": 10.0}, gap=2)

    assert found == {"a": 5.0, "b": 90.0}
