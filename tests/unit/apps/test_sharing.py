"""What `--map` is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.apps.sharing import own_place, parse_map_words
from bpfpin.errors import ExitCode, PinNameError, UsageError
from bpfpin.spec import MapSpec, ObjectSpec, Pinning
from bpfpin.uapi import MapType


def test_words_name_maps_by_path_id_and_name() -> None:
    words = ["a=/sys/fs/bpf/x", "b=id:27", "c=name:flows", "d=/sys/fs/bpf/with=sign"]

    assert parse_map_words(words) == {
        "a": "/sys/fs/bpf/x",
        "b": "id:27",
        "c": "name:flows",
        "d": "/sys/fs/bpf/with=sign",
    }


@pytest.mark.parametrize("word", ["", "a", "a=", "=x", "="])
def test_a_word_without_name_or_place_is_answered_with_the_form(word: str) -> None:
    with pytest.raises(UsageError, match="not understood") as caught:
        parse_map_words([word])

    assert caught.value.hint == "--map NAME=PATH or NAME=id:N"
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_map_cannot_come_from_two_places() -> None:
    with pytest.raises(UsageError, match="names 'a' twice: /x and id:1"):
        parse_map_words(["a=/x", "b=/x", "a=id:1"])


def test_a_map_pinned_by_name_is_looked_for_in_the_pin_root() -> None:
    by_name = MapSpec("flows", MapType.HASH, 4, 8, 16, pinning=Pinning.BY_NAME)
    plain = by_name.with_changes(pinning=Pinning.NONE)
    evil = by_name.with_changes(name="../flows")
    spec = ObjectSpec({}, {})

    assert own_place(spec, by_name, pin_root=Path("/bpf")) == Path("/bpf/flows")
    assert own_place(spec, plain, pin_root=Path("/bpf")) is None
    with pytest.raises(PinNameError):
        own_place(spec, evil, pin_root=Path("/bpf"))
