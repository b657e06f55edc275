"""Global variables of a loaded object: the same memory that its programs use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bpfpin.errors import ReadOnlyMapError
from bpfpin.loading.collection import Loaded, load
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import XdpAction
from support.objects import compiled

PACKET = bytes(64)


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """A program that counts packets, and drops those beyond `limit`, here 2."""
    spec = read_object(compiled("globals")).with_variable("limit", 2)
    with load(spec) as held:
        yield held


def answers(loaded: Loaded, count: int) -> list[int]:
    """Return what the program says to so many packets."""
    program = loaded.programs["count"]
    return [program.test_run(PACKET).return_value for _ in range(count)]


def test_a_constant_that_was_set_before_the_load_is_what_the_program_sees(loaded: Loaded) -> None:
    passed, dropped = XdpAction.XDP_PASS, XdpAction.XDP_DROP

    assert answers(loaded, 4) == [passed, passed, dropped, dropped]
    assert loaded.variables["limit"].value == 2


def test_what_a_program_counts_is_seen_and_what_is_written_counts(loaded: Loaded) -> None:
    packets, verdict, weights = (
        loaded.variables[name] for name in ("packets", "verdict", "weights")
    )
    answers(loaded, 1)
    verdict.value = int(XdpAction.XDP_TX)
    weights.value = [0, 0, 0, 1000]

    assert packets.value == 1
    assert answers(loaded, 1) == [XdpAction.XDP_TX]
    assert packets.value == 2
    assert loaded.variables["own"].value == 7 + 4 + 1000
    assert loaded.maps[".data"][0] == {"verdict": 3, "weights": [0, 0, 0, 1000]}


def test_a_variable_says_what_it_is(loaded: Loaded) -> None:
    dropped = loaded.variables["dropped"]

    assert (dropped.name, dropped.section, dropped.type, dropped.size) == (
        "dropped", ".bss", "u64", 8
    )  # fmt: skip
    assert repr(dropped) == "<Variable .bss:dropped = 0>"
    assert "greeting" in loaded.variables
    assert len(loaded.variables) == 7


def test_a_constant_cannot_be_written_any_more(loaded: Loaded) -> None:
    with pytest.raises(ReadOnlyMapError, match=r"limit stands in \.rodata") as error:
        loaded.variables["limit"].value = 5

    assert "with_variable" in error.value.hint
    assert loaded.variables["limit"].value == 2


@pytest.mark.parametrize("value", [1 << 32, -1, "3"])
def test_what_does_not_fit_is_not_written(loaded: Loaded, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        loaded.variables["verdict"].value = value

    assert loaded.variables["verdict"].value == XdpAction.XDP_PASS


def test_an_unknown_variable_is_a_key_error_with_the_list(loaded: Loaded) -> None:
    with pytest.raises(KeyError, match="no variable 'verdicts'; there are: verdict"):
        _ = loaded.variables["verdicts"]


def test_without_btf_variables_are_integers_and_bytes() -> None:
    with load(read_object(compiled("globals", has_debug=False))) as loaded:
        answers(loaded, 3)
        loaded.variables["own"].value = 0x1FF

        assert loaded.variables["packets"].value == 3
        assert loaded.variables["own"].value == 0x1FF
        assert loaded.variables["weights"].value[:4] == b"\1\0\0\0"


def test_a_variable_ends_with_what_was_loaded() -> None:
    with load(read_object(compiled("globals"))) as loaded:
        packets = loaded.variables["packets"]

    with pytest.raises(ValueError, match="released"):
        _ = packets.value
