"""What is checked before an object's maps are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bpfpin.errors import IncompatibleMapError, LimitError, ObjectFileError, UsageError
from bpfpin.objects import compat
from bpfpin.objects.map import Map
from bpfpin.objects.memory import estimate_bytes, size_text
from bpfpin.spec import MapSpec, ObjectSpec


def check_given(spec: ObjectSpec, given: Mapping[str, Map]) -> None:
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


def check_inner(specs: Iterable[MapSpec]) -> None:
    """Refuse maps of maps that nothing says the inner kind of: the kernel says only EINVAL."""
    for each in specs:
        if each.type in compat.MAPS_OF_MAPS and each.inner is None:
            wanted = f" with id {each.inner_id}" if each.inner_id else ""
            raise UsageError(
                f"map {each.name} holds maps, and the object has no map{wanted} that says of what"
                " kind",
                hint=f"use a map that exists: --map {each.name}=PATH",
            )


def check_byte_order(spec: ObjectSpec) -> None:
    """Refuse an object that was compiled for machines of the other byte order."""
    if spec.is_big_endian:
        raise ObjectFileError(
            "compiled for big-endian machines (bpfeb), and this one is little-endian: it can be"
            " read, not loaded",
            path=spec.path,
            hint="compile it with: clang -O2 -g -target bpfel -c",
        )


def check_constants(spec: ObjectSpec) -> None:
    """Refuse programs that load a number that nobody has given."""
    missing = [name for name, value in spec.constants.items() if value is None]
    if not missing:
        return
    program = next(
        each.name
        for each in spec.programs.values()
        if any(name == missing[0] for it in each.functions for _, name in it.constants)
    )
    options = " ".join(f"--set {name}=NUMBER" for name in missing)
    raise UsageError(
        f"program {program} loads {', '.join(missing)}, which the object does not define: a number"
        " that its loader is to give",
        hint=f"give it: {options}, or in Python spec.with_constant({missing[0]!r}, NUMBER); what"
        " the kernel has is declared with __ksym or __kconfig, and compiled with -g",
    )


def check_memory(path: str, specs: Iterable[MapSpec], limit: int) -> None:
    """Refuse maps that would take more than *limit* bytes together."""
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
