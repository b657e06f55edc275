"""One `load` on several devices or cgroups: all sets change, or none does, also after a kill."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import HookBusyError, UsageError
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.bpffs import open_to_change
from bpfpin.pins.directory import remove_tree
from bpfpin.sets.load.deploy import deploy_all
from bpfpin.uapi import Cmd
from support import isolation
from support.crash import Fault, Injection, Point, calls_of_a_process, faulted
from support.here import Here, decisions, id_at, maps_used, veth
from support.holders import running, their_link, their_program
from support.hooks import new_cgroup, refuse
from support.moments import interrupted, stopped
from support.objects import compiled
from support.sets import xdp_program
from support.shapes import COUNTED, COUNTERS, WIDER, loaded, read, version
from support.wait import wait_until

OLD, NEW = "reload_old", "reload_new"
SHARED = ("shared_by_name", "--prog", "count_before")
WHEREVER = ("at the first switch", "at the second switch", "when all are switched", "in between")


@dataclass(frozen=True)
class Two:
    """Two devices with sets in one pin root."""

    first: Here
    second: Here

    @property
    def root(self) -> Path:
        """The pin root."""
        return self.first.root

    def words(self, source: str, *words: object) -> list[str]:
        """Return the line that loads an object on both devices."""
        devices = ("--dev", self.first.device, "--dev", self.second.device)
        line = ("load", compiled(source), *devices, *words, "--pin-root", self.root, "-o", "json")
        return [*map(str, line)]

    def load(self, source: str, *words: object) -> list[dict[str, Any]]:
        """Load an object on both devices, which must succeed, and return what became of them."""
        devices = ("--dev", self.first.device, "--dev", self.second.device)
        sets: list[dict[str, Any]] = self.first.ok("load", compiled(source), *devices, *words)[
            "sets"
        ]
        return sets

    def everything(self) -> tuple[object, ...]:
        """Return all names with what they are, the records of changes, and who is attached."""
        return (self.first.everything(), self.second.everything(), self.records())

    def records(self) -> list[str]:
        """Return the records that changes of several sets have left."""
        lock = self.root / names.LOCK_DIRECTORY
        return [path.name for path in lock.glob(f"{names.TARGETS}*")]

    def refused(self, exit_code: int, source: str, *words: object) -> str:
        """Load an object on both, which must be refused and change nothing; return the words."""
        before = self.everything()
        result = self.first.run(*self.words(source, *words)[:-4])

        assert result.exit_code == exit_code, result.stderr
        self.wait_until_it_is(before)
        return result.stderr

    def wait_until_it_is(self, before: tuple[object, ...]) -> None:
        """Wait until all is as before: the kernel frees a link a moment after its last pin went."""
        wait_until(lambda: self.everything() == before)

    def generations(self) -> tuple[int, int]:
        """Return the generation of each set; every one runs the program that is pinned in it."""
        found = []
        for here in (self.first, self.second):
            (status,) = here.ok("status", here.device)["sets"]
            (program,) = status["programs"]
            assert (status["state"], program["id"]) == ("ok", running(here)), status
            found.append(status["generation"])
        assert self.records() == []
        first, second = found
        return first, second


@pytest.fixture
def two(bpffs: Path) -> Iterator[Two]:
    """Two devices without traffic, and a pin root of their own."""
    with veth() as first, veth() as second:
        yield Two(Here(bpffs, first), Here(bpffs, second))


@pytest.fixture
def reloading(two: Two) -> Two:
    """Two devices with a set each."""
    two.load(OLD)
    return two


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Point]:
    """What finds a call of a reload of both sets by its arguments."""
    folder = tmp_path_factory.mktemp("calls")
    root = folder / "bpf"
    root.mkdir()
    isolation.mount("bpf", root)
    with veth() as first, veth() as second:
        two = Two(Here(root, first), Here(root, second))
        two.load(OLD)
        line = [sys.executable, "-m", "bpfpin", *two.words(NEW)]
        calls = calls_of_a_process(line, folder=folder)
    isolation.umount(root)

    def find_call(told: str, number: int = 0) -> Point:
        return [call for call in calls if re.search(told, call.arguments)][number]

    return find_call


def kill(two: Two, point: Point, folder: Path) -> None:
    """Kill a reload of both sets at a call."""
    line = two.words(NEW)
    ending = faulted(line, Injection(point, Fault.KILL), folder=folder)
    assert ending.exit == -signal.SIGKILL


def test_two_devices_get_a_set_each(two: Two) -> None:
    sets = two.load(OLD)
    again = two.load(OLD)

    assert [one["set"] for one in sets] == [two.first.device, two.second.device]
    assert [one["result"] for one in (*sets, *again)] == ["loaded"] * 2 + ["unchanged"] * 2
    assert two.generations() == (1, 1)


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize("held_by", [their_link, their_program])
def test_nothing_is_loaded_when_the_second_device_is_busy(
    two: Two, held_by: Callable[[Here], Any], words: tuple[str, ...]
) -> None:
    with held_by(two.second):
        told = two.refused(7, OLD, *words)

    assert two.second.device in told
    assert "--take-over" in told


def test_the_refusal_says_that_the_other_was_not_changed(two: Two) -> None:
    with their_link(two.second):
        told = two.refused(7, OLD)

    assert f"nothing was changed in {two.first.device}, {two.second.device}" in told


def test_a_map_that_does_not_fit_in_the_second_keeps_the_first(two: Two) -> None:
    two.first.load(compiled(OLD))
    two.second.load(compiled("reload_incompatible"))
    told = two.refused(6, OLD)

    assert str(two.second.set) in told


def test_one_is_loaded_and_the_other_is_reloaded(two: Two) -> None:
    two.second.load(compiled(OLD))
    first, second = two.load(NEW)

    assert (first["result"], second["result"]) == ("loaded", "reloaded")
    assert two.generations() == (1, 2)


def test_a_program_of_somebody_else_is_taken_over_on_one_of_them(two: Two) -> None:
    with their_link(two.second) as link:
        _, second = two.load(OLD, "--take-over")
        ids = (link.program_id(), running(two.second))

    assert ids == (second["programs"][0]["id"],) * 2


def test_a_map_pinned_by_name_is_made_once_for_both(two: Two) -> None:
    first, second = two.load(*SHARED)
    shared = two.root / "packets"
    used = [maps_used(first), maps_used(second)]

    assert (decisions(first), decisions(second)) == ({"packets": "created"}, {"packets": "shared"})
    assert used == [[id_at(shared)]] * 2
    two.first.ok("unload", two.first.device)
    assert shared.exists()
    two.second.ok("unload", two.second.device)
    assert not shared.exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_name_for_both_is_not_left_when_the_second_refuses(
    two: Two, words: tuple[str, ...]
) -> None:
    with their_link(two.second):
        two.refused(7, *SHARED, *words)

    assert not (two.root / "packets").exists()


def test_a_shared_name_of_another_set_stays_when_a_load_goes_back(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, *chosen = SHARED
    two.first.load(compiled(source), *chosen)
    words = ("load", compiled(source), "--dev", two.second.device, *chosen, "--take-over")
    with their_link(two.second), monkeypatch.context() as kernel:
        refuse(kernel, errno.EPERM, Cmd.LINK_UPDATE)
        refused = two.second.run(*words)

    assert "BPF_LINK_UPDATE" in refused.stderr
    assert not two.second.set.exists()
    assert id_at(two.root / "packets") == id_at(two.first.set / "packets")


def test_contents_are_moved_in_one_of_them_and_the_other_is_loaded(two: Two) -> None:
    loaded(two.first, version(), COUNTED)
    wider = version(**WIDER)
    devices = ("--dev", two.first.device, "--dev", two.second.device)
    two.first.ok("load", wider, *devices, "--migrate")

    assert read(two.first.set / COUNTERS) == {
        key: {**value, "drops": 0} for key, value in COUNTED.items()
    }
    assert two.generations() == (2, 1)


def test_contents_stay_where_they_are_when_the_other_refuses(two: Two) -> None:
    loaded(two.first, version(), COUNTED)
    before = two.everything()
    devices = ("--dev", two.first.device, "--dev", two.second.device)
    with their_link(two.second):
        held = two.everything()
        result = two.first.run("load", version(**WIDER), *devices, "--migrate")
        assert result.exit_code == 7
        two.wait_until_it_is(held)

    two.wait_until_it_is(before)
    assert read(two.first.set / COUNTERS) == COUNTED


def test_filters_of_classic_tc_go_with_the_refusal_of_another_device(two: Two) -> None:
    programs = (
        "--prog",
        "tc_in:tc-ingress",
        "--prog",
        "xdp_in:xdp",
        "--prog",
        "tcx_in:tcx-ingress",
    )
    with their_link(two.second):
        two.refused(7, "places_old", *programs)
    two.load("places_old", *programs)
    with xdp_program("theirs") as theirs, Link.from_pin(two.second.set / "links~/xdp") as link:
        link.update(theirs)
        before = two.everything()
        result = two.first.run(*two.words("places_new", *programs)[:-4])

    assert result.exit_code == 7, result.stderr
    wait_until(lambda: two.everything()[0] == before[0])


def test_two_cgroups_are_loaded_together_or_not_at_all(bpffs: Path, tmp_path: Path) -> None:
    with new_cgroup(tmp_path / "a") as first, veth() as device, ExitStack() as undo:
        second = first / "b"
        second.mkdir()
        undo.callback(second.rmdir)
        here = Here(bpffs, device)
        words = ("--cgroup", first, "--cgroup", second)
        sets = here.ok("load", "builtin:cgroup_stats", *words)["sets"]
        before = here.everything()
        missing = here.run("load", "builtin:cgroup_stats", *words, "--cgroup", first / "no")
        left = here.everything()
        for one in sets:
            here.ok("unload", one["set"])

    assert [one["result"] for one in sets] == ["loaded", "loaded"]
    assert (missing.exit_code, left) == (4, before)


@pytest.mark.parametrize("extra", [("--name", "mine"), ("--cgroup", "/")])
def test_what_several_devices_cannot_share_is_a_usage_error(
    two: Two, extra: tuple[str, str]
) -> None:
    two.refused(2, OLD, *extra)


def test_a_device_named_twice_is_one(two: Two) -> None:
    device = two.first.device
    document = two.first.ok("load", compiled(OLD), "--dev", device, "--dev", device)

    assert document["set"] == device


def test_the_library_loads_on_all_or_none(two: Two) -> None:
    devices = [two.first.device, two.second.device]
    before = two.everything()
    with their_link(two.second), pytest.raises(HookBusyError, match=devices[1]):
        deploy_all(compiled(OLD), devices=devices, pin_root=two.root)
    two.wait_until_it_is(before)
    deployments = deploy_all(compiled(OLD), devices=devices, pin_root=two.root)
    ids = [deployment.maps["xdp_stats_map"].id for deployment in deployments]
    for deployment in deployments:
        deployment.close()

    assert ids == [id_at(here.set / "xdp_stats_map") for here in (two.first, two.second)]
    with pytest.raises(UsageError, match="several devices and cgroups"):
        deploy_all(compiled(OLD), devices=devices, cgroups=["/"], pin_root=two.root)


@pytest.mark.parametrize("moment", ["commit~", "abort"])
def test_a_hook_that_refuses_after_the_commit_brings_all_back(
    reloading: Two, find: Callable[..., Point], tmp_path: Path, moment: str
) -> None:
    before = reloading.everything()
    point = find("commit~") if moment == "commit~" else find("BPF_LINK_UPDATE")
    line = [sys.executable, "-m", "bpfpin", *reloading.words(NEW)]
    with (
        xdp_program("theirs") as theirs,
        Link.from_pin(reloading.second.set / "links~/xdp") as link,
    ):
        own = link.program_id()
        with stopped(line, f"{point.call}:{point.number}", folder=tmp_path) as reload:
            link.update(theirs)
            result = reload.go_on()
        is_theirs = link.program_id() == theirs.id
    after = reloading.everything()

    assert (result.exit_code, is_theirs) == (7, True), result.stderr
    assert (after[0], after[2]) == (before[0], [])
    assert after[1][0] == before[1][0]  # type: ignore[index]
    assert own != 0


@pytest.mark.parametrize(
    "case",
    [
        *((moment, "load the first") for moment in WHEREVER),
        *((moment, "clean") for moment in WHEREVER),
        ("at the second switch", "load"),
        ("in between", "load the second"),
        ("when all are switched", "load the second"),
        ("in between", "unload"),
    ],
)
def test_whatever_comes_next_after_a_kill_makes_both_the_same(
    reloading: Two, find: Callable[..., Point], tmp_path: Path, case: tuple[str, str]
) -> None:
    moment, healer = case
    before = reloading.generations()
    exchanged = r"~stage.*RENAME_EXCHANGE"
    point = {
        "at the first switch": lambda: find("BPF_LINK_UPDATE", 0),
        "at the second switch": lambda: find("BPF_LINK_UPDATE", 1),
        "when all are switched": lambda: find("switched~"),
        "in between": lambda: find(exchanged, 1),
    }[moment]()
    kill(reloading, point, tmp_path)
    two, first, second = reloading, reloading.first, reloading.second
    if healer == "load":
        two.load(NEW)
    elif healer == "load the first":
        first.load(compiled(NEW))
    elif healer == "load the second":
        second.load(compiled(NEW))
    elif healer == "clean":
        first.ok("clean")
    else:
        first.ok("unload", first.device)
        two.load(NEW)

    generations = two.generations()
    assert generations[1] == before[1] + 1
    assert generations[0] == (1 if healer == "unload" else before[0] + 1)


def test_what_a_killed_command_attached_is_not_called_somebody_elses(
    reloading: Two, find: Callable[..., Point], tmp_path: Path
) -> None:
    kill(reloading, find("switched~"), tmp_path)
    told = reloading.first.ok("status")
    mine = {reloading.first.device, reloading.second.device}

    assert [one["state"] for one in told["sets"]] == ["half-built", "half-built"]
    assert [one for one in told["others"] if one["device"] in mine] == []


def test_a_device_that_is_gone_after_a_kill_brings_all_back(
    reloading: Two, find: Callable[..., Point], tmp_path: Path
) -> None:
    before = running(reloading.first)
    kill(reloading, find("BPF_LINK_UPDATE", 1), tmp_path)
    halfway = running(reloading.first)
    subprocess.run(["ip", "link", "del", reloading.second.device], check=True)
    told = reloading.first.ok("clean")
    after = running(reloading.first)

    assert halfway != before
    assert after == before
    assert any("the previous programs run again" in one["reason"] for one in told["removed"]), told
    assert reloading.records() == []


def test_a_record_that_somebody_removed_brings_each_set_back(
    reloading: Two, find: Callable[..., Point], tmp_path: Path
) -> None:
    before = [running(here) for here in (reloading.first, reloading.second)]
    kill(reloading, find("switched~"), tmp_path)
    (record,) = reloading.records()
    with open_to_change(reloading.root) as root, root.child(names.LOCK_DIRECTORY) as lock:
        remove_tree(lock, record)
    reloading.first.ok("clean")

    assert [running(here) for here in (reloading.first, reloading.second)] == before
    reloading.generations()


def test_a_stage_of_a_later_change_is_not_taken_for_one_of_an_old_record(
    reloading: Two, find: Callable[..., Point], tmp_path: Path
) -> None:
    before = reloading.generations()
    kill(reloading, find("switched~"), tmp_path)
    stale = reloading.root / names.LOCK_DIRECTORY / f"{names.TARGETS}{'0' * 16}"
    stale.mkdir(mode=0o700)
    (stale / reloading.first.device).mkdir(mode=0o700)
    (stale / names.ABORT).mkdir(mode=0o700)
    reloading.first.load(compiled(NEW))

    assert reloading.generations() == (before[0] + 1, before[1] + 1)


def test_ctrl_c_after_the_commit_waits_until_both_are_new(
    reloading: Two, find: Callable[..., Point], tmp_path: Path
) -> None:
    before = reloading.generations()
    point = find("BPF_LINK_UPDATE", 1)
    line = [sys.executable, "-m", "bpfpin", *reloading.words(NEW)]
    result = interrupted(line, signal.SIGINT, f"{point.call}:{point.number}")

    assert result.exit_code == 130
    assert reloading.generations() == (before[0] + 1, before[1] + 1)


def test_readers_keep_the_same_maps_through_a_change_of_both(reloading: Two) -> None:
    pins = [here.set / "xdp_stats_map" for here in (reloading.first, reloading.second)]
    before = [id_at(pin) for pin in pins]
    reloading.load(NEW)
    with Map.from_pin(pins[0], read_only=True) as first:
        same = first.id == before[0]

    assert same
    assert [id_at(pin) for pin in pins] == before
