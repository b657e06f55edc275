"""A set whose maps change their layout with each generation: the counts go over, exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names as pin_names
from support.crash_lab import CrashLab, Generation, Reference
from support.migration import MAPS, NEW, OLD, read, truth_of
from support.objects import compiled
from support.wait import wait_until

OBJECTS = {Generation.OLD: OLD, Generation.NEW: NEW}


class MigratingLab(CrashLab):
    """Three maps of another layout in the new generation, and a fourth that stays: the truth."""

    _kept_maps = ("truth",)
    _defines: tuple[str, ...] = ()

    def _object(self, generation: Generation) -> Path:
        return compiled(OBJECTS[generation], defines=self._defines)

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation*; what is loaded already is migrated."""
        return [*super().load(generation), "--migrate"]

    def counts(self) -> tuple[int, int]:
        """Return the least and the most packets that a pinned map has counted."""
        with contextlib.ExitStack() as undo:
            maps = {
                name: undo.enter_context(Map.from_pin(self._pin(name))) for name in (*MAPS, "truth")
            }
            version = OLD if maps["counts"].value_size == 8 else NEW
            counted = [
                sum(value[0] for value in read(maps[name], version, name).values()) for name in MAPS
            ]
            counted.append(self._came(maps["truth"]))
        return min(counted), max(counted)

    def count(self, packets: int = 3) -> None:
        """Send packets and see each counted once; in the end all maps say what came ever.

        In a set that is half-built the program may count in maps that are not published yet.
        """
        if self.attached() is None or not self.is_half_built():
            super().count(packets)
            if self.attached() is not None:
                least, most = self.counts()
                assert least == most, f"the maps have counted {least} to {most}"
            return
        with Map.from_pin(self._pin("truth")) as truth:
            wanted = self._came(truth) + packets
            self.lab.flood(packets)
            wait_until(lambda: self._came(truth) == wanted, timeout_s=60.0)

    def _came(self, truth: Map) -> int:
        return sum(packets for packets, _ in truth_of(truth).values())


class ByNameLab(MigratingLab):
    """The same, with a map that is pinned by name: its name goes over with it."""

    _defines = ("BY_NAME",)
    _shared = "flows"

    def _check(self, generation: Generation, reference: Reference) -> None:
        """Check that the shared name holds the map that the running program uses."""
        super()._check(generation, reference)
        if reference.program_tag is None:
            return
        with (
            Map.from_pin(self.root / self._shared) as shared,
            Map.from_pin(self._pin("flows")) as own,
            Program.from_pin(self.set / pin_names.PROGRAMS / self._xdp_program) as program,
        ):
            assert shared.id == own.id, f"{self._shared} holds {shared.id}, the set {own.id}"
            assert shared.id in program.info.map_ids, f"the program does not use {shared.id}"


class LeavingLab(ByNameLab):
    """The same, where the new generation does not pin that map by name: the shared name goes."""

    def _object(self, generation: Generation) -> Path:
        defines = () if generation is Generation.NEW else self._defines
        return compiled(OBJECTS[generation], defines=defines)

    def _check(self, generation: Generation, reference: Reference) -> None:
        if generation is Generation.NEW:
            MigratingLab._check(self, generation, reference)
            assert not (self.root / self._shared).exists()
        else:
            super()._check(generation, reference)


class Iproute2Lab(ByNameLab):
    """The same, with a map that iproute2 pins among its globals, and that has no types."""

    _defines = ("IPROUTE2",)
    _shared = "tc/globals/flows"

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation*, with what the values are."""
        layouts = ("u64 packets; u64 bytes", "u64 bytes; u64 packets; u64 drops")
        return [*super().load(generation), *(f"--layout=flows={text}" for text in layouts)]

    def _paths(self) -> Iterator[Path]:
        """Yield what is there but for iproute2's directories, which stay."""
        stays = {self.root / "tc", self.root / "tc/globals"}
        yield from (path for path in super()._paths() if path not in stays)
