"""Measures how often programs run and how long: statistics are on as long as somebody measures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bpfpin.errors import IdNotFoundError
from bpfpin.host.named import open_program
from bpfpin.objects.kernel.info import ProgramInfo, program_info, programs
from bpfpin.objects.maps.watch import Pace
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor

_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ProgramRate:
    """The runs of one program in an interval of *interval_s* seconds, on all CPUs together."""

    info: ProgramInfo
    runs: int
    run_time_ns: int
    interval_s: float

    @property
    def average_ns(self) -> float | None:
        """The average time of a run; None if it did not run."""
        return self.run_time_ns / self.runs if self.runs else None

    @property
    def runs_per_second(self) -> float:
        """The runs in a second."""
        return self.runs / self.interval_s

    @property
    def cpu_share(self) -> float:
        """The share of one CPU's time: 1.0 is a whole CPU."""
        return self.run_time_ns / _NANOSECONDS / self.interval_s


@dataclass(frozen=True, slots=True)
class ProgramStats:
    """The rates of one interval, the greatest share first; *wall_time_s* is its end.

    *gone* are the ids of named programs that were unloaded; each is reported once.
    """

    wall_time_s: float
    rates: tuple[ProgramRate, ...]
    gone: tuple[int, ...] = ()


@contextmanager
def counting_runs() -> Iterator[None]:
    """Let the kernel count the runs of all programs of the host during the block.

    Each run costs some tens of nanoseconds more. Several processes may count at a time.

    Kernel: BPF_ENABLE_STATS (Linux 5.8), CAP_SYS_ADMIN.
    """
    with Descriptor(bpf.enable_stats()):
        yield


def watch_programs(
    targets: Sequence[str], *, pin_root: Path, interval_s: float, count: int | None = None
) -> Iterator[ProgramStats]:
    """Yield the rates of programs for each interval; without *targets* those of all that ran.

    Ends after *count* intervals, or when all named programs are unloaded.
    """
    ids = []
    for target in targets:
        with open_program(target, pin_root) as program:
            ids.append(program.id)
    with counting_runs():
        yield from _intervals(ids, Pace(interval_s), count)


def _intervals(ids: Sequence[int], pace: Pace, count: int | None) -> Iterator[ProgramStats]:
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    before, start = _read(ids), time.monotonic()
    left, reported = count, set[int]()
    while left is None or left > 0:
        time.sleep(pace.left_s())
        now, end = _read(ids), time.monotonic()
        pace.step()
        rates = [_rate(info, before.get(info.id), end - start, began_ns) for info in now.values()]
        # All that were named, else those that ran.
        shown = [rate for rate in rates if ids or rate.runs]
        shown.sort(key=lambda rate: (-rate.run_time_ns, rate.info.id))
        gone = [program_id for program_id in ids if program_id not in {*now, *reported}]
        reported.update(gone)
        yield ProgramStats(time.time(), tuple(shown), tuple(gone))
        before, start = now, end
        left = None if left is None else left - 1
        if ids and not now:
            return


def _rate(
    info: ProgramInfo, before: ProgramInfo | None, interval_s: float, began_ns: int
) -> ProgramRate:
    runs, run_time_ns = info.run_count, info.run_time_ns
    if before is not None:
        runs, run_time_ns = runs - before.run_count, run_time_ns - before.run_time_ns
    elif info.load_time_ns < began_ns:
        # It was loaded before the first reading, and its numbers are from earlier statistics.
        runs, run_time_ns = 0, 0
    return ProgramRate(info, runs, run_time_ns, interval_s)


def _read(ids: Sequence[int]) -> dict[int, ProgramInfo]:
    if not ids:
        return {info.id: info for info in programs()}
    infos = {}
    for program_id in ids:
        # Opened anew each time: a descriptor that stays open would keep the program loaded.
        with suppress(IdNotFoundError), Descriptor(bpf.prog_get_fd_by_id(program_id)) as program:
            infos[program_id] = program_info(program.fileno())
    return infos
