"""Compare reading an element of a BPF_F_MMAPABLE array from memory with the system call in C.

Needs root, gcc and libbpf-dev. Prints the minimum time of some rounds and the ratio to C's
bpf_map_lookup_elem(); both sides read the same map in the same run. Exits 1 if a read misses its
target.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from support.peers import Work, beside, compiled, in_c, types

from bpfpin.codecs.variable import VariableSpec
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.variables import Variables
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType

CALLS = 20_000
ENTRIES = 1024
PROMISED = 0.3


def array() -> MapSpec:
    """Describe an array of u64 that can be mapped into memory."""
    known, flags = types(), int(MapFlag.MMAPABLE)
    spec = MapSpec("numbers", MapType.ARRAY, 4, 8, ENTRIES, flags)
    return spec.with_changes(key=known.key, value=known.number)


def main() -> int:
    """Measure one element, one variable and the lookup by key, and return the exit status."""
    spec = array()
    first = VariableSpec("first", "numbers", 0, 8, spec.value)
    with (
        tempfile.TemporaryDirectory() as directory,
        Map.create(spec) as held,
        held.mapped() as mapped,
        Variables([first], {"numbers": held}) as variables,
    ):
        peer, variable = compiled("read", Path(directory)), variables["first"]
        title = "one array element"
        return beside(
            lambda: in_c(peer, "lookup", held.id, 4, 8, 1, CALLS),
            Work(title, "mapped", lambda: mapped[7], CALLS, promised=PROMISED),
            Work(title, "variable", lambda: variable.value, CALLS),
            Work(title, "by key", lambda: held[7], CALLS),
        )


if __name__ == "__main__":
    sys.exit(main())
