"""A set at four hooks, each held in its own way, between one killed command and the next."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from bpfpin.attach import clsact
from bpfpin.attach.clsact import clsact_filters
from bpfpin.attach.query import cgroup_programs, tcx_programs
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names as pin_names
from bpfpin.spec import Hook
from bpfpin.uapi import AttachType
from support.crash_lab import CrashLab, Generation, Reference
from support.hooks import inside, new_cgroup
from support.lab import TestLab
from support.objects import compiled
from support.traffic import PORT

PROGRAMS = {
    "xdp_in": Hook.XDP,
    "tcx_in": Hook.TCX_INGRESS,
    "tc_in": Hook.TC_INGRESS,
    "cgroup_in": Hook.CGROUP_INET_INGRESS,
}
OBJECTS = {Generation.OLD: "places_old", Generation.NEW: "places_new"}


class SeveralLab(CrashLab):
    """XDP, tcx, a filter of classic tc and a cgroup: each counts every packet that comes."""

    _kept_maps = ("counts", ".bss")
    _xdp_program = "xdp_in"

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with a cgroup."""
        with new_cgroup(folder / "cgroup2") as cgroup:
            made = cls(lab, root, folder, cgroup=cgroup)
            yield made
            made.clear()

    def __init__(self, lab: TestLab, root: Path, folder: Path, *, cgroup: Path) -> None:
        self._cgroup = cgroup
        super().__init__(lab, root, folder)

    def _object(self, generation: Generation) -> Path:
        return compiled(OBJECTS[generation])

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation* at all four hooks."""
        chosen = [f"--prog={name}:{hook.value}" for name, hook in PROGRAMS.items()]
        return [*super().load(generation), "--cgroup", str(self._cgroup), *chosen]

    def running(self) -> dict[str, tuple[int, ...]]:
        """Return what the hooks run, under the names of the programs that ought to be there."""
        index = self.lab.ifindex
        xdp = super().attached()
        ingress = cgroup_programs(self._cgroup, AttachType.CGROUP_INET_INGRESS)
        return {
            "xdp_in": (xdp[0],) if xdp else (),
            "tcx_in": tuple(one.program_id for one in tcx_programs(index, Hook.TCX_INGRESS)),
            "tc_in": tuple(one.program_id for one in clsact_filters(index)),
            "cgroup_in": tuple(one.program_id for one in ingress),
        }

    def attached(self) -> tuple[int, str] | None:
        """Return id and tag of the XDP program; no program of its own if only others run."""
        is_clear = not any(self.running().values()) and not self._has_qdisc()
        return super().attached() or (None if is_clear else (0, "XDP runs nothing, others do"))

    def _has_qdisc(self) -> bool:
        return self.lab.ifindex in clsact.qdiscs()

    def identity(self) -> dict[str, int]:
        """Return the ids of maps and links, and the handle of the filter."""
        found = super().identity()
        for path in (self.set / pin_names.LINKS).iterdir():
            with Link.from_pin(path) as link:
                found[path.name] = link.id
        filters = clsact_filters(self.lab.ifindex)
        return found | {f"filter {one.place.priority}": one.place.handle for one in filters}

    def counts(self) -> tuple[int, int]:
        """Return the least and the most that a hook has counted: they count the same."""
        with Map.from_pin(self.set / "counts") as counts:
            counted = list(counts.values())[: len(PROGRAMS)]
        return min(counted), max(counted)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        with inside(self._cgroup):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver:
            receiver.bind((self.lab.host_address, PORT))
            yield

    def _check(self, generation: Generation, reference: Reference) -> None:
        super()._check(generation, reference)
        if reference.program_tag is None:
            return
        pinned = {}
        for name in PROGRAMS:
            with Program.from_pin(self.set / pin_names.PROGRAMS / name) as program:
                pinned[name] = (program.id,)
        running = self.running()
        assert running == pinned, f"{running} run, {pinned} of {generation.value} are pinned"
