"""A device, a pin root and two objects: what is there between one killed command and the next."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bpfpin.attach.netlink import Netlink
from bpfpin.errors import PinNotFoundError
from bpfpin.loading.collection import load
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.pins import names as pin_names
from bpfpin.spec import MapSpec, XdpMode
from bpfpin.uapi import MapType, XdpAction
from support.crash import Ending, run_here
from support.lab import TestLab
from support.objects import compiled
from support.traffic import PORT, attached
from support.wait import wait_until

COUNTED = XdpAction.XDP_DROP  # what both programs return for a packet that they count
_SETTLE_S = 20.0  # for programs without a holder to be freed, on a machine that is busy
# Made once and left for good: ours for the lock, and the kernel's own two files.
PERMANENT = {pin_names.LOCK_DIRECTORY, "maps.debug", "progs.debug"}


class Generation(Enum):
    """What is loaded."""

    NOTHING = "nothing"
    MAPS = "maps"  # the old one's, left by unload --keep-maps
    OLD = "reload_old"
    NEW = "reload_new"


@dataclass(frozen=True)
class Reference:
    """A generation as undisturbed commands make it: all names, its program's tag, what is told."""

    names: frozenset[str]
    program_tag: str | None = None
    problems: tuple[str, ...] = ()


class CrashLab:
    """One device and what is pinned for it; `words_for` are commands, `run` runs one here."""

    follow = True  # whether what the commands start is hurt with them
    _has_link = True
    _kept_maps: tuple[str, ...] = ("xdp_stats_map", ".bss")
    _xdp_program = "count_port"

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with all that it needs; at the end it is clear."""
        made = cls(lab, root, folder)
        yield made
        made.clear()

    def __init__(self, lab: TestLab, root: Path, folder: Path) -> None:
        self.lab = lab
        self.root = root
        self.folder = folder
        self.set = root / lab.device
        self._references = dict(self._measured())

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation*."""
        return self._words("load", str(self._object(generation)), "--dev", self.lab.device)

    def _object(self, generation: Generation) -> Path:
        return compiled(generation.value)

    def unload(self, *options: str) -> list[str]:
        """Return the command that unloads the set."""
        return self._words("unload", self.lab.device, *options)

    def clean(self) -> list[str]:
        """Return the command that removes leftovers."""
        return self._words("clean")

    def action(self, verdict: str) -> list[str]:
        """Return the command that switches the verdict of the set."""
        return self._words("action", self.lab.device, verdict)

    def _words(self, *words: str) -> list[str]:
        return [*words, "--pin-root", str(self.root)]

    def become(self, generation: Generation) -> None:
        """Make sure that *generation* is what is loaded, afresh unless it is there already."""
        if self.is_exactly(generation):
            return
        self.clear()
        if generation is Generation.MAPS:
            self._begin(Generation.OLD)
            self.run(self.unload("--keep-maps"))
        elif generation is not Generation.NOTHING:
            self._begin(generation)
        self.count()

    def _begin(self, generation: Generation) -> None:
        """Load *generation* where nothing is loaded."""
        self.run(self.load(generation))

    def clear(self) -> None:
        """Unload what is there; what cannot be unloaded is removed name by name."""
        run_here(self.unload())
        for path in sorted(self._paths(), reverse=True):
            path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        if not self._has_link:
            with Netlink() as netlink:
                netlink.detach_xdp(self.lab.ifindex, XdpMode.NATIVE)
        wait_until(lambda: self.attached() is None)

    def run(self, words: list[str]) -> Ending:
        """Run a command here; it must succeed."""
        ending = run_here(words)
        assert ending.exit == 0, f"{words[0]} exited {ending.exit}: {ending.talk}"
        return ending

    # processes that wait beside a trial: here there are none

    @contextlib.contextmanager
    def freezing(self, is_wanted: bool) -> Iterator[None]:
        """Let the processes that wait do nothing more once their command is dead."""
        yield

    def after_kill(self, *, is_killed_too: bool) -> None:
        """Kill the waiting processes; or wait until none waits whose trial has not begun."""

    def die_before_the_trial_begins(self, words: list[str]) -> None:
        """Run a command that is killed, and with it who waits, when its trial would begin."""
        raise NotImplementedError(words)

    def is_on_trial(self) -> bool:
        """Whether something may still be confirmed."""
        return False

    def confirm(self) -> list[str]:
        """Return the command that keeps what is on trial."""
        return self._words("confirm")

    def require_nobody_waiting(self) -> None:
        """Check that no process waits beside a trial that is over."""

    # what is there

    def _paths(self) -> Iterator[Path]:
        for top in self.root.iterdir():
            if top.name not in PERMANENT:
                yield from (top, *top.rglob("*"))

    def names(self) -> frozenset[str]:
        """Return every name below the pin root."""
        return frozenset(str(path.relative_to(self.root)) for path in self._paths())

    def tree(self) -> dict[str, tuple[int, int, str]]:
        """Return inode, mode and symlink text of every name: equal if nothing was changed."""
        found = {}
        for path in [self.root / pin_names.LOCK_DIRECTORY, *self._paths()]:
            if os.path.lexists(path):
                status = path.lstat()
                text = str(path.readlink()) if path.is_symlink() else ""
                found[str(path)] = (status.st_ino, status.st_mode, text)
        return found

    def attached(self) -> tuple[int, str] | None:
        """Return id and tag of the program at the device, as the kernel tells."""
        return attached(self.lab.device)

    def status(self) -> dict[str, Any]:
        """Return what `status` tells of the set, {} without one; that changes nothing."""
        before = self.tree()
        told = json.loads(self.run(self._words("status", "-o", "json")).talk)
        assert self.tree() == before, "status changed something"
        found: list[dict[str, Any]] = told["sets"]
        return found[0] | {"problems": told["problems"]} if found else {}

    def is_half_built(self) -> bool:
        """Whether a stage or a mark is there, which the next command has to deal with."""
        stage = pin_names.stage_name(self.set.name)
        return any(name == stage or Path(name).name == pin_names.COMMIT for name in self.names())

    def has_leftovers(self) -> bool:
        """Whether anything is there that the next command has to deal with."""
        return self.is_half_built()

    def identity(self) -> dict[str, int]:
        """Return the ids of what every generation keeps: maps, and the link if there is one."""
        found = {}
        for name in self._kept_maps:
            with Map.from_pin(self._pin(name)) as held:
                found[name] = held.id
        with contextlib.suppress(PinNotFoundError), Link.from_pin(self._link_pin()) as link:
            found["link"] = link.id
        return found

    def _link_pin(self) -> Path:
        return self.set / pin_names.LINKS / "xdp"

    def program_id(self) -> int:
        """Return the id of the pinned program."""
        with Program.from_pin(self.set / pin_names.PROGRAMS / self._xdp_program) as program:
            return program.id

    def _pin(self, name: str) -> Path:
        return self.set / pin_names.map_pin_name(name)

    # what it counts

    def counts(self) -> tuple[int, int]:
        """Return what the pinned counters say: those of the map, and the global variable."""
        with (
            Map.from_pin(self._pin("xdp_stats_map")) as stats,
            Map.from_pin(self._pin(".bss")) as variables,
        ):
            return stats.total(COUNTED)["rx_packets"], variables[0]["packets_seen"]

    def count(self, packets: int = 3) -> None:
        """Send packets and see them counted, each exactly once, in the pinned maps."""
        if self.attached() is None:
            return
        wanted = tuple(count + packets for count in self.counts())
        with self._listening():
            self.lab.flood(packets, port=PORT)
            try:
                wait_until(lambda: self.counts() == wanted, timeout_s=60.0)
            except AssertionError:
                raise AssertionError(f"counted {self.counts()} instead of {wanted}") from None

    def _listening(self) -> contextlib.AbstractContextManager[object]:
        """Have somebody there whom the packets are for, where that matters."""
        return contextlib.nullcontext()

    # which of them it is

    def is_exactly(self, generation: Generation) -> bool:
        """Whether *generation* is there and nothing else."""
        try:
            return self.generation() is generation
        except AssertionError:
            return False

    def generation(self) -> Generation:
        """Return what is there; an AssertionError if it is a mix or has leftovers."""
        names = self.names()
        for generation, reference in self._references.items():
            if names == reference.names:
                self._check(generation, reference)
                return generation
        nearest = min((r.names for r in self._references.values()), key=lambda n: len(n ^ names))
        raise AssertionError(f"neither old nor new: {sorted(names ^ nearest)}")

    def _check(self, generation: Generation, reference: Reference) -> None:
        told = self._settled_status(reference)
        if reference.program_tag is None:
            wait_until(lambda: self.attached() is None)
            return
        attached = self.attached()
        assert attached == (self.program_id(), reference.program_tag), (
            f"{attached} is attached, {self.program_id()} of {generation.value} is pinned"
        )
        assert told["state"] == ("degraded" if reference.problems else "ok"), told
        assert problems_of(told) == reference.problems, told
        assert told["object"].endswith(self._object(generation).name), told

    def _settled_status(self, reference: Reference) -> dict[str, Any]:
        """Return what `status` tells once the kernel has freed what nobody holds any more."""
        told: dict[str, Any] = {}

        def is_as_expected() -> bool:
            nonlocal told
            told = self.status()
            return reference.program_tag is None or problems_of(told) == reference.problems

        with contextlib.suppress(AssertionError):  # the caller says what differs
            wait_until(is_as_expected, timeout_s=_SETTLE_S)
        return told

    def _measured(self) -> Iterator[tuple[Generation, Reference]]:
        yield Generation.NOTHING, Reference(self.names())
        for generation in (Generation.OLD, Generation.NEW):
            self._begin(generation)
            attached = self.attached()
            assert attached is not None
            yield generation, Reference(self.names(), attached[1], problems_of(self.status()))
            self.run(self.unload())
        self._begin(Generation.OLD)
        self.run(self.unload("--keep-maps"))
        yield Generation.MAPS, Reference(self.names())
        self.run(self.unload())


def problems_of(told: dict[str, Any]) -> tuple[str, ...]:
    """Return the kinds of problems that `status` told."""
    return tuple(problem["kind"] for problem in told["problems"])


class NetlinkLab(CrashLab):
    """The same, with a program that netlink holds: it took over from somebody without a link."""

    _has_link = False

    def _begin(self, generation: Generation) -> None:
        with load(read_object(compiled("udp_port"))) as others, Netlink() as netlink:
            other = others.programs["count_port"]
            netlink.attach_xdp(other.fd, self.lab.ifindex, XdpMode.NATIVE)
        self.run([*self.load(generation), "--take-over"])
        assert not self._link_pin().exists()


class ForeignLab(CrashLab):
    """The same, with a pin, a directory and a symlink of somebody else in the set.

    They are where they were made at every moment, also right after a kill.
    """

    def __init__(self, lab: TestLab, root: Path, folder: Path) -> None:
        self._theirs: dict[str, int] = {}
        super().__init__(lab, root, folder)

    def _begin(self, generation: Generation) -> None:
        super()._begin(generation)
        if not self._theirs:
            self._pin_theirs()

    def _pin_theirs(self) -> None:
        directory = self.set / "dir"
        directory.mkdir()
        (self.set / "symlink").symlink_to("theirs")
        with Map.create(MapSpec("theirs", MapType.ARRAY, 4, 8, 1)) as held:
            for path in (self.set / "theirs", directory / "theirs"):
                held.pin(path)
                self._theirs[str(path.relative_to(self.root))] = held.id

    def clear(self) -> None:
        """Remove theirs as well, as they may."""
        self._theirs.clear()
        super().clear()

    def names(self) -> frozenset[str]:
        """Return every name but theirs, and the directory of the set if it has no other."""
        theirs = {"dir", "dir/theirs", "theirs", "symlink"}
        found = {name for name in super().names() if name.partition("/")[2] not in theirs}
        device = self.set.name
        is_alone = not any(name.startswith(f"{device}/") for name in found)
        return frozenset(found - {device} if is_alone else found)

    def status(self) -> dict[str, Any]:
        """Check that what they pinned is there, and return what `status` tells of the set."""
        for name, map_id in self._theirs.items():
            with Map.from_pin(self.root / name) as held:
                assert held.id == map_id, f"{name} holds map id {held.id} instead of {map_id}"
        if self._theirs:
            assert (self.set / "symlink").readlink() == Path("theirs")
        return super().status()
