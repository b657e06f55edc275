"""`bpfpin prog list` and `show`: the programs of the host, where they run, and what keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.clsact import attach_clsact
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import Hook, MapSpec, XdpMode
from bpfpin.uapi import MapType, ProgramType
from support.foreign_links import program as small_program
from support.here import Here, bpftool, counting_veth, listed_by_id, run_here, veth
from support.holders import their_program
from support.nobody import run_cli_as_nobody
from support.objects import compiled
from support.sets import xdp_program
from support.tools import need


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device with a set in a pin root of the test's own."""
    with counting_veth(bpffs) as here:
        yield here


def listed(*words: object) -> dict[int, Any]:
    """Return the programs of a list by id."""
    return listed_by_id("prog", *words)


def test_a_program_of_a_set_is_listed_with_its_link_pins_and_set(here: Here) -> None:
    (row,) = here.ok("prog", "list", "--pinned")["programs"]

    assert (row["name"], row["type"], row["uid"]) == ("xdp_stats", "xdp", os.getuid())
    assert row["memory_bytes"] > 0
    assert 0 <= row["age_s"] < 600
    assert row["attached"] == [
        {"hook": "xdp", "where": f"{here.device} (native)", "link": row["attached"][0]["link"]}
    ]
    assert row["pins"] == [str(here.set / "programs~" / "xdp_stats")]
    assert row["link_pins"] == [str(here.set / "links~" / "xdp")]
    assert row["sets"] == [here.device]
    assert len(row["map_ids"]) == 2
    assert "processes" not in row
    line = run_here("prog", "list", "--pinned", "--pin-root", here.root).stdout.splitlines()[1]
    assert f"xdp of {here.device} (native)" in line
    assert row["tag"] in line


def test_programs_without_a_link_say_where_they_run(here: Here) -> None:
    with veth() as device, xdp_program("by_filter") as _:
        with their_program(Here(here.root, device), XdpMode.GENERIC) as theirs:
            assert listed()[theirs.id]["attached"] == [
                {"hook": "xdp", "where": f"{device} (generic)", "link": None}
            ]
        with small_program(ProgramType.SCHED_CLS, "filter") as classifier:
            attach_clsact(classifier, device, Hook.TC_EGRESS)
            assert listed()[classifier.id]["attached"] == [
                {"hook": "tc-egress", "where": device, "link": None}
            ]


def test_a_list_is_narrowed_and_sorted(here: Here) -> None:
    with small_program(ProgramType.SOCKET_FILTER, "lonely") as lonely:
        rows = here.ok("prog", "list", "--attached", "--type", "xdp", "--name", "xdp_st*")[
            "programs"
        ]
        # Other tests have such programs as well, on devices of other namespaces.
        (row,) = [row for row in rows if here.device in row["sets"]]
        counters = here.set / "xdp_stats_map"

        assert row["sets"] == [here.device]
        assert list(listed("--map", counters, "--pin-root", here.root)) == [row["id"]]
        assert lonely.id in listed("--name", "lonely", "--type", "SOCKET_FILTER")
        assert lonely.id not in listed("--attached")
        assert lonely.id not in listed("--pinned", "--pin-root", here.root)
        newest_first = list(listed("--sort", "-id"))
        assert newest_first == sorted(newest_first, reverse=True)
        youngest_last = [row["age_s"] for row in listed("--sort", "-age").values()]
        assert youngest_last == sorted(youngest_last, reverse=True)


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("list", "--type", "xpd"), 2, "'xpd' is not a type of program"),
        (("list", "--sort", "colour"), 2, "no field 'colour' to sort by: id, name"),
        (("show", "12"), 2, "'12' is not a program"),
        (("show", "id:x"), 2, "'id:x' is not an id"),
        (("show", "id:4294967295"), 4, "there is no such id"),
        (("show", "name:nosuch_at_all"), 4, "no program is named 'nosuch_at_all'"),
        (("show", "name:"), 4, "no program is named ''"),
        (("show", "/sys/fs/bpf/nosuch"), 4, "there is no such name"),
    ],
)
def test_what_names_no_program_is_refused(
    words: tuple[str, ...], exit_code: int, message: str
) -> None:
    result = run_here("prog", *words, "-o", "json")

    assert result.exit_code == result.json["error"]["exit"] == exit_code
    assert message in result.json["error"]["message"]


def test_show_takes_every_way_to_name_a_program(here: Here) -> None:
    (row,) = here.ok("prog", "list", "--pinned")["programs"]
    words = [f"id:{row['id']}", f"{here.device}/xdp_stats", row["pins"][0]]

    assert {here.ok("prog", "show", word)["id"] for word in words} == {row["id"]}
    hint = here.refused(2, "prog", "show", f"{here.device}/nosuch").json["error"]["hint"]
    assert hint == f"{here.device} has: xdp_stats"
    here.refused(6, "prog", "show", here.set / "xdp_stats_map")


def test_a_name_that_several_programs_have_is_refused_with_the_list() -> None:
    with (
        small_program(ProgramType.SOCKET_FILTER, "twins") as first,
        small_program(ProgramType.XDP, "twins") as second,
    ):
        result = run_here("prog", "show", "name:twins", "-o", "json")

        assert result.exit_code == 2
        assert result.json["error"]["message"] == (
            f"2 programs are named 'twins': id:{first.id} (socket_filter), id:{second.id} (xdp)"
        )
        assert run_here("prog", "show", "twins").stderr.endswith(
            "hint: bpfpin prog show name:twins\n"
        )


def test_show_has_the_figures_functions_and_maps() -> None:
    with load(read_object(compiled("subprograms", "clang"))) as loaded:
        name, program = next(iter(loaded.programs.items()))
        shown = run_here("prog", "show", f"id:{program.id}", "-o", "json").json
        text = run_here("prog", "show", f"id:{program.id}").stdout
        info = program.info

    assert shown["full_name"] == name
    assert shown["verified_instructions"] == info.verified_instructions > 0
    assert shown["xlated_bytes"] == info.xlated_size
    assert shown["jited_bytes"] == info.jited_size
    assert shown["functions"][0]["name"] == name
    assert len(shown["functions"]) > 1
    assert sum(function["jited_bytes"] for function in shown["functions"]) == info.jited_size
    assert [row["id"] for row in shown["maps"]] == list(info.map_ids)
    assert f"verified     {info.verified_instructions} instructions" in text
    assert f"function     {shown['functions'][1]['name']} at instruction" in text


def test_show_names_the_program_arrays_and_processes(bpffs: Path) -> None:
    with (
        small_program(ProgramType.SOCKET_FILTER, "callee") as callee,
        Map.create(MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, 2)) as jumps,
    ):
        jumps[0] = callee
        callee.pin(bpffs / "callee")
        shown = run_here("prog", "show", bpffs / "callee", "-o", "json").json

        assert shown["program_arrays"] == [jumps.id]
        assert shown["pins"] == [str(bpffs / "callee")]
        assert shown["processes"] == []  # this process, which has it open, does not count
        text = run_here("prog", "show", bpffs / "callee").stdout
        assert f"user         program array {jumps.id}, for tail calls\n" in text


def test_bpftool_shows_the_same_programs(here: Here) -> None:
    need("bpftool")
    ours = listed("--pin-root", here.root)
    theirs = {row["id"]: row for row in bpftool("prog", "show")}

    (own,) = [row["id"] for row in ours.values() if row["sets"] == [here.device]]
    for program_id in ours.keys() & theirs.keys() & {own}:
        wanted = theirs[program_id]
        row = ours[program_id]
        assert (row["type"], row["tag"], row["map_ids"]) == (
            wanted["type"],
            wanted["tag"],
            wanted["map_ids"],
        )
        assert row["memory_bytes"] == wanted["bytes_memlock"]
        assert abs(row["loaded_at"] - wanted["loaded_at"]) <= 1
    assert own in theirs


def test_an_empty_list_says_so() -> None:
    assert run_here("prog", "list", "--name", "nosuch").stderr.endswith("no program matches\n")


def test_an_ordinary_user_sees_a_note(here: Here) -> None:
    result = run_cli_as_nobody("prog", "list", "--pin-root", here.root)

    assert "only pinned programs are listed" in result.stderr
