"""What `deploy` gives back: the report, and the set's maps to work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bpfpin.apps.reports import LoadReport, UnloadReport
from bpfpin.apps.undeploy import undeploy
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import UsageError
from bpfpin.objects.kernel_object import KernelObject
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.objects.variables import Variables
from bpfpin.pins import names
from bpfpin.pins.plan import Decision
from bpfpin.syscall.fd import Closing

T = TypeVar("T", bound=KernelObject)


class Pinned(Mapping[str, T], Closing):
    """Maps or programs by name, each opened from its pin when it is first asked for."""

    def __init__(self, kind: type[T], paths: Mapping[str, Path]) -> None:
        self._kind = kind
        self._paths = dict(paths)
        self._opened: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._opened:
            self._opened[name] = self._kind.from_pin(self._paths[name])
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __repr__(self) -> str:
        return f"<{self._kind.__name__}s by name: {', '.join(self._paths) or 'none'}>"

    def close(self) -> None:
        """Close what was opened; the pins stay."""
        while self._opened:
            self._opened.popitem()[1].close()


class Deployment(Closing):
    """A loaded set: `report` says what was done; `maps` and `programs` are opened on demand.

    `variables` are the object's global variables, in the memory of those maps.

    Closing it, at best by `with`, lets go of these and leaves the set loaded; `undeploy` takes the
    set away.
    """

    def __init__(self, report: LoadReport, *, variables: Sequence[VariableSpec] = ()) -> None:
        self.report = report
        maps, programs = _pins(report)
        self._maps: Pinned[Map] = Pinned(Map, maps)
        self._programs: Pinned[Program] = Pinned(Program, programs)
        self._variables = Variables(variables, self._maps)

    @property
    def name(self) -> str:
        """The set's name, as it is typed."""
        return self.report.set

    @property
    def maps(self) -> Mapping[str, Map]:
        """The set's maps by their full name."""
        return self._maps

    @property
    def programs(self) -> Mapping[str, Program]:
        """The set's programs by name."""
        return self._programs

    @property
    def variables(self) -> Variables:
        """The global variables by name: `deployment.variables["threshold"].value = 5`."""
        return self._variables

    def undeploy(self, *, keep_maps: bool = False, lock_timeout_s: float = 10.0) -> UnloadReport:
        """Detach and unpin the set, as `bpfpin.undeploy` does; closes what was opened of it.

        Raises `UsageError` for a dry run, which loaded nothing, and `PinNotFoundError` if the set
        is gone already.
        """
        if self.report.is_planned:
            raise UsageError(f"{self.name} was planned, not loaded: there is nothing to unload")
        self.close()
        return undeploy(
            self.name,
            pin_root=self.report.path.parent,
            keep_maps=keep_maps,
            lock_timeout_s=lock_timeout_s,
        )

    def close(self) -> None:
        """Close the maps and programs that were opened."""
        self._variables.close()
        self._maps.close()
        self._programs.close()

    def __repr__(self) -> str:
        places = [
            f"{each.name} at {each.hook} of {each.device or each.cgroup}"
            for each in self.report.programs
            if each.hook
        ]
        maps = [each.name for each in self.report.maps if each.decision is not Decision.REMOVED]
        return (
            f"<Deployment {self.name}: {self.report.result.value}, generation"
            f" {self.report.generation}; {', '.join(places) or 'nothing attached'};"
            f" maps {', '.join(maps) or 'none'}>"
        )


def _pins(report: LoadReport) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return where the maps and the programs of a loaded set are pinned, of a planned one none."""
    if report.is_planned:
        return {}, {}
    maps = {one.name: one.path for one in report.maps if one.decision is not Decision.REMOVED}
    folder = report.path / names.PROGRAMS
    return maps, {one.name: folder / names.program_pin_name(one.name) for one in report.programs}
