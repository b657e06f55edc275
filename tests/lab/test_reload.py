"""Loading again: what a user sees of a live reload, and what goes on counting through it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from support.here import Here, bpftool, decisions, holder_of, map_ids, packets, veth
from support.lab import TestLab
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"
BSS = "%2ebss"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def counting(bpffs: Path, lab: TestLab) -> Here:
    """A device with a peer that sends, and a pin root of its own."""
    return Here(bpffs, lab.device)


def another(source: Path, folder: Path) -> Path:
    """Return an object that differs from *source* by a byte that nobody reads."""
    path = folder / f"another-{source.name}"
    path.write_bytes(source.read_bytes() + b"\0")
    return path


def packets_seen(here: Here) -> int:
    """Return what a program counts in a global variable."""
    with Map.from_pin(here.set / BSS, read_only=True) as bss:
        return int(bss[0]["packets_seen"])


def count(here: Here, map_name: str = COUNTERS) -> None:
    """Write a number into the counters, as a program would."""
    with Map.from_pin(here.set / map_name) as counters:
        counters[1] = [{"rx_packets": 7, "rx_bytes": 700}] * len(counters[1])


def test_the_same_object_again_touches_nothing(here: Here) -> None:
    first = here.load(compiled(OLD))
    before = here.everything()
    second = here.load(compiled(OLD))

    assert (first["result"], second["result"]) == ("loaded", "unchanged")
    assert (first["generation"], second["generation"]) == (1, 1)
    assert second["programs"] == first["programs"]
    assert map_ids(second) == map_ids(first)
    assert set(decisions(second).values()) == {"kept"}
    assert here.everything() == before


def test_another_object_goes_on_where_the_first_one_counted(counting: Here, lab: TestLab) -> None:
    first = counting.load(compiled(OLD))
    lab.flood(30)
    second = counting.load(compiled(NEW))
    lab.flood(20)
    with Map.from_pin(counting.set / "by_port", read_only=True) as by_port:
        since = sum(by_port.values())

    assert (second["result"], second["generation"]) == ("reloaded", 2)
    assert (packets(counting.set / COUNTERS), packets_seen(counting), since) == (50, 50, 20)
    assert first["programs"][0]["id"] != second["programs"][0]["id"]


def test_a_reload_keeps_link_and_maps_and_says_what_becomes_of_each(here: Here) -> None:
    first = here.load(compiled(OLD))
    second = here.load(compiled(NEW))
    (before,), (after,) = first["programs"], second["programs"]
    ids = map_ids(second)

    assert decisions(second) == {
        COUNTERS: "kept",
        ".bss": "kept",
        "by_port": "created",
        "last_port": "removed",
    }
    assert ids == {**map_ids(first), "by_port": ids["by_port"]}
    assert second["hooks"] == [
        {
            "hook": "xdp",
            "device": here.device,
            "action": "update",
            "program": "count_port",
            "link": before["link"],
            "before": before["id"],
        }
    ]
    assert after["link"] == before["link"]


def test_a_reload_is_seen_by_bpftool(here: Here) -> None:
    need("bpftool")
    first = here.load(compiled(OLD))["programs"][0]
    second = here.load(compiled(NEW))
    program = second["programs"][0]
    link = bpftool("link", "show", "id", first["link"])
    in_use = [one["id"] for one in second["maps"] if one["decision"] != "removed"]

    assert link["prog_id"] == program["id"] != first["id"]
    assert sorted(bpftool("prog", "show", "id", program["id"])["map_ids"]) == sorted(in_use)
    for name, pin in [(COUNTERS, COUNTERS), (".bss", BSS), ("by_port", "by_port")]:
        pinned = bpftool("map", "show", "pinned", here.set / pin)
        assert pinned["id"] == map_ids(second)[name]


def test_a_map_that_the_new_object_lacks_is_unpinned_and_told(here: Here) -> None:
    here.load(compiled(OLD))
    result = here.run("load", compiled(NEW), "--dev", here.device)

    assert "map last_port was unpinned: the new object does not define it" in result.stderr
    assert sorted(path.name for path in here.set.iterdir()) == [
        BSS,
        "by_port",
        "layouts~",
        "links~",
        "manifest~",
        "objects~",
        "programs~",
        COUNTERS,
    ]
    assert [path.name for path in (here.set / "layouts~").iterdir() if "last" in path.name] == []


def test_variables_keep_their_values_and_constants_are_made_anew(
    here: Here, tmp_path: Path
) -> None:
    source = compiled("globals")
    first = here.load(source)
    with Map.from_pin(here.set / "%2edata") as data:
        data[0] = {**data[0], "verdict": 1}
    second = here.load(another(source, tmp_path))
    with Map.from_pin(here.set / "%2edata", read_only=True) as data:
        verdict = data[0]["verdict"]
    made_anew = {name for name, one in map_ids(second).items() if one != map_ids(first)[name]}

    assert decisions(second)[".bss"] == decisions(second)[".data"] == "kept"
    assert verdict == 1
    assert made_anew
    assert all(name.startswith(".rodata") for name in made_anew)
    assert {decisions(second)[name] for name in made_anew} == {"created"}


def test_a_dry_run_of_a_first_load_changes_nothing(here: Here) -> None:
    before = here.everything()
    plan = here.load(compiled(OLD), "--dry-run")
    after = here.everything()
    done = here.load(compiled(OLD))

    assert plan["result"] == "planned"
    assert after == before
    assert decisions(plan) == decisions(done) == dict.fromkeys(decisions(done), "created")


def test_a_dry_run_of_a_reload_changes_nothing_and_is_what_the_reload_does(here: Here) -> None:
    here.load(compiled(OLD))
    before = here.everything()
    plan = here.load(compiled(NEW), "--dry-run")
    after = here.everything()
    done = here.load(compiled(NEW))

    assert after == before
    assert (plan["result"], done["result"]) == ("planned", "reloaded")
    assert (
        set(plan)
        == set(done)
        == {
            *("schema", "result", "set", "path", "generation"),
            *("programs", "maps", "hooks", "notes"),
        }
    )
    for key in ("set", "path", "generation", "hooks"):
        assert plan[key] == done[key]
    planned = [note.replace("would be unpinned", "was unpinned") for note in plan["notes"]]
    assert planned == done["notes"]
    assert planned != plan["notes"]
    assert [one["id"] for one in plan["programs"]] == [None]
    assert [{**one, "id": 0} for one in plan["maps"]] == [{**one, "id": 0} for one in done["maps"]]


def test_a_dry_run_of_the_same_object_says_that_it_is_unchanged(here: Here) -> None:
    here.load(compiled(OLD))
    before = here.everything()
    plan = here.load(compiled(OLD), "--dry-run")

    assert plan["result"] == "unchanged"
    assert here.everything() == before


@pytest.mark.parametrize("source", [OLD, NEW], ids=["same-object", "other-object"])
def test_a_map_named_by_fresh_starts_empty_and_the_others_go_on(here: Here, source: str) -> None:
    first = here.load(compiled(OLD))
    count(here)
    second = here.load(compiled(source), "--fresh", COUNTERS)

    assert (second["result"], packets(here.set / COUNTERS)) == ("reloaded", 0)
    assert decisions(second)[COUNTERS] == "fresh"
    assert map_ids(second)[COUNTERS] != map_ids(first)[COUNTERS]
    assert map_ids(second)[".bss"] == map_ids(first)[".bss"]


def test_fresh_all_makes_every_map_anew(here: Here) -> None:
    first = here.load(compiled(OLD))
    second = here.load(compiled(OLD), "--fresh", "all")

    assert decisions(second) == {COUNTERS: "fresh", ".bss": "fresh", "last_port": "fresh"}
    assert set(map_ids(second).values()) & set(map_ids(first).values()) == set()
    assert second["programs"][0]["link"] == first["programs"][0]["link"]


def test_kept_maps_go_on_counting_in_the_next_load(counting: Here, lab: TestLab) -> None:
    first = counting.load(compiled(OLD))
    lab.flood(10)
    counting.ok("unload", counting.device, "--keep-maps")
    wait_until(lambda: counting.holder() is None)
    second = counting.load(compiled(NEW))
    lab.flood(10)

    assert (packets(counting.set / COUNTERS), packets_seen(counting)) == (20, 20)
    assert second["result"] == "loaded"
    assert decisions(second)["last_port"] == "removed"
    assert map_ids(second)[COUNTERS] == map_ids(first)[COUNTERS]


def test_another_mode_is_reached_by_the_lines_that_are_told(here: Here) -> None:
    here.load(compiled(OLD), "--mode", "native")
    count(here)
    refused = here.load_refused(7, compiled(OLD), "--mode", "generic")
    here.ok("unload", "--keep-maps", here.device)
    after = here.load(compiled(OLD), "--mode", "generic")

    assert f"{here.typed} unload --keep-maps {here.device}, then load" in refused.stderr
    assert "--mode generic" in refused.stderr
    assert after["programs"][0]["mode"] == "generic"
    assert packets(here.set / COUNTERS) > 0


def test_a_mode_that_is_not_asked_for_stays_the_one_it_is(here: Here) -> None:
    here.load(compiled(OLD), "--mode", "generic")

    assert here.load(compiled(NEW))["programs"][0]["mode"] == "generic"


def test_a_device_made_anew_gets_the_maps_of_its_namesake(here: Here) -> None:
    first = here.load(compiled(OLD))
    count(here)
    with veth_anew(here.device):
        second = here.load(compiled(OLD))
        holder = here.holder()

    assert holder is not None
    assert holder.program_id == second["programs"][0]["id"]
    assert set(decisions(second).values()) == {"kept"}
    assert map_ids(second) == map_ids(first)
    assert packets(here.set / COUNTERS) > 0
    assert second["programs"][0]["link"] != first["programs"][0]["link"]


def test_a_hook_that_was_empty_is_not_told_as_a_program(here: Here) -> None:
    here.load(compiled(OLD))
    with veth_anew(here.device):
        result = here.run("load", compiled(OLD), "--dev", here.device)

    assert "None" not in result.stderr


def veth_anew(name: str) -> contextlib.AbstractContextManager[str]:
    """Delete a device and make another one of its name."""
    subprocess.run(["ip", "link", "del", name], check=True)
    return veth(name)


def test_a_set_of_another_device_moves_only_on_purpose(here: Here) -> None:
    with veth() as other:
        first = here.ok("load", compiled(OLD), "--dev", other, "--name", "mine")
        there = Here(here.root, other)
        before = there.everything()
        refused = here.load_refused(7, compiled(OLD), "--name", "mine")
        untouched = there.everything() == before
        moved = here.load(compiled(OLD), "--name", "mine", "--replace")
        wait_until(lambda: holder_of(other) is None)

    assert [word for word in (other, "--name", "--replace") if word not in refused.stderr] == []
    assert untouched
    assert here.holder() is not None
    assert map_ids(moved) == map_ids(first)


def test_a_renamed_device_finds_its_set(here: Here) -> None:
    first = here.load(compiled(OLD))
    renamed = f"{here.device}r"
    index = socket.if_nametoindex(here.device)
    subprocess.run(["ip", "link", "set", here.device, "name", renamed], check=True)
    second = here.ok("load", compiled(NEW), "--dev", renamed)
    subprocess.run(["ip", "link", "set", renamed, "name", here.device], check=True)

    assert socket.if_nametoindex(here.device) == index
    assert (second["set"], second["result"]) == (here.device, "reloaded")
    assert second["programs"][0]["link"] == first["programs"][0]["link"]


def test_a_set_is_found_by_its_device_whatever_it_is_called(here: Here) -> None:
    first = here.load(compiled(OLD), "--name", "mine")
    second = here.load(compiled(NEW))
    here.ok("unload", here.device)

    assert (second["set"], second["result"], second["generation"]) == ("mine", "reloaded", 2)
    assert second["programs"][0]["link"] == first["programs"][0]["link"]


def test_a_device_with_a_dot_in_its_name_is_reloaded(bpffs: Path) -> None:
    with veth("here.100") as device:
        here = Here(bpffs, device)
        here.load(compiled(OLD))
        reloaded = here.load(compiled(NEW))
        here.ok("unload", device)

    assert (reloaded["set"], reloaded["path"]) == (device, f"{bpffs}/here%2e100")


def test_kept_maps_that_do_not_fit_are_refused_until_they_may_start_empty(here: Here) -> None:
    here.load(compiled(OLD))
    here.ok("unload", here.device, "--keep-maps")
    refused = here.load_refused(6, compiled("reload_incompatible"))
    loaded = here.load(compiled("reload_incompatible"), "--fresh", COUNTERS)

    assert "is used by: nobody" in refused.stderr
    assert decisions(loaded)[COUNTERS] == "fresh"


def test_a_program_chosen_anew_comes_in_the_place_of_the_other(here: Here) -> None:
    source = compiled("several_programs")
    first = here.load(source, "--prog", "pass")
    second = here.load(source, "--prog", "drop")

    assert (first["result"], second["result"]) == ("loaded", "reloaded")
    assert [one["name"] for one in second["programs"]] == ["drop"]
    assert second["programs"][0]["link"] == first["programs"][0]["link"]
    assert [path.name for path in (here.set / "programs~").iterdir()] == ["drop"]
