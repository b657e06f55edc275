"""One set at several hooks: of a device, of a cgroup, several programs at one of them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach import clsact
from bpfpin.attach.clsact import clsact_filters
from bpfpin.attach.query import cgroup_programs, tcx_programs
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook
from bpfpin.syscall import call
from bpfpin.uapi import AttachType, Cmd, ProgramType
from support.here import Here, decisions
from support.hooks import idle, idle_at, inside, new_cgroup, without_tcx
from support.kernel_needs import need_hook, need_tcx, tcx_or_classic
from support.lab import TestLab
from support.objects import compiled
from support.traffic import PORT
from support.wait import wait_until

OLD, NEW = "places_old", "places_new"
DEVICE_HOOKS = ("xdp", "tcx-ingress", "tc-ingress")
CGROUP_HOOK = "cgroup-inet-ingress"
PROGRAMS = {
    "xdp_in": "xdp",
    "tcx_in": "tcx-ingress",
    "tc_in": "tc-ingress",
    "cgroup_in": CGROUP_HOOK,
}


@dataclass(frozen=True)
class Several:
    """A device and a cgroup whose hooks one set takes; a socket of the cgroup hears the device."""

    here: Here
    lab: TestLab
    cgroup: Path

    def words(self, source: str, *programs: str) -> list[object]:
        """Return the line that loads an object at all hooks, or only those programs."""
        named = programs or [f"{name}:{hook}" for name, hook in PROGRAMS.items()]
        chosen = [word for name in named for word in ("--prog", name)]
        place = ("--dev", self.here.device, "--cgroup", self.cgroup)
        return ["load", compiled(source), *place, *chosen]

    def load(self, source: str, *programs: str) -> Any:
        """Load an object at all hooks, which must succeed, or only those programs."""
        return self.here.ok(*self.words(source, *programs))

    def running(self) -> dict[str, tuple[int, ...]]:
        """Return what each hook runs, as the kernel tells."""
        index = socket.if_nametoindex(self.here.device)
        holder = self.here.holder()
        ingress = cgroup_programs(self.cgroup, AttachType.CGROUP_INET_INGRESS)
        return {
            "xdp": () if holder is None else (holder.program_id,),
            "tcx-ingress": tuple(one.program_id for one in tcx_programs(index, Hook.TCX_INGRESS)),
            "tc-ingress": tuple(one.program_id for one in clsact_filters(index)),
            CGROUP_HOOK: tuple(one.program_id for one in ingress),
        }

    def counted(self) -> list[int]:
        """Return what the programs at XDP, tcx, classic tc and the cgroup have counted."""
        with Map.from_pin(self.here.set / "counts", read_only=True) as counts:
            return list(counts.values())[:4]


NOTHING: dict[str, tuple[int, ...]] = dict.fromkeys(PROGRAMS.values(), ())


@pytest.fixture
def several(bpffs: Path, lab: TestLab, tmp_path: Path) -> Iterator[Several]:
    """A device and a cgroup, and a pin root of their own."""
    with new_cgroup(tmp_path / "cgroup2") as cgroup:
        with inside(cgroup):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver:
            receiver.bind((lab.host_address, PORT))
            yield Several(Here(bpffs, lab.device), lab, cgroup)


def ids(document: Any) -> dict[str, tuple[int, ...]]:
    """Return the programs of a load by their hooks."""
    found = {hook: list[int]() for hook in PROGRAMS.values()}
    for program in document["programs"]:
        if program["hook"]:
            found[program["hook"]].append(program["id"])
    return {hook: tuple(there) for hook, there in found.items()}


def links(document: Any) -> dict[str, int | None]:
    return {program["hook"]: program["link"] for program in document["programs"]}


def test_every_hook_counts_every_packet_through_a_reload(several: Several) -> None:
    first = several.load(OLD)
    several.lab.flood(10, port=PORT)
    again = several.load(OLD)
    second = several.load(NEW)
    several.lab.flood(7, port=PORT)
    wait_until(lambda: several.counted() == [17] * 4)

    assert [one["result"] for one in (first, again, second)] == ["loaded", "unchanged", "reloaded"]
    assert links(second) == links(first)
    assert decisions(second)["counts"] == "kept"
    assert several.running() == ids(second)
    assert {hook["action"] for hook in second["hooks"]} == {"update"}


def test_unloading_leaves_every_hook(several: Several) -> None:
    before = several.here.everything()
    several.load(OLD)
    told = several.here.run("unload", several.here.device)

    assert told.exit_code == 0
    assert several.running() == NOTHING
    assert several.here.everything() == before
    assert f"detached from {several.here.device}, cgroup /{several.cgroup.name}" in told.stderr


def test_without_words_every_program_goes_where_its_section_says(several: Several) -> None:
    place = ("--dev", several.here.device, "--cgroup", several.cgroup)
    loaded = several.here.ok("load", compiled(OLD), *place)

    assert [program["hook"] for program in loaded["programs"]] == [
        "xdp",
        tcx_or_classic("tcx-ingress"),
        "cgroup-inet-ingress",
        "cgroup-inet-egress",
    ]


def test_programs_of_a_place_that_was_not_named_are_left_out_and_told(several: Several) -> None:
    loaded = several.here.load(compiled(OLD))

    assert [program["hook"] for program in loaded["programs"]] == [
        "xdp",
        tcx_or_classic("tcx-ingress"),
    ]
    assert [note for note in loaded["notes"] if "left out" in note] == [
        f"program {name} (section 'cgroup_skb/{side}') was left out: no cgroup was named"
        for name, side in (("cgroup_in", "ingress"), ("cgroup_out", "egress"))
    ]


def test_hooks_join_and_leave_in_a_reload(several: Several) -> None:
    need_tcx()
    first = several.load(OLD, "xdp_in", "tc_in:tc-ingress")
    second = several.load(OLD, "xdp_in", "tcx_in", "cgroup_in")
    actions = {hook["hook"]: hook["action"] for hook in second["hooks"]}

    assert links(second)["xdp"] == links(first)["xdp"]
    assert actions == {
        "xdp": "update",
        "tcx-ingress": "attach",
        CGROUP_HOOK: "attach",
        "tc-ingress": "detach",
    }
    wait_until(lambda: several.running() == ids(second))
    assert sorted(path.name for path in (several.here.set / "links~").iterdir()) == [
        CGROUP_HOOK,
        "tcx-ingress",
        "xdp",
    ]


def test_a_cgroup_that_leaves_a_set_is_detached(several: Several) -> None:
    several.load(OLD)
    second = several.here.load(compiled(OLD), "--prog", "xdp_in")

    wait_until(lambda: several.running() == ids(second))
    assert several.running() == NOTHING | {"xdp": (second["programs"][0]["id"],)}


def test_several_programs_share_a_hook_of_tcx(several: Several) -> None:
    need_tcx()
    first = several.load(OLD, "tcx_in", "tc_in:tcx-ingress")
    several.lab.flood(5, port=PORT)
    second = several.load(NEW, "tcx_in", "tc_in:tcx-ingress")
    several.lab.flood(5, port=PORT)

    assert several.counted() == [0, 10, 10, 0]
    assert several.running() == ids(second)
    assert [one["link"] for one in second["programs"]] == [one["link"] for one in first["programs"]]
    assert {path.name for path in (several.here.set / "links~").iterdir()} == {
        "tcx-ingress~tcx_in",
        "tcx-ingress~tc_in",
    }


def test_several_programs_share_a_hook_of_classic_tc(several: Several) -> None:
    several.load(OLD, "tcx_in:tc-ingress", "tc_in:tc-ingress")
    several.lab.flood(5, port=PORT)
    second = several.load(NEW, "tcx_in:tc-ingress", "tc_in:tc-ingress")
    several.lab.flood(5, port=PORT)
    counted, running = several.counted(), several.running()
    several.here.ok("unload", several.here.device)

    assert counted == [0, 10, 10, 0]
    assert running == ids(second)
    assert several.running() == NOTHING


@pytest.mark.parametrize("hook", ["tcx-ingress", "tc-ingress"])
def test_one_program_becomes_two_and_one_again_at_the_same_place(
    several: Several, hook: str
) -> None:
    need_hook(hook)
    first = several.load(OLD, f"tc_in:{hook}")
    second = several.load(OLD, f"tc_in:{hook}", f"tcx_in:{hook}")
    running_two = several.running()
    third = several.load(OLD, f"tc_in:{hook}")

    assert link_of(first) == link_of(second) == link_of(third)
    assert sorted(running_two[hook]) == sorted(ids(second)[hook])
    wait_until(lambda: several.running() == ids(third))


def link_of(document: Any, program: str = "tc_in") -> Any:
    return next(one["link"] for one in document["programs"] if one["name"] == program)


def test_one_program_runs_at_two_hooks(several: Several) -> None:
    need_tcx()
    words = ("tc_in:tcx-ingress", "tc_in:tc-ingress")
    loaded = several.load(OLD, *words)
    several.lab.flood(5, port=PORT)
    again = several.load(OLD, *words)
    counted, running = several.counted(), several.running()
    several.here.ok("unload", several.here.device)

    assert again["result"] == "unchanged"
    assert counted == [0, 0, 10, 0]
    assert running == ids(loaded)
    assert several.running() == NOTHING


def test_one_program_at_both_hooks_is_refused_where_one_stands_for_the_other(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tcx both are classic tc, where a program would count each packet twice."""
    without_tcx(monkeypatch)
    before = several.here.everything()
    refused = several.here.run(*several.words(OLD, "tc_in:tcx-ingress", "tc_in:tc-ingress"))
    after = several.here.everything()

    assert refused.exit_code == 7
    assert "tc-ingress of lab" in refused.stderr
    assert "runs this program already" in refused.stderr
    assert after == before


def test_the_same_choice_in_other_words_is_one(several: Several) -> None:
    loaded = several.load(OLD, "xdp_in", "xdp_in:xdp", "tcx_in", "tcx_in:tcx-ingress")

    assert [program["hook"] for program in loaded["programs"]] == [
        "xdp",
        tcx_or_classic("tcx-ingress"),
    ]


def test_two_programs_for_xdp_are_refused(several: Several) -> None:
    source = compiled("several_programs")
    refused = several.here.load_refused(2, source, "--prog", "pass", "--prog", "drop")

    assert "2 programs would go to xdp, which runs one" in refused.stderr


def test_an_unrelated_object_is_refused_and_replaces_on_purpose(several: Several) -> None:
    several.load(OLD, "tcx_in", "tc_in:tc-ingress")
    several.here.load_refused(7, "builtin:xdp_stats")
    loaded = several.here.load("builtin:xdp_stats", "--replace")

    wait_until(lambda: several.running() == ids(loaded))


def after_the_first_move(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> list[bool]:
    """Have somebody do *then* as soon as the first link was updated; return that it was done."""
    entered = call._enter
    done: list[bool] = []

    def enter(number: int, command: int, *rest: object) -> int:
        answer = entered(number, command, *rest)
        if command == Cmd.LINK_UPDATE and not done:
            done.append(True)
            then()
        return answer

    monkeypatch.setattr(call, "_enter", enter)
    return done


def test_hooks_that_were_moved_go_back_when_another_one_cannot(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDP and tcx run the new programs already when the filter turns out to be somebody else's."""
    first = several.load(OLD)
    names = several.here.everything()[0]
    # Without tcx its program has a filter, too; the last one is that of tc_in.
    found = clsact_filters(socket.if_nametoindex(several.here.device))[-1]
    with idle("theirs") as theirs:
        done = after_the_first_move(
            monkeypatch, lambda: clsact.change_filter(found.place, theirs.fd, "theirs")
        )
        refused = several.here.run(*several.words(NEW))
        running, theirs_id = several.running(), theirs.id
    monkeypatch.undo()

    assert (refused.exit_code, done) == (7, [True]), refused.stderr
    assert f"program id {theirs_id}" in refused.stderr
    assert running == ids(first) | {"tc-ingress": (*ids(first)["tc-ingress"][:-1], theirs_id)}
    assert several.here.everything()[0] == names


def test_a_first_load_that_fails_at_its_last_hook_leaves_none(several: Several) -> None:
    """The cgroup runs the program of somebody who lets no other one beside it."""
    before, nothing = several.here.everything(), several.running()
    with idle_at(Hook.CGROUP_INET_INGRESS, ProgramType.CGROUP_SKB) as theirs:
        attach_alone(several.cgroup, theirs)
        refused = several.here.run(*several.words(OLD))
        running, theirs_id = several.running(), theirs.id

    assert refused.exit_code == 7, refused.stderr
    assert running == nothing | {CGROUP_HOOK: (theirs_id,)}
    assert several.here.everything() == before


def attach_alone(cgroup: Path, program: Program) -> None:
    """Attach a program without a link and without a flag: no other one may come to it."""
    pin = Path("/sys/fs/bpf/alone")
    program.pin(pin)
    words = ["cgroup", "attach", str(cgroup), "ingress", "pinned", str(pin)]
    subprocess.run(["bpftool", *words], check=True)
    pin.unlink()


def test_a_removed_cgroup_leaves_the_device_counting(several: Several) -> None:
    """The set is not a leftover: it is loaded without the cgroup, or again with a new one."""
    child = several.cgroup / "child"
    child.mkdir()
    place = ("--dev", several.here.device, "--cgroup", child)
    words = ("--prog", "xdp_in", "--prog", "cgroup_out")
    first = several.here.ok("load", compiled(OLD), *place, *words)
    child.rmdir()
    wait_until(lambda: len(several.here.ok("status")["problems"]) == 1)
    (problem,) = several.here.ok("status")["problems"]
    several.here.ok("clean")
    several.lab.flood(5, port=PORT)
    counted = several.counted()
    child.mkdir()
    second = several.here.ok(*problem["fix"].split()[1:], *words)
    child.rmdir()

    assert (problem["kind"], "cgroup-inet-egress" in problem["text"]) == ("defunct-link", True)
    assert counted == [5, 0, 0, 0]
    assert decisions(second)["counts"] == "kept"
    assert link_of(second, "xdp_in") == link_of(first, "xdp_in")
