"""Sets without a device, at hooks whose links cannot change their program: stubs, and a gate."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from bpfpin.errors import IdNotFoundError
from bpfpin.objects.kernel.info import ProgramInfo, links, programs
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objects.stub import program_in
from bpfpin.pins import names as pin_names
from bpfpin.uapi import MapType
from support.crash_lab import CrashLab, Generation, Reference
from support.lab import TestLab
from support.objects import compiled_with_headers
from support.user_program import probed, running
from support.wait import wait_until

SET = "stubs"
ENTRIES, KINDS, ARGUMENT, ADDRESS = 1, 4, 4, 5  # of tests/objects/attach/stubs.bpf.c
PLACEHOLDER = b"_00000000"  # what each of its programs is called at the end
DEFINES: dict[Generation, tuple[str, ...]] = {
    Generation.OLD: (),
    Generation.NEW: ("NEXT_VERSION",),
}
DESCRIPTORS = Path("/proc/self/fd")


class StubsLab(CrashLab):
    """A tracepoint, both ends of a function and a perf event: each counts the lab's own events.

    *_counters* are those that have events.

    The programs and their stubs have names that nothing else on the host has, so that one that
    stays is seen wherever it is.
    """

    _kept_maps = ("seen",)
    _counters = range(KINDS)

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with a page of memory for faults."""
        with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE) as page:
            made = cls(lab, root, folder, page=page)
            yield made
            made.clear()

    def __init__(self, lab: TestLab, root: Path, folder: Path, *, page: mmap.mmap) -> None:
        self._page = page
        self._ending = f"_{secrets.token_hex(4)}"
        self._argument = secrets.randbits(30) | 1 << 30  # no process has it
        places = self._hooks(f"{probed()}:probed_sum")
        self._places = {f"{name}{self._ending}": place for name, place in places.items()}
        self._xdp_program = next(iter(self._places))  # the one that stands for all
        for generation, defines in DEFINES.items():
            data = compiled_with_headers("attach/stubs", defines=defines).read_bytes()
            made = folder / f"{generation.value}.bpf.o"
            made.write_bytes(data.replace(PLACEHOLDER, self._ending.encode()))
        super().__init__(lab, root, folder)
        self.set = root / SET

    def _hooks(self, function: str) -> dict[str, str]:
        """Return where each program is attached, "" for where its section says."""
        fault = f"page-faults,period=1,pid={threading.get_native_id()}"
        return {
            "call": "",
            "entry": f":uprobe={function}",
            "return": f":uretprobe={function}",
            "fault": f":perf-event={fault}",
        }

    def _object(self, generation: Generation) -> Path:
        return self.folder / f"{generation.value}.bpf.o"

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation* at all four hooks."""
        chosen = [f"--prog={name}{place}" for name, place in self._places.items()]
        return self._words("load", str(self._object(generation)), "--name", SET, *chosen)

    def unload(self, *options: str) -> list[str]:
        """Return the command that unloads the set."""
        return self._words("unload", SET, *options)

    def programs(self) -> dict[int, ProgramInfo]:
        """Return all programs of the lab that are in the kernel, and their stubs, by id."""
        return {info.id: info for info in programs() if info.name.endswith(self._ending)}

    def running(self) -> list[tuple[str, int]]:
        """Return name and id of the programs that the links call, each as often as it is called."""
        found = self.programs()
        stubs = [found[link.program_id] for link in links() if link.program_id in found]
        return sorted((stub.name, _called_by(stub)) for stub in stubs)

    def attached(self) -> tuple[int, str] | None:
        """Return id and tag of the program at the tracepoint; None if the kernel has none."""
        found = self.programs()
        for name, program_id in self.running():
            if name == self._xdp_program and program_id in found:
                return program_id, found[program_id].tag
        return (0, "nothing runs at the tracepoint") if found else None

    def identity(self) -> dict[str, int]:
        """Return the ids of the map, of the links and of the slots."""
        found = super().identity()
        for path in (self.set / pin_names.LINKS).iterdir():
            with Link.from_pin(path) as link:
                found[f"link {path.name}"] = link.id
        for path in (self.set / pin_names.SLOTS).iterdir():
            with Map.from_pin(path) as slot:
                found[f"slot {path.name}"] = slot.id
        return found

    def counts(self) -> tuple[int, int]:
        """Return the least and the most that a hook has counted: they count the same."""
        with Map.from_pin(self._pin("seen")) as seen:
            counted = [int(seen[kind]) for kind in self._counters]
        return min(counted), max(counted)

    def count(self, packets: int = 3) -> None:
        """Have that many events at each hook: one program has counted each when they are over."""
        if self.attached() is None:
            return
        view = ctypes.c_char.from_buffer(self._page)
        address = ctypes.addressof(view)
        del view
        with Map.from_pin(self._pin("seen")) as seen:
            seen[ARGUMENT], seen[ADDRESS] = self._argument, address
        wanted = tuple(count + packets for count in self.counts())
        with running() as process:
            process.call(packets)
        for _ in range(packets):
            with contextlib.suppress(ProcessLookupError):
                os.getpgid(self._argument)
            self._page.madvise(mmap.MADV_DONTNEED)
            self._page[0] = 1
        counted = self.counts()
        assert counted == wanted, f"counted {counted} instead of {wanted}"

    def _check(self, generation: Generation, reference: Reference) -> None:
        super()._check(generation, reference)
        assert not _perf_events(), "the command has left perf events open"
        if reference.program_tag is not None:
            self._check_kernel()

    def _check_kernel(self) -> None:
        """Check that the kernel has the programs of the set and their stubs, and no other ones."""
        pinned = []
        for name in self._places:
            with Program.from_pin(self.set / pin_names.PROGRAMS / name) as program:
                pinned.append((name, program.id))
        wanted = sorted(pinned), sorted([*self._places, *self._places])  # each has a stub

        def in_kernel() -> tuple[list[tuple[str, int]], list[str]]:
            return self.running(), sorted(info.name for info in self.programs().values())

        try:
            wait_until(lambda: in_kernel() == wanted)
        except AssertionError:
            raise AssertionError(f"in the kernel {in_kernel()} instead of {wanted}") from None


class GatesLab(StubsLab):
    """A program at a function that no stub may call: it has a gate, and each load a new link."""

    _counters = range(ENTRIES, ENTRIES + 1)

    def _hooks(self, function: str) -> dict[str, str]:
        return {"gated": f":uprobe={function}"}

    def attached(self) -> tuple[int, str] | None:
        """Return the program that the gate admits, and what stands for its tag.

        The number of its gate is in the code of a program, so that each load has another tag.
        """
        found = self.programs()
        linked = [found[link.program_id] for link in links() if link.program_id in found]
        if not linked:
            return (0, "nothing runs at the function") if found else None
        # The newest one, but before the switch of a reload there is one that does not run yet; then
        # `count` says whether the other one does.
        newest = max(linked, key=lambda info: info.id)
        return newest.id, f"{len(newest.map_ids)} maps"

    def identity(self) -> dict[str, int]:
        """Return the ids of the map and of the map of the gate."""
        found = CrashLab.identity(self)
        for path in (self.set / pin_names.SLOTS).iterdir():
            with Map.from_pin(path) as gate:
                found[f"gate {path.name}"] = gate.id
        return found

    def _check_kernel(self) -> None:
        """Check that the kernel has one program with one link, those of the set."""
        wanted = [self.program_id()]

        def in_kernel() -> tuple[list[int], list[int]]:
            known = self.programs()
            return [*known], [link.program_id for link in links() if link.program_id in known]

        try:
            wait_until(lambda: in_kernel() == (wanted, wanted))
        except AssertionError:
            raise AssertionError(f"in the kernel {in_kernel()} instead of {wanted}") from None


def _called_by(stub: ProgramInfo) -> int:
    """Return the id of the program in the slot of a stub; without a slot, it is none: its own."""
    for map_id in stub.map_ids:
        with contextlib.suppress(IdNotFoundError), Map.from_id(map_id) as slot:
            if slot.info.type is MapType.PROG_ARRAY:
                return program_in(slot)
    return stub.id


def _perf_events() -> list[Path]:
    """Return the perf events that this process, in which commands run, holds open."""
    found = []
    for path in DESCRIPTORS.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "perf_event" in str(path.readlink()):
                found.append(path)
    return found
