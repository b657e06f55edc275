"""Loads an object: its BTF, its maps, its programs; all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypedDict, Unpack

from bpfpin.btf.btf import Btf
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import PermissionDeniedError, SyscallError
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.attach_target import AttachTarget
from bpfpin.objects.kernel.btf import BtfHandle, as_btf
from bpfpin.objects.load import resolve
from bpfpin.objects.load.entries import (
    FIRST_KEY,
    check_byte_order,
    check_constants,
    check_given,
    check_inner,
    check_memory,
    fill_maps_of_maps,
    fill_program_arrays,
    fill_tables,
)
from bpfpin.objects.maps import struct_ops
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.variables import Variables
from bpfpin.objects.programs.program import Program
from bpfpin.objects.verifier import LOG_LIMIT
from bpfpin.spec import Dialect, MapSpec, ObjectSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.mmap import MappedAt, free_address

_LEAST_MEMORY_LIMIT = 256 << 20
_MEMORY_SHARE = 4
__all__ = ["Loaded", "fill_given", "load", "load_checked", "map_memory_limit"]
Targets = dict[str, Program | AttachTarget]


# What loading an object is told beside the object itself.


def map_memory_limit() -> int:
    """Return how many bytes new maps may take unless more is allowed: a quarter of the memory.

    It is 256 MiB at least. What must not happen is that a wrong number in an object eats the host.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_LEAST_MEMORY_LIMIT, memory // _MEMORY_SHARE)


class LoadChoices(TypedDict, total=False):
    """The choices of `load` that change nothing in what is made.

    *max_map_memory* is how many bytes the new maps may take (a quarter of the memory). *log_level*
    and *log_size* are those
    of `Program.load`. *targets* are the programs, by the name of who attaches to them, whose
    functions freplace, fentry and fexit mean; they stay open.
    """

    max_map_memory: int
    log_level: int
    log_size: int
    targets: Mapping[str, Program]


@dataclass(frozen=True, slots=True)
class Chosen:
    """`LoadChoices` with what holds where nothing was chosen."""

    max_map_memory: int = field(default_factory=map_memory_limit)
    log_level: int = 0
    log_size: int = LOG_LIMIT
    targets: Mapping[str, Program] = field(default_factory=dict)


# Which part of an object is loaded: what is named, or all that its sections do not make optional.
#
# A `?` before a section's name makes its programs, or its tables of struct_ops, optional (libbpf).


def selected(
    spec: ObjectSpec,
    programs: Sequence[str] | None,
    attach_to: Mapping[str, str] | None = None,
) -> ObjectSpec:
    """Return *spec* with just *programs*, or those that load by default, and their targets.

    Of the maps only optional tables leave, those of which no program is loaded. *attach_to* says
    where programs attach instead of what their sections say. `UsageError` if a name is unknown.
    """
    for name, place in (attach_to or {}).items():
        spec = spec.with_program(name, attach_to=place)
    names = _by_default(spec) if programs is None else programs
    chosen = spec.only_programs(*names)
    kept = {
        name: each
        for name, each in spec.maps.items()
        if not each.is_optional or any(program in chosen.programs for _, program in each.initial)
    }
    return dataclasses.replace(chosen, maps=kept) if len(kept) < len(spec.maps) else chosen


def _by_default(spec: ObjectSpec) -> list[str]:
    tables = [each for each in spec.maps.values() if each.is_optional]
    optional = {program for table in tables for _, program in table.initial}
    return [
        name
        for name, each in spec.programs.items()
        if not each.is_optional and name not in optional
    ]


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
    kernel_btf: Btf | str | Path | None = None,
    kernel_config: Mapping[str, str] | str | Path | None = None,
    attach_to: Mapping[str, str] | None = None,
    **choices: Unpack[LoadChoices],
) -> Loaded:
    """Create the maps of *spec* and load its programs, or only those named in *programs*.

    Without names all are loaded but those in sections whose names start with `?`. *attach_to* says,
    by program, the function or tracepoint to attach to, instead of what its section says.

    *maps* are used instead of new ones if they fit, else `IncompatibleMapError` names all that
    differs; they belong to the result from then on, and are closed with it or with a failure. Into
    a program array among them go the programs that the object puts there, last of all.
    `LimitError` if the new maps would take too much memory, `VerifierError` if a program is
    refused, `NotSupportedError` if the kernel lacks what the object takes from it. CO-RE fits the
    programs to *kernel_btf* (types, or a file of raw BTF) instead of the running kernel's types,
    *kernel_config* (texts by name, or a file) stands in for its configuration.
    """
    given = dict(maps or {})
    with _closed_after_an_error(*given.values()):
        chosen = selected(spec, programs, attach_to)
        if kernel_btf is not None:
            chosen = dataclasses.replace(chosen, kernel_btf=as_btf(kernel_btf))
        if kernel_config is not None:
            chosen = resolve.with_config(chosen, kernel_config)
        chosen = struct_ops.without_unusable(chosen)
        check_given(chosen, given)
    left_out = chosen.notes[len(spec.notes) :]
    loaded = load_checked(chosen, maps=given, **choices)
    with _closed_after_an_error(loaded):
        fill_given(chosen, loaded, given)
    return dataclasses.replace(loaded, notes=(*left_out, *loaded.notes))


@contextlib.contextmanager
def _closed_after_an_error(*held: Closing) -> Iterator[None]:
    with contextlib.ExitStack() as undo:
        for each in held:
            undo.callback(each.close)
        yield
        undo.pop_all()


def fill_given(spec: ObjectSpec, loaded: Loaded, given: Iterable[str]) -> None:
    """Put the programs of *spec* into those of the *given* maps that are program arrays of it.

    From then on whoever calls through such an array reaches them.
    """
    fill_program_arrays([spec.maps[name] for name in given], loaded.maps, loaded.programs)


def load_checked(
    spec: ObjectSpec, *, maps: Mapping[str, Map], **choices: Unpack[LoadChoices]
) -> Loaded:
    """Do what `load` does; *maps* were compared with *spec* before, and stay as they are."""
    chosen = Chosen(**choices)
    with contextlib.ExitStack() as undo:
        for held in maps.values():
            undo.callback(held.close)
        check_byte_order(spec)
        check_constants(spec)
        fitted, resolutions = resolve.fitted(spec)
        new = [each for name, each in spec.maps.items() if name not in maps]
        check_inner(new)
        check_memory(spec.path, new, chosen.max_map_memory)
        btf, notes = _load_btf(spec)
        with btf or contextlib.nullcontext(), resolve.filled(fitted) as ready:
            made = {each.name: _create(ready.spec.maps[each.name], undo, btf) for each in new}
            every = {name: {**maps, **made}[name] for name in spec.maps}
            fill_maps_of_maps(new, every)
            targets: Targets = {**struct_ops.targets(spec.maps.values()), **chosen.targets}
            loaded = {}
            for name, each in ready.spec.programs.items():
                with resolve.naming(resolutions), ready.naming():
                    loaded[name] = Program.load(
                        each,
                        maps=every,
                        btf=btf,
                        types=spec.btf,
                        log_level=chosen.log_level,
                        log_size=chosen.log_size,
                        path=spec.path,
                        target=targets.get(name),
                        module_fds=ready.module_fds,
                    )
                undo.callback(loaded[name].close)
        _bind_constants(ready.spec, every, loaded)
        fill_program_arrays(new, every, loaded)
        notes += fill_tables(new, every, loaded)
        undo.pop_all()
        return Loaded(every, loaded, notes, ready.spec.all_variables)


def _bind_constants(
    spec: ObjectSpec, maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> None:
    """Let each program hold the constants of its object, which say what it is (`bpf_metadata_*`).

    bpftool reads them by the program's map ids. As for libbpf it is no failure where a kernel does
    not do it (before 5.10): nothing but that reading needs it.
    """
    names = [name for name, each in spec.maps.items() if each.dialect is Dialect.DATA]
    constants = [maps[name] for name in names if name.partition(".")[2].startswith("rodata")]
    for program in programs.values():
        for each in constants:
            with contextlib.suppress(SyscallError):
                bpf.prog_bind_map(program.fd, each.fd, target=f"map {each.name}")


def _create(spec: MapSpec, undo: contextlib.ExitStack, btf: BtfHandle | None) -> Map:
    """Make a map, with its first contents when it is a data section."""
    if traits_of(spec.type).is_arena and spec.max_entries and not spec.map_extra:
        spec = spec.with_changes(map_extra=_arena_address(spec))
    made = Map.create(spec, btf=btf)
    undo.callback(made.close)
    if spec.contents is not None and spec.dialect is Dialect.DATA:
        bpf.map_update_elem(made.fd, FIRST_KEY, spec.contents, target=f"map {spec.name}")
    if traits_of(spec.type).is_arena:
        _set_up_arena(made, spec)
    if spec.is_frozen:
        made.freeze()
    return made


def _arena_address(spec: MapSpec) -> int:
    """Return where an arena goes that leaves it to its loader: where this process has room.

    The verifier asks for an address (arena_map_mmap in kernel/bpf/arena.c), and whoever maps the
    arena must map it there: as `map_extra` everybody can read it. It must not cross 4 GiB.
    """
    size = spec.max_entries * mmap.PAGESIZE
    boundary = 1 << 32
    address = free_address(min(size, boundary) * 2)
    crosses = address // boundary != (address + size - 1) // boundary
    return -(-address // boundary) * boundary if crosses else address


def _set_up_arena(held: Map, spec: MapSpec) -> None:
    """Give the arena its first contents; its pages stay when the memory is unmapped."""
    if spec.contents:
        size, address = spec.max_entries * mmap.PAGESIZE, held.info.map_extra
        with MappedAt(held.fd, size, address=address, target=f"map {spec.name}") as memory:
            memory.write(spec.contents)


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
