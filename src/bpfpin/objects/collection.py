"""Loads an object: its BTF, its maps, its programs; all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bpfpin.btf.btf import Btf
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import (
    IncompatibleMapError,
    LimitError,
    PermissionDeniedError,
    SyscallError,
    UsageError,
)
from bpfpin.objects import compat, core
from bpfpin.objects.kernel_btf import BtfHandle, as_btf
from bpfpin.objects.map import Map
from bpfpin.objects.memory import estimate_bytes, size_text
from bpfpin.objects.program import Program
from bpfpin.objects.variables import Variables
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import MapType

MAP_MEMORY_LIMIT = 256 << 20

_FIRST_KEY = bytes(4)


@dataclass(frozen=True)
class Loaded(Closing):
    """The maps and programs of an object, held until `close` or the end of `with`.

    Maps are under their full ELF names, those that were given among them. *notes* tell what was
    done without.
    """

    maps: Mapping[str, Map] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    variable_specs: tuple[VariableSpec, ...] = field(default=(), repr=False)

    @cached_property
    def variables(self) -> Variables:
        """The object's global variables by name: `loaded.variables["threshold"].value = 5`."""
        return Variables(self.variable_specs, self.maps)

    def close(self) -> None:
        """Let go of everything; what is pinned or attached stays in the kernel."""
        self.variables.close()
        for held in (*self.programs.values(), *self.maps.values()):
            held.close()


def load(
    spec: ObjectSpec,
    *,
    maps: Mapping[str, Map] | None = None,
    programs: Sequence[str] | None = None,
    max_map_memory: int = MAP_MEMORY_LIMIT,
    log_level: int = 0,
    kernel_btf: Btf | str | Path | None = None,
) -> Loaded:
    """Create the maps of *spec* and load its programs, or only those named in *programs*.

    *maps* are used instead of new ones if they fit, else `IncompatibleMapError` names all that
    differs; they belong to the result from then on, and are closed with it or with a failure. Into
    a program array among them go the programs that the object puts there, last of all.
    `LimitError` if the new maps would take more than *max_map_memory* bytes, `VerifierError` if a
    program is refused. CO-RE fits the programs to *kernel_btf* (types, or a file of raw BTF)
    instead of the running kernel's types. Stands on BPF_BTF_LOAD, BPF_MAP_CREATE and BPF_PROG_LOAD.
    """
    given = dict(maps or {})
    with contextlib.ExitStack() as undo:
        for held in given.values():
            undo.callback(held.close)
        chosen = spec if programs is None else spec.only_programs(*programs)
        if kernel_btf is not None:
            chosen = dataclasses.replace(chosen, kernel_btf=as_btf(kernel_btf))
        _check_given(chosen, given)
        undo.pop_all()
    loaded = load_checked(chosen, maps=given, max_map_memory=max_map_memory, log_level=log_level)
    with contextlib.ExitStack() as undo:
        undo.callback(loaded.close)
        fill_given(chosen, loaded, given)
        undo.pop_all()
    return loaded


def fill_given(spec: ObjectSpec, loaded: Loaded, given: Iterable[str]) -> None:
    """Put the programs of *spec* into those of the *given* maps that are program arrays of it.

    From then on whoever calls through such an array reaches them.
    """
    _fill_program_arrays([spec.maps[name] for name in given], loaded.maps, loaded.programs)


def load_checked(
    spec: ObjectSpec,
    *,
    maps: Mapping[str, Map],
    max_map_memory: int = MAP_MEMORY_LIMIT,
    log_level: int = 0,
) -> Loaded:
    """Do what `load` does; *maps* were compared with *spec* before, and stay as they are."""
    with contextlib.ExitStack() as undo:
        for held in maps.values():
            undo.callback(held.close)
        fitted, resolutions = core.fitted(spec)
        new = [each for name, each in spec.maps.items() if name not in maps]
        _check_inner(new)
        _check_memory(spec.path, new, max_map_memory)
        btf, notes = _load_btf(spec)
        with btf or contextlib.nullcontext():
            made = {each.name: _create(each, undo, btf) for each in new}
            every = {name: {**maps, **made}[name] for name in spec.maps}
            _fill_maps_of_maps(new, every)
            loaded = {}
            for name, each in fitted.programs.items():
                with core.naming(resolutions):
                    loaded[name] = Program.load(
                        each, maps=every, btf=btf, log_level=log_level, path=spec.path
                    )
                undo.callback(loaded[name].close)
        _fill_program_arrays(new, every, loaded)
        undo.pop_all()
        return Loaded(every, loaded, notes, spec.all_variables)


def _check_given(spec: ObjectSpec, given: Mapping[str, Map]) -> None:
    """Compare all the maps that are to be used with what the object asks for."""
    unknown = [name for name in given if name not in spec.maps]
    if unknown:
        there = ", ".join(spec.maps) or "none"
        raise UsageError(f"the object has no map {', '.join(unknown)}; it has: {there}")
    found = [
        each for name, held in given.items() for each in compat.differences(spec.maps[name], held)
    ]
    if found:
        names = ", ".join(dict.fromkeys(each.map for each in found))
        raise IncompatibleMapError(
            f"not the map that the object asks for: {names}", differences=found
        )


def _check_inner(specs: Iterable[MapSpec]) -> None:
    """Refuse maps of maps that nothing says the inner kind of: the kernel says only EINVAL."""
    for each in specs:
        if each.type in compat.MAPS_OF_MAPS and each.inner is None:
            wanted = f" with id {each.inner_id}" if each.inner_id else ""
            raise UsageError(
                f"map {each.name} holds maps, and the object has no map{wanted} that says of what"
                " kind",
                hint=f"use a map that exists: --map {each.name}=PATH",
            )


def _check_memory(path: str, specs: Iterable[MapSpec], limit: int) -> None:
    sizes = {each.name: estimate_bytes(each) for each in specs}
    asked = sum(sizes.values())
    if asked <= limit:
        return
    largest = max(sizes, key=lambda name: sizes[name])
    raise LimitError(
        f"the maps{f' of {path}' if path else ''} would take about {size_text(asked)}"
        f" ({largest}: {size_text(sizes[largest])}), the limit is {size_text(limit)}",
        limit=limit,
        asked=asked,
        hint="Allow more with --max-map-memory.",
    )


def _create(spec: MapSpec, undo: contextlib.ExitStack, btf: BtfHandle | None) -> Map:
    """Make a map, with its first contents when it is a data section."""
    made = Map.create(spec, btf=btf)
    undo.callback(made.close)
    if spec.contents is not None:
        bpf.map_update_elem(made.fd, _FIRST_KEY, spec.contents, target=f"map {spec.name}")
    if spec.is_frozen:
        made.freeze()
    return made


def _load_btf(spec: ObjectSpec) -> tuple[BtfHandle | None, tuple[str, ...]]:
    """Load the object's types; without them all but programs with callbacks work."""
    if spec.btf is None:
        return None, ()
    try:
        return BtfHandle.load(spec.btf), ()
    except PermissionDeniedError:
        raise
    except SyscallError as error:
        reason = [line for line in error.hint.splitlines() if line.strip()][-1:]
        return None, ("; ".join([f"no lines of C in verifier logs: {error}", *reason]),)


def _fill_maps_of_maps(specs: Iterable[MapSpec], maps: Mapping[str, Map]) -> None:
    _fill([each for each in specs if each.type in compat.MAPS_OF_MAPS], maps, maps)


def _fill_program_arrays(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> None:
    _fill([each for each in specs if each.type == MapType.PROG_ARRAY], maps, programs)


def _fill(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], values: Mapping[str, Map | Program]
) -> None:
    """Write the entries that the object file gives to maps of descriptors."""
    for spec in specs:
        for index, name in spec.initial:
            if name not in values:
                continue  # a program that was not chosen leaves its slot empty
            key, value = index.to_bytes(4, "little"), values[name].fd.to_bytes(4, "little")
            bpf.map_update_elem(maps[spec.name].fd, key, value, target=f"map {spec.name}")
