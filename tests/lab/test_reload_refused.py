"""Reloads that fail or are refused: the set and its program stay as they were."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import Here, decisions, packets, veth
from support.lab import TestLab
from support.nobody import NOBODY
from support.objects import compiled

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"
OWNER = f"uid {NOBODY})"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root of its own."""
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def loaded(here: Here) -> Here:
    """A device with a set."""
    here.load(compiled(OLD))
    return here


def test_counters_of_another_form_are_refused_with_every_difference(loaded: Here) -> None:
    held = loaded.ok("status", loaded.device)["sets"][0]
    ids = {one["name"]: one["id"] for one in held["maps"]}
    result = loaded.load_refused(6, compiled("reload_incompatible"))
    error = result.json["error"]
    there, wanted = (
        f"struct datarec {{ u64 {first}; u64 {second}; }}"
        for first, second in [("rx_packets", "rx_bytes"), ("rx_bytes", "rx_packets")]
    )

    assert error["type"] == "IncompatibleMapError"
    assert {one["map"] for one in error["differences"]} == {COUNTERS}
    assert {"map": COUNTERS, "field": "value", "old": there, "new": wanted} in error["differences"]
    assert [one["field"] for one in error["differences"]] == [
        "value",
        "value rx_packets",
        "value rx_bytes",
    ]
    assert f"{there} -> {wanted}" in result.stderr
    assert f"map {COUNTERS} (id {ids[COUNTERS]}) is used by: " in error["hint"]
    program_id = held["programs"][0]["id"]
    assert f"is used by: program {program_id} count_port at xdp of {loaded.device}" in error["hint"]
    assert f"--fresh {COUNTERS}" in error["hint"]
    assert str(loaded.set / COUNTERS) in error["message"]


def test_variables_of_another_form_are_refused_by_name_and_made_anew_on_purpose(
    loaded: Here,
) -> None:
    refused = loaded.load_refused(6, compiled("reload_variables"))
    reloaded = loaded.load(compiled("reload_variables"), "--fresh", ".bss")
    told = refused.json["error"]["differences"]

    assert {"map": ".bss", "field": "value_size", "old": "8", "new": "16"} in told
    assert [one["old"] for one in told if "bytes_seen" in one["field"]] == ["none"]
    assert "--fresh .bss" in refused.json["error"]["hint"]
    assert decisions(reloaded)[COUNTERS] == "kept"


def test_a_dry_run_refuses_what_the_load_would(loaded: Here) -> None:
    done = loaded.load_refused(6, compiled("reload_incompatible"))
    planned = loaded.load_refused(6, compiled("reload_incompatible"), "--dry-run")

    assert planned.json == done.json


def test_what_the_refusal_says_to_type_starts_the_counters_anew(loaded: Here) -> None:
    refused = loaded.load_refused(6, compiled("reload_incompatible"))
    words = refused.json["error"]["hint"].rpartition(": ")[2].split()
    loaded.load(compiled("reload_incompatible"), *words)

    assert words == ["--fresh", COUNTERS]
    assert packets(loaded.set / COUNTERS) == 0


def truncated(folder: Path) -> Path:
    path = folder / "truncated.o"
    path.write_bytes(compiled(NEW).read_bytes()[:-200])
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.o"
    path.touch()
    return path


FAILING: list[tuple[Callable[[Path], Path], int]] = [
    (lambda _: compiled("reload_refused"), 5),
    (lambda _: compiled("reload_incompatible"), 6),
    (truncated, 5),
    (empty, 5),
    (lambda folder: folder / "missing.o", 4),
    (lambda _: compiled("reload_huge"), 5),
]


@pytest.mark.parametrize(
    ("source", "exit_code"),
    FAILING,
    ids=["verifier", "incompatible", "truncated", "empty", "missing", "memory"],
)
def test_after_a_failed_reload_the_old_program_stays_and_counts(
    lab: TestLab, tmp_path: Path, source: Callable[[Path], Path], exit_code: int
) -> None:
    counting = Here(BPFFS, lab.device)
    counting.load(compiled(OLD))
    lab.flood(5)
    counting.load_refused(exit_code, source(tmp_path))
    lab.flood(5)
    counted = packets(counting.set / COUNTERS)
    counting.ok("unload", lab.device)

    assert counted == 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fresh", "nosuch"), "--fresh names no map of the object: nosuch; it has: "),
        (("--map", "nosuch=id:1"), "the object has no map nosuch; it has: "),
        (("--map", COUNTERS), f"--map {COUNTERS}: not understood"),
        (("--map", "=id:1"), "--map =id:1: not understood"),
        (("--map", f"{COUNTERS}="), "not understood"),
        (("--map", f"{COUNTERS}=id:x"), "id:x"),
        (("--map", f"{COUNTERS}=id:1", "--map", f"{COUNTERS}=id:2"), "twice"),
        (("--chmod", "777"), "a map is only read and written"),
        (("--chmod", "0640x"), "0640x"),
        (("--group", "nosuchgroup"), "there is no group 'nosuchgroup'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_cannot_be_meant_is_a_usage_error(
    loaded: Here, words: tuple[str, ...], said: str
) -> None:
    assert said in loaded.load_refused(2, compiled(NEW), *words).stderr


def squatted(here: Here) -> None:
    here.set.mkdir()
    os.chown(here.set, NOBODY, NOBODY)


def squatted_with_our_manifest(here: Here) -> None:
    here.load(compiled(OLD))
    os.chown(here.set, NOBODY, NOBODY)


def made_by_tc(here: Here) -> None:
    (here.set / "globals").mkdir(parents=True)


def writable_by_all(here: Here) -> None:
    here.load(compiled(OLD))
    here.set.chmod(0o777)


def forged(here: Here) -> None:
    """The manifest is somebody else's."""
    here.load(compiled(OLD))
    os.chown(here.set / "manifest~", NOBODY, NOBODY, follow_symlinks=False)


def damaged(here: Here) -> None:
    here.load(compiled(OLD))
    manifest = here.set / "manifest~"
    text = os.readlink(manifest)  # noqa: PTH115
    manifest.unlink()
    manifest.symlink_to(text[:-20])


def symlinked(here: Here) -> None:
    (here.root / "elsewhere").mkdir()
    here.set.symlink_to(here.root / "elsewhere")


def a_map(here: Here) -> None:
    with Map.create(MapSpec("mine", MapType.ARRAY, 4, 4, 1)) as mine:
        mine.pin(here.set)


def with_a_stage_of_somebody_else(here: Here) -> None:
    here.load(compiled(OLD))
    stage_of_somebody_else(here)


def stage_of_somebody_else(here: Here) -> None:
    stage = here.root / f"{here.device}~stage"
    stage.mkdir()
    os.chown(stage, NOBODY, NOBODY)


FOREIGN: list[tuple[Callable[[Here], None], str]] = [
    (squatted, OWNER),
    (squatted_with_our_manifest, OWNER),
    (made_by_tc, "it has no manifest, so bpfpin did not make it"),
    (writable_by_all, "others may write it (mode 0777)"),
    (forged, "its manifest is not one of ours"),
    (damaged, "its manifest is damaged"),
    (symlinked, "it is a symlink"),
    (a_map, "it is no directory"),
    (stage_of_somebody_else, OWNER),
    (with_a_stage_of_somebody_else, OWNER),
]


WITHOUT_MANIFEST = (squatted, made_by_tc, symlinked, a_map)


@pytest.mark.parametrize(("make", "said"), FOREIGN, ids=[make.__name__ for make, _ in FOREIGN])
@pytest.mark.parametrize("words", [(), ("--replace", "--take-over", "--fresh", "all")])
def test_what_is_not_ours_is_left_alone_and_told(
    here: Here, make: Callable[[Here], None], said: str, words: tuple[str, ...]
) -> None:
    make(here)
    result = here.load_refused(7, compiled(NEW), *words)

    assert said in result.stderr
    assert str(here.set) in result.stderr


@pytest.mark.parametrize(
    ("make", "said"), FOREIGN[:-2], ids=[make.__name__ for make, _ in FOREIGN[:-2]]
)
def test_a_dry_run_tells_what_is_not_ours(
    here: Here, make: Callable[[Here], None], said: str
) -> None:
    make(here)

    assert said in here.load_refused(7, compiled(NEW), "--dry-run").stderr


@pytest.mark.parametrize("make", [stage_of_somebody_else, with_a_stage_of_somebody_else])
def test_a_dry_run_tells_of_a_stage_in_the_way(here: Here, make: Callable[[Here], None]) -> None:
    make(here)

    assert OWNER in here.load_refused(7, compiled(NEW), "--dry-run").stderr


@pytest.mark.parametrize(("make", "said"), FOREIGN, ids=[make.__name__ for make, _ in FOREIGN])
def test_unload_leaves_alone_what_is_not_ours(
    here: Here, make: Callable[[Here], None], said: str
) -> None:
    """What has no manifest was never loaded by anybody."""
    make(here)
    if make in WITHOUT_MANIFEST:
        here.refused(4, "unload", here.device)
        return

    assert said in here.refused(7, "unload", here.device).stderr
