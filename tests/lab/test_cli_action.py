"""`bpfpin action`: the verdict of a running program, ours or anybody's."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.attach.xdp import attach_xdp
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    BtfType,
    Enum,
    Enumerator,
    Int,
    IntEncoding,
    Modifier,
    ModifierKind,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.sets.action import ActionResult, Switch, show, switch
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType, XdpAction
from support.cli import CliResult
from support.here import Here, run_here, veth
from support.lab import TestLab
from support.nobody import let_everybody_enter, nobody
from support.objects import COMPILERS, compiled_case

GROUP = 4711


@pytest.fixture
def here(bpffs: Path, lab: TestLab) -> Here:
    """The device of a lab, and a pin root of the test's own."""
    return Here(bpffs, lab.device)


@pytest.fixture
def loaded(here: Here) -> Iterator[Here]:
    """The device with `builtin:xdp_stats`."""
    here.load("builtin:xdp_stats")
    yield here
    here.ok("unload", here.device)


def plain(here: Here, *words: object) -> CliResult:
    """Run a line without JSON."""
    return run_here(*words, "--pin-root", here.root)


def entry(here: Here) -> int:
    """Return what the map holds."""
    with Map.from_pin(here.set / "action") as held:
        return int(held[0])


def test_a_verdict_that_was_never_set_is_shown_as_what_it_means(loaded: Here) -> None:
    assert plain(loaded, "action", loaded.device).stdout == "XDP_PASS (not set)\n"
    assert loaded.ok("action", loaded.device)["action"] == "XDP_PASS"


@pytest.mark.parametrize("word", ["XDP_DROP", "drop", "1"])
def test_a_verdict_is_switched_and_the_next_packet_feels_it(
    loaded: Here, lab: TestLab, word: str
) -> None:
    reached = [lab.answers()]
    plain(loaded, "action", loaded.device, word)
    reached.append(lab.answers(timeout_s=0.2))
    plain(loaded, "action", "--dev", loaded.device, "pass")
    reached.append(lab.answers())

    assert reached == [True, False, True]


def test_the_document_tells_the_map_and_what_was_before(loaded: Here) -> None:
    switched = loaded.ok("action", loaded.device, "XDP_DROP")
    again = loaded.ok("action", loaded.device, "XDP_DROP")
    shown = loaded.ok("action", loaded.device)
    with Map.from_pin(loaded.set / "action") as held:
        map_ = {"name": "action", "id": held.id}

    assert switched == {
        "schema": 1,
        "set": loaded.device,
        "device": loaded.device,
        "map": map_,
        "action": "XDP_DROP",
        "before": "XDP_PASS",
        "result": "switched",
        "note": "",
        "notes": [],
    }
    assert (again["result"], again["before"]) == ("unchanged", "XDP_DROP")
    assert (shown["result"], shown["action"], shown["before"]) == ("shown", "XDP_DROP", None)


@pytest.mark.parametrize("words", [("{dev}",), ("--dev", "{dev}"), ("{dev}", "--dev", "{dev}")])
def test_the_device_is_typed_as_a_word_or_an_option(loaded: Here, words: tuple[str, ...]) -> None:
    typed = [word.replace("{dev}", loaded.device) for word in words]
    switched = loaded.ok("action", *typed, "XDP_DROP")
    shown = loaded.ok("action", *typed)

    assert (switched["action"], shown["action"]) == ("XDP_DROP", "XDP_DROP")


def test_another_set_is_found_by_its_name(here: Here) -> None:
    here.load("builtin:xdp_stats", "--name", "edge")
    switched = here.ok("action", "edge", "drop")
    by_device = here.ok("action", here.device)
    here.ok("unload", "edge")

    assert (switched["set"], by_device["set"], by_device["action"]) == ("edge", "edge", "XDP_DROP")


@pytest.mark.parametrize("word", ["XDP_TX", "redirect"])
def test_a_verdict_that_alone_is_of_no_use_needs_force(loaded: Here, word: str) -> None:
    refused = loaded.refused(2, "action", loaded.device, word)
    forced = loaded.ok("action", loaded.device, word, "--force")

    assert "--force" in refused.json["error"]["hint"]
    assert forced["result"] == "switched"


@pytest.mark.parametrize(
    ("words", "exit_code", "told"),
    [
        (("allow",), 2, "there is no verdict 'allow'"),
        (("XDP_ABORTED",), 2, "never set"),
        (("XDP_DROP", "--map", "xdp_stats"), 2, "xdp_stats_map"),
        (("XDP_DROP", "--map", "xdp_stats_map"), 6, "cannot hold a verdict"),
        (("XDP_DROP", "--flag", "noexist"), 7, "XDP_DROP"),
        (("--confirm", "5"), 2, "no verdict to switch to"),
        (("--force",), 2, "no verdict to switch to"),
        (("XDP_DROP", "--confirm", "0"), 2, "--confirm"),
        (("XDP_DROP", "--flag", "maybe"), 2, "--flag"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(
    loaded: Here, words: tuple[str, ...], exit_code: int, told: str
) -> None:
    refused = loaded.refused(exit_code, "action", loaded.device, *words)

    assert entry(loaded) == 0
    if exit_code != 7:
        assert told in refused.stderr


def test_all_that_keeps_a_map_from_holding_a_verdict_is_told(loaded: Here) -> None:
    refused = loaded.refused(6, "action", loaded.device, "--map", "xdp_stats_map")

    assert refused.json["error"]["differences"] == [
        {"map": "xdp_stats_map", "field": "type", "old": "percpu_array", "new": "array or hash"},
        {"map": "xdp_stats_map", "field": "value_size", "old": "16", "new": "1, 2, 4 or 8"},
    ]


@pytest.mark.parametrize("words", [(), ("XDP_DROP",)])
def test_where_nothing_runs_that_is_said(here: Here, words: tuple[str, ...]) -> None:
    here.refused(4, "action", here.device, *words)
    here.refused(4, "action", "nowhere", *words)


def test_no_device_at_all_is_a_usage_error(here: Here) -> None:
    here.refused(2, "action")


@contextlib.contextmanager
def theirs(here: Here) -> Iterator[Map]:
    """Attach a program with a map `action` that bpfpin did not load as a set."""
    with (
        load(read_object("builtin:xdp_stats")) as made,
        attach_xdp(made.programs["xdp_stats"], here.device),
    ):
        yield made.maps["action"]


def test_the_program_of_somebody_else_is_shown_and_switched(here: Here) -> None:
    with theirs(here) as held:
        shown = here.ok("action", here.device)
        switched = here.ok("action", here.device, "XDP_DROP")
        value, map_id = held[0], held.id

    assert (shown["set"], shown["action"], shown["map"]["id"]) == (None, "XDP_ABORTED", map_id)
    assert shown["note"] == "or not set: both are 0"
    assert (switched["result"], value) == ("switched", XdpAction.XDP_DROP)
    assert not any(path.is_dir() for path in here.root.iterdir())


def test_the_maps_of_somebody_else_are_listed_where_none_is_named_so(here: Here) -> None:
    with theirs(here):
        refused = here.refused(2, "action", here.device, "--map", "verdict")

    assert "xdp_stats_map (id " in refused.stderr


@pytest.mark.parametrize("flag", ["any", "noexist", "exist"])
def test_the_flag_is_the_one_of_the_update(here: Here, flag: str) -> None:
    """In a hash map an entry may be missing, and then only two of the flags write one."""
    with replaced(here, MapSpec("action", MapType.HASH, 4, 4, 1)) as held:
        shown = plain(here, "action", here.device).stdout
        first = here.run("action", here.device, "XDP_DROP", "--flag", flag).exit_code
        held[bytes(4)] = bytes(4)
        second = here.run("action", here.device, "XDP_DROP", "--flag", flag).exit_code

    assert shown == "XDP_PASS (not set)\n"
    assert (first, second) == {"any": (0, 0), "noexist": (0, 7), "exist": (4, 0)}[flag]


@pytest.mark.parametrize("is_replaced", [True, False])
def test_the_verdict_is_that_of_the_running_program_whatever_is_pinned_there(
    loaded: Here, *, is_replaced: bool
) -> None:
    with Map.from_pin(loaded.set / "action") as own:
        (loaded.set / "action").unlink()
        with Map.create(MapSpec("action", MapType.ARRAY, 4, 4, 1)) as theirs:
            if is_replaced:
                theirs.pin(loaded.set / "action")
            switched = loaded.ok("action", loaded.device, "XDP_DROP")
            shown = loaded.ok("action", loaded.device)

            assert (own[0], theirs.lookup_bytes(bytes(4))) == (XdpAction.XDP_DROP, bytes(4))
        assert switched["map"]["id"] == shown["map"]["id"] == own.id
    assert shown["action"] == "XDP_DROP"


def test_where_the_program_of_the_set_does_not_run_that_is_said(loaded: Here) -> None:
    running = loaded.ok("action", loaded.device)["notes"]
    with Link.from_pin(loaded.set / "links~" / "xdp") as link:
        link.detach()
    detached = loaded.ok("action", loaded.device, "XDP_DROP")
    with theirs(loaded):
        taken = loaded.ok("action", loaded.device)["notes"]
    (loaded.set / "links~" / "xdp").unlink()
    unpinned = loaded.ok("action", loaded.device)["notes"]
    shown = plain(loaded, "action", loaded.device)
    line = shlex.split(unpinned[0].partition("load it again: ")[2])[1:]
    again = run_here(*line)

    assert (running, detached["result"]) == ([], "switched")
    assert "the link at xdp was detached" in detached["notes"][0]
    assert taken == detached["notes"]
    assert "the link at xdp is no longer pinned" in unpinned[0]
    assert (shown.stdout, f"note: {unpinned[0]}" in shown.stderr) == ("XDP_DROP\n", True)
    assert again.exit_code == 0
    assert loaded.ok("action", loaded.device)["notes"] == []


def test_kept_maps_have_a_verdict_that_no_program_reads_yet(here: Here) -> None:
    here.load("builtin:xdp_stats")
    here.ok("unload", here.device, "--keep-maps")
    notes = here.ok("action", here.device, "XDP_DROP")["notes"]
    here.ok("unload", here.device)

    assert "only its maps are there" in notes[0]


U8 = Int("unsigned char", 1, 8)
LONG = Int("long int", 8, 64, IntEncoding.SIGNED)
BOOL = Int("_Bool", 1, 8, IntEncoding.BOOL)
ENUM = Enum("verdict", 4, is_signed=True, values=(Enumerator("STOP", 1), Enumerator("GO", 2)))


def verdict_map(size: int, kind: BtfType | None = None, alias: str = "") -> MapSpec:
    """Describe a map `action`, whose value may be a typedef of its type."""
    spec = MapSpec("action", MapType.ARRAY, 4, size, 1)
    if kind is None:
        return spec
    builder = BtfBuilder()
    key = builder.add(Int("unsigned int", 4, 32))
    value = builder.add(kind)
    if alias:
        value = builder.add(Modifier(ModifierKind.TYPEDEF, alias, value))
    btf = Btf.parse(builder.build())
    return spec.with_changes(key=btf.ref(key), value=btf.ref(value))


@contextlib.contextmanager
def replaced(here: Here, spec: MapSpec) -> Iterator[Map]:
    """Load a set that recorded no ids, as an earlier version did, with *spec* as its verdict."""
    here.load("builtin:xdp_stats")
    shutil.rmtree(here.set / "objects~")
    (here.set / "action").unlink()
    with Map.create(spec) as held:
        held.pin(here.set / "action")
        yield held
    here.ok("unload", here.device)


@pytest.mark.parametrize(
    ("size", "kind", "other"),
    [
        (1, (), 200),
        (2, (), 65535),
        (8, (), 1 << 63),
        (1, (U8, "u8"), 77),
        (8, (LONG,), -1),
        (4, (ENUM, "verdict_t"), 9),
    ],
)
def test_a_verdict_is_an_integer_of_any_width(
    here: Here, size: int, kind: tuple[Any, ...], other: int
) -> None:
    with replaced(here, verdict_map(size, *kind)) as held:
        switched = here.ok("action", here.device, "XDP_DROP")
        written = held.lookup_bytes(bytes(4))
        here.ok("map", "set", here.set / "action", 0, "XDP_PASS")
        shown = here.ok("action", here.device)["action"]
        held.update_bytes(bytes(4), other.to_bytes(size, "little", signed=other < 0))
        unusual = here.ok("action", here.device)

    assert (switched["action"], written) == ("XDP_DROP", b"\1" + bytes(size - 1))
    assert shown == "XDP_PASS"
    assert unusual["note"] == f"{other} is not a verdict"


@pytest.mark.parametrize(
    ("spec", "field"), [(verdict_map(1, BOOL), "value"), (verdict_map(3), "value_size")]
)
def test_what_is_no_integer_holds_no_verdict(here: Here, spec: MapSpec, field: str) -> None:
    with replaced(here, spec):
        refused = here.refused(6, "action", here.device, "XDP_DROP")

    assert [one["field"] for one in refused.json["error"]["differences"]] == [field]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("words", [("--hook", "xdp"), ("--prog", "p:xdp"), ("--type", "xdp")])
def test_the_map_of_the_workshop_is_a_verdict_and_its_counters_are_counted(
    here: Here, lab: TestLab, compiler: str, words: tuple[str, ...]
) -> None:
    here.load(compiled_case("action_long", compiler), *words)
    here.ok("action", here.device, "XDP_PASS")
    lab.flood(3)
    rows = here.ok("stats", here.device, "--count", 1, "--interval", 0.1)["rows"]
    value = (here.set / "action", (2).to_bytes(8, "little"))
    with Map.from_pin(value[0]) as held:
        written = held.lookup_bytes(bytes(4))
    here.ok("unload", here.device)

    assert written == value[1]
    assert {row["action"]: row["packets"] for row in rows}["XDP_PASS"] >= 3


@pytest.mark.parametrize("word", ["XDP_DRP", "allow", "XDP_"])
def test_a_word_that_is_no_verdict_is_refused_with_the_choices(loaded: Here, word: str) -> None:
    refused = loaded.refused(2, "map", "set", loaded.set / "action", 0, word)

    assert "XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT" in refused.json["error"]["hint"]
    assert entry(loaded) == 0


def test_a_reader_of_the_group_is_shown_a_verdict_that_was_never_set_as_root_is(here: Here) -> None:
    here.load("builtin:xdp_stats", "--group", GROUP)
    let_everybody_enter(here.root)
    with nobody(group=GROUP):
        shown = show(here.device, pin_root=here.root)
    here.ok("unload", here.device)

    assert (shown.action, shown.note) == ("XDP_PASS", "not set")


def test_a_number_that_is_no_verdict_is_shown_as_what_it_does(loaded: Here) -> None:
    with Map.from_pin(loaded.set / "action") as held:
        held[0] = 77

    assert plain(loaded, "action", loaded.device).stdout == "XDP_PASS (77 is not a verdict)\n"

    switched = plain(loaded, "action", loaded.device, "XDP_PASS")

    assert "from XDP_PASS (77 is not a verdict) to XDP_PASS" in switched.stderr


def test_who_may_write_the_map_switches_it_without_the_lock(here: Here) -> None:
    here.load("builtin:xdp_stats", "--group", GROUP, "--chmod", "0660")
    let_everybody_enter(here.root)
    with nobody(group=GROUP):
        switched = switch(here.device, "drop", pin_root=here.root)
    value = entry(here)
    here.ok("unload", here.device)

    assert (switched.result, value) == (ActionResult.SWITCHED, XdpAction.XDP_DROP)


def test_the_library_shows_and_switches(loaded: Here) -> None:
    before = show(loaded.device, pin_root=loaded.root)
    switched = switch(loaded.device, XdpAction.XDP_DROP, pin_root=loaded.root)
    with pytest.raises(UsageError):
        switch(loaded.device, "XDP_TX", pin_root=loaded.root)
    forced = switch(loaded.device, "XDP_TX", how=Switch(is_forced=True), pin_root=loaded.root)

    assert (before.action, before.note) == ("XDP_PASS", "not set")
    assert (switched.result, switched.before) == (ActionResult.SWITCHED, "XDP_PASS")
    assert (forced.action, entry(loaded)) == ("XDP_TX", XdpAction.XDP_TX)


@pytest.fixture
def exposed(loaded: Here) -> Here:
    """A set on the device of the default route."""
    subprocess.run(["ip", "route", "add", "default", "dev", loaded.device], check=True)
    return loaded


def test_a_drop_on_the_device_of_the_default_route_asks_for_a_way_back(exposed: Here) -> None:
    refused = exposed.refused(2, "action", exposed.device, "XDP_DROP")

    assert f"would cut {exposed.device}, which carries the default route" in refused.stderr
    assert "--confirm 30" in refused.json["error"]["hint"]
    assert entry(exposed) == 0


def test_a_drop_that_would_cut_it_is_done_on_purpose(exposed: Here) -> None:
    assert exposed.ok("action", exposed.device, "XDP_DROP", "--force")["result"] == "switched"
    assert exposed.ok("action", exposed.device, "XDP_PASS")["result"] == "switched"


def test_a_shared_map_is_looked_at_on_every_device_that_uses_it(exposed: Here) -> None:
    """The set is on another device, and its verdict is that of the default route's device, too."""
    with veth() as second:
        words = ["--map", f"action={exposed.set}/action", "--name", "second"]
        exposed.ok("load", "builtin:xdp_stats", "--dev", second, *words)
        refused = exposed.refused(2, "action", "second", "XDP_DROP")
        exposed.ok("unload", "second")

    assert f"would cut {exposed.device}" in refused.stderr


def test_a_set_of_another_namespace_is_looked_at_there(lab: TestLab, bpffs: Path) -> None:
    """By the set's name nothing says where it is; its own devices count all the same."""
    away = ["ip", "-n", lab.lab.netns, "route", "add", "default", "dev", lab.lab.peer]
    subprocess.run(away, check=True)
    inside, here = ("-n", lab.lab.netns), Here(bpffs, lab.device)
    name = f"{lab.lab.netns}@{lab.lab.peer}"
    here.ok("load", "builtin:xdp_stats", "--dev", lab.lab.peer, *inside)
    for words in ((name,), (*inside, lab.lab.peer)):
        refused = here.refused(2, "action", *words, "XDP_DROP")

        assert f"would cut {lab.lab.peer}, which carries the default route" in refused.stderr
    here.ok("unload", name)
