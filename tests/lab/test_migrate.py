"""`load --migrate`, as a user types it: what is in a map whose definition changed goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.here import Here, decisions, map_ids, run_here, veth
from support.hooks import new_cgroup
from support.kernel_needs import tcx_or_classic
from support.lab import TestLab
from support.shapes import (
    COUNTED,
    COUNTERS,
    ONLY_PACKETS,
    SEEN,
    SEEN_AT,
    WIDER,
    loaded,
    migrated,
    read,
    version,
    write,
)

CARRIED = {key: {**value, "drops": 0} for key, value in COUNTED.items()}
PER_CPU = {1: {"packets": 7, "bytes": 70}}


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def test_a_struct_that_grew_keeps_its_members_by_name(here: Here) -> None:
    before = loaded(here, version(), COUNTED).ok("status", here.device)["sets"][0]
    document = here.load(version(**WIDER), "--migrate")
    (told,) = [one["migration"] for one in document["maps"]]
    rules = {(one["old"] or one["new"])["member"]: one["rule"] for one in told["value_members"]}

    assert read(here.set / COUNTERS) == CARRIED
    assert rules == {"packets": "sum", "bytes": "sum", "drops": "new"}
    assert (told["old_id"], told["entries"]) == (before["maps"][0]["id"], 2)
    assert (told["is_exact"], told["reasons"]) == (True, [])
    assert (told["old"]["value_size"], told["new"]["value_size"]) == (16, 24)


def test_the_way_back_needs_the_word_for_what_is_lost(here: Here) -> None:
    loaded(here, version(**WIDER), CARRIED)

    assert migrated(here, version(), "--drop", "drops") == COUNTED


@pytest.mark.parametrize(
    "macros",
    [
        {"ENTRIES": 1000},
        {"ENTRIES": 2},
        {"FLAGS": 1},
        {"KEY": "__u64"},
        {"TYPE": "PERCPU_HASH"},
        {"TYPE": "LRU_HASH", "ENTRIES": 2000},
        {"MEMBERS": "__u32 bytes; __u32 packets;"},
    ],
    ids=lambda macros: " ".join(f"{name} {text}" for name, text in macros.items()),
)
def test_a_map_of_another_shape_has_the_same_counts(here: Here, macros: dict[str, Any]) -> None:
    loaded(here, version(), COUNTED)

    assert migrated(here, version(**macros)) == COUNTED


@pytest.mark.parametrize(("rule", "packets"), [("sum", 12), ("max", 7), ("min", 5)])
def test_the_values_of_all_cpus_become_one_by_the_rule(here: Here, rule: str, packets: int) -> None:
    here.load(version(TYPE="PERCPU_ARRAY"))
    for cpu, count in enumerate((7, 5)):
        write(here.set / COUNTERS, {1: {"packets": count, "bytes": 0}}, cpu=cpu)
    found = migrated(here, version(TYPE="ARRAY"), "--rule", f"packets={rule}")

    assert found[1] == {"packets": packets, "bytes": 0}


def test_an_array_becomes_one_for_each_cpu_and_another_length(here: Here) -> None:
    loaded(here, version(TYPE="ARRAY", ENTRIES=8), PER_CPU)
    found = migrated(here, version(TYPE="PERCPU_ARRAY", ENTRIES=4))

    assert (found[1], list(found)) == (PER_CPU[1], [0, 1, 2, 3])


def test_a_member_is_renamed_and_a_new_one_starts_as_asked(here: Here) -> None:
    loaded(here, version(**SEEN), SEEN_AT)
    renamed = migrated(here, version(), "--rename", "last_seen=bytes")
    started = migrated(here, version(**WIDER), "--start", "drops=9")

    assert renamed == {1: {"packets": 100, "bytes": 5}}
    assert started == {1: {"packets": 100, "bytes": 5, "drops": 9}}


def test_numbers_are_cut_to_what_fits_if_that_will_do(here: Here) -> None:
    loaded(here, version(), {1: {"packets": 5_000_000_000, "bytes": 3}})
    narrow = version(MEMBERS="__u32 packets; __u32 bytes;")

    assert migrated(here, narrow, "--clamp", "--best-effort") == {
        1: {"packets": (1 << 32) - 1, "bytes": 3}
    }


def test_names_of_an_enumeration_stay_when_their_numbers_change(here: Here) -> None:
    states = {"MEMBERS": "__u64 packets; enum state state;", "COUNT": ONLY_PACKETS}
    values = {1: {"packets": 1, "state": "BUSY"}, 2: {"packets": 2, "state": "DONE"}}
    loaded(here, version(**states, STATES="IDLE,BUSY,DONE"), values)

    assert migrated(here, version(**states, STATES="DONE,IDLE,MORE,BUSY")) == values


def test_an_array_in_a_value_grows_and_shrinks_if_its_end_is_empty(here: Here) -> None:
    def slots(length: int) -> Path:
        return version(MEMBERS=f"__u64 packets; __u64 slot[{length}];", COUNT=ONLY_PACKETS)

    loaded(here, slots(2), {1: {"packets": 1, "slot": [4, 5]}})
    grown = migrated(here, slots(4), "--rule", "slot=sum")
    shrunk = migrated(here, slots(3), "--rule", "slot=sum")

    assert grown == {1: {"packets": 1, "slot": [4, 5, 0, 0]}}
    assert shrunk == {1: {"packets": 1, "slot": [4, 5, 0]}}


def test_global_variables_go_over_by_name(here: Here) -> None:
    """What the object says of `limit` is not what is set; of new variables it is."""
    bss, data = here.set / "%2ebss", here.set / "%2edata"
    here.load(
        version(
            VARIABLES="__u64 total; __u32 limit = 7;",
            COUNT="ADD(total, 1), ADD(counter->packets, limit)",
        )
    )
    write(bss, {0: {"total": 77}})
    write(data, {0: {"limit": 11}})
    document = here.load(
        version(
            VARIABLES="__u64 dropped; __u64 total; __u64 limit = 9; __u32 other = 4;",
            COUNT="ADD(total, 1), ADD(dropped, 1), ADD(counter->packets, limit + other)",
        ),
        "--migrate",
    )

    assert decisions(document) == {COUNTERS: "kept", ".data": "migrated", ".bss": "migrated"}
    assert read(bss)[0] == {"dropped": 0, "total": 77}
    assert read(data)[0] == {"limit": 11, "other": 4}


def test_an_old_map_without_types_goes_over_by_the_layout_that_is_given(here: Here) -> None:
    here.load(version("WITHOUT_BTF"))
    write(here.set / COUNTERS, {bytes([1, 0, 0, 0]): bytes(range(16))})
    found = migrated(here, version(**WIDER), "--layout", f"{COUNTERS}=u64 packets; u64 bytes")

    assert found == {
        1: {
            "packets": int.from_bytes(range(8), "little"),
            "bytes": int.from_bytes(range(8, 16), "little"),
            "drops": 0,
        }
    }


def test_two_hooks_go_over_to_one_new_map(here: Here) -> None:
    """Before, a device that XDP and tcx share has one map; after it too, and no other."""
    both = {"AT_TC": '"tcx/ingress"'}
    loaded(here, version(**both), COUNTED)
    document = here.load(version(**both, **WIDER), "--migrate")

    assert [program["hook"] for program in document["programs"]] == [
        "xdp",
        tcx_or_classic("tcx-ingress"),
    ]
    assert decisions(document) == {COUNTERS: "migrated"}
    assert read(here.set / COUNTERS) == CARRIED


def test_a_filter_of_classic_tc_goes_over_too(here: Here) -> None:
    both = {"AT_TC": '"classifier"'}
    words = ("--prog", "count_tc:tc-ingress", "--prog", "count_xdp")
    here.load(version(**both), *words)
    write(here.set / COUNTERS, COUNTED)
    here.load(version(**both, **WIDER), *words, "--migrate")

    assert read(here.set / COUNTERS) == CARRIED
    assert here.ok("status", here.device)["sets"][0]["state"] == "ok"


def test_the_hooks_of_a_cgroup_go_over_too(here: Here, tmp_path: Path) -> None:
    with new_cgroup(tmp_path / "cgroup") as folder:
        words = ("--cgroup", folder.name)
        pin = here.root / f"@{folder.name}" / COUNTERS
        here.ok("load", version("AT_CGROUP"), *words)
        write(pin, COUNTED)
        here.ok("load", version("AT_CGROUP", **WIDER), *words, "--migrate")
        found = read(pin)
        here.ok("unload", f"@{folder.name}")

    assert found == CARRIED


def test_maps_that_were_kept_without_a_program_go_over(here: Here) -> None:
    loaded(here, version(), COUNTED).ok("unload", here.device, "--keep-maps")

    assert migrated(here, version(**WIDER)) == CARRIED


def test_a_device_in_another_namespace_goes_over(bpffs: Path, lab: TestLab) -> None:
    there = Here(bpffs, lab.lab.peer)
    words = ("--dev", lab.lab.peer, "-n", lab.lab.netns)
    (told,) = there.ok("load", version(), *words)["maps"]
    pin = Path(told["path"])
    write(pin, COUNTED)
    there.ok("load", version(**WIDER), *words, "--migrate")
    found = read(pin)
    there.ok("unload", lab.lab.peer, "-n", lab.lab.netns)

    assert (
        COUNTED.items()
        <= {
            key: {name: value[name] for name in ("packets", "bytes")}
            for key, value in found.items()
        }.items()
    )


def test_the_same_line_again_changes_nothing(here: Here) -> None:
    """The options may stay in a unit file: once is enough, and the next time is no error."""
    loaded(here, version(**SEEN), SEEN_AT)
    line = (version(), "--migrate", "--drop", "last_seen")
    first = here.load(*line)
    again = here.load(*line)

    assert (again["result"], decisions(again)) == ("unchanged", {COUNTERS: "kept"})
    assert map_ids(again) == map_ids(first)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rule", "a=sum"], "no new member 'a'"),
        (["--start", "small=1"], "no new member 'small'"),
        (["--rename", "rx_packets=zz"], "no new member 'zz'"),
        (["--drop", "nomap:a"], "no map 'nomap'"),
        (["--layout", "nomap=u64 a"], "no map 'nomap'"),
    ],
)
def test_a_wrong_setting_is_no_success_where_nothing_has_to_be_migrated(
    here: Here, words: list[str], why: str
) -> None:
    here.load("builtin:xdp_stats")
    refused = here.refused(
        2, "load", "builtin:xdp_stats", "--dev", here.device, "--migrate", *words
    )
    right = ("--rule", "rx_packets=sum", "--rename", "of_old=rx_bytes", "--drop", "of_old_too")
    again = here.load("builtin:xdp_stats", "--migrate", *right)

    assert why in refused.json["error"]["message"]
    assert again["result"] == "unchanged"


def test_a_dry_run_shows_each_member_and_changes_nothing(here: Here) -> None:
    loaded(here, version(), COUNTED)
    before = here.everything()
    words = ("--dev", here.device, "--pin-root", here.root, "--migrate", "--dry-run")
    result = run_here("load", version(**WIDER), *words)
    lines = [line.strip() for line in result.stderr.splitlines()]

    assert here.everything() == before
    assert read(here.set / COUNTERS) == COUNTED
    assert "packets u64 at 0 -> u64 at 8: sum" in lines
    assert "drops none -> u64 at 16: new" in lines
    assert "exact: every count comes over" in lines
    assert any("hash, 16 entries -> hash, 16 entries; 2 entries" in line for line in lines)
    planned = here.load(version(**WIDER), "--migrate", "--dry-run")["maps"][0]
    assert (planned["decision"], planned["migration"]["entries"]) == ("migrated", 2)
    assert planned["migration"]["steps"][-1].startswith("publish; the old map")


def test_with_nothing_to_migrate_it_is_a_load_like_any_other(here: Here) -> None:
    first = here.load(version(), "--migrate")
    again = here.load(version(), "--migrate")

    assert (first["result"], again["result"]) == ("loaded", "unchanged")


KERNELS_OWN = {
    "timer": (
        "struct bpf_timer { __u64 opaque[2]; } __attribute__((aligned(8)));",
        "struct bpf_timer own;",
    ),
    "lock": ("struct bpf_spin_lock { __u32 val; };", "struct bpf_spin_lock own; __u32 unused;"),
    "pointer": (
        "struct task_struct { int pid; };",
        'struct task_struct __attribute__((btf_type_tag("kptr"))) *own;',
    ),
    "list": ("struct bpf_refcount { __u32 opaque; };", "struct bpf_refcount own; __u32 unused;"),
}


@pytest.mark.parametrize("kind", ["HASH", "ARRAY"])
@pytest.mark.parametrize("own", KERNELS_OWN)
def test_what_is_the_kernels_own_starts_empty_beside_counters(
    here: Here, own: str, kind: str
) -> None:
    """Added, then kept in a larger map, then removed: what was counted goes along each time."""
    before, member = KERNELS_OWN[own]
    plain = {"BEFORE": before, "TYPE": kind}
    members = {"MEMBERS": f"__u64 packets; {member} __u64 bytes;"}
    key = 1 if kind == "HASH" else 2
    loaded(here, version(**plain), {key: {"packets": 7, "bytes": 70}})
    seen = []
    for macros in (
        {**plain, **members},
        {**plain, **members, "ENTRIES": 64},
        {**plain, "ENTRIES": 32},
    ):
        document = here.load(version(**macros), "--migrate")
        (plan,) = (one["migration"] for one in document["maps"] if one["name"] == COUNTERS)
        value = read(here.set / COUNTERS)[key]
        seen.append((plan["is_exact"], value["packets"], value["bytes"], plan["notes"][0]))

    name = member.partition(" own")[0].partition(" __attribute__")[0]
    assert [one[:3] for one in seen] == [(True, 7, 70)] * 3
    assert all(note.startswith(f"own ({name}") for *_, note in seen)
    assert [note.rpartition(") ")[2] for *_, note in seen] == [
        "starts empty",
        "starts empty",
        "goes with the old map",
    ]
