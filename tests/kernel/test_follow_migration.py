"""Readers cross migrations: totals that never fall and end exact, waits, and folds that hang."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bpfpin.apps.stats import Interval, open_counters, watch_events
from bpfpin.errors import BusyError
from bpfpin.map import generation
from bpfpin.map.follow import Follower, StillMigrating, follow
from bpfpin.map.watch import EntryEvent, open_watch
from bpfpin.migration.fold import FoldPrograms
from bpfpin.migration.request import Migration
from bpfpin.objects.maps.codec import total
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import Change, Reload
from bpfpin.pins import names
from bpfpin.sets.load.deploy import deploy
from support.here import run_here
from support.lab import TestLab
from support.migration import FLOWS, NEW, OLD, other, traffic, truth_of
from support.objects import compiled
from support.wait import wait_until

pytestmark = pytest.mark.lab

SHORT_S = 0.05
MIGRATIONS = 6
PER_SECOND = 10_000


class Migrated:
    """A set on the device of a lab whose maps go from one layout to the other and back."""

    def __init__(self, lab: TestLab, root: Path) -> None:
        self.lab, self.root, self.version = lab, root, NEW
        self.path, self.was_made = root / lab.device, False
        self.migrate()

    def migrate(self) -> None:
        """Load the other version."""
        self.version = other(self.version)
        dropped = ("bytes", "drops") if self.version == OLD else ()
        source, how = compiled(self.version), Migration(dropped=dropped if self.was_made else ())
        deploy(source, device=self.lab.device, pin_root=self.root, migrate=how)
        self.was_made = True

    def map_id(self, name: str) -> int:
        """Return the id of the map that is published."""
        with Map.from_pin(self.path / name) as held:
            return held.id

    def came(self) -> int:
        """Return how many packets there were in truth."""
        with Map.from_pin(self.path / "truth") as truth:
            return sum(packets for packets, _ in truth_of(truth).values())

    def count(self, packets: int) -> None:
        """Send packets, until they are counted."""
        wanted = self.came() + packets
        self.lab.flood(packets)
        wait_until(lambda: self.came() == wanted)


@pytest.fixture
def migrated(lab: TestLab, bpffs: Path) -> Iterator[Migrated]:
    yield Migrated(lab, bpffs)
    run_here("unload", lab.device, "--pin-root", bpffs)


@contextmanager
def hanging(migrated: Migrated) -> Iterator[Path]:
    """Be a fold whose process is dead; `clean` takes it away."""
    stage = migrated.root / f"{migrated.path.name}{names.STAGE_SUFFIX}"
    stage.mkdir(mode=0o700)
    mark = stage / names.FOLDING
    mark.mkdir(mode=0o700)
    yield mark
    run_here("clean", "--pin-root", migrated.root)


def packets_in(held: Map) -> int:
    """Return the packets of all entries and CPUs, in either layout."""
    values = held.to_dict().values()
    each = (cpu for value in values for cpu in (value if isinstance(value, list) else [value]))
    return sum(cpu["packets"] for cpu in each)


def in_background(action: Callable[[], None]) -> threading.Thread:
    """Run it in a thread, which has begun."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_totals_never_fall_under_migrations_and_end_exact(migrated: Migrated) -> None:
    """A per-CPU array and a hash, read without a pause while they go back and forth."""

    def migrate_often() -> None:
        for _ in range(MIGRATIONS):
            migrated.migrate()

    seen: dict[str, list[int]] = {"counts": [], "flows": []}
    reloads: dict[str, list[Reload]] = {"counts": [], "flows": []}
    with (
        follow(migrated.path / "counts", read_only=True) as counts,
        follow(migrated.path / "flows", read_only=True) as flows,
    ):
        live: dict[str, Follower] = {"counts": counts, "flows": flows}

        def look() -> None:
            for name, follower in live.items():
                packets, reload = follower.read(packets_in)
                seen[name].append(packets)
                reloads[name] += [reload] if reload else []

        with traffic(migrated.lab, per_second=PER_SECOND, flows=FLOWS // 10) as senders:
            loader = in_background(migrate_often)
            while loader.is_alive():
                look()
            loader.join()
            senders.stopped()
        look()

    for name, totals in seen.items():
        assert totals == sorted(totals), name
        assert totals[-1] == migrated.came() > 0, name
        assert len(reloads[name]) > 1
        assert all(told.is_migration and not told.is_restart for told in reloads[name])


def test_rates_cross_a_migration_and_are_told_so(migrated: Migrated) -> None:
    migrated.count(30)
    counters = open_counters(migrated.lab.device, map_name="counts", pin_root=migrated.root)
    old = migrated.map_id("counts")
    with closing(counters):
        found = watch_events(counters, interval_s=SHORT_S)
        before = next(found)
        migrated.migrate()
        migrated.count(12)
        told, after = next(found), next(found)
    new = migrated.map_id("counts")

    assert isinstance(before, Interval)
    assert isinstance(told, Reload)
    assert isinstance(after, Interval)
    assert str(told) == f"map {old} -> {new}: migrated, the counts go on"
    assert (before.rows[0].packets, after.rows[0].packets) == (30, 42)
    assert after.rows[0].packets_per_second == pytest.approx(12 / after.period_s)
    assert after.rows[0].bytes_per_second is not None  # nobody counted bytes before
    assert after.rows[0].bytes_per_second > 0


def test_who_missed_a_migration_goes_on_all_the_same(migrated: Migrated) -> None:
    """Two layouts later; also after a reload that keeps the map."""
    migrated.count(5)
    with follow(migrated.path / "flows", read_only=True) as live:
        migrated.migrate()
        migrated.migrate()
        twice = live.refresh()
        migrated.migrate()
        deploy(
            compiled(migrated.version),
            device=migrated.lab.device,
            pin_root=migrated.root,
            fresh=["counts"],
        )
        later = live.refresh()
        packets = packets_in(live.map)

    assert [told is not None and told.is_migration for told in (twice, later)] == [True, True]
    assert packets == 5


def test_a_map_that_starts_afresh_is_no_migration(migrated: Migrated) -> None:
    migrated.migrate()
    with follow(migrated.path / "flows", read_only=True) as live:
        deploy(
            compiled(migrated.version),
            device=migrated.lab.device,
            pin_root=migrated.root,
            fresh=["flows"],
        )
        told = live.refresh()

    assert told is not None
    assert str(told).endswith("counters restart")


def test_what_changed_is_told_by_the_names_of_members(migrated: Migrated) -> None:
    """New members began at 0."""
    migrated.count(3)
    with follow(migrated.path / "counts") as live:
        changes = live.watch(interval_s=SHORT_S)
        next(changes)
        migrated.migrate()
        migrated.count(4)
        change = next(changes)
    (key,), (values,) = change.changed, change.changed.values()
    old, new = map(total, values)

    assert change.reload is not None
    assert change.reload.is_migration
    assert (key, old) == (0, {"bytes": 0, "packets": 3, "drops": 0})
    assert (new["packets"], new["drops"]) == (7, 4)


def test_events_cross_a_migration(migrated: Migrated) -> None:
    """As `map watch` tells them."""
    migrated.count(3)
    with open_watch(str(migrated.path / "counts")) as watching:
        found = watching.events(interval_s=SHORT_S)
        migrated.migrate()
        loader = threading.Timer(2 * SHORT_S, migrated.count, (4,))
        loader.start()
        event = next(one for one in found if isinstance(one, EntryEvent))
        loader.join()

    assert event.readable(event.old)["packets"] == 3
    assert 3 < event.readable(event.value)["packets"] <= 7


# folds that take long


def test_a_reading_waits_until_the_fold_is_over(migrated: Migrated) -> None:
    migrated.count(3)
    with follow(migrated.path / "flows") as live, hanging(migrated) as mark:
        seen: list[int] = []
        reader = in_background(lambda: seen.append(live.read(packets_in)[0]))
        reader.join(SHORT_S)
        while_folding = list(seen)
        mark.rmdir()
        reader.join()

    assert (while_folding, seen) == ([], [3])


def test_what_was_read_while_a_fold_began_is_read_again(migrated: Migrated) -> None:
    """The mark is there only after the first look at it."""
    migrated.count(3)
    seen = []
    with follow(migrated.path / "flows") as live:

        def once(held: Map) -> int:
            seen.append(held.id)
            if len(seen) == 1:
                migrated.migrate()
                return 0
            return packets_in(held)

        packets, reload = live.read(once)

    assert (packets, len(seen)) == (3, 2)
    assert reload is not None
    assert reload.map == tuple(seen)


@pytest.mark.parametrize("command", [("get", 9999), ("dump",), ("save",)], ids=lambda one: one[0])
def test_one_reading_of_a_fold_that_hangs_is_refused(
    migrated: Migrated, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(generation.wait_for_fold, "__kwdefaults__", {"timeout_s": SHORT_S})
    monkeypatch.setattr(generation.Moment.__init__, "__kwdefaults__", {"timeout_s": SHORT_S})
    monkeypatch.setattr(generation.read_whole, "__kwdefaults__", {"timeout_s": SHORT_S})
    verb, *rest = command
    words = [
        "map",
        verb,
        migrated.path / "flows",
        *(rest or [tmp_path / "flows"][: verb == "save"]),
    ]
    with hanging(migrated):
        refused = run_here(*words, "--pin-root", migrated.root)

    assert refused.exit_code == 7
    assert "is being migrated" in refused.stderr
    assert f"bpfpin --pin-root {migrated.root} clean" in refused.stderr


def test_stats_wait_for_a_fold_whose_process_died_and_go_on(
    migrated: Migrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle: the counts are in two maps, and `clean` brings them together."""
    monkeypatch.setattr(generation, "WAIT_MAX_S", SHORT_S)
    migrated.count(8)
    counters = open_counters(migrated.lab.device, map_name="counts", pin_root=migrated.root)
    with closing(counters):
        found = watch_events(counters, interval_s=SHORT_S)
        before = next(found)
        killed_in_the_fold(migrated)
        hangs = next(found)
        cleaned = run_here("clean", "--pin-root", migrated.root)
        told, after = next(found), next(found)

    assert isinstance(before, Interval)
    assert isinstance(hangs, StillMigrating)
    assert "bpfpin clean finishes it" in str(hangs)
    assert cleaned.exit_code == 0, cleaned.stderr
    assert isinstance(told, Reload)
    assert told.is_migration
    assert isinstance(after, Interval)
    assert (before.rows[0].packets, after.rows[0].packets) == (8, 8)


def killed_in_the_fold(migrated: Migrated) -> None:
    """Load the other version in a process that dies when one map was moved."""
    child = os.fork()
    if child == 0:
        whole = FoldPrograms.move

        def move(self: FoldPrograms) -> object:
            whole(self)
            os._exit(9)

        FoldPrograms.move = move  # type: ignore[method-assign,assignment]
        try:
            migrated.migrate()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    migrated.version = other(migrated.version)


def test_a_watch_says_that_it_waits(migrated: Migrated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "WAIT_MAX_S", SHORT_S)
    with follow(migrated.path / "flows") as live:
        changes = live.watch(interval_s=SHORT_S)
        with hanging(migrated):
            waiting = next(changes)
        after = next(changes)

    assert isinstance(waiting, Change)
    assert (waiting.is_unfinished, waiting.is_gone, dict(waiting.entries)) == (True, False, {})
    assert not after.is_unfinished


def test_a_read_of_the_library_says_why_it_gives_up(
    migrated: Migrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "WAIT_MAX_S", SHORT_S)
    with (
        follow(migrated.path / "flows") as live,
        hanging(migrated),
        pytest.raises(BusyError, match="is being migrated"),
    ):
        live.read(packets_in)
