"""A set with a map from outside, one in somebody's link, and one that moves to another device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from bpfpin.attach.xdp import attach_xdp
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from support.crash import Ending, run_here
from support.crash_lab import CrashLab, Generation
from support.lab import TestLab, new_lab
from support.objects import compiled
from support.sets import xdp_program
from support.traffic import attached
from support.wait import wait_until

GIVEN, THEIRS = "given", "theirs"  # pins in the root that are not of the set


class GivenMapLab(CrashLab):
    """The counters are somebody's map, pinned outside of the set: it is used and never lost."""

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with the map."""
        spec = read_object(compiled(Generation.OLD.value)).maps["xdp_stats_map"]
        with Map.create(spec) as given:
            given.pin(root / GIVEN)
        made = cls(lab, root, folder)
        yield made
        made.clear()
        (root / GIVEN).unlink()

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation* with the map from outside."""
        return [*super().load(generation), "--map", f"xdp_stats_map={self.root / GIVEN}"]

    def _paths(self) -> Iterator[Path]:
        return (path for path in super()._paths() if path.name != GIVEN)

    def count(self, packets: int = 3) -> None:
        """Send packets, which the map counts under both of its names."""
        super().count(packets)
        if self.attached() is not None:
            with Map.from_pin(self.root / GIVEN) as given, Map.from_pin(self._counters) as pinned:
                assert given.id == pinned.id, f"map {given.id} was given, {pinned.id} is used"

    @property
    def _counters(self) -> Path:
        return self._pin("xdp_stats_map")


class TakenOverLab(CrashLab):
    """Somebody's link holds the device, and is taken over: theirs or ours runs, never nothing."""

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with somebody's link, which is pinned outside of the set."""
        with xdp_program("theirs") as theirs, attach_xdp(theirs, lab.device) as link:
            link.pin(root / THEIRS)
        made = cls(lab, root, folder)
        yield made
        made.clear()
        (root / THEIRS).unlink()

    def __init__(self, lab: TestLab, root: Path, folder: Path) -> None:
        with Link.from_pin(root / THEIRS) as link:
            self._link_id, self._theirs_id = link.id, link.program_id()
        super().__init__(lab, root, folder)

    def _paths(self) -> Iterator[Path]:
        return (path for path in super()._paths() if path.name != THEIRS)

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation* in the place of whoever is there."""
        return [*super().load(generation), "--take-over"]

    def run_theirs(self) -> None:
        """Give the device back: an unload leaves their link without a program, or with ours."""
        (self.root / THEIRS).unlink(missing_ok=True)
        wait_until(functools.partial(_is_free, self.lab.device))
        with xdp_program("theirs") as theirs, attach_xdp(theirs, self.lab.device) as link:
            link.pin(self.root / THEIRS)
            self._link_id, self._theirs_id = link.id, theirs.id

    def clear(self) -> None:
        """Unload what is there, remove what cannot be unloaded, and give the device back."""
        run_here(self.unload())
        for path in sorted(self._paths(), reverse=True):
            path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        self.run_theirs()

    def attached(self) -> tuple[int, str] | None:
        """Return our program; somebody's is none, but it has to be there then."""
        running = super().attached()
        assert running is not None, "neither their program runs nor ours"
        return None if running[0] == self._theirs_id else running

    def identity(self) -> dict[str, int]:
        """Return the ids that stay; the link is theirs all the time."""
        found = super().identity()
        assert found.get("link", self._link_id) == self._link_id
        return found

    def run(self, words: list[str]) -> Ending:
        """Run a command; after an unload their program runs again."""
        ending = super().run(words)
        if words[0] == "unload" and "--keep-maps" not in words:
            self.run_theirs()
        return ending


def _is_free(device: str) -> bool:
    return attached(device) is None


class MovingLab(CrashLab):
    """A set that moves to another device with its maps: one of the devices runs its program."""

    @classmethod
    @contextlib.contextmanager
    def made(cls, lab: TestLab, root: Path, folder: Path) -> Iterator[CrashLab]:
        """Make one with a second device."""
        with new_lab() as second:
            made = cls(lab, root, folder, second=second)
            yield made
            made.clear()

    def __init__(self, lab: TestLab, root: Path, folder: Path, *, second: TestLab) -> None:
        self.places = {Generation.OLD: lab, Generation.NEW: second}
        super().__init__(lab, root, folder)
        self.set = root / "moving"

    def load(self, generation: Generation) -> list[str]:
        """Return the command that loads *generation* on its device."""
        words = ("load", str(self._object(generation)), "--name", "moving", "--replace")
        return self._words(*words, "--dev", self.places[generation].device)

    def unload(self, *options: str) -> list[str]:
        """Return the command that unloads the set, wherever it is."""
        return self._words("unload", "moving", *options)

    def attached(self) -> tuple[int, str] | None:
        """Return the program on either device, and send packets to that one from now on."""
        for lab in self.places.values():
            if (running := attached(lab.device)) is not None:
                self.lab = lab
                return running
        return None

    def generation(self) -> Generation:
        """Return what is there; the other device must be free."""
        found = super().generation()
        for generation, lab in self.places.items():
            if generation is not found:
                wait_until(functools.partial(_is_free, lab.device))
        return found

    def identity(self) -> dict[str, int]:
        """Return the ids that stay: those of the maps, for a link belongs to its device."""
        return {name: found for name, found in super().identity().items() if name != "link"}
