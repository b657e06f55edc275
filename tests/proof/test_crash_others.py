"""Labs and snapshots killed or failed at any of their calls: the next command makes them whole."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from bpfpin.apps.lab import lab_down, lab_up
from bpfpin.errors import BpfError
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall import netns
from bpfpin.uapi import MapType
from support.crash import Fault, Injection, Point, faulted, points, run_here

pytestmark = pytest.mark.lab

IS_FULL = os.environ.get("BPFPIN_FULL_PROOF") == "1"
SHORT = 6  # calls of a command in the short form
NAME = "crashlab"
OK, NOTHING_THERE, BUSY = 0, 4, 7
ENTRIES = 3000


def sample(found: Sequence[Point]) -> list[Point]:
    """Return some of the points, evenly, the first and the last among them; all in full form."""
    if IS_FULL or len(found) <= SHORT:
        return list(found)
    return [found[number * (len(found) - 1) // (SHORT - 1)] for number in range(SHORT)]


def is_gone() -> bool:
    return NAME not in [*netns.names(), *dict(socket.if_nameindex()).values()]


def take_down() -> None:
    with suppress(BpfError):  # there may be nothing
        lab_down(NAME)


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.EPERM])
def test_a_lab_that_was_half_made_is_taken_down_and_made_again(
    fault: Fault, tmp_path: Path
) -> None:
    words = ["lab", "up", NAME]
    found = points(words, folder=tmp_path)
    lab_down(NAME)
    for point in sample(found):
        faulted(words, Injection(point, fault), folder=tmp_path)
        again = run_here(words)
        if again.exit == BUSY:  # it says what to type
            hint = re.findall(r"bpfpin (lab down \w+)", again.talk)
            assert hint, f"{point}: {again.talk}"
            assert run_here(hint[0].split()).exit == OK, str(point)
            again = run_here(words)

        assert again.exit == OK, f"{point}: {again.talk}"
        assert run_here(["lab", "down", NAME]).exit == OK, str(point)
        assert is_gone(), str(point)


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.EPERM])
def test_a_lab_that_was_half_taken_down_is_taken_down(fault: Fault, tmp_path: Path) -> None:
    words = ["lab", "down", NAME]
    lab_up(NAME)
    found = points(words, folder=tmp_path)
    for point in sample(found):
        lab_up(NAME)
        faulted(words, Injection(point, fault), folder=tmp_path)
        again = run_here(words)

        assert again.exit in (OK, NOTHING_THERE), f"{point}: {again.talk}"
        assert is_gone(), str(point)
    take_down()


def filled(path: Path) -> dict[bytes, bytes]:
    """Pin a map with some entries at *path*, and return these."""
    entries = {number.to_bytes(4, "little"): bytes([number % 251] * 8) for number in range(ENTRIES)}
    with Map.create(MapSpec("flows", MapType.HASH, 4, 8, ENTRIES)) as made:
        made.update_batch(entries.items())
        made.pin(path)
    return entries


def contents(path: Path) -> dict[bytes, bytes]:
    with Map.from_pin(path, read_only=True) as held:
        return dict(held.items_bytes())


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.EPERM, Fault.ENOMEM])
def test_a_snapshot_is_whole_or_the_one_before(fault: Fault, bpffs: Path, tmp_path: Path) -> None:
    pin, file = bpffs / "flows", tmp_path / "flows.snapshot"
    filled(pin)
    words = ["map", "save", str(pin), str(file)]
    found = points(words, folder=tmp_path)
    before = file.read_bytes()
    for point in sample(found):
        faulted(words, Injection(point, fault), folder=tmp_path)
        restored = run_here(["map", "restore", str(file), str(pin)])

        assert restored.exit == OK, f"{point}: {restored.talk}"
    assert len(before) > ENTRIES * 12 // 2


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.EPERM, Fault.ENOMEM])
def test_a_restore_that_was_cut_short_is_finished_by_the_next(
    fault: Fault, bpffs: Path, tmp_path: Path
) -> None:
    pin, file = bpffs / "flows", tmp_path / "flows.snapshot"
    entries = filled(pin)
    assert run_here(["map", "save", str(pin), str(file)]).exit == OK
    words = ["map", "restore", str(file), str(pin)]
    with Map.from_pin(pin) as held:
        held.clear()
    found = points(words, folder=tmp_path)
    for point in sample(found):
        with Map.from_pin(pin) as held:
            held.clear()
        faulted(words, Injection(point, fault), folder=tmp_path)
        left = contents(pin)
        again = run_here(words)

        assert left.items() <= entries.items(), str(point)
        assert again.exit == OK, f"{point}: {again.talk}"
        assert contents(pin) == entries, str(point)
