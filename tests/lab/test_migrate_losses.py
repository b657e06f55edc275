"""What a migration gives up is said member by member, and such a plan is not called exact."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bpfpin
from support.here import Here, run_here, veth
from support.shapes import COUNTED, COUNTERS, ONLY_PACKETS, WIDER, loaded, read, version, write

EXACT = "exact: every count comes over"
NOT_THERE = {"MEMBERS": "__u64 drops; __u64 errors;", "COUNT": "ADD(counter->drops, 1)"}
PACKETS = {"MEMBERS": "__u64 packets;", "COUNT": ONLY_PACKETS}


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def planned(here: Here, source: Path, *words: str) -> tuple[dict[str, Any], str]:
    """Return the plan of a dry run as JSON has it, and its text."""
    options = ("load", source, "--dev", here.device, "--migrate", *words, "--dry-run")
    document = here.ok(*options)
    text = run_here(*options, "--pin-root", here.root)
    assert text.exit_code == 0, text.stderr
    (told,) = [one["migration"] for one in document["maps"] if one["name"] == COUNTERS]
    return told, text.stderr


def test_a_plan_that_drops_every_counter_says_that_nothing_comes_over(here: Here) -> None:
    loaded(here, version(), COUNTED)
    words = ("--drop", "packets", "--drop", "bytes")
    told, text = planned(here, version(**NOT_THERE), *words)
    done = run_here(
        *("load", version(**NOT_THERE), "--dev", here.device, "--migrate", *words),
        *("--pin-root", here.root),
    )

    assert told["is_exact"] is False
    assert [(one["member"], one["entries"]) for one in told["losses"]] == [
        ("packets", 2),
        ("bytes", 2),
    ]
    assert EXACT not in text
    assert "lost: packets: dropped, in 2 entries" in text
    assert "no count comes over" in text
    assert done.exit_code == 0, done.stderr
    assert "lost: packets: dropped, in 2 entries" in done.stderr
    assert read(here.set / COUNTERS) == {key: {"drops": 0, "errors": 0} for key in COUNTED}


def test_the_rest_of_a_plan_that_drops_one_is_exact(here: Here) -> None:
    loaded(here, version(), {1: {"packets": 100, "bytes": 0}, 2: {"packets": 2, "bytes": 20}})
    told, text = planned(here, version(**PACKETS), "--drop", "bytes")

    assert told["is_exact"] is False
    assert [(one["member"], one["entries"]) for one in told["losses"]] == [("bytes", 1)]
    assert EXACT not in text
    assert "exact for the rest: every other count comes over" in text


@pytest.mark.parametrize(
    ("old", "new", "words", "lost"),
    [
        ({}, {}, ("--rule", "packets=keep-new"), "packets: keep-new"),
        ({}, {}, ("--rule", "bytes=keep-old"), "bytes: keep-old"),
        ({}, {}, ("--rule", "*=max"), "packets: max"),
        (
            {},
            {"MEMBERS": "__u16 packets; __u64 bytes;", "COUNT": "ADD(counter->bytes, 1)"},
            ("--clamp", "--rule", "packets=sum", "--best-effort"),
            "packets: cut, because u16 has no room, in 1 entry",
        ),
        (
            {"MEMBERS": "__u64 packets; __u64 bytes; __u64 by[4];"},
            {},
            ("--drop", "by"),
            "by[0]: dropped, in 0 entries",
        ),
        (
            {"KEY": "struct { __u16 port, dir; }"},
            {"KEY": "struct { __u16 port; }"},
            ("--drop", "key.dir"),
            "key.dir: dropped, and keys that differ only in it become one",
        ),
        (
            {"MEMBERS": "__u64 packets; __u64 bytes; char name[8];"},
            {"MEMBERS": "__u64 packets; __u64 bytes; char name[2];"},
            ("--drop", "name"),
            "name: cut, because the new text is shorter, in 1 entry",
        ),
    ],
    ids=["keep-new", "keep-old", "max", "clamp", "array", "key", "text"],
)
def test_every_way_to_lose_something_is_told(  # noqa: PLR0917  (a row)
    here: Here, old: dict[str, Any], new: dict[str, Any], words: tuple[str, ...], lost: str
) -> None:
    here.load(version(**old))
    with bpfpin.Map.from_pin(here.set / COUNTERS) as held:
        value: dict[str, Any] = {"packets": 70_000, "bytes": 1}
        value |= {"name": "longer"} if "name" in old.get("MEMBERS", "") else {}
        value |= {"by": [0, 0, 0, 0]} if "by[4]" in old.get("MEMBERS", "") else {}
        held[{"port": 5, "dir": 1} if old.get("KEY") else 1] = value
    told, text = planned(here, version(**{"ENTRIES": 32, **new}), *words)

    assert told["is_exact"] is False
    assert EXACT not in text
    assert f"lost: {lost}" in text


def test_a_member_that_has_room_now_must_have_it_until_the_switch(here: Here) -> None:
    loaded(here, version(), COUNTED)
    told, text = planned(here, version(MEMBERS="__u32 packets; __u32 bytes;"))

    assert (told["is_exact"], told["losses"]) == (True, [])
    assert told["conditions"][0] == "packets stays within 0 to 4294967295"
    assert f"{EXACT}, if until the switch packets stays within 0 to 4294967295" in text


def test_values_without_members_are_not_exact_while_programs_count_in_them(here: Here) -> None:
    """Only the layout tells what is to be added up."""
    here.load(version("WITHOUT_BTF"))
    larger = version("WITHOUT_BTF", ENTRIES=32)
    error = here.load_refused(6, larger, "--migrate").json["error"]
    layout = f"{COUNTERS}=u64 packets; u64 bytes"
    told, _ = planned(here, larger, "--layout", layout)

    assert error["differences"][0]["field"] == "exactness"
    assert "--layout" in error["hint"]
    assert told["is_exact"] is True


def test_the_report_of_the_library_has_the_losses(here: Here) -> None:
    loaded(here, version(**WIDER), {1: {"packets": 1, "bytes": 2, "drops": 3}})
    migration = bpfpin.Migration(dropped=["drops"])
    with bpfpin.deploy(
        version(), device=here.device, pin_root=here.root, migrate=migration
    ) as deployment:
        (report,) = [bpf_map.migration for bpf_map in deployment.report.maps if bpf_map.migration]

    assert (report.name, report.is_exact) == (COUNTERS, False)
    assert [(loss.name, loss.entries) for loss in report.losses] == [("drops", 1)]
    (dropped,) = [member.old for member in report.value_members if member.new is None]
    assert dropped == bpfpin.MemberPlace("drops", "u64", 16, 8)
    assert "  lost: drops: dropped, in 1 entry" in report.lines()
    assert pickle.loads(pickle.dumps(report)) == report  # plain data: it needs no open map


def test_a_restored_file_says_what_was_given_up(here: Here, tmp_path: Path) -> None:
    loaded(here, version(**WIDER), {1: {"packets": 1, "bytes": 2, "drops": 3}})
    here.ok("map", "save", here.set / COUNTERS, tmp_path / "saved")
    here.load(version(), "--fresh", COUNTERS)
    words = ("map", "restore", tmp_path / "saved", here.set / COUNTERS, "--migrate")
    restored = here.ok(*words, "--drop", "drops")
    text = run_here(*words, "--drop", "drops").stderr
    write(here.set / COUNTERS, {})

    assert restored["lost"] == ["drops"]
    assert ", without drops" in text


def test_the_sum_of_all_cpus_is_cut_to_what_fits_and_told(here: Here) -> None:
    """Three thousand millions on each CPU have room in 32 bits, and their sum has none."""
    per_cpu = {"TYPE": "PERCPU_HASH", "MEMBERS": "__u32 packets; __u64 bytes;"}
    here.load(version(**per_cpu))
    with bpfpin.Map.from_pin(here.set / COUNTERS) as counters:
        counters.update(1, {"packets": 3_000_000_000, "bytes": 1}, all_cpus=True)
    shared = version(MEMBERS="__u32 packets; __u64 bytes;")
    refused = here.load_refused(6, shared, "--migrate")
    words = ("--clamp", "--best-effort")
    told, _ = planned(here, shared, *words)
    here.load(shared, "--migrate", *words)
    (lost,) = told["losses"]

    assert "--clamp" in refused.json["error"]["hint"]
    assert told["is_exact"] is False
    assert (lost["member"], lost["entries"]) == ("packets", 1)
    assert lost["what"] == "cut, because 32 bits have no room for the sum of all CPUs"
    assert read(here.set / COUNTERS)[1]["packets"] == (1 << 32) - 1


def test_wide_numbers_of_all_cpus_are_cut_before_and_after_they_are_added(here: Here) -> None:
    here.load(version(TYPE="PERCPU_HASH"))
    with bpfpin.Map.from_pin(here.set / COUNTERS) as counters:
        counters.update(1, {"packets": 3_000_000_000, "bytes": 5_000_000_000}, all_cpus=True)
    narrow = version(MEMBERS="__u32 packets; __u32 bytes;")
    here.load(narrow, "--migrate", "--clamp", "--best-effort")

    assert read(here.set / COUNTERS)[1] == dict.fromkeys(("packets", "bytes"), (1 << 32) - 1)


def test_every_condition_that_old_programs_may_break_is_named(here: Here) -> None:
    """An enumerator that is gone, a key that becomes narrower, and the sum of all CPUs."""
    old = {
        "KEY": "struct { __u32 port; }",
        "MEMBERS": "__u32 packets; enum state state;",
        "COUNT": "ADD(counter->packets, 1), counter->state = BUSY",
        "TYPE": "PERCPU_HASH",
    }
    here.load(version(**old, STATES="IDLE,BUSY,DONE"))
    new = old | {"KEY": "struct { __u16 port; }", "TYPE": "HASH"}
    told, text = planned(here, version(**new, STATES="IDLE,BUSY"), "--best-effort")

    assert told["conditions"] == [
        "state never is 2: enum state { IDLE = 0, BUSY = 1 } has no such name",
        "the sum of packets stays within 0 to 4294967295",
        "key.port stays within 0 to 65535",
    ]
    assert "state never is 2" in text
