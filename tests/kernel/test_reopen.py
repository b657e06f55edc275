"""Hooks without a link, opened again from what a set remembers of them, after a kill or in between.

The stages are made by hand: what a command leaves that is killed at that moment.
"""

from __future__ import annotations

import dataclasses
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach import clsact
from bpfpin.attach.clsact import attach_clsact, clsact_filters
from bpfpin.errors import BpfError, InterfaceNotFoundError, ProgramChangedError
from bpfpin.objects.programs.program import Program
from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Manifest
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.recover import Recovery
from bpfpin.pins.transaction import Stage
from bpfpin.sets.live import recovered, reopen
from bpfpin.sets.load.deploy import deploy
from bpfpin.spec import Hook
from bpfpin.syscall.fs import Rename
from support.here import veth
from support.hooks import idle

NAME = "set"
OURS = "tc_stats"


@pytest.fixture
def device() -> Iterator[str]:
    """A device without qdiscs."""
    with veth() as made:
        yield made


@pytest.fixture
def root(bpffs: Path, device: str) -> Iterator[Directory]:
    """A pin root with a set that has a filter of classic tc."""
    load(bpffs, device)
    with pin_roots.open_to_change(bpffs) as directory:
        yield directory


@pytest.fixture
def following() -> Iterator[Program]:
    """The program of the next generation."""
    with idle("following") as made:
        yield made


def load(root: Path, device: str) -> None:
    made = deploy("builtin:tc_stats", device=device, hook=Hook.TC_INGRESS, name=NAME, pin_root=root)
    made.close()


def live(root: Directory) -> PinSet:
    return PinSet.read(root.path, NAME)


def manifest_of(root: Directory) -> Manifest:
    manifest = live(root).manifest
    assert manifest is not None
    return manifest


def running(device: str) -> list[int]:
    return [one.program_id for one in clsact_filters(socket.if_nametoindex(device))]


def pinned(root: Directory) -> int:
    with Program.from_pin(live(root).programs[OURS]) as program:
        return program.id


def change(device: str, program: Program) -> None:
    """Let the filter run another program, as somebody else does it."""
    (found,) = clsact_filters(socket.if_nametoindex(device))
    clsact.change_filter(found.place, program.fd, program.name)


def abandon(root: Directory, program: Program, *, mark: str = "") -> None:
    """Leave the next generation as a command that is killed after it made *mark*."""
    manifest = manifest_of(root)
    (record,) = manifest.hooks
    with Stage(root, NAME) as stage:
        stage.pin_program("following", program)
        with Program.from_pin(live(root).programs[OURS]) as old:
            stage.pin_previous(record.link, old)
        hooks = (dataclasses.replace(record, program="following"),)
        generation = manifest.generation + 1
        following = dataclasses.replace(manifest, hooks=hooks, generation=generation)
        stage.write_manifest(following)
    if mark:
        with root.child(f"{NAME}~stage") as directory:
            directory.mark(mark)


def test_a_filter_is_opened_with_the_program_that_it_runs(root: Directory, device: str) -> None:
    manifest = manifest_of(root)
    hook = reopen(manifest.place, manifest.hooks[0])

    assert [hook.program_id()] == running(device) == [pinned(root)]


def test_an_update_expects_the_program_that_was_there(
    root: Directory, device: str, following: Program
) -> None:
    manifest = manifest_of(root)
    hook = reopen(manifest.place, manifest.hooks[0])
    with idle("another") as another, pytest.raises(ProgramChangedError):
        hook.update(following, expected_old=another)

    assert running(device) == [pinned(root)]


def test_a_filter_of_a_device_that_is_gone_is_told(root: Directory, device: str) -> None:
    manifest = manifest_of(root)
    subprocess.run(["ip", "link", "del", device], check=True)
    hook = reopen(manifest.place, manifest.hooks[0])
    with pytest.raises(InterfaceNotFoundError):
        hook.program_id()


def test_a_committed_stage_is_switched_by_whoever_comes_next(
    root: Directory, device: str, following: Program
) -> None:
    abandon(root, following, mark="commit~")

    assert recovered(root, NAME) is Recovery.FINISHED
    assert running(device) == [following.id]
    assert list(live(root).programs) == ["following"]


def test_an_uncommitted_stage_leaves_the_filter_to_the_old_set(
    root: Directory, device: str, following: Program
) -> None:
    before = manifest_of(root)
    abandon(root, following)

    assert recovered(root, NAME) is Recovery.UNDONE
    assert (running(device), manifest_of(root)) == ([pinned(root)], before)


def test_a_switch_that_was_begun_to_be_undone_is_undone(
    root: Directory, device: str, following: Program
) -> None:
    abandon(root, following, mark="abort~")
    change(device, following)

    assert recovered(root, NAME) is Recovery.TURNED_BACK
    assert running(device) == [pinned(root)]


def test_a_committed_stage_whose_filter_somebody_changed_is_turned_back(
    root: Directory, device: str, following: Program
) -> None:
    abandon(root, following, mark="commit~")
    with idle("theirs") as theirs:
        change(device, theirs)

        assert recovered(root, NAME) is Recovery.TURNED_BACK
        assert running(device) == [theirs.id]
    assert list(live(root).programs) == [OURS]


def test_a_committed_stage_whose_filter_was_removed_is_turned_back(
    root: Directory, device: str, following: Program
) -> None:
    abandon(root, following, mark="commit~")
    subprocess.run(["tc", "filter", "del", "dev", device, "ingress"], check=True)

    assert recovered(root, NAME) is Recovery.TURNED_BACK
    assert running(device) == []
    assert list(live(root).programs) == [OURS]


def test_after_the_exchange_the_filter_of_the_new_generation_stays(
    root: Directory, device: str, following: Program
) -> None:
    abandon(root, following, mark="commit~")
    change(device, following)
    root.rename(NAME, f"{NAME}~stage", Rename.EXCHANGE)

    assert recovered(root, NAME) is Recovery.FINISHED
    assert running(device) == [following.id]


@pytest.mark.parametrize("has_filter", [True, False], ids=["filter", "qdisc"])
def test_a_first_load_that_was_killed_is_undone_with_its_qdisc(
    bpffs: Path, device: str, *, has_filter: bool
) -> None:
    """Killed with the filter made, or with the qdisc alone."""
    load(bpffs, device)
    with pin_roots.open_to_change(bpffs) as root:
        root.rename(NAME, f"{NAME}~stage", Rename.NOREPLACE)
        if not has_filter:
            subprocess.run(["tc", "filter", "del", "dev", device, "ingress"], check=True)

        assert recovered(root, NAME) is Recovery.UNDONE
    assert running(device) == []
    assert clsact.qdiscs().get(socket.if_nametoindex(device)) is None


def test_what_is_undone_leaves_the_filters_of_others(root: Directory, device: str) -> None:
    root.rename(NAME, f"{NAME}~stage", Rename.NOREPLACE)
    with idle("theirs") as theirs:
        attach_clsact(theirs, device, Hook.TC_INGRESS, priority=7)

        assert recovered(root, NAME) is Recovery.UNDONE
        assert running(device) == [theirs.id]


def test_a_name_that_cannot_be_recovered_says_why(root: Directory, following: Program) -> None:
    abandon(root, following, mark="commit~")
    (root.path / f"{NAME}~stage" / "programs~" / "following").unlink()
    with pytest.raises(BpfError, match="following"):
        recovered(root, NAME)
