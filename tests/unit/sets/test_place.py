"""Whether a set's device is still there, and the line that loads the set again."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.manifest import AttachPoint, Manifest
from bpfpin.sets.place import DeviceState, device_state, load_line
from bpfpin.syscall import netns

NO_IFINDEX = 2_000_000_000


def lo(**changes: Any) -> AttachPoint:
    """Return the place of a set on `lo` of this namespace, with some values replaced."""
    index = socket.if_nametoindex("lo")
    return replace(AttachPoint(netns_inode=netns.inode(), ifindex=index, device="lo"), **changes)


def manifest_of(name: str, **place: Any) -> Manifest:
    return Manifest("0.1.0", name, "00" * 32, 1, 0, lo(**place))


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, DeviceState.HERE),
        ({"device": "renamed"}, DeviceState.HERE),
        ({"ifindex": NO_IFINDEX}, DeviceState.ANOTHER),
        ({"ifindex": NO_IFINDEX, "device": "gone0"}, DeviceState.GONE),
        ({"netns_inode": 1}, DeviceState.UNKNOWN),
    ],
)
def test_a_device_is_known_by_its_ifindex(changes: dict[str, Any], state: DeviceState) -> None:
    assert device_state(lo(**changes)) is state


@pytest.mark.parametrize(
    ("directory", "changes", "line"),
    [
        ("lo", {}, "bpfpin load x.o --dev lo"),
        ("blue@lo", {"netns": "blue"}, "bpfpin load x.o --dev lo -n blue"),
        ("mine", {}, "bpfpin load x.o --dev lo --name mine"),
        ("eth0%2e100", {"device": "eth0.100"}, "bpfpin load x.o --dev eth0.100"),
    ],
)
def test_the_line_that_loads_a_set_again(
    directory: str, changes: dict[str, Any], line: str
) -> None:
    assert load_line(BPFFS / directory, manifest_of("x.o", **changes)) == line


def test_a_path_with_a_space_is_quoted() -> None:
    line = load_line(BPFFS / "lo", manifest_of("/srv/my programs/x.o"))

    assert line == "bpfpin load '/srv/my programs/x.o' --dev lo"


def test_an_object_that_was_no_file_is_named_by_the_word_for_it() -> None:
    assert load_line(BPFFS / "lo", manifest_of("")) == "bpfpin load OBJ --dev lo"


def test_another_pin_root_is_named() -> None:
    line = load_line(Path("/srv/bpf fs/lo"), manifest_of("x.o"))

    assert line == "bpfpin load x.o --dev lo --pin-root '/srv/bpf fs'"
