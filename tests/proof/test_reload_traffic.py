"""Reloads under traffic: every packet is counted, by the old program or by the new one."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bpfpin.objects.maps.map import Map
from bpfpin.uapi import XdpAction
from support.cli import run_cli, run_cli_ok
from support.hooks import new_cgroup
from support.lab import TestLab
from support.objects import compiled
from support.traffic import PORT, Flow, attached, dropped, flow
from support.wait import wait_until

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

PER_SECOND = 20_000
PACKETS = 10 * PER_SECOND
ENOUGH_S = 600  # of traffic that is stopped when a test has seen what it wants to see
VERSIONS = ("reload_new", "reload_old")  # the old one is loaded before
MODES = ("native", "generic")
PLACES = ("places_new", "places_old")
# Measured on one machine with the same traffic: packets that no program counted.
PEERS = (
    ("ip link set xdp off, then on, 20 reloads", "7,831", "5,330"),
    ("xdp-loader unload, then load, 20 reloads", "5,804", "5,406"),
    ("ip -force link set xdp, 20 reloads", "0", "0"),
    ("bpftool net attach … overwrite, 20 reloads", "0", "0"),
)


class Place(NamedTuple):
    """A hook without XDP: its program in places.h, where that counts, and packets a second."""

    program: str
    number: int
    per_second: int = PER_SECOND


HOOKS = {
    "tcx-ingress": Place("tcx_in", 1),
    "tc-ingress": Place("tc_in", 2),
    "cgroup-inet-egress": Place("cgroup_out", 4, PER_SECOND // 2),
}


class Set:
    """What `load` made on the lab's device."""

    def __init__(self, lab: TestLab, root: Path, mode: str) -> None:
        self._path = root / lab.device
        self._place = ("--dev", lab.device, "--mode", mode, "--pin-root", root)

    def load(self, source: object) -> str:
        """Load or reload; return what became of it."""
        loaded: Any = run_cli_ok("load", source, *self._place, "-o", "json").json
        return str(loaded["result"])

    def refused(self, source: object) -> int:
        """Try to reload what cannot be loaded; return the exit code."""
        return run_cli("load", source, *self._place).exit_code

    def counted(self) -> int:
        """Return how many packets the pinned map has counted."""
        with Map.from_pin(self._path / "xdp_stats_map") as stats:
            packets: int = stats.total(XdpAction.XDP_DROP)["rx_packets"]
        return packets


@contextlib.contextmanager
def receiver(lab: TestLab) -> Iterator[socket.socket]:
    """A socket that a packet reaches only if no program was there: both of ours drop."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((lab.host_address, PORT))
        made.setblocking(False)
        yield made


def reached(socket_: socket.socket) -> int:
    """Return how many packets wait in the socket."""
    found = 0
    with contextlib.suppress(BlockingIOError):
        while socket_.recv(64):
            found += 1
    return found


@pytest.fixture(scope="module")
def reloads_table(table: Table) -> Table:
    """The table of both modes, the peers' figures first."""
    columns = ("at 20,000 packets/s", "mode", "sent", "counted", "not counted")
    table.begin("Reloads under traffic", columns)
    for name, native, generic in PEERS:
        table.row((name, "native", "about 200,000", "", native))
        table.row((name, "generic", "about 200,000", "", generic))
    return table


@pytest.mark.parametrize("mode", MODES)
def test_no_packet_goes_uncounted_in_a_reload(
    lab: TestLab, bpffs: Path, reloads_table: Table, mode: str, *, is_full: bool
) -> None:
    reloads = 20 if is_full else 4
    loaded = Set(lab, bpffs, mode)
    loaded.load(compiled("reload_old"))
    before = dropped(lab)
    results = []
    with receiver(lab) as uncounted:
        bound = PACKETS if is_full else ENOUGH_S * PER_SECOND
        with flow(lab, packets=bound, per_second=PER_SECOND) as packets:
            for version in every(0.45 if is_full else 0.0, itertools.cycle(VERSIONS), reloads):
                results.append(loaded.load(compiled(version)))
            was_under_traffic = not packets.is_over
            sent = packets.sent() if is_full else packets.stopped()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: loaded.counted() == sent)
        missed = reached(uncounted)
    counted = loaded.counted()
    lost = sent - counted
    reloads_table.row((f"bpfpin load, {reloads} reloads", mode, f"{sent:,}", f"{counted:,}", lost))

    assert results == ["reloaded"] * reloads
    assert was_under_traffic
    assert (counted, missed) == (sent, 0)
    assert sent == PACKETS or not is_full
    assert dropped(lab) == before


class PlacedSet:
    """What `load` made at one hook: of the lab's device, or of the cgroup that sends."""

    def __init__(self, lab: TestLab, root: Path, cgroup: Path, hook: str) -> None:
        self.lab = lab
        self._cgroup = cgroup
        self._pin = root / "set" / "counts"
        where = ("--cgroup", cgroup) if hook.startswith("cgroup") else ("--dev", lab.device)
        chosen = ("--prog", f"{HOOKS[hook].program}:{hook}", "--name", "set")
        self._words = (*where, *chosen, "--pin-root", root, "-o", "json")
        self._number = HOOKS[hook].number

    def flow(self, per_second: int, *, seconds: int) -> contextlib.AbstractContextManager[Flow]:
        """Send for *seconds*, unless it is stopped, from a socket of the cgroup."""
        packets = seconds * per_second
        return flow(self.lab, packets=packets, per_second=per_second, cgroup=self._cgroup)

    def load(self, source: object) -> str:
        """Load or reload; return what became of it."""
        return str(run_cli_ok("load", source, *self._words).json["result"])

    def counted(self) -> int:
        """Return how many packets the pinned map has counted."""
        with Map.from_pin(self._pin) as counts:
            return int(counts[self._number])


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """A cgroup of the test's own."""
    with new_cgroup(tmp_path / "cgroup2") as made:
        yield made


@pytest.fixture
def placed(lab: TestLab, bpffs: Path, cgroup: Path, hook: str) -> PlacedSet:
    """The old object, loaded at one hook."""
    made = PlacedSet(lab, bpffs, cgroup, hook)
    made.load(compiled("places_old"))
    return made


@pytest.mark.parametrize("hook", HOOKS)
def test_no_packet_goes_uncounted_at_tc_and_in_a_cgroup(
    placed: PlacedSet, reloads_table: Table, hook: str, *, is_full: bool
) -> None:
    reloads, rate = 20 if is_full else 3, HOOKS[hook].per_second
    interval_s = 0.45 if is_full else 0.0
    before = dropped(placed.lab)
    results = []
    with placed.flow(rate, seconds=10 if is_full else ENOUGH_S) as packets:
        for version in every(interval_s, itertools.cycle(PLACES), reloads):
            results.append(placed.load(compiled(version)))
        was_under_traffic = not packets.is_over
        sent = packets.sent() if is_full else packets.stopped()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: placed.counted() == sent)
    counted = placed.counted()
    told = f"bpfpin load, {reloads} reloads" + (f", {rate:,}/s" if rate != PER_SECOND else "")
    reloads_table.row((told, hook, f"{sent:,}", f"{counted:,}", sent - counted))

    assert results == ["reloaded"] * reloads
    assert was_under_traffic
    assert counted == sent
    assert sent == 10 * rate or not is_full
    assert dropped(placed.lab) == before


def every(interval_s: float, words: Iterator[str], count: int) -> Iterator[str]:
    """Yield *count* of the words, one each *interval_s* from now on."""
    start = time.monotonic()
    for number, word in enumerate(itertools.islice(words, count)):
        wait_for(start + number * interval_s)
        yield word


def wait_for(due: float) -> None:
    """Return when the monotonic clock says *due*."""
    wait_until(lambda: time.monotonic() >= due, timeout_s=60)


def truncated(folder: Path) -> Path:
    """Return an object of which the second half is missing."""
    whole = compiled("reload_new").read_bytes()
    half = folder / "truncated.bpf.o"
    half.write_bytes(whole[: len(whole) // 2])
    return half


def empty(folder: Path) -> Path:
    """Return a file with nothing in it."""
    path = folder / "empty.bpf.o"
    path.touch()
    return path


class Failure(NamedTuple):
    """An object that cannot replace the old one, and the exit code that says so."""

    source: Callable[[Path], Path]
    exit: int


FAILURES = {
    "the verifier refuses it": Failure(lambda _: compiled("reload_refused"), 5),
    "a map does not fit": Failure(lambda _: compiled("reload_incompatible"), 6),
    "the file is truncated": Failure(truncated, 5),
    "the file is empty": Failure(empty, 5),
    "there is no such file": Failure(lambda folder: folder / "missing.bpf.o", 4),
    "it takes too much memory": Failure(lambda _: compiled("reload_huge"), 5),
}


def test_a_reload_that_fails_leaves_the_old_program_counting(
    lab: TestLab, bpffs: Path, tmp_path: Path, table: Table
) -> None:
    loaded = Set(lab, bpffs, "native")
    loaded.load(compiled("reload_old"))
    running = attached(lab.device)
    table.begin("Failed reloads under traffic", ("what is wrong", "exit", "the old program"))
    exits = {}
    with flow(lab, packets=ENOUGH_S * PER_SECOND, per_second=PER_SECOND) as packets:
        for name, failure in FAILURES.items():
            before = loaded.counted()
            exits[name] = loaded.refused(failure.source(tmp_path))
            still = "attached" if attached(lab.device) == running else "gone"
            table.row((name, exits[name], f"{still}, {loaded.counted() - before:,} more counted"))
            assert still == "attached", name
        was_under_traffic = not packets.is_over
        sent = packets.stopped()
    wait_until(lambda: loaded.counted() == sent)

    assert exits == {name: failure.exit for name, failure in FAILURES.items()}
    assert was_under_traffic
    assert loaded.load(compiled("reload_new")) == "reloaded"
