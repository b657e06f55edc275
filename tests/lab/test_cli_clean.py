"""`bpfpin clean` as a user runs it: what it removes, and all that it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.xdp import xdp_holder
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins.directory import Directory
from bpfpin.pins.lock import locked
from bpfpin.pins.pinset import SetState
from bpfpin.sets.choose import Source
from bpfpin.sets.clean import clean
from bpfpin.sets.load.deploy import deploy
from bpfpin.sets.status import status
from bpfpin.sets.undeploy import undeploy
from bpfpin.spec import MapSpec
from bpfpin.uapi import AttachType, MapType
from support.cli import run_cli, run_cli_ok
from support.isolation import mount, umount
from support.lab import TestLab
from support.nobody import run_cli_as_nobody
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

NOBODY = 65534
PID_MAX = 1 << 22  # no process has this id (PID_MAX_LIMIT of linux/threads.h)
DEVICE = "gone0"
MAPS = ["action", "xdp_stats_map"]


@pytest.fixture
def root(bpffs: Path) -> Path:
    """A pin root of the test's own, so that only its own leftovers are there."""
    return bpffs


@contextmanager
def device(name: str = DEVICE) -> Iterator[None]:
    """Make a device that is deleted at the end."""
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", f"{name}-peer"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def run(root: Path, *words: object) -> Any:
    """Run the command on *root* as a process and return its document."""
    return run_cli_ok(*words, "--pin-root", root, "-o", "json").json


def load(root: Path, device: str = DEVICE, source: Source = "builtin:xdp_stats") -> dict[str, int]:
    """Load and return the ids of the maps."""
    with deploy(source, device=device, pin_root=root) as deployment:
        return {name: held.id for name, held in deployment.maps.items()}


def cleaned(root: Path, *, dry_run: bool = False) -> Any:
    """Clean in this process and return the document."""
    return clean(pin_root=root, dry_run=dry_run).to_json()


def tree(root: Path) -> list[str]:
    """Return all names below *root* but the kernel's own and the lock's."""
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    return [name for name in found if "." not in name and name != "bpfpin~"]


def kill(root: Path, point: tuple[str, int], *words: str) -> None:
    """Run the command and kill it as it makes its so-manieth call of that name."""
    need("strace")
    call, number = point
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject]
    command = [sys.executable, "-m", "bpfpin", *words, "--pin-root", str(root)]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.run(["strace", *options, *command], env=env, check=False).returncode == -9


def left_reason(document: Any, path: Path) -> str:
    """Return why *path* was left."""
    (reason,) = [one["reason"] for one in document["left"] if one["path"] == str(path)]
    return str(reason)


def test_there_is_nothing_to_clean_in_an_empty_root(root: Path) -> None:
    told = run_cli_ok("clean", "--pin-root", root)

    assert run(root, "clean") == {"schema": 1, "result": "cleaned", "removed": [], "left": []}
    assert f"nothing to clean below {root}" in told.stderr


def test_there_is_nothing_to_clean_where_no_bpffs_was_ever_mounted() -> None:
    umount(Path("/sys/fs/bpf"))
    try:
        found = run_cli_ok("clean", "-o", "json").json
    finally:
        mount("bpf", Path("/sys/fs/bpf"))

    assert (found["removed"], found["left"]) == ([], [])


def test_what_a_dead_process_tried_an_exchange_with_is_removed(root: Path) -> None:
    gone, ours = f"bpfpin~probe~{PID_MAX}~1", f"bpfpin~probe~{os.getpid()}~1"
    for name in (gone, ours):
        (root / name).mkdir(mode=0o700)
    run_cli_ok("clean", "--pin-root", root)

    assert not (root / gone).exists()
    assert (root / ours).exists()


def test_what_is_no_bpffs_is_told_with_the_mount_line(tmp_path: Path) -> None:
    refused = run_cli("clean", "--pin-root", tmp_path)

    assert refused.exit_code == 4
    assert "one is mounted at /sys/fs/bpf" in refused.stderr


def test_a_set_whose_device_is_there_is_untouched(lab: TestLab, root: Path) -> None:
    load(root, lab.device)
    before = tree(root)
    found = cleaned(root)
    holder = xdp_holder(lab.ifindex)
    undeploy(lab.device, pin_root=root)

    assert (found["removed"], found["left"]) == ([], [])
    assert holder is not None
    assert lab.device in before


def test_what_is_left_of_a_reload_is_removed_and_not_said_to_be_rolled_back(
    lab: TestLab, root: Path
) -> None:
    """Killed while it removed the programs of the old generation, and the maps of it."""
    load(root, lab.device)
    told = []
    words = ("load", "builtin:xdp_stats", "--dev", lab.device, "--fresh", "all", "--force")
    for number in (10, 12):
        kill(root, ("unlinkat", number), *words)
        planned = cleaned(root, dry_run=True)["removed"]
        again = run_cli_ok("load", "--dev", lab.device, "--pin-root", root).stderr
        told.append((planned[0]["reason"], again.splitlines()[0]))
    kill(root, ("unlinkat", 10), *words)
    done = cleaned(root)["removed"]
    undeploy(lab.device, pin_root=root)

    line = "note: removed what a killed command had left over"
    reason = "a dead process had not removed all of it: removed"
    assert told == [(reason, line)] * 2
    assert [one["reason"] for one in done] == [reason]


def test_a_set_whose_device_is_gone_is_removed_and_a_dry_run_says_so(root: Path) -> None:
    with device():
        load(root)
    before = tree(root)
    planned = run(root, "clean", "--dry-run")
    after_planning = tree(root)
    done = run(root, "clean")

    reason = "device gone0 is gone, and nothing uses it"
    assert planned["result"] == "planned"
    assert planned["removed"] == [{"kind": "set", "path": f"{root}/gone0", "reason": reason}]
    assert after_planning == before
    assert {**done, "result": "planned"} == planned
    assert tree(root) == []


def test_a_dry_run_is_told_as_one(root: Path) -> None:
    with device():
        load(root)
    told = run_cli_ok("clean", "--dry-run", "--pin-root", root)

    assert f"set   {root}/gone0" in told.stdout
    assert "dry run: nothing was changed" in told.stderr


def test_a_set_goes_with_the_namespace_of_its_device(root: Path) -> None:
    subprocess.run(["ip", "netns", "add", "gone-ns"], check=True)
    ends = [DEVICE, "type", "veth", "peer", "inside0", "netns", "gone-ns"]
    subprocess.run(["ip", "link", "add", *ends], check=True)
    deploy("builtin:xdp_stats", device="inside0", netns="gone-ns", pin_root=root).close()
    here = cleaned(root)
    subprocess.run(["ip", "netns", "del", "gone-ns"], check=True)
    wait_until(lambda: status(pin_root=root).sets[0].state is SetState.DEFUNCT)
    gone = cleaned(root)

    assert (here["removed"], here["left"]) == ([], [])
    assert [one["path"] for one in gone["removed"]] == [f"{root}/gone-ns@inside0"]
    assert tree(root) == []


def test_a_set_whose_device_has_a_namesake_waits_for_the_next_load(root: Path) -> None:
    with device():
        first = load(root)
    with device():
        left = cleaned(root)
        again = load(root)
        undeploy(DEVICE, pin_root=root)

    assert left["removed"] == []
    assert "another has its name" in left_reason(left, root / DEVICE)
    assert again == first


def test_a_map_that_a_process_holds_open_stays_until_it_is_let_go(root: Path) -> None:
    with device():
        load(root)
    with Map.from_pin(root / DEVICE / "action") as held:
        first, again = run(root, "clean"), run(root, "clean")
        kept = tree(root / DEVICE)
        with Map.from_pin(root / DEVICE / "action") as same:
            assert same.id == held.id
    last = cleaned(root)

    assert [one["kind"] for one in first["removed"]] == ["link", "program", "map"]
    assert f"process {os.getpid()}" in left_reason(first, root / DEVICE / "action")
    assert [name for name in kept if "~" not in name] == ["action"]
    assert (again["removed"], again["left"]) == ([], first["left"])
    assert [one["kind"] for one in last["removed"]] == ["set"]
    assert tree(root) == []


def test_a_map_that_is_pinned_elsewhere_stays(root: Path) -> None:
    with device():
        load(root)
    elsewhere = root / "shared"
    with Map.from_pin(root / DEVICE / "action") as held:
        held.pin(elsewhere)
    found = cleaned(root)

    assert f"pin {elsewhere}" in left_reason(found, root / DEVICE / "action")
    assert elsewhere.exists()


def test_a_map_that_a_program_of_another_set_uses_stays(lab: TestLab, root: Path) -> None:
    with device():
        load(root)
        shared = root / DEVICE / "xdp_stats_map"
        run(root, "load", "--dev", lab.device, "--map", f"xdp_stats_map={shared}")
    found = cleaned(root)
    undeploy(lab.device, pin_root=root)
    last = cleaned(root)

    assert "program " in left_reason(found, shared)
    assert [one["kind"] for one in last["removed"]] == ["set"]


def test_a_name_that_the_set_shared_its_map_by_goes_with_it(root: Path) -> None:
    with device():
        load(root, source=compiled("shared_by_name"))
    before = tree(root)
    found = cleaned(root)

    assert "packets" in before
    assert [one["kind"] for one in found["removed"]] == ["set"]
    assert tree(root) == []


def test_a_name_that_the_set_shared_its_map_by_stays_while_it_is_used(root: Path) -> None:
    with device():
        load(root, source=compiled("shared_by_name"))
    with Map.from_pin(root / "packets") as held:
        run(root, "clean")
        still = Map.from_pin(root / "packets")
        with still:
            is_same = still.id == held.id
    cleaned(root)

    assert is_same
    assert tree(root) == []


def test_a_program_that_somebody_else_attached_keeps_its_set(lab: TestLab, root: Path) -> None:
    with device():
        load(root)
    before = tree(root)
    with (
        Program.from_pin(root / DEVICE / "programs~" / "xdp_stats") as program,
        Link.create(program, lab.ifindex, AttachType.XDP) as link,
    ):
        found = cleaned(root)
        link_id = link.id

    assert found["removed"] == []
    assert f"by links of others: id {link_id}" in left_reason(found, root / DEVICE)
    assert tree(root) == before


def test_kept_maps_are_no_leftover(root: Path) -> None:
    with device():
        load(root)
        undeploy(DEVICE, pin_root=root, keep_maps=True)
        here = cleaned(root)
    gone = cleaned(root)

    assert (here["removed"], gone["removed"]) == ([], [])
    for found in (here, gone):
        assert f"kept for the next load; to remove it: bpfpin unload {DEVICE}" in left_reason(
            found, root / DEVICE
        )
    assert [name for name in tree(root / DEVICE) if "~" not in name] == MAPS


@pytest.mark.parametrize("content", [[], ["programs~", "links~"], ["programs~", "commit~x"]])
def test_a_stage_that_a_dead_command_left_is_undone_if_it_is_ours(
    root: Path, content: list[str]
) -> None:
    stage = root / "left~stage"
    stage.mkdir(mode=0o700)
    for name in content:
        (stage / name).mkdir()
    is_ours = "commit~x" not in content
    found = cleaned(root)

    assert [one["path"] for one in found["removed"]] == ([str(stage)] if is_ours else [])
    assert stage.exists() is not is_ours


@pytest.mark.parametrize(
    ("point", "reason", "is_loaded"),
    [
        (("symlinkat", 1), "undone", False),
        (("renameat2", 2), "finished", True),
    ],
)
def test_what_a_killed_load_left_is_undone_or_finished(
    root: Path, point: tuple[str, int], reason: str, is_loaded: bool
) -> None:
    """Before the commit mark all of it goes, after it all of it comes."""
    with device():
        kill(root, point, "load", "--dev", DEVICE)
        planned, found = cleaned(root, dry_run=True), cleaned(root)
        sets = status(pin_root=root)
        if is_loaded:
            undeploy(DEVICE, pin_root=root)

    assert planned["removed"] == found["removed"]
    assert [one["reason"].rpartition(": ")[2] for one in found["removed"]] == [reason]
    assert [one.set for one in sets.sets] == [DEVICE] * is_loaded
    assert sets.problems == ()
    assert tree(root) == []


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("point", [("renameat2", 1), ("unlinkat", 1), ("unlinkat", 4)])
def test_a_killed_clean_is_finished_by_the_next(
    root: Path, point: tuple[str, int], is_used: bool
) -> None:
    with device():
        load(root)
    with ExitStack() as held:
        if is_used:
            held.enter_context(Map.from_pin(root / DEVICE / "action"))
        kill(root, point, "clean")
        run(root, "clean")
        pins = [name for name in tree(root) if "~" not in name]
    cleaned(root)

    assert pins == ([DEVICE, f"{DEVICE}/action"] if is_used else [])
    assert tree(root) == []


def test_nothing_that_is_not_ours_is_touched(root: Path) -> None:
    (root / "tc" / "globals").mkdir(parents=True)
    with Map.create(MapSpec("mine", MapType.ARRAY, 4, 4, 1)) as held:
        held.pin(root / "tc" / "globals" / "mine")
        held.pin(root / "pin_by_name")
    for name in ("squatted", "squatted~stage"):
        (root / name).mkdir()
        os.chown(root / name, NOBODY, NOBODY)
    (root / "forged").mkdir(mode=0o700)
    (root / "forged" / "manifest~").symlink_to("{}")
    (root / "writable~stage").mkdir()
    (root / "writable~stage").chmod(0o777)
    before = tree(root)
    found = cleaned(root)

    assert found["removed"] == []
    assert tree(root) == before
    assert {Path(one["path"]).name for one in found["left"]} == {
        *("tc", "squatted", "squatted~stage", "forged", "writable~stage")
    }
    assert "uid 65534" in left_reason(found, root / "squatted~stage")
    assert "its manifest is damaged" in left_reason(found, root / "forged")


def test_something_foreign_within_a_set_keeps_the_set(root: Path) -> None:
    with device():
        load(root)
    (root / DEVICE / "mine").mkdir()
    found = cleaned(root)

    assert found["removed"] == []
    assert "it holds 'mine'" in left_reason(found, root / DEVICE)
    assert (root / DEVICE / "links~" / "xdp").exists()


def test_a_command_at_work_is_waited_for(root: Path) -> None:
    with Directory.open(root) as directory, locked(directory, timeout_s=0):
        refused = run_cli("clean", "--pin-root", root, "--lock-timeout", "0.1")

    assert refused.exit_code == 7
    assert f"process {os.getpid()}" in refused.stderr


def test_cleaning_needs_what_unloading_needs(root: Path) -> None:
    refused = run_cli_as_nobody("clean", "--pin-root", root)

    assert refused.exit_code == 3
    assert f"cleaning {root} needs CAP_BPF" in refused.stderr
    assert f"clean --pin-root {root}" in refused.stderr
