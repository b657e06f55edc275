"""What is told of a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.map.follow import StillMigrating, follow_event_to_json
from bpfpin.objects.maps.watch import Ids, Reload


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


def test_a_migration_goes_on_and_so_do_several() -> None:
    first, second = Reload((41, 44), (12, 17), True), Reload((44, 47), (17, 21), True)
    kept, fresh = Reload((47, 48), (21, 21)), Reload((48, 49), (21, 30))

    assert str(first) == "map 12 -> 17: migrated, the counts go on"
    assert (first.is_other_map, first.is_restart) == (True, False)
    assert kept.since(second.since(first)) == Reload((41, 48), (12, 21), True)
    assert fresh.since(first).is_restart
    assert first.since(fresh).is_restart


def test_documents_say_what_was_migrated() -> None:
    told: list[Reload | StillMigrating] = [
        Reload((41, 44), (12, 12)),
        Reload((41, 44), (12, 17), True),
        StillMigrating(Path("/x"), 12),
    ]

    assert [follow_event_to_json(one) for one in told] == [
        {"event": "reload", "program": (41, 44), "map": (12, 12)},
        {"event": "reload", "program": (41, 44), "map": (12, 17), "migrated": True},
        {"event": "migrating", "path": Path("/x"), "map": 12},
    ]
