"""Maps that come from outside of a set, or are shared there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.errors import ExitCode, PinNameError, UsageError
from bpfpin.sets.given_maps import open_shared, own_place
from bpfpin.spec import MapSpec, ObjectSpec, Pinning
from bpfpin.uapi import MapType


def described(*names: str) -> ObjectSpec:
    return ObjectSpec({name: MapSpec(name, MapType.HASH, 4, 8, 16) for name in names}, {})


@pytest.mark.parametrize("word", ["idx:2", "idx:-1", "idx:", "idx:x", "idx:²", f"idx:{'9' * 5000}"])
def test_an_index_that_the_object_lacks_is_answered_with_all_of_them(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_shared(described("flows", "counts"), {word: "id:1"}, pin_root=Path("/bpf"))

    assert caught.value.message == (
        f"the object has no map {word}; it has: idx:0 flows, idx:1 counts"
    )
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("flow", "did you mean flows?"),
        ("count", "did you mean counts or counts6?"),
        ("action", ""),
    ],
)
def test_an_unknown_name_is_answered_with_those_near_it(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"no map {name}; it has: flows, counts") as caught:
        open_shared(described("flows", "counts", "counts6"), {name: "id:1"}, pin_root=Path("/bpf"))

    assert caught.value.hint == hint


def test_a_map_named_by_index_and_by_name_cannot_come_from_two_places() -> None:
    given = {"flows": "/bpf/x", "idx:0": "id:1"}

    with pytest.raises(UsageError, match=r"map 'flows' is named twice: /bpf/x and id:1 \(idx:0\)"):
        open_shared(described("flows"), given, pin_root=Path("/bpf"))


def test_a_map_pinned_by_name_is_looked_for_in_the_pin_root() -> None:
    by_name = MapSpec("flows", MapType.HASH, 4, 8, 16, pinning=Pinning.BY_NAME)
    plain = by_name.with_changes(pinning=Pinning.NONE)
    evil = by_name.with_changes(name="../flows")
    spec = ObjectSpec({}, {})

    assert own_place(spec, by_name, pin_root=Path("/bpf")) == Path("/bpf/flows")
    assert own_place(spec, plain, pin_root=Path("/bpf")) is None
    with pytest.raises(PinNameError):
        own_place(spec, evil, pin_root=Path("/bpf"))
