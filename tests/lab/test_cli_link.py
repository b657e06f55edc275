"""`bpfpin link list`, `show` and `detach`: what attaches programs, and what holds it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.xdp import attach_xdp
from bpfpin.objects.link import Link
from bpfpin.syscall import netns
from bpfpin.uapi import ProgramType
from support import isolation
from support.foreign_links import (
    entry_of,
    event_link,
    netfilter_link,
    netns_link,
    raw_tracepoint,
    software_event,
    tracepoint_event,
    uprobe_event,
)
from support.here import Here, bpftool, counting_veth, listed_by_id, run_here, veth
from support.lab import TestLab
from support.nobody import run_cli_as_nobody
from support.sets import xdp_program
from support.tools import need


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device with a set in a pin root of the test's own."""
    with counting_veth(bpffs) as here:
        yield here


def listed(*words: object) -> dict[int, Any]:
    """Return the links of a list by id."""
    return listed_by_id("link", *words)


def test_a_link_of_a_set_is_listed_and_shown_with_its_device_and_set(here: Here) -> None:
    program = here.ok("status")["sets"][0]["programs"][0]
    (row,) = here.ok("link", "list", "--pinned")["links"]

    assert row["type"] == "xdp"
    assert row["program"] == {"id": program["id"], "name": "xdp_stats", "type": "xdp"}
    assert (row["hook"], row["where"]) == ("xdp", f"{here.device} (native)")
    assert row["target"]["device"] == here.device
    assert (row["defunct"], row["set"]) == (False, here.device)
    assert row["pins"] == [str(here.set / "links~" / "xdp")]
    assert "processes" not in row
    for name in (f"id:{row['id']}", f"{here.device}/xdp", row["pins"][0]):
        assert here.ok("link", "show", name)["id"] == row["id"]
    text = run_here("link", "show", f"id:{row['id']}", "--pin-root", here.root).stdout
    assert f"attached     xdp of {here.device} (native)\n" in text
    assert f"set          {here.device}\n" in text


def test_a_list_is_narrowed(here: Here) -> None:
    with netns_link() as other:
        rows = here.ok("link", "list", "--type", "xdp", "--program", "xdp_st*")["links"]
        # Other tests have such links as well, on devices of other namespaces.
        (row,) = [row for row in rows if row["set"] == here.device]

        assert list(listed("--program", other.program_id())) == [other.id]
        assert other.id not in listed("--pinned", "--pin-root", here.root)
        assert row["id"] not in listed("--type", "netns")
    assert (
        "'nets' is not a type of link" in here.refused(2, "link", "list", "--type", "nets").stderr
    )
    nothing = run_here("link", "list", "--program", "nosuch")
    assert nothing.stderr.endswith("no link matches\n")


def test_a_device_in_another_namespace_is_named_with_it(lab: TestLab) -> None:
    with xdp_program("far") as program, netns.enter(lab.lab.netns):
        link = attach_xdp(program, lab.lab.peer)
    with link:
        row = listed()[link.id]

    assert row["where"].startswith(f"{lab.lab.netns}@{lab.lab.peer} (")


def test_a_link_of_a_set_is_detached_only_when_forced(here: Here) -> None:
    name = f"{here.device}/xdp"
    refusal = here.refused(7, "link", "detach", name).json["error"]

    assert f"belongs to the set {here.device}" in refusal["message"]
    assert f"{here.typed} unload {here.device}" in refusal["hint"]
    assert here.holder() is not None
    document = here.ok("link", "detach", name, "--force")
    assert (document["result"], document["link"]["set"]) == ("detached", here.device)
    assert here.holder() is None
    after = here.ok("link", "show", name)
    assert after["defunct"] is True
    assert after["where"] == "nothing: it was detached, or its device is gone"


def test_a_link_of_nobodys_set_is_detached(bpffs: Path) -> None:
    with veth() as device, xdp_program("theirs") as theirs:
        with attach_xdp(theirs, device) as link:
            link.pin(bpffs / "mine")
        result = run_here("link", "detach", bpffs / "mine")

        assert result.exit_code == 0, result.stderr
        assert f"detached {theirs.id}:theirs from xdp of {device}" in result.stderr
        assert f"rm {bpffs / 'mine'}" in result.stderr
        assert Here(bpffs, device).holder() is None


def kinds(tracefs: Path) -> dict[str, Callable[[], AbstractContextManager[Link]]]:
    """Return how to make links of all kinds, by the place that a list shows."""
    tracepoint = tracefs / "events" / "syscalls" / "sys_enter_getpid"
    entry = entry_of(sys.executable)
    return {
        "raw-tracepoint sys_enter": lambda: raw_tracepoint("sys_enter"),
        "tracepoint sys_enter_getpid": lambda: event_link(
            ProgramType.TRACEPOINT, tracepoint_event(tracepoint)
        ),
        "perf-event context-switches": lambda: event_link(ProgramType.PERF_EVENT, software_event()),
        f"uprobe {sys.executable}+{entry:#x}": lambda: event_link(
            ProgramType.KPROBE, uprobe_event(sys.executable, entry)
        ),
        "sk-lookup of this network namespace": netns_link,
        "netfilter ipv4:input:-5": lambda: netfilter_link(-5),
    }


@pytest.fixture
def tracefs(tmp_path: Path) -> Iterator[Path]:
    """The tracefs, which the machine may not have mounted."""
    folder = tmp_path / "tracefs"
    folder.mkdir()
    isolation.mount("tracefs", folder)
    yield folder
    isolation.umount(folder)


def test_every_kind_of_link_says_what_it_attaches_to(tracefs: Path) -> None:
    for place, attach in kinds(tracefs).items():
        with attach() as link:
            row = listed("--users")[link.id]

            assert " of ".join(filter(None, (row["hook"], row["where"]))) == place or (
                f"{row['hook']} {row['where']}" == place
            )
            assert place in run_here("link", "list").stdout
            assert row["processes"] == []  # this process, which has it open, does not count


def test_what_the_kernel_cannot_detach_is_refused_with_its_holders(bpffs: Path) -> None:
    with raw_tracepoint("sys_enter") as link:
        link.pin(bpffs / "raw")
        result = run_here("link", "detach", f"id:{link.id}", "-o", "json", "--pin-root", bpffs)

        assert result.json["error"]["exit"] == 8
        assert "the kernel cannot detach links of type raw_tracepoint" in result.stderr
        assert f"rm {bpffs / 'raw'}" in result.json["error"]["hint"]


def test_bpftool_lists_the_same_links(here: Here) -> None:
    need("bpftool")
    with netns_link(), raw_tracepoint("sys_exit"):
        theirs = {row["id"]: row for row in bpftool("link", "show")}
        ours = listed("--pin-root", here.root)
        afterwards = {row["id"]: row for row in bpftool("link", "show")}

    # Other tests make, change and end links of theirs meanwhile.
    same = [link_id for link_id, row in theirs.items() if afterwards.get(link_id) == row]
    for link_id in same:
        assert ours[link_id]["type"] == theirs[link_id]["type"]
        assert (ours[link_id]["program"] or {}).get("id", 0) == theirs[link_id]["prog_id"]
    assert {"xdp", "netns", "raw_tracepoint"} <= {theirs[link_id]["type"] for link_id in same}


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("show", "12"), 2, "'12' is not a link"),
        (("show", "id:x"), 2, "'id:x' is not an id"),
        (("show", "id:4294967295"), 4, "there is no such id"),
        (("show", ""), 2, "'' is not a link"),
        (("show", "/sys/fs/bpf/nosuch"), 4, "there is no such name"),
        (("detach", "id:4294967295", "--force"), 4, "there is no such id"),
    ],
)
def test_what_names_no_link_is_refused(
    words: tuple[str, ...], exit_code: int, message: str
) -> None:
    result = run_here("link", *words, "-o", "json")

    assert result.exit_code == result.json["error"]["exit"] == exit_code
    assert message in result.json["error"]["message"]


def test_a_pin_of_another_kind_is_refused(here: Here) -> None:
    here.refused(6, "link", "show", here.set / "xdp_stats_map")
    hint = here.refused(2, "link", "show", f"{here.device}/nosuch").json["error"]["hint"]

    assert hint == f"{here.device} has: xdp"


def test_an_ordinary_user_sees_a_note(here: Here) -> None:
    result = run_cli_as_nobody("link", "list", "--pin-root", here.root)

    assert "only pinned links are listed" in result.stderr
