"""What `deploy` gives back: the report, and the set's maps to work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bpfpin.apps.reports import LoadReport
from bpfpin.codecs.variable import VariableSpec
from bpfpin.objects.map import Map
from bpfpin.objects.variables import Variables
from bpfpin.pins.plan import Decision
from bpfpin.syscall.fd import Closing


class PinnedMaps(Mapping[str, Map], Closing):
    """Maps by name, each opened from its pin when it is first asked for."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)
        self._opened: dict[str, Map] = {}

    def __getitem__(self, name: str) -> Map:
        if name not in self._opened:
            self._opened[name] = Map.from_pin(self._paths[name])
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def close(self) -> None:
        """Close the maps that were opened; the pins stay."""
        while self._opened:
            self._opened.popitem()[1].close()


class Deployment(Closing):
    """A loaded set: `report` says what was done, `maps` are opened from their pins on demand.

    `variables` are the object's global variables, in the memory of those maps.

    Closing it, at best by `with`, lets go of the maps and leaves the set loaded.
    """

    def __init__(self, report: LoadReport, *, variables: Sequence[VariableSpec] = ()) -> None:
        self.report = report
        pinned = (
            {}
            if report.is_planned
            else {
                held.name: held.path
                for held in report.maps
                if held.decision is not Decision.REMOVED
            }
        )
        self._maps = PinnedMaps(pinned)
        self._variables = Variables(variables, self._maps)

    @property
    def maps(self) -> Mapping[str, Map]:
        """The set's maps by their full name."""
        return self._maps

    @property
    def variables(self) -> Variables:
        """The global variables by name: `deployment.variables["threshold"].value = 5`."""
        return self._variables

    def close(self) -> None:
        """Close the maps that were opened."""
        self._variables.close()
        self._maps.close()
