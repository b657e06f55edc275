"""Pins of a set that somebody removed by hand, or put another object in the place of."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfpin import deploy
from bpfpin.errors import IdNotFoundError
from bpfpin.map.generation import program_ids as followed_programs
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins.manifest import OutsidePin
from bpfpin.pins.pinset import PinSet
from bpfpin.sets.shared import map_ids as map_ids_of
from bpfpin.sets.shared import program_ids
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import (
    Here,
    bpftool,
    id_at,
    map_ids,
    packets,
    run_here,
    tc_of,
    veth,
    wait_for_the_end_of,
)
from support.objects import compiled
from support.sets import xdp_program
from support.tools import need
from support.wait import wait_until

OLD = "reload_old"
COUNTERS = "xdp_stats_map"
PROGRAM = "programs~/count_port"


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture
def loaded(here: Here) -> Any:
    """A set that has counted seven packets, as it was loaded."""
    document = here.load(compiled(OLD))
    with Map.from_pin(here.set / COUNTERS) as counters:
        row = {"rx_packets": 7, "rx_bytes": 700}
        counters[1] = [row, *[{"rx_packets": 0, "rx_bytes": 0}] * (len(counters[1]) - 1)]
    return document


def problems(here: Here, *, state: str) -> list[Any]:
    """Return the problems of the set, which `status --check` tells by its exit code, too."""
    result = here.run("status", here.device, "--check")
    assert result.exit_code == 10
    assert result.json["sets"][0]["state"] == state
    found: list[Any] = result.json["problems"]
    return found


def type_line(line: str) -> None:
    """Type a line that was given as a fix."""
    program, *words = shlex.split(line)
    assert program == "bpfpin"
    result = run_here(*words)
    assert result.exit_code == 0, result.stderr


def is_there(map_id: int) -> bool:
    try:
        Map.from_id(map_id).close()
    except IdNotFoundError:
        return False
    return True


def is_healthy(here: Here) -> bool:
    return here.run("status", here.device, "--check").exit_code == 0


def remove(path: Path) -> None:
    path.unlink()


def replace_by_a_map(path: Path) -> None:
    path.unlink()
    with Map.create(MapSpec("other", MapType.HASH, 4, 8, 4)) as other:
        other.pin(path)


def replace_by_a_program(path: Path) -> None:
    path.unlink()
    with xdp_program("other") as other:
        other.pin(path)


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


CHANGES = [
    remove,
    replace_by_a_map,
    replace_by_a_program,
    replace_by_a_directory,
    replace_by_a_symlink,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("pin", [COUNTERS, PROGRAM])
def test_a_lost_pin_is_told_and_the_line_told_pins_it_again(
    here: Here, loaded: Any, pin: str, change: Callable[[Path], None]
) -> None:
    change(here.set / pin)
    (found,) = problems(here, state="degraded")
    type_line(found["fix"])
    after = here.ok("status", here.device)["sets"][0]

    kinds = {"pin-missing"} if change is remove else {"pin-replaced", "map-differs"}
    assert (found["kind"] in kinds, str(here.set / pin) in found["text"]) == (True, True)
    assert packets(here.set / COUNTERS) == 7
    assert id_at(here.set / COUNTERS) == map_ids(loaded)[COUNTERS]
    assert is_healthy(here)
    assert len(after["foreign"]) == (change is not remove)
    assert all(Path(path).is_symlink() or Path(path).exists() for path in after["foreign"])


def test_a_load_says_what_it_pins_again(here: Here, loaded: Any) -> None:
    (here.set / COUNTERS).unlink()
    planned = here.load(compiled(OLD), "--dry-run")
    done = here.load(compiled(OLD))

    told = f"map {COUNTERS}: its pin was removed by hand; it is pinned again"
    for document in (planned, done):
        assert told in document["notes"]
        assert map_ids(document)[COUNTERS] == map_ids(loaded)[COUNTERS]


def test_a_map_that_went_with_its_pin_starts_empty_and_that_is_told(
    here: Here, loaded: Any
) -> None:
    here.ok("unload", here.device, "--keep-maps")
    wait_for_the_end_of(loaded)
    (here.set / COUNTERS).unlink()
    wait_until(lambda: not is_there(map_ids(loaded)[COUNTERS]))
    (found,) = problems(here, state="kept")
    loaded = here.load(compiled(OLD))

    assert f"{here.set / COUNTERS} was removed by hand, and map id " in found["text"]
    assert f"map {COUNTERS}: its pin was removed by hand, and the map with it" in loaded["notes"]
    assert packets(here.set / COUNTERS) == 0


def test_maps_are_kept_although_their_pins_were_removed(here: Here, loaded: Any) -> None:
    for name in (COUNTERS, "%2ebss", PROGRAM):
        (here.set / name).unlink()
    kept = here.ok("unload", here.device, "--keep-maps")["kept_maps"]
    holder = here.holder()
    again = here.load(compiled(OLD))

    assert {COUNTERS, ".bss"} <= set(kept)
    assert holder is None
    assert map_ids(again) == map_ids(loaded)
    assert packets(here.set / COUNTERS) == 7


def test_a_lost_pin_of_a_filter_program_does_not_keep_it_attached(here: Here) -> None:
    here.load("builtin:tc_stats", "--hook", "tc-ingress")
    before = tc_of(here.device)[2]
    (here.set / "programs~" / "tc_stats").unlink()
    (found,) = problems(here, state="degraded")
    here.ok("unload", here.device)

    assert found["kind"] == "pin-missing"
    assert before != ()
    assert tc_of(here.device)[2] == ()


def test_a_link_pin_that_was_removed_while_somebody_holds_the_link_is_pinned_again(
    here: Here, loaded: Any
) -> None:
    pin = here.set / "links~" / "xdp"
    with Link.from_pin(pin) as link:
        pin.unlink()
        (found,) = problems(here, state="degraded")
        type_line(found["fix"])
        with Link.from_pin(pin) as again:
            ids = (again.id, link.id)

    assert (found["kind"], ids[0]) == ("pin-missing", ids[1])
    assert is_healthy(here)


def test_the_types_beside_a_map_that_were_removed_are_told_and_written_again(
    here: Here, loaded: Any
) -> None:
    (here.set / "layouts~" / COUNTERS).unlink()
    (found,) = problems(here, state="degraded")
    type_line(found["fix"])

    assert f"{here.set / 'layouts~' / COUNTERS} was removed by hand" in found["text"]
    assert (here.set / "layouts~" / COUNTERS).is_symlink()
    assert is_healthy(here)


def test_without_the_object_the_fix_pins_with_bpftool(here: Here, tmp_path: Path) -> None:
    need("bpftool")
    source = tmp_path / "gone.o"
    source.write_bytes(Path(compiled(OLD)).read_bytes())
    here.load(source)
    source.unlink()
    (here.set / COUNTERS).unlink()
    replace_by_a_program(here.set / PROGRAM)
    fixes = [one["fix"] for one in problems(here, state="degraded")]
    for fix in fixes:
        for command in fix.split(" && "):
            program, *words = shlex.split(command)
            if program == "bpftool":
                bpftool(*words)
            else:
                assert program == "mv"
                Path(words[0]).rename(words[1])

    assert is_healthy(here)


def test_a_set_of_an_earlier_version_finds_the_map_by_its_program(here: Here, loaded: Any) -> None:
    """It wrote nothing down: the map is known by name and definition."""
    for path in (here.set / "objects~").iterdir():
        path.unlink()
    (here.set / "objects~").rmdir()
    (here.set / COUNTERS).unlink()
    again = here.load(compiled(OLD))

    assert map_ids(again) == map_ids(loaded)
    assert packets(here.set / COUNTERS) == 7


def test_the_state_is_ok_only_without_any_problem(here: Here, loaded: Any) -> None:
    """For each thing that can be wrong with a set that runs."""
    pin = here.set / COUNTERS
    states: dict[str, tuple[str, list[str]]] = {}

    def note(name: str) -> None:
        document = here.ok("status", here.device)
        states[name] = (document["sets"][0]["state"], [one["kind"] for one in document["problems"]])

    note("healthy")
    pin.chmod(0o644)
    note("open")
    pin.chmod(0o600)
    with Link.from_pin(here.set / "links~" / "xdp") as link, xdp_program("other") as other:
        with Program.from_pin(here.set / PROGRAM) as own:
            link.update(other)
            note("changed")
            link.update(own)
        link.detach()
        note("detached")
    here.load(compiled(OLD), "--confirm", "600")
    note("on trial")
    here.ok("confirm", here.device)
    here.ok("unload", here.device, "--keep-maps")
    note("kept")

    assert states == {
        "healthy": ("ok", []),
        "open": ("degraded", ["access"]),
        "changed": ("degraded", ["program-changed"]),
        "detached": ("defunct", ["defunct-link"]),
        "on trial": ("on-trial", ["on-trial"]),
        "kept": ("kept", []),
    }


def test_a_record_that_was_emptied_is_told_and_the_set_is_healed(here: Here, loaded: Any) -> None:
    """Without the record nothing is known to be the set's; without its folder all of it is."""
    record = here.set / "objects~"
    for entry in record.iterdir():
        entry.unlink()
    found, *_ = problems(here, state="degraded")
    told, _, line = found["fix"].partition(": ")
    subprocess.run(line.split(), check=True)
    here.ok("load", compiled(OLD), "--dev", here.device)

    assert (found["kind"], str(record) in found["text"]) == ("pin-missing", True)
    assert (told, line) == ("if what is pinned there is the set's", f"rm -r {record}")
    assert packets(here.set / COUNTERS) == 7
    assert id_at(here.set / COUNTERS) == map_ids(loaded)[COUNTERS]
    assert is_healthy(here)
    here.ok("unload", here.device)
    assert not here.set.exists()


def test_a_set_whose_manifest_was_removed_is_told_and_can_be_removed(
    here: Here, loaded: Any
) -> None:
    (here.set / "manifest~").unlink()

    result = here.run("status", here.device, "--check")

    assert result.exit_code == 10
    assert result.json["sets"][0]["state"] == "foreign"
    problem = result.json["problems"][0]
    assert "its manifest~ was removed" in problem["text"]
    fix = problem["fix"].rpartition(": ")[2]
    subprocess.run(shlex.split(fix), check=True)
    wait_for_the_end_of(loaded)
    here.load(compiled(OLD))


def ids_at(directory: Path) -> tuple[int, int]:
    """Return the ids of the objects at the names of the set's map and of its program."""
    with Program.from_pin(directory / PROGRAM) as program:
        return id_at(directory / COUNTERS), program.id


def test_a_pin_of_others_in_the_place_of_a_set_is_never_taken_for_its_own(here: Here) -> None:
    with deploy(compiled(OLD), device=here.device, pin_root=here.root) as deployment:
        own = ids_at(here.set)
        replace_by_a_map(here.set / COUNTERS)
        replace_by_a_program(here.set / PROGRAM)
        theirs = ids_at(here.set)
        pin_set = PinSet.read(here.root, here.device)
        opened = deployment.maps[COUNTERS].id, deployment.programs["count_port"].id
        shared = map_ids_of(pin_set, [OutsidePin(COUNTERS, "shared")])
        followed = followed_programs(here.set / COUNTERS)
        deployment.undeploy()

    assert opened == own
    assert program_ids(pin_set) == {own[1]}
    assert list(followed.values()) == [own[1]]
    assert shared == {}
    assert ids_at(here.set) == theirs
