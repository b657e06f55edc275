"""Those who should share a map and do not: told by all who look, and mended by the line told."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfpin.host.users import UserKind, users_of
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab, new_lab
from support.wait import wait_until

ROOT = Path("/sys/fs/bpf")
COUNTERS = "xdp_stats_map"
LIKE_COUNTERS = MapSpec(COUNTERS, MapType.PERCPU_ARRAY, 4, 16, 5)

# Opens the map again whenever it is started again, as a service does.
READER = """
import signal, sys
from bpfpin import Map
held = Map.from_pin(sys.argv[1], read_only=True)
signal.pause()
"""


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli("unload", lab.device)


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """The place where iproute2 pins a map for all who name it so; a map of others is there."""
    path = ROOT / "tc" / "globals" / COUNTERS
    path.parent.mkdir(parents=True, exist_ok=True)
    with Map.create(LIKE_COUNTERS) as theirs:
        theirs.pin(path)
    yield path
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()


@contextmanager
def reader(path: Path) -> Iterator[None]:
    """Have a process hold the map at *path* that is started again whenever it ends."""
    words = shlex.join([sys.executable, "-c", READER, str(path)])
    loop = subprocess.Popen(
        ["sh", "-c", f"trap 'kill $!; exit' TERM; while :; do {words} & wait $!; done"]
    )
    try:
        wait_until(lambda: bool(readers_of(path)))
        yield
    finally:
        loop.terminate()
        loop.wait()
        wait_until(lambda: not readers_of(path))


def readers_of(path: Path) -> list[int]:
    users = users_of(map_id(path))
    return [user.id for user in users if user.kind is UserKind.PROCESS]


def map_id(path: Path) -> int:
    with Map.from_pin(path, read_only=True) as held:
        return held.id


def programs_of(path: Path) -> list[str]:
    return [user.name for user in users_of(map_id(path)) if user.kind is UserKind.PROGRAM]


def problem(kind: str, lab: TestLab) -> Any:
    """Return the only problem of the set that `status` finds; `graph` and `doctor` tell it, too."""
    checked = run_cli("status", lab.device, "--check", "-o", "json")
    (found,) = checked.json["problems"]
    graph = run_cli_ok("graph", "-o", "json").json
    shares = [one for one in run_cli_ok("doctor", "-o", "json").json["checks"] if not one["ok"]]

    assert (checked.exit_code, found["kind"]) == (10, kind)
    assert graph["problems"].count(found) == 1
    assert (found["text"], found["fix"]) in [(one["text"], one["fix"]) for one in shares]
    return found


def is_healthy(lab: TestLab) -> bool:
    """Whether nothing is wrong with the set; cgroups and their programs are those of the host."""
    return run_cli("status", lab.device, "--check").exit_code == 0


def test_a_set_that_pins_another_map_than_its_program_uses_is_mended(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / COUNTERS
    used = map_id(pin)
    pin.unlink()
    with Map.create(LIKE_COUNTERS) as another:
        another.pin(pin)
    found = problem("map-differs", loaded)
    run_cli_ok(*shlex.split(found["fix"])[1:])

    assert f"uses map id {used}, while {pin} holds map id {another_id(found)}" in found["text"]
    assert programs_of(pin) == ["xdp_stats"]
    assert is_healthy(loaded)


def another_id(found: dict[str, str]) -> int:
    """Return the id that the text says is pinned."""
    match = re.search(r"holds map id (\d+)", found["text"])
    assert match is not None
    return int(match[1])


def test_a_program_beside_a_shared_map_comes_to_share_it(
    loaded: TestLab, shared_place: Path
) -> None:
    own = map_id(ROOT / loaded.device / COUNTERS)
    found = problem("not-shared", loaded)
    run_cli_ok(*shlex.split(found["fix"])[1:])

    assert f"uses map id {own}, one of its own, while the shared {shared_place}" in found["text"]
    assert map_id(ROOT / loaded.device / COUNTERS) == map_id(shared_place)
    assert programs_of(shared_place) == ["xdp_stats"]
    assert is_healthy(loaded)


def test_a_reader_of_an_old_map_that_is_restarted_reads_the_new_one(loaded: TestLab) -> None:
    pin = ROOT / loaded.device / COUNTERS
    with reader(pin):
        (pid,), old = readers_of(pin), map_id(pin)
        run_cli_ok("load", "--dev", loaded.device, "--fresh", COUNTERS)
        wait_until(lambda: not is_healthy(loaded))
        found = problem("old-map-held", loaded)
        kill = re.search(r"\(kill \d+", found["fix"])
        assert kill is not None
        subprocess.run(shlex.split(kill[0].removeprefix("(")), check=True)
        wait_until(lambda: is_healthy(loaded))
        wait_until(lambda: bool(readers_of(pin)))

    assert found["text"].startswith(f"process {pid} (")
    assert f"holds map id {old}, which no program uses" in found["text"]
    assert f"{pin} again" in found["fix"]


def test_a_set_is_not_told_of_the_splits_of_others(loaded: TestLab) -> None:
    with new_lab() as other:
        run_cli_ok("load", "--dev", other.device)
        (ROOT / other.device / COUNTERS).unlink()
        with Map.create(LIKE_COUNTERS) as another:
            another.pin(ROOT / other.device / COUNTERS)
        own = run_cli("status", loaded.device, "--check")
        all_of_them = run_cli("status", "--check")
        run_cli_ok("unload", other.device)

    assert (own.exit_code, all_of_them.exit_code) == (0, 10)


def test_two_sets_with_maps_of_the_same_name_are_healthy(loaded: TestLab) -> None:
    with new_lab() as other:
        run_cli_ok("load", "--dev", other.device)
        healthy = [is_healthy(one) for one in (loaded, other)]
        run_cli_ok("unload", other.device)

    assert healthy == [True, True]
