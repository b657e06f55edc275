"""Reloads that are interrupted, or overtaken by somebody else: the old set or the new one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.xdp import attach_xdp
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec, XdpMode
from bpfpin.uapi import MapType
from support import isolation
from support.here import Here, tree, veth
from support.moments import (
    MOMENTS,
    OLD,
    interrupted,
    moments_of_a_reload,
    reload_command,
    stopped,
)
from support.nobody import NOBODY
from support.objects import compiled
from support.sets import xdp_program

COUNTERS = "xdp_stats_map"
BEFORE_THE_COMMIT = (
    "the look at the live set",
    "the verifier",
    "the first new pin",
    "the manifest",
)
STAGE = "mkdirat:2"  # of a first load, after the directory of the lock
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
CASES = [
    *((moment, signal.SIGINT) for moment in MOMENTS),
    *((moment, signal.SIGTERM) for moment in ("the verifier", "the commit", "the switch")),
]


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The calls of a reload at which something happens."""
    folder = tmp_path_factory.mktemp("moments")
    root = folder / "bpf"
    root.mkdir()
    isolation.mount("bpf", root)
    with veth() as device:
        found = moments_of_a_reload(Here(root, device), folder=folder)
    isolation.umount(root)
    return found


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def loaded(here: Here) -> Here:
    """A device with a set."""
    here.load(compiled(OLD))
    return here


def half_built(here: Here) -> list[str]:
    """Return what a command that did not clean up has left."""
    return [name for name in tree(here.root) if "~stage" in name or "commit~" in name]


@pytest.mark.parametrize(("moment", "number"), CASES)
def test_an_interrupted_reload_is_the_old_set_or_the_new_one(
    loaded: Here, moments: dict[str, str], moment: str, number: signal.Signals
) -> None:
    before = loaded.everything()
    result = interrupted(reload_command(loaded), number, moments[moment])
    after = loaded.everything()
    (status,) = loaded.ok("status", loaded.device)["sets"]
    with Program.from_pin(loaded.set / "programs~/count_port") as pinned:
        pinned_id = pinned.id
    maps = {one["name"] for one in status["maps"]}

    assert result.exit_code == result.json["error"]["exit"] == EXIT_CODES[number]
    assert half_built(loaded) == []
    assert (status["state"], after[1] and after[1].program_id) == ("ok", pinned_id)
    if moment in BEFORE_THE_COMMIT:
        assert after == before
    else:
        assert (status["generation"], maps) == (2, {COUNTERS, ".bss", "by_port"})


@pytest.mark.parametrize("moment", ["the verifier", "the commit"])
def test_a_program_that_somebody_puts_into_the_link_meanwhile_stays(
    loaded: Here, moments: dict[str, str], tmp_path: Path, moment: str
) -> None:
    before = tree(loaded.root)
    with xdp_program("theirs") as theirs:
        with stopped(reload_command(loaded), moments[moment], folder=tmp_path) as reload:
            with Link.from_pin(loaded.set / "links~/xdp") as link:
                link.update(theirs)
            result = reload.go_on()
        holder, theirs_id = loaded.holder(), theirs.id

    assert result.exit_code == 7
    assert f"program id {theirs_id}" in result.stderr
    assert tree(loaded.root) == before
    assert holder is not None
    assert holder.program_id == theirs_id


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_switch_that_fails_is_reported_after_the_roll_back(
    loaded: Here, moments: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    """SIGHUP has no handler: it ends the process when it is delivered."""
    before = tree(loaded.root)
    with xdp_program("theirs") as theirs:
        with stopped(reload_command(loaded), moments["the commit"], folder=tmp_path) as reload:
            with Link.from_pin(loaded.set / "links~/xdp") as link:
                link.update(theirs)
            reload.signal(number)
            result = reload.go_on()
        theirs_id = theirs.id

    assert tree(loaded.root) == before
    assert result.exit_code == EXIT_CODES.get(number, -number)
    if number in EXIT_CODES:
        assert f"program id {theirs_id}" in result.json["error"]["message"]


@pytest.mark.parametrize("moment", ["the verifier", "the commit"])
def test_a_device_that_goes_meanwhile_leaves_the_old_set(
    loaded: Here, moments: dict[str, str], tmp_path: Path, moment: str
) -> None:
    before = tree(loaded.root)
    with stopped(reload_command(loaded), moments[moment], folder=tmp_path) as reload:
        subprocess.run(["ip", "link", "del", loaded.device], check=True)
        result = reload.go_on()

    assert (result.exit_code, result.json["error"]["exit"]) == (4, 4), result.stderr
    assert tree(loaded.root) == before


def test_a_device_that_goes_during_its_first_load_leaves_nothing(
    here: Here, tmp_path: Path
) -> None:
    with stopped(reload_command(here), STAGE, folder=tmp_path) as load:
        subprocess.run(["ip", "link", "del", here.device], check=True)
        result = load.go_on()

    assert (result.exit_code, result.json["error"]["exit"]) == (4, 4), result.stderr
    assert [name for name in tree(here.root) if here.device in name] == []


def test_a_device_that_somebody_takes_during_a_first_load_is_theirs(
    here: Here, tmp_path: Path
) -> None:
    with xdp_program("theirs") as theirs:
        with (
            stopped(reload_command(here), STAGE, folder=tmp_path) as load,
            attach_xdp(theirs, here.device),
        ):
            result = load.go_on()
        theirs_id = theirs.id

    assert result.exit_code == 7
    assert f"program id {theirs_id} (theirs)" in result.stderr
    assert [name for name in tree(here.root) if here.device in name] == []


@pytest.mark.parametrize("moment", ["the verifier", "the commit"])
def test_a_program_that_somebody_puts_there_by_netlink_meanwhile_stays(
    here: Here, moments: dict[str, str], tmp_path: Path, moment: str
) -> None:
    index = socket.if_nametoindex(here.device)
    with xdp_program("theirs") as theirs, Netlink() as netlink:
        netlink.attach_xdp(theirs.fd, index, XdpMode.NATIVE)
        here.load(compiled(OLD), "--take-over")
        before = tree(here.root)
        with stopped(reload_command(here), moments[moment], folder=tmp_path) as reload:
            netlink.detach_xdp(index, XdpMode.NATIVE)
            netlink.attach_xdp(theirs.fd, index, XdpMode.NATIVE)
            result = reload.go_on()
        holder, theirs_id = here.holder(), theirs.id

    assert result.exit_code == 7
    assert f"program id {theirs_id}" in result.stderr
    assert tree(here.root) == before
    assert holder is not None
    assert holder.program_id == theirs_id


def test_a_shared_name_that_somebody_takes_meanwhile_is_theirs(here: Here, tmp_path: Path) -> None:
    command = reload_command(here, "shared_by_name", "--prog", "count_before")
    with Map.create(MapSpec("packets", MapType.ARRAY, 4, 8, 1)) as theirs:
        with stopped(command, STAGE, folder=tmp_path) as load:
            theirs.pin(here.root / "packets")
            result = load.go_on()
        with Map.from_pin(here.root / "packets") as left:
            is_theirs = left.id == theirs.id

    assert (result.exit_code, is_theirs) == (7, True)
    assert f"{here.root}/packets holds map id" in result.stderr
    assert [name for name in tree(here.root) if here.device in name] == []


def test_a_stage_that_somebody_makes_meanwhile_stays(
    loaded: Here, moments: dict[str, str], tmp_path: Path
) -> None:
    before = loaded.everything()
    stage = loaded.root / f"{loaded.device}~stage"
    with stopped(reload_command(loaded), moments["the verifier"], folder=tmp_path) as reload:
        stage.mkdir()
        os.chown(stage, NOBODY, NOBODY)
        result = reload.go_on()
    is_left = stage.exists()
    with suppress(FileNotFoundError):
        stage.rmdir()

    assert (result.exit_code, is_left) == (7, True), result.stderr
    assert loaded.everything() == before
