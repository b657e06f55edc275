"""Processes beside the reloads: one that sends a known number of packets, others that read pins."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfpin.syscall import netns
from support.hooks import inside
from support.lab import TestLab
from support.tools import need
from support.wait import HANG_S

HERE = Path(__file__).parent
PORT = 9999


class Flow:
    """Packets on their way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def sent(self) -> int:
        """Wait for the last packet, and return how many there were."""
        said, _ = self._process.communicate(timeout=HANG_S)
        assert self._process.returncode == 0
        return int(said)

    def stopped(self) -> int:
        """Send no more, and return how many packets there were."""
        self._process.terminate()
        return self.sent()

    @property
    def is_over(self) -> bool:
        """Whether the last packet was sent."""
        return self._process.poll() is not None


@contextlib.contextmanager
def flow(
    lab: TestLab, *, packets: int, per_second: int, cgroup: Path | None = None
) -> Iterator[Flow]:
    """Send at most *packets* from the peer to PORT of the device's address, at that rate.

    The socket belongs to *cgroup* if one is given.
    """
    with netns.enter(lab.lab.netns), inside(cgroup) if cgroup else contextlib.nullcontext():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    words = [str(sender.fileno()), lab.host_address, str(PORT), str(packets), str(per_second)]
    script = str(HERE / "traffic_sender.py")
    with sender, _child([sys.executable, script, *words], pass_fds=(sender.fileno(),)) as process:
        yield Flow(process)


@dataclass(frozen=True)
class Readings:
    """How often a reader read, and how often it could not."""

    reads: int
    failures: int
    first_error: str


class Reader:
    """A process that reads a pin in a loop, until `stopped` is asked for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stopped(self) -> Readings:
        """End the reader, and return what it saw."""
        self._process.terminate()
        said, _ = self._process.communicate(timeout=HANG_S)
        reads, failures, first_error = said.split(" ", 2)
        return Readings(int(reads), int(failures), first_error.strip())


@contextlib.contextmanager
def reader(command: Sequence[str | Path], pin: Path) -> Iterator[Reader]:
    """Run a reader of *pin*: it has read once when the block begins."""
    with _child([*map(str, command), str(pin)]) as process:
        yield Reader(process)


def reader_in_c(folder: Path) -> list[str]:
    """Compile the plain reader, and return the command that runs it."""
    need("gcc")
    program = folder / "traffic_reader"
    source = HERE / "traffic_reader.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
    return [str(program)]


def our_reader() -> list[str]:
    """Return the command that runs a reader with this library."""
    return [sys.executable, str(HERE / "traffic_reader.py")]


def dropped(lab: TestLab) -> int:
    """Return how many packets the devices of the lab dropped by themselves, at either end."""
    here = ["ip", "-json", "-stats", "link", "show", "dev", lab.device]
    there = ["ip", "-netns", lab.lab.netns, *here[1:-1], lab.lab.peer]
    return sum(map(_dropped, (here, there)))


def attached(device: str) -> tuple[int, str] | None:
    """Return id and tag of the XDP program at the device, as ip(8) sees it."""
    held = _shown(["ip", "-json", "link", "show", "dev", device]).get("xdp")
    return (held["prog"]["id"], held["prog"]["tag"]) if held else None


def _shown(command: Sequence[str]) -> dict[str, Any]:
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(shown)[0]
    return found


def _dropped(command: Sequence[str]) -> int:
    stats = _shown(command)["stats64"]
    return int(stats["rx"]["dropped"]) + int(stats["tx"]["dropped"])


@contextlib.contextmanager
def _child(
    command: Sequence[str], *, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes a line when it has started; it ends with the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield process
        finally:
            process.kill()
