"""The initial entries of an object's maps, and the checks before its maps are created."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bpfpin.errors import (
    BpfError,
    IncompatibleMapError,
    LimitError,
    ObjectFileError,
    PermissionDeniedError,
    UsageError,
)
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps import compat
from bpfpin.objects.maps.create import estimate_bytes, size_text
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import MapFlag

FIRST_KEY = bytes(4)


def fill_maps_of_maps(specs: Iterable[MapSpec], maps: Mapping[str, Map]) -> None:
    """Put the inner maps that *specs* name into the maps of maps."""
    _fill([spec for spec in specs if traits_of(spec.type).holds_maps], maps, maps)


def fill_slots(specs: Iterable[MapSpec], maps: Mapping[str, Map]) -> None:
    """Make the inner maps that *specs* have for maps of maps, and put them into these."""
    for spec in specs:
        for key, inner in spec.slots:
            put_inner_map(maps[spec.name], key, inner)


def put_inner_map(outer: Map, key: bytes, spec: MapSpec) -> int:
    """Make a map with the entries of *spec*, put it into a map of maps, and return its id.

    Programs that look the key up get the map that was there or the new one, never a part of it.
    """
    with Map.create(spec) as inner:
        fill_new(inner, spec)
        about = f"map {outer.name}, the inner map at {key.hex()}"
        try:
            bpf.map_update_elem(outer.fd, key, inner.fd.to_bytes(4, "little"), target=about)
        except InvalidArgumentError as error:
            # EINVAL does not say which field differs from the inner map of the definition.
            raise compat.unfit(error, spec, inner, about=about) from None
        return inner.id


def fill_new(bpf_map: Map, spec: MapSpec) -> None:
    """Write the entries of *spec* into its new map."""
    if spec.entries is not None and spec.entries[0]:
        bpf_map.update_arrays(*spec.entries)


def fill_program_arrays(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> None:
    """Put the programs that *specs* name into the program arrays."""
    _fill([spec for spec in specs if traits_of(spec.type).holds_programs], maps, programs)


def fill_tables(
    specs: Iterable[MapSpec], maps: Mapping[str, Map], programs: Mapping[str, Program]
) -> tuple[str, ...]:
    """Write the struct_ops tables that are attached by a link.

    Tables without the flag BPF_F_LINK are not written here, since writing one registers it. A table
    is left empty if one of its programs is not loaded or if the kernel refuses it; the returned
    notes name the refused ones.
    """
    notes = []
    descriptors = {name: program.fd for name, program in programs.items()}
    for spec in specs:
        is_whole = all(name in programs for _, name in spec.initial)
        if traits_of(spec.type).is_struct_ops and spec.map_flags & MapFlag.LINK and is_whole:
            from bpfpin.objects.maps.struct_ops import value_of  # noqa: PLC0415 - few objects have tables

            fd, target = maps[spec.name].fd, f"map {spec.name}"
            try:
                value = value_of(spec, descriptors)
                bpf.map_update_elem(fd, FIRST_KEY, value, target=target)
            except BpfError as error:
                # That is not about the table: the whole load lacks a capability.
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
            target = values[name]
            # As in libbpf the position in the initializer is the key, also of a hash of maps
            # (init_map_in_map_slots()).
            key, value = index.to_bytes(4, "little"), target.fd.to_bytes(4, "little")
            about = f"map {spec.name}, entry {index}"
            try:
                bpf.map_update_elem(maps[spec.name].fd, key, value, target=about)
            except InvalidArgumentError as error:
                # EINVAL does not say why: look for another owner of the array, or for unequal inner
                # maps.
                if isinstance(target, Program):
                    compat.require_owner([maps[spec.name]], target.type, program=name)
                elif spec.inner is not None:
                    raise compat.unfit(error, spec.inner, target, about=about) from None
                raise


def check_given(spec: ObjectSpec, given: Mapping[str, Map]) -> None:
    """Compare the *given* maps with the object's definitions; raise `IncompatibleMapError`."""
    unknown = [name for name in given if name not in spec.maps]
    if unknown:
        names = ", ".join(spec.maps) or "none"
        raise UsageError(f"the object has no map {', '.join(unknown)}; it has: {names}")
    # All maps are compared before the error, so that one run shows everything to mend.
    differences = [
        difference
        for name, bpf_map in given.items()
        for difference in compat.differences(spec.maps[name], bpf_map)
    ]
    if differences:
        names = ", ".join(dict.fromkeys(difference.map for difference in differences))
        raise IncompatibleMapError(
            f"not the map that the object asks for: {names}", differences=differences
        )


def check_inner(specs: Iterable[MapSpec]) -> None:
    """Refuse maps of maps without an inner definition, for which the kernel says only EINVAL."""
    for spec in specs:
        if traits_of(spec.type).holds_maps and spec.inner is None:
            wanted = f" with id {spec.inner_id}" if spec.inner_id else ""
            raise UsageError(
                f"map {spec.name} holds maps, but the object does not define the inner map{wanted}",
                hint=Fix.of(
                    "use a map that exists: ", Argument("maps", {spec.name: Placeholder("PATH")})
                ),
            )


def check_byte_order(spec: ObjectSpec) -> None:
    """Refuse an object that was compiled for big-endian machines."""
    if spec.is_big_endian:
        raise ObjectFileError(
            "compiled for big-endian machines (bpfeb), but this machine is little-endian: it can"
            " be read, not loaded",
            path=spec.path,
            hint="compile it with: clang -O2 -g -target bpfel -c",
        )


def check_constants(spec: ObjectSpec) -> None:
    """Refuse programs that load a constant without a value."""
    missing = [name for name, value in spec.constants.items() if value is None]
    if not missing:
        return
    program = next(
        each.name
        for each in spec.programs.values()
        if any(name == missing[0] for it in each.functions for _, name in it.constants)
    )
    raise UsageError(
        f"program {program} loads {', '.join(missing)}, which the object does not define: its"
        " loader has to give the number",
        hint=Fix.of(
            "give it: ",
            Argument("variables", dict.fromkeys(missing, Placeholder("NUMBER"))),
            f", or to the spec: with_constant({missing[0]!r}, NUMBER); what the kernel has is"
            " declared with __ksym or __kconfig, and compiled with -g",
        ),
    )


def check_memory(path: str, specs: Iterable[MapSpec], limit: int) -> None:
    """Refuse maps that would take more than *limit* bytes together."""
    # Before BPF_MAP_CREATE, which allocates everything at once: a wrong number would leave no
    # memory for other processes.
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
        hint=Fix.of("allow more: ", Argument("max_map_memory", Placeholder("SIZE"))),
    )
