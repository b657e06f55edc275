"""The hooks of a set from one generation to the next: by compare-and-swap, or not at all."""

from __future__ import annotations

import dataclasses
import errno
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.errors import BpfError, InterfaceNotFoundError, PinExistsError, ProgramChangedError
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.pins import bpffs as pin_roots
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import HookRecord, Manifest, OutsidePin
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.recover import Recovery
from bpfpin.pins.transaction import Stage, next_generation
from bpfpin.sets.live import recovered, reopen
from bpfpin.sets.load.deploy import deploy
from bpfpin.spec import MapSpec
from bpfpin.syscall import call
from bpfpin.syscall.fs import Rename
from bpfpin.uapi import MapType

DEVICE = "switch0"


@pytest.fixture
def device() -> Iterator[int]:
    subprocess.run(["ip", "link", "add", DEVICE, "type", "veth", "peer", "switch1"], check=True)
    yield socket.if_nametoindex(DEVICE)
    subprocess.run(["ip", "link", "del", DEVICE], check=False, capture_output=True)


@pytest.fixture
def root(bpffs: Path, device: int) -> Iterator[Directory]:
    with pin_roots.open_to_change(bpffs) as directory:
        deploy("builtin:xdp_stats", device=DEVICE, pin_root=bpffs).close()
        yield directory
        subprocess.run(["rm", "-rf", str(bpffs / DEVICE)], check=True)


@pytest.fixture
def other() -> Iterator[Program]:
    with load(read_object("builtin:xdp_pass")) as loaded:
        (program,) = loaded.programs.values()
        yield program


def live(root: Directory) -> PinSet:
    return PinSet.read(root.path, DEVICE)


def running(root: Directory) -> int:
    with Link.from_pin(live(root).links["xdp"]) as link:
        return link.program_id()


def pinned(root: Directory) -> int:
    with Program.from_pin(live(root).programs["xdp_stats"]) as program:
        return program.id


def ids(root: Directory) -> dict[str, int]:
    found = {}
    for name, path in live(root).maps.items():
        with Map.from_pin(path) as held:
            found[name] = held.id
    return found


def ours(root: Directory) -> list[str]:
    return [name for name in root.names() if "." not in name and name != "bpfpin~"]


def build(root: Directory, stage: Stage, loaded: Loaded) -> Manifest:
    """Put the next generation of the set into *stage*: other programs, the same maps and link."""
    before = live(root)
    assert before.manifest is not None
    with root.child(DEVICE) as directory:
        for name in before.maps:
            stage.keep_map(name, directory)
        stage.keep_link("xdp", directory)
    with Program.from_pin(before.programs["xdp_stats"]) as old:
        stage.pin_previous("xdp", old)
    (program,) = loaded.programs
    stage.pin_program(program, loaded.programs[program])
    manifest = before.manifest
    return Manifest(
        "0.1.0",
        "next.o",
        "11" * 32,
        manifest.generation + 1,
        0,
        manifest.place,
        (HookRecord("xdp", program, "xdp", "auto", "native"),),
    )


def publish(
    root: Directory,
    loaded: Loaded,
    meanwhile: Callable[[], None] = lambda: None,
    *,
    outside: tuple[OutsidePin, ...] = (),
) -> None:
    """Publish the next generation; *meanwhile* comes between its making and its commit."""
    with next_generation(root, DEVICE, reopen) as stage:
        manifest = build(root, stage, loaded)
        stage.write_manifest(dataclasses.replace(manifest, outside=outside))
        meanwhile()


@pytest.fixture
def following() -> Iterator[Loaded]:
    with load(read_object("builtin:xdp_pass")) as loaded:
        yield loaded


def test_the_link_is_moved_in_place_and_the_old_generation_goes(
    root: Directory, following: Loaded
) -> None:
    (program,) = following.programs.values()
    before = ids(root)
    publish(root, following)

    assert running(root) == program.id
    assert ids(root) == before
    assert ours(root) == [DEVICE]
    assert not (root.path / DEVICE / "previous~").exists()


def test_a_link_that_somebody_changed_meanwhile_turns_the_outcome_to_the_old_set(
    root: Directory, following: Loaded, other: Program
) -> None:
    """What they attached is left, and so is the set: its link is the one that they changed."""
    before = live(root)

    def meanwhile() -> None:
        with Link.from_pin(before.links["xdp"]) as link:
            link.update(other)

    with pytest.raises(ProgramChangedError, match=f"runs program id {other.id} now"):
        publish(root, following, meanwhile)

    assert running(root) == other.id
    assert live(root) == before
    assert ours(root) == [DEVICE]


def test_a_device_that_vanishes_before_the_switch_leaves_the_old_set(
    root: Directory, following: Loaded
) -> None:
    before = live(root)

    def meanwhile() -> None:
        subprocess.run(["ip", "link", "del", DEVICE], check=True)

    with pytest.raises(InterfaceNotFoundError, match="is gone") as told:
        publish(root, following, meanwhile)

    assert told.value.exit_code == 4
    assert live(root) == before
    assert ours(root) == [DEVICE]


def abandon(root: Directory, loaded: Loaded, *, mark: str) -> None:
    """Leave what a command leaves that is killed after it made *mark*."""
    with Stage(root, DEVICE) as stage:
        stage.write_manifest(build(root, stage, loaded))
    with root.child(f"{DEVICE}~stage") as directory:
        directory.mark(mark)


def test_a_committed_stage_is_switched_by_whoever_comes_next(
    root: Directory, following: Loaded
) -> None:
    (program,) = following.programs.values()
    abandon(root, following, mark="commit~")

    assert recovered(root, DEVICE) is Recovery.FINISHED
    assert running(root) == program.id
    assert ours(root) == [DEVICE]


def test_a_switch_that_was_begun_to_be_undone_is_undone_by_whoever_comes_next(
    root: Directory, following: Loaded
) -> None:
    (program,) = following.programs.values()
    old = pinned(root)
    abandon(root, following, mark="abort~")
    with Link.from_pin(live(root).links["xdp"]) as link:
        link.update(program)

    assert recovered(root, DEVICE) is Recovery.TURNED_BACK
    assert running(root) == old
    assert ours(root) == [DEVICE]


def test_a_committed_stage_whose_link_was_changed_is_turned_back_by_whoever_comes_next(
    root: Directory, following: Loaded, other: Program
) -> None:
    abandon(root, following, mark="commit~")
    with Link.from_pin(live(root).links["xdp"]) as link:
        link.update(other)

    assert recovered(root, DEVICE) is Recovery.TURNED_BACK
    assert running(root) == other.id
    assert ours(root) == [DEVICE]


def test_after_the_exchange_only_cleaning_is_left(root: Directory, following: Loaded) -> None:
    (program,) = following.programs.values()
    with Program.from_pin(live(root).programs["xdp_stats"]) as old:
        abandon(root, following, mark="commit~")
        with Link.from_pin(live(root).links["xdp"]) as link:
            link.update(program, expected_old=old)
    root.rename(DEVICE, f"{DEVICE}~stage", Rename.EXCHANGE)

    assert recovered(root, DEVICE) is Recovery.FINISHED
    assert (running(root), ours(root)) == (program.id, [DEVICE])
    assert sorted(path.name for path in (root.path / DEVICE).iterdir()) == [
        "action",
        "layouts~",
        "links~",
        "manifest~",
        "objects~",
        "programs~",
        "xdp_stats_map",
    ]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOMEM])
def test_a_reload_that_fails_at_any_call_of_bpf_leaves_the_old_set_or_the_new(
    root: Directory, code: int
) -> None:
    """Refused by an error: the old one. Done nevertheless: the new one. Its maps stay both ways."""
    sources = {True: "builtin:xdp_pass", False: "builtin:xdp_stats"}
    outcomes = set()
    for nth in range(1, 80):
        old, is_stats = running(root), "xdp_stats" in live(root).programs
        try:
            with call.fail_call(nth, code):
                deploy(sources[is_stats], device=DEVICE, pin_root=root.path).close()
        except BpfError:
            outcomes.add("old")
        else:
            outcomes.add("new")
        is_new = ("xdp_stats" in live(root).programs) is not is_stats
        assert (running(root) != old) == is_new, nth
        assert ours(root) == [DEVICE], nth

    assert outcomes == {"old", "new"}


def test_a_shared_name_that_somebody_took_meanwhile_turns_the_outcome_to_the_old_set(
    root: Directory, following: Loaded
) -> None:
    pin = OutsidePin("xdp_stats_map", "tc/globals/shared")

    def meanwhile() -> None:
        for part in ("tc", "tc/globals"):
            (root.path / part).mkdir(mode=0o700)
        with Map.create(MapSpec("theirs", MapType.ARRAY, 4, 8, 1)) as made:
            made.pin(root.path / pin.path)

    with pytest.raises(PinExistsError, match="made by somebody else"):
        publish(root, following, meanwhile, outside=(pin,))

    assert running(root) == pinned(root)
    assert ours(root) == [DEVICE, "tc"]


def test_a_name_to_share_a_map_by_is_made_with_its_directories(
    root: Directory, following: Loaded
) -> None:
    before = ids(root)["xdp_stats_map"]
    publish(root, following, outside=(OutsidePin("xdp_stats_map", "tc/globals/shared"),))
    with Map.from_pin(root.path / "tc" / "globals" / "shared") as shared:
        assert shared.id == before
