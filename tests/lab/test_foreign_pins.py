"""What others pin below a set's directory stays where it is, whatever is done with the set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bpfpin.objects.kernel.object import identity
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.transaction import Stage
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import Here, veth
from support.objects import compiled
from support.sets import xdp_program

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"
MINE = MapSpec("mine", MapType.HASH, 4, 8, 4)

State = dict[str, object]


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    with veth() as device:
        yield Here(bpffs, device)


def pin_everywhere(directory: Path) -> State:
    """Pin what tools of others pin, in all places of a set, and return what is where."""
    with ExitStack() as opened:
        held = opened.enter_context(Map.create(MINE))
        program = opened.enter_context(xdp_program("theirs"))
        own = opened.enter_context(Map.create(MINE))
        (directory / "dir" / "deep").mkdir(parents=True)
        (directory / "dir").chmod(0o750)
        (directory / "empty").mkdir()
        for place in ("mine", "programs~/map", "links~/map", "layouts~/map", "dir/deep/map"):
            if (directory / place).parent.exists():
                held.pin(directory / place)
        program.pin(directory / "a_program")
        program.pin(directory / "dir" / "a_program")
        own.pin(directory / "other~name")
        (directory / "symlink").symlink_to("mine")
        if (directory / "programs~").exists():
            program.pin(directory / "programs~" / "theirs")
            (directory / "programs~" / "dir").mkdir()
    return foreign(directory)


def foreign(directory: Path) -> State:
    """Return what is pinned in a set by others: object by path, and directories by mode."""
    found: State = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if _is_ours(directory, path):
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)  # noqa: PTH115
        elif path.is_dir():
            found[name] = oct(path.stat().st_mode)
        else:
            found[name] = identity(path)
    return found


def _is_ours(directory: Path, path: Path) -> bool:
    ours = {
        "manifest~",
        "action",
        COUNTERS,
        "%2ebss",
        "by_port",
        "last_port",
        "count_port",
        "xdp_stats",
        "xdp",
    }
    first = path.relative_to(directory).parts[0]
    return (
        path.name in ours
        or path.name in names.PARTS
        or first == names.OBJECTS
        or (first == names.LAYOUTS and path.is_symlink())
    )


def load_again(here: Here) -> None:
    assert here.load(compiled(NEW))["result"] == "reloaded"


def load_another(here: Here) -> None:
    here.load("builtin:xdp_stats", "--replace")


def load_again_keeping(here: Here) -> None:
    here.ok("unload", here.device, "--keep-maps")
    here.load(compiled(OLD))


def load_what_is_refused(here: Here) -> None:
    here.load_refused(5, compiled("reload_refused"))


def clean(here: Here) -> None:
    here.ok("clean")


def try_a_load(here: Here) -> None:
    here.load(compiled(NEW), "--confirm", "600")
    here.ok("confirm", here.device)


@pytest.mark.parametrize(
    "change",
    [load_again, load_another, load_again_keeping, load_what_is_refused, clean, try_a_load],
    ids=lambda change: change.__name__,
)
def test_no_change_of_a_set_touches_what_others_pinned(
    here: Here, change: Callable[[Here], None]
) -> None:
    here.load(compiled(OLD))
    before = pin_everywhere(here.set)
    change(here)
    after = foreign(here.set)
    here.ok("unload", here.device)
    unloaded = foreign(here.set)

    assert len(before) == 14
    assert after == before
    assert unloaded == before


def test_unload_leaves_pins_of_others_alone_and_a_load_works_beside_them(here: Here) -> None:
    first = here.load(compiled(OLD))
    with Map.create(MINE) as mine:
        mine.pin(here.set / "mine")
        before = foreign(here.set)
    unloaded = here.ok("unload", here.device)
    left = sorted(path.name for path in here.set.iterdir()), here.holder()
    shown, checked = here.ok("status"), here.run("status", "--check")
    again = here.refused(4, "unload", here.device)
    cleaned = here.ok("clean")
    loaded = here.load(compiled(OLD))
    reloaded = here.run("load", compiled(NEW), "--dev", here.device)
    listed = here.ok("status", here.device)

    note = f"left alone, since bpfpin did not pin it: {here.set / 'mine'}"
    assert left == (["mine"], None)
    assert unloaded["notes"] == [note]
    assert (shown["sets"][0]["state"], shown["problems"], checked.exit_code) == ("unloaded", [], 0)
    assert shown["sets"][0]["foreign"] == [str(here.set / "mine")]
    assert "what others pinned there is left: mine" in again.json["error"]["message"]
    assert [one["path"] for one in cleaned["left"]] == [str(here.set)]
    assert (first["result"], loaded["result"], note in loaded["notes"]) == (
        "loaded",
        "loaded",
        True,
    )
    assert f"note: {note}" in reloaded.stderr
    assert (listed["sets"][0]["state"], listed["problems"]) == ("ok", [])
    assert foreign(here.set) == before


def test_the_directory_goes_with_the_last_pin_of_others(here: Here) -> None:
    here.load(compiled(OLD))
    (here.set / "dir").mkdir()
    here.ok("unload", here.device)
    (here.set / "dir").rmdir()
    planned, done = here.ok("clean", "--dry-run"), here.ok("clean")

    assert {**planned, "result": "cleaned"} == done
    assert [one["kind"] for one in done["removed"]] == ["directory"]
    assert not here.set.exists()


def pin_late(directory: Directory, name: str) -> Any:
    with Map.create(MINE) as mine:
        mine.pin(directory.pin_path(name))
        return mine.id


def test_what_is_pinned_while_a_stage_is_built_is_given_back(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the set that a reload replaces, after it was looked through, and in the stage itself."""
    here.load(compiled(OLD))
    ids: dict[str, int] = {}
    commit = Stage.commit

    def pin_and_commit(stage: Stage) -> None:
        for name, place in (("live", here.device), ("stage", names.stage_name(here.device))):
            with Directory.open(here.root / place) as directory:
                ids[name] = pin_late(directory, name)
        commit(stage)

    monkeypatch.setattr(Stage, "commit", pin_and_commit)
    here.load(compiled(NEW))

    assert {name: _id(here.set / name) for name in ids} == ids
    assert here.ok("status", here.device)["sets"][0]["state"] == "ok"


def test_what_is_pinned_in_a_stage_that_is_undone_is_given_back(here: Here) -> None:
    with Directory.open(here.root) as root, Stage(root, here.device) as stage:
        with Map.create(MINE) as ours:
            stage.pin_map("counters", ours)
        with root.child(names.stage_name(here.device)) as directory:
            theirs = pin_late(directory, "theirs")
    cleaned = here.ok("clean")
    found = [path.name for path in here.set.iterdir()]
    here.load(compiled(OLD))

    assert [one["kind"] for one in cleaned["removed"]] == ["stage"]
    assert str(here.set / "theirs") in [one["path"] for one in cleaned["left"]]
    assert found == ["theirs"]
    assert _id(here.set / "theirs") == theirs


@pytest.mark.parametrize("name", ["n" * 250, "ö" * 125])
def test_pins_of_others_with_long_names_are_given_back_where_the_names_are_taken(
    here: Here, name: str
) -> None:
    """`other~NAME` would be longer than a name may be; a load, a command of any kind, goes on."""
    ids = []
    with Directory.open(here.root) as root:
        for _ in range(2):
            with Stage(root, here.device), root.child(names.stage_name(here.device)) as stage:
                ids.append(pin_late(stage, name))
            here.ok("clean")
        with Stage(root, here.device), root.child(names.stage_name(here.device)) as stage:
            ids.append(pin_late(stage, name))
    here.load(compiled(OLD))

    pinned = [_id(path) for path in here.set.iterdir() if name[:100] in path.name]
    assert sorted(pinned) == ids
    assert _id(here.set / name) == ids[0]


def test_a_pin_that_takes_the_name_of_a_new_map_is_not_replaced(here: Here) -> None:
    here.load(compiled(OLD))
    with Map.create(MINE) as mine:
        mine.pin(here.set / "by_port")
        id_ = mine.id
    refused = here.load_refused(7, compiled(NEW))
    planned = here.load_refused(7, compiled(NEW), "--dry-run")

    for result in (refused, planned):
        assert f"{here.set / 'by_port'} is map id {id_}, which bpfpin did not pin" in result.stderr
        assert f"mv {here.set / 'by_port'} " in result.json["error"]["hint"]


def test_a_link_of_others_goes_on(here: Here) -> None:
    here.load(compiled(OLD))
    with (
        veth() as other,
        xdp_program("theirs") as program,
    ):
        with _attached(program, other) as link:
            link.pin(here.set / "links~" / "theirs")
            link_id = link.id
        here.ok("unload", here.device)
        holder = Here(here.root, other).holder()

        assert holder is not None
        assert holder.link_id == link_id


def test_the_mode_of_a_pin_of_others_is_theirs(here: Here) -> None:
    here.load(compiled(OLD))
    with Map.create(MINE) as mine:
        mine.pin(here.set / "mine")
    here.load(compiled(OLD), "--chmod", "0644")

    assert oct((here.set / "mine").stat().st_mode)[-3:] == "600"
    assert oct((here.set / COUNTERS).stat().st_mode)[-3:] == "644"


def _attached(program: Program, device: str) -> Link:
    from bpfpin.attach.xdp import attach_xdp  # noqa: PLC0415

    return attach_xdp(program, device)


def _id(path: Path) -> int:
    with Map.from_pin(path) as held:
        return held.id
