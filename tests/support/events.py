"""The programs of tests/objects/events.bpf.c, told what to say and run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bpfpin.loading.collection import Loaded, load
from bpfpin.objfile.reader import read_object
from support.objects import compiled

PACKET = bytes(64)
RING_SIZE = 4096
EVENT_SIZE = 24  # 16 bytes and a header


@dataclass(frozen=True)
class Teller:
    """Programs that send events when a test runs them."""

    loaded: Loaded

    def tell(self, count: int, *, flags: int = 0) -> None:
        """Send *count* events by the ring buffer; their numbers go on from the last one's."""
        self.set(count=count, flags=flags)
        self.run("tell")

    def tell_bytes(self, data: bytes, *, program: str = "tell_bytes", flags: int = 0) -> None:
        """Send one record of just these bytes."""
        self.set(size=len(data), bytes=[*data, *bytes(4096 - len(data))], flags=flags)
        self.run(program)

    def run(self, program: str, *, repeat: int = 1) -> None:
        """Run a program so often."""
        self.loaded.programs[program].test_run(PACKET, repeat=repeat)

    def set(self, **changes: Any) -> None:
        """Change what the programs read."""
        control = self.loaded.maps["control"]
        control[0] = {**control[0], **changes}

    def seen(self, member: str) -> Any:
        """Return what the programs wrote."""
        return self.loaded.maps["control"][0][member]

    @property
    def map_id(self) -> int:
        """The id of the ring buffer."""
        return self.loaded.maps["events"].id


@contextlib.contextmanager
def teller(*, ring_size: int = RING_SIZE) -> Iterator[Teller]:
    """Load the programs and their maps."""
    spec = read_object(compiled("events")).with_map("events", max_entries=ring_size)
    with load(spec) as loaded:
        yield Teller(loaded)


def need_second_cpu() -> None:
    """Skip the test where a program that waits for it would keep it from running."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a second CPU: the program keeps one busy until the test lets it go on")


@contextlib.contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Run the block on that CPU alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
