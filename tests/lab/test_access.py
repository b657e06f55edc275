"""Who may read the counters of a set: nobody else, or the group that it was loaded for."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.errors import PermissionDeniedError, ReadOnlyMapError
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.ownership import return_foreign
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.cli import CliResult
from support.here import Here, map_ids, packets, veth
from support.lab import TestLab
from support.nobody import NOBODY, let_everybody_enter, nobody
from support.objects import compiled
from support.tools import need
from support.wait import HANG_S

OLD = "reload_old"
NEW = "reload_new"
COUNTERS = "xdp_stats_map"
MAPS = {COUNTERS, "last_port", "%2ebss"}
GROUP = 4242
FOR_GROUP = ("--group", GROUP)


@pytest.fixture
def here(bpffs: Path) -> Iterator[Here]:
    """A device without traffic, and a pin root that other users may look into."""
    let_everybody_enter(bpffs)
    with veth() as device:
        yield Here(bpffs, device)


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that a test may set; the one before comes back."""
    before = os.umask(0o022)
    os.umask(before)
    yield request.param
    os.umask(before)


def modes(here: Here) -> dict[str, str]:
    """Return group and mode of every pin and directory of the set."""
    found = {}
    for path in [here.set, *here.set.rglob("*")]:
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode):
            name = str(path.relative_to(here.root))
            found[name.replace(here.device, "SET")] = (
                f"{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"
            )
    return found


def expected(*, directories: str, maps: str, names: set[str] = MAPS) -> dict[str, str]:
    """Return what `modes` should: programs and links are nobody else's in any case."""
    return {
        "SET": directories,
        "SET/layouts~": directories,
        "SET/objects~": directories,
        "SET/links~": "0 0700",
        "SET/links~/xdp": "0 0600",
        "SET/programs~": "0 0700",
        "SET/programs~/count_port": "0 0600",
        **{f"SET/{name}": maps for name in names},
    }


def count(here: Here) -> None:
    """Write a number into the counters, as a program would."""
    with Map.from_pin(here.set / COUNTERS) as counters:
        row = {"rx_packets": 7, "rx_bytes": 700}
        counters[1] = [row, *[{"rx_packets": 0, "rx_bytes": 0}] * (len(counters[1]) - 1)]


def as_user(group: int, *words: object) -> CliResult:
    """Run the command as an ordinary user in *group*, if that user may read this installation."""
    need("setpriv")
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={group}", "--clear-groups"]
    python = [*user, sys.executable]
    tried = subprocess.run([*python, "-c", "import bpfpin"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"user {NOBODY} may not run {sys.executable}")
    command = [*python, "-m", "bpfpin", *map(str, words), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    return CliResult(done.returncode, done.stdout, done.stderr)


def test_without_a_word_a_set_is_for_nobody_else(here: Here) -> None:
    here.load(compiled(OLD))

    assert modes(here) == expected(directories="0 0700", maps="0 0600")


@pytest.mark.parametrize(
    ("words", "directories", "maps"),
    [
        (("--group", GROUP), f"{GROUP} 0750", f"{GROUP} 0640"),
        (("--group", GROUP, "--chmod", "0660"), f"{GROUP} 0750", f"{GROUP} 0660"),
        (("--group", GROUP, "--chmod", "0600"), f"{GROUP} 0700", f"{GROUP} 0600"),
        (("--group", "root"), "0 0750", "0 0640"),
        (("--chmod", "0644"), "0 0755", "0 0644"),
        (("--chmod", "440"), "0 0750", "0 0640"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_maps_and_the_way_to_them_are_opened_as_asked(
    here: Here, words: tuple[object, ...], directories: str, maps: str
) -> None:
    here.load(compiled(OLD), *words)

    assert modes(here) == expected(directories=directories, maps=maps)
    assert here.ok("status", here.device)["problems"] == []


def test_a_reload_keeps_the_access_for_old_maps_and_new_ones(here: Here) -> None:
    here.load(compiled(OLD), *FOR_GROUP)
    reloaded = here.load(compiled(NEW))
    names = {COUNTERS, "by_port", "%2ebss"}

    assert reloaded["result"] == "reloaded"
    assert modes(here) == expected(directories=f"{GROUP} 0750", maps=f"{GROUP} 0640", names=names)


def test_the_same_object_for_another_group_is_a_reload_that_keeps_the_maps(here: Here) -> None:
    first = here.load(compiled(OLD))
    second = here.load(compiled(OLD), *FOR_GROUP)
    third = here.load(compiled(OLD), "--chmod", "0600", "--group", "0")

    assert [one["result"] for one in (second, third)] == ["reloaded", "reloaded"]
    assert map_ids(third) == map_ids(first)
    assert modes(here) == expected(directories="0 0700", maps="0 0600")


def test_kept_maps_stay_readable_between_unload_and_load(here: Here) -> None:
    here.load(compiled(OLD), *FOR_GROUP)
    count(here)
    here.ok("unload", here.device, "--keep-maps")
    with nobody(group=GROUP):
        between = packets(here.set / COUNTERS)
    here.load(compiled(OLD))

    assert between == 7
    assert modes(here) == expected(directories=f"{GROUP} 0750", maps=f"{GROUP} 0640")


def test_what_others_pinned_stays_open_to_the_group_after_an_unload(here: Here, umask: int) -> None:
    """Their pins are in a new directory then; neither umask nor group of the process count."""
    here.load(compiled(OLD), *FOR_GROUP)
    for place in ("theirs", "layouts~/theirs"):
        with Map.from_pin(here.set / COUNTERS) as counters:
            counters.pin(here.set / place)
    os.umask(umask)
    here.ok("unload", here.device)

    assert modes(here) == {
        "SET": f"{GROUP} 1750",
        "SET/theirs": "0 0600",
        "SET/layouts~": f"{GROUP} 0750",
        "SET/layouts~/theirs": "0 0600",
    }


def test_what_is_given_back_from_a_stage_stays_open_to_the_group(here: Here, umask: int) -> None:
    stage = here.root / names.stage_name(here.device)
    stage.mkdir()
    os.chown(stage, -1, GROUP)
    stage.chmod(0o770)
    with Map.create(MapSpec("mine", MapType.ARRAY, 4, 4, 1)) as mine:
        mine.pin(stage / "theirs")
    with Directory.open(here.root) as root:
        os.umask(umask)
        return_foreign(root, stage.name, here.device)

    assert modes(here) == {"SET": f"{GROUP} 1750", "SET/theirs": "0 0600"}


@pytest.mark.parametrize("words", [("--chmod", "777"), ("--chmod", "0700"), ("--chmod", "1640")])
def test_a_mode_that_a_map_cannot_have_is_a_usage_error(here: Here, words: tuple[str, ...]) -> None:
    assert "a map is only read and written" in here.load_refused(2, compiled(OLD), *words).stderr


@pytest.mark.parametrize("group", [2**32 - 1, 2**32, 99999999999])
def test_a_number_that_no_group_has_is_a_usage_error(here: Here, group: int) -> None:
    here.load_refused(2, compiled(OLD), "--group", group)


def test_a_dry_run_does_not_open_anything(here: Here) -> None:
    here.load(compiled(OLD))
    before = here.everything()
    plan = here.load(compiled(OLD), *FOR_GROUP, "--dry-run")

    assert plan["result"] == "planned"
    assert here.everything() == before


def test_a_refused_reload_does_not_open_anything(here: Here) -> None:
    here.load(compiled(OLD))

    here.load_refused(5, compiled("reload_refused"), *FOR_GROUP)


def test_a_member_of_the_group_reads_typed_counters_in_the_library(
    bpffs: Path, lab: TestLab
) -> None:
    let_everybody_enter(bpffs)
    here = Here(bpffs, lab.device)
    here.load(compiled(OLD), *FOR_GROUP)
    lab.flood(10)
    with nobody(group=GROUP), Map.from_pin(here.set / COUNTERS, read_only=True) as counters:
        total = counters.total(1)
        with pytest.raises(ReadOnlyMapError):
            counters[1] = counters[1]

    assert total["rx_packets"] == 10
    assert total["rx_bytes"] > 0


def test_a_member_of_the_group_goes_on_reading_after_a_reload(here: Here) -> None:
    here.load(compiled(OLD), *FOR_GROUP)
    count(here)
    here.load(compiled(NEW))
    with nobody(group=GROUP):
        counted = packets(here.set / COUNTERS)

    assert counted == 7


@pytest.mark.parametrize("pin", [COUNTERS, "programs~/count_port", "links~/xdp"])
def test_others_read_nothing(here: Here, pin: str) -> None:
    here.load(compiled(OLD), *FOR_GROUP)

    with nobody(), pytest.raises(PermissionDeniedError):
        Map.from_pin(here.set / pin, read_only=True)


def test_a_member_of_the_group_writes_only_where_the_mode_says_so(here: Here) -> None:
    here.load(compiled(OLD), *FOR_GROUP)
    with nobody(group=GROUP), pytest.raises(PermissionDeniedError):
        Map.from_pin(here.set / COUNTERS)
    here.load(compiled(OLD), "--group", GROUP, "--chmod", "0660")
    with nobody(group=GROUP), Map.from_pin(here.set / "last_port") as last_port:
        last_port[0] = 4711
    with Map.from_pin(here.set / "last_port") as last_port:
        assert last_port[0] == 4711


def test_a_member_of_the_group_reads_typed_counters_by_the_command(here: Here) -> None:
    here.load(compiled(OLD), *FOR_GROUP)
    count(here)
    shown = as_user(GROUP, "map", "get", here.set / COUNTERS, "1")
    stats = as_user(GROUP, "stats", here.device, "--pin-root", here.root, "--count", "1")

    assert shown.exit_code == 0, shown.stderr
    assert '"rx_packets": 7' in shown.stdout
    assert stats.exit_code == 0, stats.stderr
    assert [row["packets"] for row in stats.json["rows"] if row["action"] == "XDP_DROP"] == [7]


def test_others_are_told_by_the_command_that_they_may_not(here: Here) -> None:
    here.load(compiled(OLD), *FOR_GROUP)
    result = as_user(NOBODY, "map", "get", here.set / COUNTERS, "1")

    assert (result.exit_code, result.json["error"]["exit"]) == (3, 3)
    assert str(here.set) in result.stderr


def test_a_shared_map_that_is_somebody_elses_keeps_its_mode(here: Here) -> None:
    """A set opens the names that it makes, and no others."""
    other = here.root / "mine"
    here.load(compiled(OLD))
    with Map.from_pin(here.set / COUNTERS) as counters:
        counters.pin(other)
    before = (os.stat(other).st_gid, os.stat(other).st_mode)  # noqa: PTH116
    here.load(compiled(OLD), "--map", f"{COUNTERS}={other}", *FOR_GROUP)

    assert (os.stat(other).st_gid, os.stat(other).st_mode) == before  # noqa: PTH116
