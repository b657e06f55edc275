"""What is told of a reload."""

from __future__ import annotations

import pytest

from bpfpin.apps.changes import Ids, Reload


@pytest.mark.parametrize(
    ("program", "maps", "sentence"),
    [
        ((41, 44), (12, 12), "reload followed: program 41 -> 44, same map"),
        ((41, None), (12, 12), "reload followed: program 41 -> none, same map"),
        ((None, 44), (12, 12), "reload followed: program none -> 44, same map"),
        ((None, None), (12, 12), "reload followed: same map"),
        ((41, 44), (12, 17), "map 12 -> 17: counters restart"),
        ((None, None), (12, 17), "map 12 -> 17: counters restart"),
    ],
)
def test_a_reload_is_one_sentence(program: Ids, maps: tuple[int, int], sentence: str) -> None:
    assert str(Reload(program, maps)) == sentence


def test_several_reloads_are_one_from_the_first_to_the_last() -> None:
    first, second = Reload((41, 44), (12, 17)), Reload((44, 47), (17, 17))

    assert second.since(first) == Reload((41, 47), (12, 17))
    assert first.since(None) is first
