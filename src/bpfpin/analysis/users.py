"""The programs that use maps, by map: those of an object file, and those that are loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from bpfpin.analysis import follow, listing
from bpfpin.analysis.uses import UNUSED, User
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objects.programs.xlated import xlated
from bpfpin.spec import ProgramSpec

Users = dict[str, tuple[User, ...]]

_HIDDEN = "is not shown by the kernel (it takes CAP_SYSLOG, or kernel.kptr_restrict at 0)"
_UNSEEN = "has it, and what the kernel shows of it does not say what for"


def users_of_specs(programs: Iterable[ProgramSpec]) -> Users:
    """Return what programs of an object file do to each map, by the map's name."""
    found: dict[str, list[User]] = defaultdict(list)
    for program in programs:
        for name, use in follow.uses(listing.of_spec(program)).items():
            found[name].append(User.of_spec(program, use))
    return {name: tuple(users) for name, users in found.items()}


def users_of_programs(programs: Iterable[Program], maps: Mapping[str, Map]) -> Users:
    """Return what loaded programs do to each of *maps*, by the name that it has there."""
    names = {held.id: name for name, held in maps.items()}
    per_cpu = frozenset(name for name, held in maps.items() if held.is_per_cpu)
    found: dict[str, list[User]] = defaultdict(list)
    for program in programs:
        info, code = program.info, xlated(program.fd)
        uses = follow.uses(listing.of_kernel(code, names, per_cpu)) if code else {}
        for name in (names[id_] for id_ in info.map_ids if id_ in names):
            unknown = replace(UNUSED, unknown=(_UNSEEN if code else _HIDDEN,))
            found[name].append(User.of_info(info, uses.get(name, unknown)))
    return {name: tuple(users) for name, users in found.items()}
