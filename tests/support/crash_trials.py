"""A set whose commands are put on trial, with the processes that wait beside them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from bpfpin.errors import PinNotFoundError
from bpfpin.objects.maps.map import Map
from bpfpin.pins.directory import Directory
from bpfpin.pins.trial import CONFIRM, read_trial
from bpfpin.sets.action import show
from bpfpin.sets.load import trial as load
from bpfpin.uapi import XdpAction
from support.crash import run_here
from support.crash_lab import CrashLab, Generation
from support.trials import waiting
from support.wait import wait_until

_WAIT_S = 60.0  # for a process that starts or ends, on a machine that has much else to do
# The waiting process, which stands still for good where it would take something back at once.
_FROZEN = """\
#!{python} -P
import signal, sys
from bpfpin.sets import trial_process as process

begun = process._begun
process._begun = lambda *words: begun(*words) or signal.pause()
process.main(sys.argv[4:])
"""
_VERDICTS = {"XDP_PASS": Generation.OLD, "XDP_DROP": Generation.NEW}


class TrialLab(CrashLab):
    """The same, where what a killed command started goes on by itself."""

    follow = False

    _is_frozen = False

    @contextlib.contextmanager
    def freezing(self, is_wanted: bool) -> Iterator[None]:
        """Let the processes that wait do nothing more once their command is dead."""
        python, self._is_frozen = sys.executable, is_wanted
        if is_wanted:
            frozen = self.folder / "frozen"
            frozen.write_text(_FROZEN.format(python=python))
            frozen.chmod(0o755)
            sys.executable = str(frozen)
        try:
            yield
        finally:
            sys.executable = python

    def after_kill(self, *, is_killed_too: bool) -> None:
        """Kill the waiting processes; or wait until none waits whose trial has not begun."""
        if self.is_on_trial():
            return
        if is_killed_too:
            for pid in waiting(self.root):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if is_killed_too or not self._is_frozen:
            wait_until(lambda: not waiting(self.root), timeout_s=_WAIT_S)

    def die_before_the_trial_begins(self, words: list[str]) -> None:
        """Run a command that is killed, and with it who waits, when its trial would begin."""
        pid = os.fork()
        if not pid:
            vars(load)["begin_trial"] = self._die
            run_here(words)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    def _die(self, *_arguments: object) -> None:
        self.after_kill(is_killed_too=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def is_on_trial(self) -> bool:
        """Whether there is a trial that has begun."""
        with contextlib.suppress(PinNotFoundError), Directory.open(self.set) as directory:
            trial = read_trial(directory)
            return trial is not None and trial.is_begun
        return False

    def has_leftovers(self) -> bool:
        """Whether a stage, a mark or a trial is there that the next command has to deal with."""
        return super().has_leftovers() or (self.set / CONFIRM).exists()

    def require_nobody_waiting(self) -> None:
        """Check that no process waits: nothing is on trial any more."""
        assert not (self.set / CONFIRM).exists(), "something is still on trial"
        # One that ended by itself may take a moment to be gone.
        wait_until(lambda: not waiting(self.root), timeout_s=_WAIT_S)

    def clear(self) -> None:
        """Keep what is on trial, then clear as ever; whoever waits still is killed."""
        run_here(self.confirm())
        self.after_kill(is_killed_too=True)
        super().clear()


class VerdictLab(TrialLab):
    """A set whose program returns a verdict from a map: the old one passes, the new one drops."""

    _kept_maps = ("xdp_stats_map", "action")
    _xdp_program = "xdp_stats"

    def _object(self, generation: Generation) -> Path:
        return Path("builtin:xdp_stats")

    def generation(self) -> Generation:
        """Return what is there, told by the verdict."""
        found = super().generation()
        if found is not Generation.OLD:
            return found
        return _VERDICTS[str(show(self.lab.device, pin_root=self.root).action)]

    def counts(self) -> tuple[int, int]:
        """Return how many packets the program has seen."""
        with Map.from_pin(self._pin("xdp_stats_map")) as stats:
            seen = sum(
                stats.total(action)["rx_packets"]
                for action in (XdpAction.XDP_PASS, XdpAction.XDP_DROP)
            )
        return seen, seen

    def count(self, packets: int = 3) -> None:
        """Send packets and see them counted; the host may have sent others, too."""
        if self.attached() is None:
            return
        wanted = self.counts()[0] + packets
        self.lab.flood(packets)
        wait_until(lambda: self.counts()[0] >= wanted)
