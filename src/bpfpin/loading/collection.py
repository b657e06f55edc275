"""Loads an object: its BTF, its maps and its programs, all of them or none."""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bpfpin.btf.btf import Btf
from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import PermissionDeniedError, SyscallError
from bpfpin.loading import resolve
from bpfpin.loading.entries import (
    FIRST_KEY,
    check_byte_order,
    check_constants,
    check_given,
    check_inner,
    check_memory,
    fill_maps_of_maps,
    fill_new,
    fill_program_arrays,
    fill_slots,
    fill_tables,
)
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.attach_target import AttachTarget
from bpfpin.objects.kernel.btf import BtfHandle, as_btf
from bpfpin.objects.maps.create import map_memory_limit
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objects.verifier.attempt import LOG_LIMIT
from bpfpin.records import dataclass
from bpfpin.spec import Dialect, MapSpec, ObjectSpec, ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.mmap import MappedAt, free_address

if TYPE_CHECKING:
    from bpfpin.hooks import Hook
    from bpfpin.loading.attachments import Attachments
    from bpfpin.objects.maps.variables import Variables

__all__ = ["Loaded", "fill_given", "load", "load_checked"]
Targets = dict[str, Program | AttachTarget]


def selected(
    spec: ObjectSpec,
    programs: Sequence[str] | None,
    attach_to: Mapping[str, str] | None = None,
) -> ObjectSpec:
    """Return *spec* with *programs* alone, or with those that load by default.

    A section name that starts with `?` makes its programs, or its struct_ops tables, optional (as
    in libbpf): they only load by name. An optional table is left out if none of its programs is
    loaded; other maps stay. *attach_to* overrides where programs attach. Raises `UsageError` for an
    unknown name.
    """
    for name, target in (attach_to or {}).items():
        spec = spec.with_program(name, attach_to=target)
    names = _by_default(spec) if programs is None else programs
    chosen = spec.only_programs(*names)
    kept = {
        name: bpf_map
        for name, bpf_map in spec.maps.items()
        if not bpf_map.is_optional
        or any(program in chosen.programs for _, program in bpf_map.initial)
    }
    return dataclasses.replace(chosen, maps=kept) if len(kept) < len(spec.maps) else chosen


def _for_hooks(spec: ObjectSpec) -> ObjectSpec:
    """Have programs loaded for their hooks, where the section does not say for which attach type.

    libbpf does so for USDT, whose links are of two kinds (libbpf_prepare_prog_load()).
    """
    for program in spec.programs.values():
        traits = program.hook.traits if program.hook else None
        if traits and traits.checks_attach_type and program.expected_attach_type is None:
            spec = spec.with_program(program.name, expected_attach_type=traits.attach_type)
    return spec


def _by_default(spec: ObjectSpec) -> list[str]:
    tables = [bpf_map for bpf_map in spec.maps.values() if bpf_map.is_optional]
    # A program of struct_ops gets its type from its table, so the two are loaded together.
    optional = {program for table in tables for _, program in table.initial}
    return [
        name
        for name, program in spec.programs.items()
        if not program.is_optional and name not in optional
    ]


@dataclass(frozen=True)
class Loaded(Closing):
    """The maps and programs of a loaded object, open until `close` or the end of `with`.

    Args:
        maps: The maps by their full names in the object, reused ones included.
        programs: The programs by name.
        notes: Parts left out or not supported, in lines for people.
        variable_specs: The descriptions of the object's global variables; see `variables`.
        program_specs: The descriptions of the programs as they were loaded, by name.
        tail_called: The programs that the object itself puts into program arrays.
        linked_tables: The tables of functions that a link registers, each with its programs.
    """

    maps: Mapping[str, Map] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    variable_specs: tuple[VariableSpec, ...] = field(default=(), repr=False)
    program_specs: Mapping[str, ProgramSpec] = field(default_factory=dict, repr=False)
    tail_called: frozenset[str] = field(default=frozenset(), repr=False)
    linked_tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def variables(self) -> Variables:
        """The object's global variables by name: `loaded.variables["threshold"].value = 5`."""
        from bpfpin.objects.maps.variables import Variables  # noqa: PLC0415  (few programs need them)

        return Variables(self.variable_specs, self.maps)

    def attach(
        self,
        programs: Iterable[str] | None = None,
        *,
        targets: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
        hooks: Mapping[str, Hook | str] | None = None,
        device: str | int | None = None,
        cgroup: str | Path | None = None,
    ) -> Attachments:
        """Attach the programs where their sections say: all of them, or none.

        They stay attached when `Loaded` is closed, until the result is.

        Args:
            programs: Names of the programs to attach. Default: all that were loaded, apart from
                those that only tail calls reach, and those that no hook runs (`syscall`, and
                functions of tables).
            targets: By program, what it is attached to, instead of what its section names: a
                function, tracepoint, device, cgroup …, or several of them.
            hooks: By program, its hook, where the section says none.
            device: Name or ifindex of the network device for programs that go to one.
            cgroup: The cgroup for programs that go to one, as `attach_cgroup` takes it.

        Returns:
            The links by the names of the programs. `close` or `with` detaches them.

        Raises:
            UsageError: A name is unknown, or it is not known where programs go: the error lists
                all of these.
            TargetNotFoundError: The kernel does not have a target.
            HookBusyError: A hook is taken.
            NotSupportedError: The kernel does not have a hook.
            WrongHookError: A hook does not run programs of that type.
            PermissionDeniedError: A capability is missing.

        Kernel: what the function of each hook uses (`attach_tracepoint`, `attach_xdp` …).

        Example:
            `with load(spec) as loaded, loaded.attach(): …`
        """
        from bpfpin.loading.attachments import Choices, attach_programs  # noqa: PLC0415 - sets attach by themselves

        return attach_programs(
            self,
            programs,
            Choices(targets or {}, hooks or {}, device, cgroup, self.maps, self.linked_tables),
        )

    def close(self) -> None:
        """Close all maps and programs; pins and attachments stay in the kernel."""
        if "variables" in vars(self):
            self.variables.close()
        for kernel_object in (*self.programs.values(), *self.maps.values()):
            kernel_object.close()


def load(
    spec: ObjectSpec | str | Path | bytes,
    *,
    maps: Mapping[str, Map] | None = None,
    programs: Sequence[str] | None = None,
    kernel_btf: Btf | str | Path | None = None,
    kernel_config: Mapping[str, str] | str | Path | None = None,
    attach_to: Mapping[str, str] | None = None,
    targets: Mapping[str, Program] | None = None,
    max_map_memory: int | None = None,
    log_level: int = 0,
    log_size: int = LOG_LIMIT,
) -> Loaded:
    """Create the maps of an object and load its programs: all of them or none.

    Args:
        spec: The object, from `read_object`; or what that reads: a path, `builtin:NAME`, bytes.
        maps: Open maps to use instead of new ones, by name. They belong to the result, and are
            closed with it or on an error. The object's programs are put into program arrays among
            them, after everything else.
        programs: Names of the programs to load. Default: all but those in sections whose names
            start with `?`.
        kernel_btf: The types that CO-RE fits the programs to, or a file of raw BTF. Default: those
            of the running kernel.
        kernel_config: Kernel configuration by name (`CONFIG_HZ`), or a file of it, plain or gzip.
            Default: that of the running kernel.
        attach_to: By program, the function or tracepoint to attach to, instead of what its section
            says.
        targets: By program of type freplace, fentry or fexit, the loaded program whose function it
            attaches to. They stay open. Default: functions of the kernel.
        max_map_memory: The most bytes that the new maps may take. Default: a quarter of the host's
            memory, at least 256 MiB.
        log_level: Which verifier log to keep of programs that load; see `Program.load`. Default: 0,
            none.
        log_size: The most bytes of a log. Default: 16 MiB.

    Returns:
        The open maps and programs. `notes` names the parts left out.

    Raises:
        IncompatibleMapError: One of *maps* does not fit; `differences` has every difference.
        VerifierError: A program is refused.
        LimitError: The new maps would take more than *max_map_memory*.
        NotSupportedError: The kernel lacks something that the object needs.
        TargetNotFoundError: The function or tracepoint to attach to does not exist.
        ObjectFileError: The object is for big-endian machines, or cannot be fitted to the kernel.
        PermissionDeniedError: A capability is missing.
        UsageError: A name is unknown, or the object needs a number that was not given.

    Kernel: BPF_BTF_LOAD, BPF_MAP_CREATE, BPF_PROG_LOAD.
    """
    given = dict(maps or {})
    with _closed_after_an_error(*given.values()):
        if not isinstance(spec, ObjectSpec):
            from bpfpin.objfile.reader import read_object  # noqa: PLC0415 - who has a spec has it imported

            spec = read_object(spec)
        chosen = selected(spec, programs, attach_to)
        if kernel_btf is not None:
            chosen = dataclasses.replace(chosen, kernel_btf=as_btf(kernel_btf))
        if kernel_config is not None:
            chosen = resolve.with_config(chosen, kernel_config)
        chosen = _for_hooks(chosen)
        if chosen.has_struct_ops:
            from bpfpin.objects.maps.struct_ops import without_unusable  # noqa: PLC0415 - few objects have tables

            chosen = without_unusable(chosen)
        check_given(chosen, given)
    left_out = chosen.notes[len(spec.notes) :]
    loaded = load_checked(
        chosen,
        maps=given,
        targets=targets,
        max_map_memory=max_map_memory,
        log_level=log_level,
        log_size=log_size,
    )
    with _closed_after_an_error(loaded):
        fill_given(chosen, loaded, given)
    return dataclasses.replace(loaded, notes=(*left_out, *loaded.notes))


@contextlib.contextmanager
def _closed_after_an_error(*objects: Closing) -> Iterator[None]:
    """Close *objects* if the block raises."""
    with contextlib.ExitStack() as undo:
        for closing in objects:
            undo.callback(closing.close)
        yield
        undo.pop_all()


def fill_given(spec: ObjectSpec, loaded: Loaded, given: Iterable[str]) -> None:
    """Put the programs of *spec* into the program arrays among the *given* maps.

    From then on tail calls through such an array, by any program, reach them.
    """
    fill_program_arrays([spec.maps[name] for name in given], loaded.maps, loaded.programs)


def load_checked(
    spec: ObjectSpec,
    *,
    maps: Mapping[str, Map],
    targets: Mapping[str, Program] | None = None,
    max_map_memory: int | None = None,
    log_level: int = 0,
    log_size: int = LOG_LIMIT,
    changed: Callable[[ProgramSpec], ProgramSpec] | None = None,
) -> Loaded:
    """Load a selected object with *maps* that are known to fit, and leave their contents alone.

    *changed* returns the description by which a program is loaded, from the one that is fitted to
    the kernel; the result keeps the latter. The other parameters are those of `load`.
    """
    with contextlib.ExitStack() as undo:
        # Their owner from the first line on: an error in a check below closes them, too.
        for bpf_map in maps.values():
            undo.callback(bpf_map.close)
        # All checks come before the first object in the kernel: they need no privilege and leave
        # nothing behind.
        check_byte_order(spec)
        check_constants(spec)
        fitted, resolutions = resolve.fitted(spec)
        new = [map_spec for name, map_spec in spec.maps.items() if name not in maps]
        check_inner(new)
        limit = map_memory_limit() if max_map_memory is None else max_map_memory
        check_memory(spec.path, new, limit)
        btf, notes = _load_btf(spec)
        # The descriptors of BTF are needed for the loading alone: maps and programs hold
        # references.
        with btf or contextlib.nullcontext(), resolve.filled(fitted) as ready:
            # Maps first: the instructions of the programs carry their descriptors.
            created = {
                new_spec.name: _create(ready.spec.maps[new_spec.name], undo, btf)
                for new_spec in new
            }
            all_maps = {name: {**maps, **created}[name] for name in spec.maps}
            fill_maps_of_maps(new, all_maps)
            fill_slots(new, all_maps)
            all_targets: Targets = {**_struct_ops_targets(spec), **(targets or {})}
            loaded = {}
            for name, program_spec in ready.spec.programs.items():
                with resolve.naming(resolutions), ready.naming():
                    loaded[name] = Program.load(
                        changed(program_spec) if changed else program_spec,
                        maps=all_maps,
                        btf=btf,
                        types=spec.btf,
                        log_level=log_level,
                        log_size=log_size,
                        path=spec.path,
                        target=all_targets.get(name),
                        module_fds=ready.module_fds,
                    )
                undo.callback(loaded[name].close)
        # After all programs: arrays and tables take descriptors of loaded programs alone.
        _bind_constants(ready.spec, all_maps, loaded)
        fill_program_arrays(new, all_maps, loaded)
        notes += fill_tables(new, all_maps, loaded)
        undo.pop_all()
        return Loaded(
            all_maps,
            loaded,
            notes,
            ready.spec.all_variables,
            ready.spec.programs,
            frozenset(spec.tail_called),
            spec.linked_tables,
        )


def _bind_constants(
    spec: ObjectSpec, maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> None:
    """Bind the object's constants to each program, for the metadata in them (`bpf_metadata_*`).

    `bpftool prog show` reads it from the maps that a program refers to. As in libbpf a refusal
    (BPF_PROG_BIND_MAP came with Linux 5.10) is ignored: nothing else needs it.
    """
    names = [name for name, bpf_map in spec.maps.items() if bpf_map.dialect is Dialect.DATA]
    constants = [maps[name] for name in names if name.partition(".")[2].startswith("rodata")]
    for program in programs.values():
        for bpf_map in constants:
            # libbpf warns and goes on as well (bpf_object_load_prog()).
            with contextlib.suppress(SyscallError):
                bpf.prog_bind_map(program.fd, bpf_map.fd, target=f"map {bpf_map.name}")


def _struct_ops_targets(spec: ObjectSpec) -> Targets:
    if not spec.has_struct_ops:
        return {}
    from bpfpin.objects.maps import struct_ops  # noqa: PLC0415 - few objects have tables

    return dict(struct_ops.targets(spec.maps.values()))


def _create(spec: MapSpec, undo: contextlib.ExitStack, btf: BtfHandle | None) -> Map:
    """Create a map; write the contents of a data section or arena, and freeze constants."""
    if traits_of(spec.type).is_arena and spec.max_entries and not spec.map_extra:
        spec = spec.with_changes(map_extra=_arena_address(spec))
    made = Map.create(spec, btf=btf)
    undo.callback(made.close)
    if spec.contents is not None and spec.dialect is Dialect.DATA:
        # A data section is an array of one element, so one call writes all variables.
        bpf.map_update_elem(made.fd, FIRST_KEY, spec.contents, target=f"map {spec.name}")
    fill_new(made, spec)
    if traits_of(spec.type).is_arena:
        _set_up_arena(made, spec)
    # Before a program is loaded: the verifier takes the values of a frozen map that programs cannot
    # write as constants (bpf_map_is_rdonly() of kernel/bpf/verifier.c), and removes dead branches.
    if spec.is_frozen:
        made.freeze()
    return made


def _arena_address(spec: MapSpec) -> int:
    """Return an address for an arena that does not ask for one: where this process has room.

    An arena has one user-space address, at which every process has to map it (arena_map_mmap() in
    kernel/bpf/arena.c). Choosing it at creation puts it into `map_extra`, where all can read it. An
    arena must not cross a multiple of 4 GiB.
    """
    size = spec.max_entries * mmap.PAGESIZE
    boundary = 1 << 32
    # Twice the size: if a multiple of 4 GiB lies within, the arena fits behind it.
    address = free_address(min(size, boundary) * 2, target=f"map {spec.name}")
    crosses = address // boundary != (address + size - 1) // boundary
    return -(-address // boundary) * boundary if crosses else address


def _set_up_arena(arena: Map, spec: MapSpec) -> None:
    """Write the first contents of an arena; its pages stay when the memory is unmapped."""
    if spec.contents:
        size, address = spec.max_entries * mmap.PAGESIZE, arena.info.map_extra
        with MappedAt(arena.fd, size, address=address, target=f"map {spec.name}") as memory:
            memory.write(spec.contents)


def _load_btf(spec: ObjectSpec) -> tuple[BtfHandle | None, tuple[str, ...]]:
    """Load the object's BTF; if the kernel refuses it, only programs with callbacks need it."""
    if spec.btf is None:
        return None, ()
    try:
        return BtfHandle.load(spec.btf), ()
    except PermissionDeniedError:
        raise
    except SyscallError as error:
        # The hint is the kernel's log of the types, whose last line is the reason.
        reason = [line for line in error.hint.splitlines() if line.strip()][-1:]
        return None, ("; ".join([f"no lines of C in verifier logs: {error}", *reason]),)
