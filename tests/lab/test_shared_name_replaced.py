"""Maps at shared names (pinned by name, iproute2's places) that are migrated or start empty."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import AttachError
from bpfpin.map.generation import is_folding
from bpfpin.migration.fold import FoldCounts, FoldPrograms
from bpfpin.objects.maps.map import Map
from bpfpin.pins.switch import HookSwitch
from bpfpin.pins.transaction import Stage
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import Here, decisions, id_at, map_ids, maps_used, run_here, veth
from support.objects import compiled, compiled_case

FRAGS = "frags"
COUNTED = {7: {"n": 5}, 8: {"n": 6}}


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def beside(here: Here) -> Iterator[Here]:
    """Another device with sets in the same pin root."""
    with veth() as device:
        yield Here(here.root, device)


def grown(entries: int = 64, *flags: str) -> Path:
    """Return a version of the object whose map `frags` is pinned by name."""
    return compiled_case("pinned_by_name_grows", defines=(f"MAXE={entries}", *flags))


def counted(here: Here, *flags: str) -> Any:
    """Load the version with 16 entries, and let it have counted."""
    document = here.load(grown(16, *flags))
    padding = {"pad": 0} if "LOCK" in flags else {}
    for name in (FRAGS, "own"):
        with Map.from_pin(here.set / name) as held:
            held.update_batch({key: {**value, **padding} for key, value in COUNTED.items()})
    return document


def entries(pin: Path) -> dict[Any, Any]:
    with Map.from_pin(pin, read_only=True) as held:
        return held.to_dict()


def names_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_a_map_pinned_by_name_is_migrated_with_its_name(here: Here) -> None:
    before = counted(here)
    (here.root / FRAGS).chmod(0o640)
    names = names_below(here.root)
    document = here.load(grown(), "--migrate")
    again = here.load(grown(), "--migrate")

    assert decisions(document) == {FRAGS: "migrated", "own": "migrated"}
    assert map_ids(document)[FRAGS] != map_ids(before)[FRAGS]
    assert id_at(here.root / FRAGS) == id_at(here.set / FRAGS) == map_ids(document)[FRAGS]
    assert map_ids(document)[FRAGS] in maps_used(document)
    assert entries(here.root / FRAGS) == COUNTED == entries(here.set / "own")
    assert (here.root / FRAGS).stat().st_mode & 0o777 == 0o640
    assert names_below(here.root) == names
    assert again["result"] == "unchanged"
    here.ok("unload", here.device)
    assert not (here.root / FRAGS).exists()


@pytest.mark.parametrize("word", [FRAGS, "all"])
@pytest.mark.parametrize("size", [16, 64])
def test_a_map_pinned_by_name_starts_empty(here: Here, word: str, size: int) -> None:
    before = counted(here)
    others = ("--migrate",) if (word, size) == (FRAGS, 64) else ()
    document = here.load(grown(size), "--fresh", word, *others)

    assert decisions(document)[FRAGS] == "fresh"
    assert map_ids(document)[FRAGS] != map_ids(before)[FRAGS]
    assert id_at(here.root / FRAGS) == id_at(here.set / FRAGS) == map_ids(document)[FRAGS]
    assert map_ids(document)[FRAGS] in maps_used(document)
    assert entries(here.root / FRAGS) == {}
    assert document["notes"] == []


MEMBERS = ("TIMER", "LOCK")


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("is_added", [True, False], ids=["added", "removed"])
def test_a_timer_or_lock_does_not_refuse_a_migration(
    here: Here, member: str, is_added: bool
) -> None:
    old, new = ((), (member,)) if is_added else ((member,), ())
    counted(here, *old)
    document = here.load(grown(16, *new), "--migrate")
    (plan, _) = (one["migration"] for one in document["maps"] if one.get("migration"))
    word = "starts empty" if is_added else "goes with the old map"

    assert decisions(document).items() >= {FRAGS: "migrated", "own": "migrated"}.items()
    assert plan["is_exact"] is True
    assert any(word in note for note in plan["notes"])
    for pin in (here.root / FRAGS, here.set / "own"):
        assert {key: value["n"] for key, value in entries(pin).items()} == {7: 5, 8: 6}


def test_a_timer_that_stays_starts_anew_with_its_record(here: Here) -> None:
    counted(here, "TIMER", "LOCK")
    document = here.load(grown(64, "TIMER", "LOCK"), "--migrate")

    assert decisions(document)["own"] == "migrated"
    assert {key: value["n"] for key, value in entries(here.set / "own").items()} == {7: 5, 8: 6}


def test_without_the_option_the_lines_to_type_are_told(here: Here) -> None:
    counted(here)
    hint = here.load_refused(6, grown()).json["error"]["hint"]

    assert "to carry over what is counted there: --migrate" in hint
    assert "losing what is counted there: --fresh" in hint
    assert f"--fresh {FRAGS}" in hint


def test_other_sets_that_use_the_name_are_named_with_what_to_do(here: Here, beside: Here) -> None:
    counted(here)
    beside.load(grown(16))
    error = here.load_refused(6, grown(), "--migrate").json["error"]
    fresh = here.load_refused(2, grown(16), "--fresh", FRAGS).json["error"]
    forced = here.load_refused(6, grown(), "--migrate", "--best-effort")
    beside.ok("unload", beside.device)
    document = here.load(grown(), "--migrate")

    advice = f"load both at once (add --dev {beside.device}), or first: {beside.typed} unload"
    assert f"is of the set {beside.device}: {advice} {beside.device}" in error["hint"]
    assert f"at xdp of {beside.device}" in error["hint"]
    assert f"resize at xdp of {beside.device}" in fresh["message"]
    assert f"{beside.typed} unload {beside.device}" in fresh["hint"]
    assert "--best-effort" not in forced.json["error"]["hint"]
    assert entries(here.root / FRAGS) == COUNTED
    assert decisions(document)[FRAGS] == "migrated"


@pytest.mark.parametrize("words", [("--migrate",), ("--fresh", "all")])
@pytest.mark.parametrize("is_new", [False, True], ids=["both-loaded", "one-is-new"])
def test_sets_that_share_the_name_change_in_one_command(
    here: Here, beside: Here, words: tuple[str, ...], is_new: bool
) -> None:
    counted(here)
    if not is_new:
        beside.load(grown(16))
    first, second = (beside, here) if is_new else (here, beside)
    devices = ("--dev", first.device, "--dev", second.device)
    document = here.ok("load", grown(), *devices, *words)
    reports = document["sets"]
    again = here.ok("load", grown(), *devices, *words[:1] if "--migrate" in words else ())

    assert decisions(reports[0])[FRAGS] == ("migrated" if "--migrate" in words else "fresh")
    assert decisions(reports[1])[FRAGS] == "shared"
    ids = {map_ids(report)[FRAGS] for report in reports}
    assert ids == {id_at(here.root / FRAGS), id_at(here.set / FRAGS), id_at(beside.set / FRAGS)}
    assert len(ids) == 1
    assert all(ids <= set(maps_used(report)) for report in reports)
    assert entries(here.root / FRAGS) == (COUNTED if "--migrate" in words else {})
    assert [one["result"] for one in again["sets"]] == ["unchanged", "unchanged"]
    here.ok("unload", here.device)
    beside.ok("unload", beside.device)
    assert not (here.root / FRAGS).exists()


def test_one_of_two_sets_that_refuses_keeps_the_name_for_both(
    here: Here, beside: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(here)
    beside.load(grown(16))
    before = here.everything(), beside.everything()
    with monkeypatch.context() as patched:
        forward, calls = HookSwitch.forward, []

        def second_refuses(self: HookSwitch) -> None:
            calls.append(self)
            if len(calls) > 1:
                refuse(self)
            forward(self)

        patched.setattr(HookSwitch, "forward", second_refuses)
        devices = ("--dev", here.device, "--dev", beside.device)
        result = here.run("load", grown(), *devices, "--migrate")

    assert "refused, for a test" in result.stderr
    assert (here.everything(), beside.everything()) == before
    assert entries(here.root / FRAGS) == COUNTED


def test_a_pin_of_somebody_else_is_named(here: Here) -> None:
    counted(here)
    with Map.from_pin(here.root / FRAGS) as held:
        held.pin(here.root / "mine")
    error = here.load_refused(6, grown(), "--migrate").json["error"]
    (here.root / "mine").unlink()
    here.load(grown(), "--migrate")

    assert f"pin {here.root}/mine: if nobody needs it, rm {here.root}/mine" in error["hint"]
    assert entries(here.root / FRAGS) == COUNTED


HOLDER = """
import sys
from bpfpin import Map
with Map.from_pin(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_has_the_old_map_open_is_told(here: Here) -> None:
    counted(here)
    command = [sys.executable, "-c", HOLDER, str(here.root / FRAGS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        notes = here.load(grown(), "--migrate")["notes"]
        process.communicate("")

    assert any(f"process {process.pid}" in note and "open it again" in note for note in notes)


def test_what_cannot_go_back_by_itself_is_refused(here: Here) -> None:
    counted(here)
    words = ("--fresh", FRAGS, "--confirm", "60", "--no-guard")
    result = here.run("load", grown(16), "--dev", here.device, *words[:4])

    assert result.exit_code == 2
    assert "does not go back by itself" in result.stderr


def test_a_dry_run_leaves_the_name_alone(here: Here) -> None:
    counted(here)
    before = here.everything()
    document = here.load(grown(), "--migrate", "--dry-run")

    assert decisions(document)[FRAGS] == "migrated"
    assert here.everything() == before


@pytest.mark.parametrize("word", ["--migrate", "--fresh=frags"])
def test_a_map_that_nobody_uses_any_more_is_taken_over(here: Here, word: str) -> None:
    """Somebody pinned it by name, and has gone."""
    counted(here)
    with Map.from_pin(here.root / FRAGS) as held:
        here.ok("unload", here.device)
        held.pin(here.root / FRAGS)
    here.load_refused(6, grown())
    document = here.load(grown(), word)

    assert decisions(document)[FRAGS] == ("migrated" if word == "--migrate" else "fresh")
    assert id_at(here.root / FRAGS) == map_ids(document)[FRAGS]
    assert entries(here.root / FRAGS) == (COUNTED if word == "--migrate" else {})


def test_readers_of_the_name_wait_until_all_was_moved(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name holds the new map by then, which is being filled."""
    counted(here)
    looked: list[tuple[bool, bool]] = []
    move = FoldPrograms.move

    def watched(self: FoldPrograms) -> FoldCounts:
        looked.append((is_folding(here.root / FRAGS), is_folding(here.set / FRAGS)))
        return move(self)

    before = is_folding(here.root / FRAGS)
    with monkeypatch.context() as patched:
        patched.setattr(FoldPrograms, "move", watched)
        here.load(grown(), "--migrate")

    assert (before, looked) == (False, [(True, True)] * 2)
    assert not is_folding(here.root / FRAGS)


# going back


def refuse(_: HookSwitch) -> None:
    raise AttachError("refused, for a test")


def test_a_hook_that_refuses_brings_the_old_map_back_to_the_name(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(here)
    inode = (here.root / FRAGS).stat().st_ino
    names = names_below(here.root)
    with monkeypatch.context() as patched:
        patched.setattr(HookSwitch, "forward", refuse)
        result = here.run("load", grown(), "--dev", here.device, "--migrate")

    assert result.exit_code != 0
    assert "refused, for a test" in result.stderr
    assert (here.root / FRAGS).stat().st_ino == inode
    assert entries(here.root / FRAGS) == COUNTED
    assert names_below(here.root) == names


def put_another(pin: Path) -> None:
    pin.unlink()
    with Map.create(MapSpec("theirs", MapType.ARRAY, 4, 4, 1)) as theirs:
        theirs.pin(pin)


def remove(pin: Path) -> None:
    pin.unlink()


def test_another_map_at_the_name_since_the_plan_is_left_alone(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(here)
    result = meanwhile(here, put_another, monkeypatch)

    assert result.exit_code == 7
    assert "made by somebody else meanwhile" in result.stderr
    with Map.from_pin(here.root / FRAGS) as there:
        assert there.name == "theirs"
    assert entries(here.set / FRAGS) == COUNTED


def test_a_name_that_was_removed_since_the_plan_is_made_anew(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(here)
    result = meanwhile(here, remove, monkeypatch)

    assert result.exit_code == 0, result.stderr
    assert id_at(here.root / FRAGS) == id_at(here.set / FRAGS)
    assert entries(here.root / FRAGS) == COUNTED


def meanwhile(here: Here, act: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load with `--migrate`, while somebody acts on the shared name right before the commit."""
    commit = Stage.commit

    def late(self: Stage) -> None:
        act(here.root / FRAGS)
        commit(self)

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "commit", late)
        return here.run("load", grown(), "--dev", here.device, "--migrate")


# iproute2's places

LAYOUTS = (
    "--layout",
    "flows=u64 packets; u64 bytes",
    "--layout",
    "flows=u64 bytes; u64 packets; u64 drops",
)


@pytest.mark.parametrize("words", [("--migrate", *LAYOUTS), ("--fresh", "all")])
def test_a_map_in_the_globals_of_iproute2_likewise(here: Here, words: tuple[str, ...]) -> None:
    shared = here.root / "tc/globals/flows"
    here.load(compiled("migrate_old", defines=("IPROUTE2",)))
    with Map.from_pin(shared, key_format="I", value_format="QQ") as held:
        held[5] = (3, 300)
    new = compiled("migrate_new", defines=("IPROUTE2",))
    document = here.load(new, *words, *(("--drop", "last_port")[:0]))
    with Map.from_pin(shared, key_format="I", value_format="QQQ") as held:
        found = held.to_dict()

    assert id_at(shared) == id_at(here.set / "flows") == map_ids(document)["flows"]
    assert found == ({5: (300, 3, 0)} if "--migrate" in words else {})
    run_here("unload", here.device, "--pin-root", here.root)
    assert not shared.exists()
