"""Two devices that one command loads: both are old, or both are new, and never one of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names as pin_names
from support.crash import run_here
from support.crash_lab import COUNTED, CrashLab, Generation, Reference
from support.lab import TestLab, new_lab
from support.traffic import PORT, attached
from support.wait import wait_until


class TwoDevicesLab(CrashLab):
    """The same set twice, on two devices, loaded by one command."""

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with a second device."""
        with new_lab() as second:
            made = cls(lab, root, folder, second=second)
            yield made
            made.clear()

    def __init__(self, lab: TestLab, root: Path, folder: Path, *, second: TestLab) -> None:
        self.second = second
        super().__init__(lab, root, folder)

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation* on both devices."""
        return [*super().load(generation), "--dev", self.second.device]

    def clear(self) -> None:
        """Unload both sets, and whatever else is there."""
        run_here(self._words("unload", self.second.device))
        super().clear()
        wait_until(lambda: attached(self.second.device) is None)

    def names(self) -> frozenset[str]:
        """Return every name below the pin root, the records of changes of several sets too."""
        records = (self.root / pin_names.LOCK_DIRECTORY).glob(f"{pin_names.TARGETS}*")
        return super().names() | {str(path.relative_to(self.root)) for path in records}

    def is_half_built(self) -> bool:
        """Whether a stage or a mark of one of the sets is there."""
        ends = (pin_names.STAGE_SUFFIX, f"/{pin_names.COMMIT}")
        return any(
            name.endswith(ends) and not name.startswith(pin_names.LOCK_DIRECTORY)
            for name in self.names()
        )

    def status(self) -> dict[str, Any]:
        """Return what `status` tells of the first set; the state is the worst of both."""
        before = self.tree()
        told = json.loads(self.run(self._words("status", "-o", "json")).talk)
        assert self.tree() == before, "status changed something"
        if not told["sets"]:
            return {}
        states = {one["state"] for one in told["sets"]}
        state = "half-built" if "half-built" in states else " ".join(states)
        first: dict[str, Any] = told["sets"][0]
        return first | {"state": state, "problems": told["problems"]}

    def identity(self) -> dict[str, int]:
        """Return the ids of what both sets keep."""
        found = super().identity()
        second = self.root / self.second.device
        for name in self._kept_maps:
            with Map.from_pin(second / pin_names.map_pin_name(name)) as held:
                found[f"second {name}"] = held.id
        with Link.from_pin(second / pin_names.LINKS / "xdp") as link:
            found["second link"] = link.id
        return found

    def count(self, packets: int = 3) -> None:
        """Send packets to both devices and see each counted once in the set of its device."""
        super().count(packets)
        pin = self.root / self.second.device / "xdp_stats_map"
        if attached(self.second.device) is None or not pin.exists():
            return
        with Map.from_pin(pin) as stats:
            wanted = stats.total(COUNTED)["rx_packets"] + packets
            self.second.flood(packets, port=PORT)
            wait_until(lambda: stats.total(COUNTED)["rx_packets"] == wanted)

    def _check(self, generation: Generation, reference: Reference) -> None:
        super()._check(generation, reference)
        if reference.program_tag is None:
            wait_until(lambda: attached(self.second.device) is None)
            return
        pin = self.root / self.second.device / pin_names.PROGRAMS / self._xdp_program
        with Program.from_pin(pin) as program:
            expected = (program.id, reference.program_tag)
        there = attached(self.second.device)
        assert there == expected, f"{there} is on the second device, {expected} is pinned"

    def _measured(self) -> Iterator[tuple[Generation, Reference]]:
        yield Generation.NOTHING, Reference(self.names())
        for generation in (Generation.OLD, Generation.NEW):
            self._begin(generation)
            tag = self.attached()
            assert tag is not None
            yield generation, Reference(self.names(), tag[1])
            self.clear()
