"""A deployment: what `deploy` returns, the report and the objects of a loaded set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import PinNotFoundError, UsageError
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.plan import Decision
from bpfpin.sets.reports import LoadReport, MapReport, UnloadReport
from bpfpin.syscall.fd import Closing

if TYPE_CHECKING:
    from bpfpin.objects.maps.variables import Variables


T = TypeVar("T", bound=KernelObject)


class PinnedObjects(Mapping[str, T], Closing):
    """Maps or programs of a set by name, each opened at first use.

    *path* is the directory of the set, and *open_own* opens the set's own object, which need not
    be the one that is pinned under its name by now.
    """

    def __init__(
        self,
        kind: type[T],
        path: Path,
        object_names: Iterable[str],
        open_own: Callable[[PinSet, str], T | None],
    ) -> None:
        self._kind = kind
        self._path = path
        self._names = dict.fromkeys(object_names)
        self._open_own = open_own
        self._opened: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        # Opened late, so that a script that only reads the report needs no right to the maps.
        if name not in self._opened:
            if name not in self._names:
                raise KeyError(name)
            # Read anew: another load may have replaced the maps since.
            opened = self._open_own(PinSet.read(self._path.parent, self._path.name), name)
            if opened is None:
                what = f"the {self._kind.__name__.lower()} {name} of {self._path} is gone"
                raise PinNotFoundError(what, path=str(self._path))
            self._opened[name] = opened
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{self._kind.__name__}s by name: {', '.join(self._names) or 'none'}>"

    def close(self) -> None:
        """Close the open maps and programs; the pins stay."""
        # Taken out before it is closed: a second call closes nothing twice, also after an error.
        while self._opened:
            self._opened.popitem()[1].close()


class Deployment(Closing):
    """A loaded pin set: its report, and its maps, programs and global variables to work with.

    They are opened at first use, and are the set's own, also where somebody else pinned another
    object under their name. `close`, or leaving a `with` block, closes them
    and leaves the set loaded; `undeploy` removes the set.

    Attributes:
        report: What the load did with each map, program and hook. Its `is_planned` is true after a
            dry run, which leaves nothing to open.
    """

    def __init__(self, report: LoadReport, *, variables: Sequence[VariableSpec] = ()) -> None:
        self.report = report
        # A planned load has nothing to open, though its set may be loaded already.
        maps = [] if report.is_planned else [each.name for each in _present(report)]
        programs = [] if report.is_planned else [each.name for each in report.programs]
        self._maps = PinnedObjects(Map, report.path, maps, PinSet.open_map)
        self._programs = PinnedObjects(Program, report.path, programs, PinSet.open_program)
        self._variable_specs = variables

    @property
    def name(self) -> str:
        """The name of the set, as it is typed after the verbs of the command."""
        return self.report.set

    @property
    def maps(self) -> Mapping[str, Map]:
        """The maps of the set by their full name; none after a dry run.

        Raises:
            KeyError: The set has no map of that name.
            PinNotFoundError: The set was unloaded since, or its map is gone.

        Kernel: BPF_OBJ_GET at the first use of a map (Linux 4.4); BPF_MAP_GET_FD_BY_ID if its pin
            was removed or replaced by hand (Linux 4.13).
        """
        return self._maps

    @property
    def programs(self) -> Mapping[str, Program]:
        """The programs of the set by name, opened as `maps` are.

        Kernel: BPF_OBJ_GET at the first use of a program (Linux 4.4); BPF_PROG_GET_FD_BY_ID if its
            pin was removed or replaced by hand (Linux 4.13).
        """
        return self._programs

    @cached_property
    def variables(self) -> Variables:
        """The global variables of the object by name, read and written in the maps of the set.

        `deployment.variables["threshold"].value = 5` changes what the running program sees.
        """
        from bpfpin.objects.maps.variables import Variables  # noqa: PLC0415  (few programs need them)

        return Variables(self._variable_specs, self._maps)

    def undeploy(self, *, keep_maps: bool = False, lock_timeout_s: float = 10.0) -> UnloadReport:
        """Detach and unpin the set, as `bpfpin.undeploy` does, and close its open objects.

        Args:
            keep_maps: Leave the maps pinned, with their contents, for the next load.
            lock_timeout_s: Seconds to wait for the pin root's lock.

        Returns:
            The detached hooks, the maps that were kept, and notes.

        Raises:
            UsageError: It is the result of a dry run, which loaded nothing.
            PinNotFoundError: The set is gone already.
            ProgramChangedError: A hook of the set runs another program by now.
            LockTimeoutError: Another command held the lock all the time.
        """
        from bpfpin.sets.undeploy import undeploy  # noqa: PLC0415 - few programs unload

        if self.report.is_planned:
            raise UsageError(f"{self.name} was planned, not loaded: there is nothing to unload")
        # Before the set goes: an open descriptor would keep a map alive without a pin.
        self.close()
        return undeploy(
            self.name,
            pin_root=self.report.path.parent,
            keep_maps=keep_maps,
            lock_timeout_s=lock_timeout_s,
        )

    def close(self) -> None:
        """Close the maps and programs that were opened; the set stays loaded."""
        if "variables" in vars(self):
            self.variables.close()
        self._maps.close()
        self._programs.close()

    def __repr__(self) -> str:
        places = [
            f"{program.name} at {program.hook} of {program.place}"
            for program in self.report.programs
            if program.hook
        ]
        maps = [map_report.name for map_report in _present(self.report)]
        return (
            f"<Deployment {self.name}: {self.report.result.value}, generation"
            f" {self.report.generation}; {', '.join(places) or 'nothing attached'};"
            f" maps {', '.join(maps) or 'none'}>"
        )


def _present(report: LoadReport) -> list[MapReport]:
    """Return the maps that the set has after the load."""
    return [map_report for map_report in report.maps if map_report.decision is not Decision.REMOVED]
