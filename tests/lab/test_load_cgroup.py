"""`load` at the hooks of a cgroup, as a user types it, and what its processes then do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.spec import Hook
from bpfpin.syscall import fs
from bpfpin.uapi import ProgramType
from support import isolation
from support.here import Here, decisions, map_ids, packets, veth
from support.hooks import idle_at, new_cgroup
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

CGROUP_STATS = "builtin:cgroup_stats"
COUNTERS = "xdp_stats_map"
PASSED = 2
OLD, NEW = "places_old", "places_new"
BOTH = ("--prog", "cgroup_in", "--prog", "cgroup_out")
EGRESS = ("--prog", "cgroup_egress")
SEND = """
import os, socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs: procs.write(str(os.getpid()))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(int(sys.argv[2])): sender.sendto(b"x", ("127.0.0.1", 9999))
"""


@dataclass(frozen=True)
class Web:
    """A cgroup, and a pin root in which sets of cgroups are made."""

    here: Here
    folder: Path

    @property
    def word(self) -> str:
        """What is typed, relative to the mount."""
        return self.folder.name

    @property
    def set(self) -> Path:
        """The directory of the set that is called after the cgroup."""
        return self.here.root / f"@{self.folder.name}"

    def load(self, source: object, *words: object) -> Any:
        """Load an object on the cgroup, which must succeed."""
        return self.here.ok("load", source, "--cgroup", self.folder, *words)

    def everything(self) -> tuple[object, ...]:
        """Return all names of the pin root, and what the cgroup runs."""
        return *self.here.everything(), self.running()

    def running(self) -> list[int]:
        """Return the programs of the cgroup, as bpftool sees them."""
        need("bpftool")
        shown = subprocess.run(
            ["bpftool", "-j", "cgroup", "show", str(self.folder)], capture_output=True, check=True
        ).stdout
        return [one["id"] for one in json.loads(shown.strip() or "[]")]

    def send(self, times: int) -> None:
        """Send from a process of the cgroup."""
        words = [sys.executable, "-c", SEND, str(self.folder), str(times)]
        subprocess.run(words, check=True)


@pytest.fixture
def web(bpffs: Path, tmp_path: Path) -> Iterator[Web]:
    """A cgroup without processes, and a pin root of its own."""
    with new_cgroup(tmp_path / "cgroup2") as folder, veth() as device:
        # The mount that the commands find is the system's: the same folders.
        yield Web(Here(bpffs, device), folder)


def ids(document: Any) -> list[int]:
    return [program["id"] for program in document["programs"]]


def test_both_directions_count_through_a_reload(web: Web) -> None:
    first = web.load(compiled(OLD), *BOTH)
    web.send(10)
    again = web.load(compiled(OLD), *BOTH)
    second = web.load(compiled(NEW), *BOTH)
    web.send(7)
    with Map.from_pin(web.set / "counts", read_only=True) as counts:
        counted = list(counts.values())

    assert [one["result"] for one in (first, again, second)] == ["loaded", "unchanged", "reloaded"]
    assert first["set"] == f"@{web.word}"
    assert [(one["hook"], one["cgroup"], one["device"]) for one in second["programs"]] == [
        ("cgroup-inet-ingress", f"/{web.word}", None),
        ("cgroup-inet-egress", f"/{web.word}", None),
    ]
    assert links(second) == links(first)
    assert decisions(second)["counts"] == "kept"
    assert counted == [0, 0, 0, 0, 17]
    assert sorted(web.running()) == sorted(ids(second))


def links(document: Any) -> list[int]:
    return [program["link"] for program in document["programs"]]


def test_unloading_leaves_the_cgroup_as_it_was(web: Web) -> None:
    before = web.everything()
    web.load(CGROUP_STATS)
    told = web.here.run("unload", web.folder)

    assert (told.exit_code, web.everything()) == (0, before)
    assert f"detached from cgroup /{web.word}" in told.stderr


def test_a_dry_run_changes_nothing(web: Web) -> None:
    before = web.everything()
    planned = web.load(CGROUP_STATS, "--dry-run")

    assert web.everything() == before
    assert [hook["device"] for hook in planned["hooks"]] == [f"cgroup /{web.word}"] * 2


def test_kept_maps_go_on_and_fresh_ones_start_anew(web: Web) -> None:
    first = web.load(CGROUP_STATS, *EGRESS)
    web.send(5)
    web.here.ok("unload", f"@{web.word}", "--keep-maps")
    web.send(5)
    second = web.load(CGROUP_STATS, *EGRESS)
    kept = packets(web.set / COUNTERS, PASSED)
    third = web.load(CGROUP_STATS, *EGRESS, "--fresh", COUNTERS)

    assert map_ids(second) == map_ids(first)
    assert kept == 5
    assert decisions(third) == {COUNTERS: "fresh"}
    assert packets(web.set / COUNTERS, PASSED) == 0


@pytest.mark.parametrize("form", ["{word}", "{folder}", "/{word}", "{folder}/"])
def test_a_cgroup_is_named_in_several_ways(web: Web, form: str) -> None:
    typed = form.format(word=web.word, folder=web.folder)
    loaded = web.here.ok("load", CGROUP_STATS, "--cgroup", typed)
    again = web.load(CGROUP_STATS)

    assert (loaded["set"], again["result"]) == (f"@{web.word}", "unchanged")


def test_the_whole_hierarchy_is_a_cgroup_too(web: Web) -> None:
    loaded = web.here.ok("load", CGROUP_STATS, *EGRESS, "--cgroup", "/")
    web.send(3)
    counted = packets(Path(loaded["path"]) / COUNTERS, PASSED)
    again = web.here.ok("load", CGROUP_STATS, *EGRESS, "--cgroup", cgroup2_mount())
    web.here.ok("unload", loaded["set"])

    assert (loaded["programs"][0]["cgroup"], again["result"]) == ("/", "unchanged")
    assert counted >= 3


@pytest.mark.parametrize("form", ["@{word}", "{folder}", "/{word}"])
def test_a_set_is_found_by_its_name_and_by_its_folder(web: Web, form: str) -> None:
    web.load(CGROUP_STATS, *EGRESS)
    web.send(4)
    target = form.format(word=web.word, folder=web.folder)
    (shown,) = web.here.ok("status", target)["sets"]
    counted = web.here.run("stats", target, "--count", "1", "--interval", "0.01")
    web.here.ok("unload", target)

    assert (shown["set"], shown["state"]) == (f"@{web.word}", "ok")
    assert (counted.exit_code, '"packets": 4' in counted.stdout) == (0, True), counted
    assert web.running() == []


def test_cgroups_within_each_other_have_sets_of_their_own(web: Web) -> None:
    child = web.folder / "b"
    child.mkdir()
    outer = web.load(CGROUP_STATS, *EGRESS)
    inner = web.here.ok("load", CGROUP_STATS, *EGRESS, "--cgroup", child)
    Web(web.here, child).send(6)
    counted = [packets(Path(one["path"]) / COUNTERS, PASSED) for one in (outer, inner)]
    web.here.ok("unload", f"@{web.word}/b")
    left = [one["set"] for one in web.here.ok("status")["sets"]]
    child.rmdir()

    assert [outer["set"], inner["set"]] == [f"@{web.word}", f"@{web.word}/b"]
    assert counted == [6, 6]
    assert left == [f"@{web.word}"]


def test_a_folder_that_is_missing_is_told_with_where_cgroups_are(web: Web) -> None:
    refused = web.here.refused(4, "load", "--cgroup", "nosuch")

    assert f"mkdir {cgroup2_mount()}" in refused.json["error"]["hint"]


def test_a_folder_that_is_none_of_a_cgroup_is_told(web: Web, tmp_path: Path) -> None:
    refused = web.here.refused(4, "load", "--cgroup", tmp_path)

    assert f"{tmp_path} is not a cgroup" in refused.stderr


def test_a_folder_of_version_1_is_told_with_the_path_to_type(web: Web, tmp_path: Path) -> None:
    old = tmp_path / "v1"
    old.mkdir()
    words = ["mount", "-t", "cgroup", "-o", "none,name=bpfpin", "none", str(old)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("this kernel has no cgroups of version 1")
    refused = web.here.refused(4, "load", "--cgroup", old)
    isolation.umount(old)

    assert "version 1" in refused.stderr
    assert f"type {cgroup2_mount()}" in refused.json["error"]["hint"]


def test_a_program_of_a_device_needs_one(web: Web) -> None:
    refused = web.here.refused(2, "load", "builtin:xdp_stats", "--cgroup", web.folder)

    assert "name it: --dev DEV" in refused.json["error"]["hint"]


def test_a_program_of_a_cgroup_needs_one(web: Web) -> None:
    refused = web.here.load_refused(2, CGROUP_STATS)

    assert "name it: --cgroup PATH" in refused.json["error"]["hint"]


def test_no_cgroup2_at_all_is_told_with_how_to_mount_it(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Path("/run/mountinfo")  # a tmpfs of the tests'
    table.write_text("")
    monkeypatch.setattr(fs, "MOUNTINFO", table)
    refused = web.here.run("load", "--cgroup", "web")

    assert refused.exit_code == 4
    assert "mount -t cgroup2" in refused.json["error"]["hint"]


def state(web: Web) -> str:
    """Return what `status` says of the set."""
    return str(web.here.ok("status")["sets"][0]["state"])


def made_anew(web: Web) -> None:
    """Remove the cgroup and make one of the same name."""
    web.folder.rmdir()
    web.folder.mkdir()
    wait_until(lambda: state(web) == "defunct")  # the kernel detaches some time later


def test_a_cgroup_that_was_removed_is_told_and_cleaned(web: Web) -> None:
    web.load(CGROUP_STATS)
    web.folder.rmdir()
    wait_until(lambda: state(web) == "defunct")  # the kernel detaches some time later
    told = web.here.ok("status")
    web.here.ok("clean")
    web.folder.mkdir()

    assert f"cgroup /{web.word} is gone" in told["problems"][0]["text"]
    assert not web.set.exists()


def test_a_load_on_a_new_cgroup_of_the_same_name_goes_on_with_the_maps(web: Web) -> None:
    first = web.load(CGROUP_STATS, *EGRESS)
    web.send(5)
    made_anew(web)
    (told,) = web.here.ok("status")["problems"]
    second = web.load(CGROUP_STATS, *EGRESS)
    web.send(2)

    assert told["kind"] == "defunct-link"
    assert map_ids(second) == map_ids(first)
    assert packets(web.set / COUNTERS, PASSED) == 7
    assert web.running() == ids(second)


def test_what_status_says_to_type_loads_it_again(web: Web) -> None:
    web.load(CGROUP_STATS)
    made_anew(web)
    (told, *_) = web.here.ok("status")["problems"]
    web.here.ok(*told["fix"].split()[1:])

    assert web.here.ok("status")["problems"] == []


def test_a_program_that_somebody_put_into_our_link_is_left_and_replaced_on_purpose(
    web: Web,
) -> None:
    web.load(CGROUP_STATS, *EGRESS)
    with (
        idle_at(Hook.CGROUP_INET_EGRESS, ProgramType.CGROUP_SKB) as theirs,
        Link.from_pin(web.set / "links~" / "cgroup-inet-egress") as link,
    ):
        link.update(theirs)
        refused = web.here.refused(7, "load", CGROUP_STATS, *EGRESS, "--cgroup", web.folder)
        kept = web.here.refused(7, "unload", web.folder)
        still, theirs_id = web.running(), theirs.id
    taken = web.load(CGROUP_STATS, *EGRESS, "--take-over")

    assert still == [theirs_id]
    assert f"program id {theirs_id}" in refused.stderr
    assert f"program id {theirs_id}" in kept.stderr
    assert web.running() == ids(taken)
