"""Migrations that are refused: what is said, what to type, and that nothing has changed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bpfpin
from support.here import Here, veth
from support.shapes import COUNTED, COUNTERS, SEEN, SEEN_AT, WIDER, loaded, migrated, read, version

CARRY = "to carry over what is counted there: "
PLAIN = {"COUNT": "counter->packets++, counter->bytes += size"}

NONSENSE = [
    (("--migrate", "--confirm", "5"), "a migration cannot be on trial"),
    (("--drop", "bytes"), "is an option of a migration: add --migrate"),
    (("--clamp",), "is an option of a migration: add --migrate"),
    (("--migrate", "--drop", "nothing"), "no old member 'nothing'"),
    (("--migrate", "--rule", "nothing=sum"), "no new member 'nothing'"),
    (("--migrate", "--rule", "flows:packets=sum"), "no map 'flows' is to be migrated"),
    (("--migrate", "--rule", "packets=wild"), "'wild' is not a rule"),
    (("--migrate", "--start", "drops"), "it takes MEMBER=VALUE"),
    (("--migrate", "--start", "drops=many"), "many"),
    (("--migrate", "--layout", "flows=u64 x"), "no map 'flows' is to be migrated"),
    (("--migrate", "--layout", "counters=u64 x; u64 y"), "the map has types of its own"),
]


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


def told(here: Here, source: Path, *words: str) -> tuple[list[str], str]:
    """Return the fields that differ, and what to type to carry the contents over."""
    error: dict[str, Any] = here.load_refused(6, source, *words).json["error"]
    lines = [line.strip() for line in error["hint"].splitlines()]
    carry = [line.removeprefix(CARRY) for line in lines if line.startswith(CARRY)]
    return [one["field"] for one in error["differences"]], "".join(carry)


def test_without_the_option_the_report_has_the_line_to_type(here: Here) -> None:
    loaded(here, version(), COUNTED)
    fields, line = told(here, version(**WIDER))

    assert ("value_size" in fields, line) == (True, "--migrate")
    assert migrated(here, version(**WIDER), *line.split()[1:])[1]["packets"] == 100


def test_the_line_has_what_would_be_lost(here: Here) -> None:
    loaded(here, version(**SEEN), SEEN_AT)
    without, with_it = told(here, version()), told(here, version(), "--migrate")

    assert without[1] == "--migrate --rename last_seen=NEW"
    assert with_it == (["value last_seen"], "add --rename last_seen=NEW")


@pytest.mark.parametrize(
    ("new", "words", "loses", "lines"),
    [
        # Something else is left, and nothing new that it could be.
        (
            {"MEMBERS": "__u64 packets;", "COUNT": "ADD(counter->packets, 1)"},
            (),
            "to lose the counts of bytes, and carry over the rest: add --drop bytes",
            2,
        ),
        # All that was counted would be dropped: that is no way to carry anything over.
        (
            {"MEMBERS": "__u64 drops; __u64 errors;", "COUNT": "ADD(counter->drops, 1)"},
            (),
            "to carry over what is counted there: add --rename packets=NEW --rename bytes=NEW",
            2,
        ),
        (
            {"MEMBERS": "char text[8];", "COUNT": "counter->text[0] = 1"},
            (),
            "to start empty, losing what is counted there: --fresh counters",
            1,
        ),
        (
            {"MEMBERS": "__u64 packets; __u8 bytes;", "COUNT": "ADD(counter->packets, 1)"},
            ("--rule", "bytes=sum"),
            "to lose the part of bytes that does not fit, and carry over the rest: add --clamp",
            2,
        ),
    ],
    ids=["dropped", "all-dropped", "nothing-alike", "narrower"],
)
def test_what_would_be_lost_is_not_recommended_as_carrying_over(  # noqa: PLR0917  (a row)
    here: Here, new: dict[str, Any], words: tuple[str, ...], loses: str, lines: int
) -> None:
    loaded(here, version(), COUNTED)
    error = here.load_refused(6, version(**new), "--migrate", *words).json["error"]
    told = [line.strip() for line in error["hint"].splitlines()][1:]

    assert told[0] == loses
    assert len(told) == lines
    assert not any("--drop" in line for line in told if line.startswith(CARRY))


@pytest.mark.parametrize(
    ("old", "new", "words", "field", "line"),
    [
        ({}, {"ENTRIES": 1}, (), "max_entries", "make counters larger (max_entries)"),
        ({}, {"TYPE": "ARRAY"}, (), "type", ""),
        (
            {},
            {"MEMBERS": "__u8 packets; __u64 bytes;", "COUNT": "ADD(counter->bytes, 1)"},
            ("--rule", "packets=sum"),
            "value packets",
            "",
        ),
        (PLAIN, PLAIN | WIDER, (), "exactness", "add --best-effort"),
        (
            {},
            {"COUNT": "ADD(counter->packets, 1), counter->bytes = size", **WIDER},
            (),
            "value bytes",
            "add --rule bytes=sum|keep-new|keep-old|max|min",
        ),
        (
            {},
            {"MEMBERS": "__u64 both; __u64 packets; __u64 bytes;"},
            ("--rename", "packets=both", "--rename", "bytes=both"),
            "value both",
            "add --rename bytes=NEW, and --rename: two old members have this name",
        ),
        (
            {},
            WIDER,
            ("--start", "packets=5"),
            "value packets",
            "--start is for new members",
        ),
    ],
    ids=["entries", "type", "narrow", "plain-adds", "no-rule", "ambiguous", "start"],
)
def test_what_cannot_go_over_is_refused_with_what_to_type(  # noqa: PLR0917  (a row)
    here: Here,
    old: dict[str, Any],
    new: dict[str, Any],
    words: tuple[str, ...],
    field: str,
    line: str,
) -> None:
    entries = {7: {"packets": 300, "bytes": 1}, **COUNTED}
    loaded(here, version(**old), entries)
    fields, shown = told(here, version(**new), "--migrate", *words)

    assert field in fields
    assert shown == line
    assert read(here.set / COUNTERS) == entries


def test_an_entry_that_does_not_fit_is_shown(here: Here) -> None:
    loaded(here, version(), {7: {"packets": 5_000_000_000, "bytes": 1}})
    narrow = version(MEMBERS="__u32 packets; __u32 bytes;")
    error = here.load_refused(6, narrow, "--migrate").json["error"]
    (one,) = error["differences"]

    assert one["old"] == "5000000000 at key 7, in {'packets': 5000000000, 'bytes': 1}"
    assert one["new"] == "u32 has no room"
    assert "--clamp" in error["hint"]


def test_a_map_without_types_asks_for_its_layout(here: Here) -> None:
    here.load(version("WITHOUT_BTF"))
    layout = "--layout counters='u64 MEMBER;…'"

    assert told(here, version(**WIDER))[1] == f"--migrate {layout}"
    assert told(here, version(**WIDER), "--migrate")[1] == f"add {layout}"
    for given, text in (("float x", "'float x' is not a member"), ("u64 packets", "take 8 bytes")):
        words = ("--migrate", "--layout", f"counters={given}")
        assert text in here.load_refused(2, version(**WIDER), *words).json["error"]["message"]


def test_a_map_that_a_program_of_another_set_uses_is_refused(here: Here) -> None:
    """The switch would not reach it, and what it counts would be lost with the old map."""
    loaded(here, version(), COUNTED)
    with veth() as other:
        shared = f"{COUNTERS}={here.set / COUNTERS}"
        here.ok("load", version(), "--dev", other, "--map", shared)
        fields, line = told(here, version(**WIDER), "--migrate")
        error = here.load_refused(6, version(**WIDER), "--migrate").json["error"]
        at_its_map = here.refused(6, "load", version(**WIDER), "--dev", other, "--map", shared)
        after = migrated(here, version(**WIDER), "--best-effort")
        here.ok("unload", other)

    assert (fields, line) == (["user"], "add --best-effort")
    assert f"count_xdp at xdp of {other}" in error["differences"][0]["old"]
    assert "--migrate" not in at_its_map.json["error"]["hint"]
    assert after[1] == {"bytes": 1000, "packets": 100, "drops": 0}


def test_a_hook_that_leaves_the_set_counts_until_the_old_map_is_gone(here: Here) -> None:
    """It is detached last, when the fold is over: unless all is detached first, counts are lost."""
    loaded(here, version(AT_TC='"tcx/ingress"'), COUNTED)
    without = told(here, version(**WIDER))
    fields, line = told(here, version(**WIDER), "--migrate")
    here.ok("unload", here.device, "--keep-maps")

    assert (fields, without[1].split()[:2]) == (["hook"], ["--migrate", "--best-effort"])
    assert line == f"add --best-effort (or first: {here.typed} unload --keep-maps {here.device})"
    assert migrated(here, version(**WIDER))[1]["packets"] == 100


def test_so_does_the_old_program_at_a_hook_without_update_in_place(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = bpfpin.Hook.TCX_INGRESS
    monkeypatch.setattr(hook, "traits", hook.traits._replace(updates_in_place=False))
    loaded(here, version(AT_TC='"tcx/ingress"'), COUNTED)
    words = ("--migrate", "--no-stub")

    assert told(here, version(AT_TC='"tcx/ingress"', **WIDER), *words)[0] == ["hook"]


def test_a_device_that_is_gone_keeps_nobody_from_migrating(here: Here) -> None:
    loaded(here, version(), COUNTED)
    subprocess.run(["ip", "link", "del", here.device], check=True)
    with veth(here.device):
        assert migrated(here, version(**WIDER))[1]["packets"] == 100


def test_a_set_that_moves_to_another_device_counts_on_the_first_one(here: Here) -> None:
    loaded(here, version(), COUNTED)
    with veth() as other:
        words = ("--dev", other, "--name", here.device, "--replace", "--migrate")
        refused = here.refused(6, "load", version(**WIDER), *words)
        here.ok("load", version(**WIDER), *words, "--best-effort")
        here.ok("unload", here.device)

    assert refused.json["error"]["differences"][0]["field"] == "hook"


def test_words_that_make_no_sense_are_refused(here: Here) -> None:
    loaded(here, version(), COUNTED)
    for words, text in NONSENSE:
        result = here.load_refused(2, version(**WIDER), *words)

        assert text in result.json["error"]["message"]


def test_the_public_names_say_the_same_in_python(here: Here) -> None:
    loaded(here, version(**SEEN), SEEN_AT)
    with pytest.raises(bpfpin.IncompatibleMapError) as caught:
        bpfpin.deploy(version(), device=here.device, pin_root=here.root, migrate=True)
    migration = bpfpin.Migration(rules={"packets": bpfpin.Rule.MAX}, renamed={"last_seen": "bytes"})
    bpfpin.deploy(version(), device=here.device, pin_root=here.root, migrate=migration)

    assert [one.field for one in caught.value.differences] == ["value last_seen"]
    assert f"{CARRY}add renamed={{'last_seen': NEW}}" in caught.value.hint
    assert "--" not in caught.value.hint
    assert read(here.set / COUNTERS) == {1: {"packets": 100, "bytes": 5}}
