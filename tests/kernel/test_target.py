"""Which pin set somebody means by a device or a name."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bpfpin.errors import NotBpffsError, PinNotFoundError, UsageError
from bpfpin.pins.bpffs import open_to_change
from bpfpin.pins.manifest import AttachPoint, Manifest
from bpfpin.pins.pinset import all_sets
from bpfpin.pins.transaction import next_generation
from bpfpin.sets.find import find_set
from bpfpin.sets.live import reopen
from bpfpin.syscall import netns

LO = socket.if_nametoindex("lo")


def publish(root: Path, name: str, *, device: str = "", ifindex: int = 0) -> None:
    """Make a set without maps of a device of this namespace."""
    place = AttachPoint(netns_inode=netns.inode(), device=device, ifindex=ifindex)
    with open_to_change(root) as directory, next_generation(directory, name, reopen) as stage:
        stage.write_manifest(Manifest("0.1.0", "x.o", "00" * 32, 1, 0, place))


def test_a_device_finds_its_set_whatever_it_is_called(bpffs: Path) -> None:
    publish(bpffs, "firewall", device="lo", ifindex=LO)
    publish(bpffs, "other", device="lab0", ifindex=99999)

    assert find_set("lo", pin_root=bpffs).name == "firewall"
    assert find_set("firewall", pin_root=bpffs).name == "firewall"


def test_a_set_is_found_by_its_name_when_the_device_is_gone(bpffs: Path) -> None:
    publish(bpffs, "gone0", device="gone0", ifindex=99999)

    assert find_set("gone0", pin_root=bpffs).name == "gone0"


def test_a_device_counts_before_a_set_of_that_name(bpffs: Path) -> None:
    publish(bpffs, "lo", device="gone0", ifindex=99999)
    publish(bpffs, "mine", device="lo", ifindex=LO)

    assert find_set("lo", pin_root=bpffs).name == "mine"


def test_of_several_sets_of_a_device_each_is_named_by_its_path(bpffs: Path) -> None:
    for name in ("lo-tc", "lo-xdp"):
        publish(bpffs, name, device="lo", ifindex=LO)

    with pytest.raises(UsageError, match="'lo' fits 2 pin sets: lo-tc, lo-xdp") as told:
        find_set("lo", pin_root=bpffs)
    assert told.value.hint.endswith(f"by its path: {bpffs / 'lo-tc'}")
    assert find_set(str(bpffs / "lo-tc"), pin_root=bpffs).name == "lo-tc"
    assert find_set("lo-xdp", pin_root=bpffs).name == "lo-xdp"


def test_a_set_of_that_very_name_wins_over_a_device_that_several_fit(bpffs: Path) -> None:
    for name in ("lo", "lo-tc"):
        publish(bpffs, name, device="lo", ifindex=LO)

    assert find_set("lo", pin_root=bpffs).name == "lo"


def test_the_same_ifindex_of_another_namespace_is_another_device(bpffs: Path) -> None:
    place = AttachPoint(netns_inode=netns.inode() + 1, netns="blue", device="lo", ifindex=LO)
    with open_to_change(bpffs) as directory, next_generation(directory, "blue@lo", reopen) as stage:
        stage.write_manifest(Manifest("0.1.0", "x.o", "00" * 32, 1, 0, place))

    with pytest.raises(PinNotFoundError, match="blue@lo"):
        find_set("lo", pin_root=bpffs)
    assert find_set("blue@lo", pin_root=bpffs).name == "blue@lo"


def test_a_name_is_typed_as_it_is_shown_or_as_the_directory_is_called(bpffs: Path) -> None:
    publish(bpffs, "eth0%2e100", device="eth0.100", ifindex=99999)

    assert find_set("eth0.100", pin_root=bpffs).name == "eth0%2e100"
    assert find_set("eth0%2e100", pin_root=bpffs).name == "eth0%2e100"


def test_several_sets_of_a_device_are_listed(bpffs: Path) -> None:
    publish(bpffs, "first", device="lo", ifindex=LO)
    publish(bpffs, "second", device="lo", ifindex=LO)

    with pytest.raises(UsageError, match="'lo' fits 2 pin sets: first, second"):
        find_set("lo", pin_root=bpffs)
    assert find_set("second", pin_root=bpffs).name == "second"


@pytest.mark.parametrize("target", ["nosuch", "", "../etc", "bpfpin~", "lo~stage"])
def test_what_is_not_loaded_is_told_with_what_is(bpffs: Path, target: str) -> None:
    publish(bpffs, "mine", device="gone0", ifindex=99999)

    with pytest.raises(PinNotFoundError, match="are: mine"):
        find_set(target, pin_root=bpffs)


def test_an_empty_root_has_no_sets_and_another_file_system_is_told(
    bpffs: Path, tmp_path: Path
) -> None:
    assert all_sets(bpffs) == []
    with pytest.raises(NotBpffsError):
        all_sets(tmp_path)
