"""The entries that an object file gives to its maps: maps, programs, tables of functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bpfpin.errors import BpfError, PermissionDeniedError
from bpfpin.objects import compat, struct_ops
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.refusal import InvalidArgumentError
from bpfpin.uapi import MapFlag, MapType

FIRST_KEY = bytes(4)


def fill_maps_of_maps(specs: Iterable[MapSpec], maps: Mapping[str, Map]) -> None:
    """Put the inner maps that *specs* name into their maps."""
    _fill([each for each in specs if each.type in compat.MAPS_OF_MAPS], maps, maps)


def fill_program_arrays(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> None:
    """Put the programs that *specs* name into their arrays."""
    _fill([each for each in specs if each.type == MapType.PROG_ARRAY], maps, programs)


def fill_tables(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> tuple[str, ...]:
    """Write the tables of struct_ops that are attached by a link; writing registers the others.

    A table of which a program was not chosen is left empty, and one that the kernel refuses too:
    the notes that are returned say so.
    """
    notes = []
    descriptors = {name: program.fd for name, program in programs.items()}
    for spec in specs:
        is_whole = all(name in programs for _, name in spec.initial)
        if spec.type is MapType.STRUCT_OPS and spec.map_flags & MapFlag.LINK and is_whole:
            fd, target = maps[spec.name].fd, f"map {spec.name}"
            try:
                value = struct_ops.value_of(spec, descriptors)
                bpf.map_update_elem(fd, FIRST_KEY, value, target=target)
            except BpfError as error:
                if isinstance(error, PermissionDeniedError):
                    raise
                notes.append(f"map {spec.name}: the table is left empty: {error}")
    return tuple(notes)


def _fill(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], values: Mapping[str, Map | Program]
) -> None:
    for spec in specs:
        for index, name in spec.initial:
            if name not in values:
                continue  # a program that was not chosen leaves its slot empty
            held = values[name]
            key, value = index.to_bytes(4, "little"), held.fd.to_bytes(4, "little")
            about = f"map {spec.name}, entry {index}"
            try:
                bpf.map_update_elem(maps[spec.name].fd, key, value, target=about)
            except InvalidArgumentError as error:
                if isinstance(held, Program):
                    compat.require_owner([maps[spec.name]], held.type, program=name)
                elif spec.inner is not None:
                    raise compat.unfit(error, spec.inner, held, about=about) from None
                raise
