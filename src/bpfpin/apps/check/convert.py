"""Maps of the two old dialects as C for section `.maps`, so that their sources can move on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bpfpin.btf.c_source import c_name
from bpfpin.btf.types import Function, FunctionPrototype
from bpfpin.map_traits import traits_of
from bpfpin.spec import Dialect, MapSpec, ObjectSpec, Pinning
from bpfpin.uapi import MapFlag

OLD_DIALECTS = frozenset({Dialect.BPF_MAP_DEF, Dialect.BPF_ELF_MAP})
_LAST_INDEX = 0xFFFF  # of an initialiser: C fills all before it, eight bytes each
_LARGEST = (1 << 30) - 1  # BTF ends at 4 GiB, and a number is the length of an array of int
_NO_WORD = re.compile(r"[^A-Za-z0-9_]")
_PINNING = "__uint(pinning, LIBBPF_PIN_BY_NAME);"

_PINNING_NOTES = {
    Pinning.OBJECT_NAMESPACE: "iproute2 pinned it for this object alone (pinning 1), for which"
    " libbpf has no word.",
    Pinning.GLOBAL_NAMESPACE: "iproute2's pinning 2 was in tc/globals: tc still pins it there,"
    " other loaders at the top.",
}


def btf_definitions(spec: ObjectSpec) -> str:
    """Return C source that defines the maps of old dialects of *spec* by BTF.

    Comments in it say what BTF cannot express. Types that the BTF of the object has are referred
    to by name, and not defined. Maps of maps come last.
    """
    old = [map_ for map_ in spec.maps.values() if map_.dialect in OLD_DIALECTS]
    # The path stands in a comment of C and must not end it.
    path = (spec.path or "the object").replace("*/", "* /")
    if not old:
        return f"/* {path} has no maps of the old dialects. */\n"
    head = f"/* The maps of {path}, after <linux/bpf.h> and <bpf/bpf_helpers.h>. */"
    # `values` of a map of maps refers to its inner maps, which C must have seen before.
    ordered = sorted(old, key=lambda map_: traits_of(map_.type).holds_maps)
    return "\n\n".join([head, *(_definition(spec, map_) for map_ in ordered)]) + "\n"


def _definition(spec: ObjectSpec, wanted: MapSpec) -> str:
    prototypes = _prototypes(spec, wanted)
    notes = [f"/* {note} */" for note in _notes(wanted, has_prototypes=bool(prototypes))]
    values, initial = _values(wanted, has_prototypes=bool(prototypes))
    members = [f"\t{line}" for line in (*_members(wanted), *values)]
    end = f'}} {wanted.name} SEC(".maps")'
    return "\n".join([*notes, *prototypes, "struct {", *members, f"{end}{initial};"])


def _members(wanted: MapSpec) -> Iterator[str]:
    yield f"__uint(type, BPF_MAP_TYPE_{wanted.type.name});"
    types = _type_names(wanted)
    for name, number in _numbers(wanted).items():
        if name in types:
            yield f"__type({name.removesuffix('_size')}, {types[name]});"
        elif number <= _LARGEST:
            yield f"__uint({name}, {_flags(number) if name == 'map_flags' else number});"
    if wanted.pinning is Pinning.GLOBAL_NAMESPACE:
        yield _PINNING


def _numbers(wanted: MapSpec) -> dict[str, int]:
    """Return the numbers of the definition that are not 0, by name."""
    names = ("max_entries", "key_size", "value_size", "map_flags")
    numbers = {name: number for name in names if (number := getattr(wanted, name))}
    return numbers if wanted.numa_node is None else numbers | {"numa_node": wanted.numa_node}


def _type_names(wanted: MapSpec) -> dict[str, str]:
    """Return the C names of the types of key and value, by `key_size` and `value_size`."""
    types = {"key_size": wanted.key, "value_size": wanted.value}
    c_names = {size: c_name(ref) for size, ref in types.items() if ref is not None}
    return {size: name for size, name in c_names.items() if name is not None}


def _flags(flags: int) -> str:
    """Return the flags by the kernel's names; unknown bits in hexadecimal."""
    known = [flag for flag in MapFlag if flag & flags]
    rest = flags & ~sum(known)
    return " | ".join([*(f"BPF_F_{flag.name}" for flag in known), *([hex(rest)] if rest else [])])


def _values(wanted: MapSpec, *, has_prototypes: bool) -> tuple[list[str], str]:
    """Return the member `values`, and the initialiser of the entries that the object sets."""
    if traits_of(wanted.type).holds_maps and wanted.inner is not None:
        # libbpf refuses a pinned inner map (parse_btf_map_def() of src/libbpf.c).
        inner = [f"\t{line}" for line in _members(wanted.inner.with_changes(pinning=Pinning.NONE))]
        return ["__array(values, struct {", *inner, "});"], _initial(wanted)
    if traits_of(wanted.type).holds_programs and has_prototypes:
        return ["__array(values, int (void *));"], _initial(wanted)
    return [], ""


def _initial(wanted: MapSpec) -> str:
    if not wanted.initial or _is_too_wide(wanted):
        return ""
    entries = [f"\t\t[{index}] = (void *)&{name}," for index, name in _entries(wanted)]
    return "\n".join([" = {", "\t.values = {", *entries, "\t},", "}"])


def _entries(wanted: MapSpec) -> list[tuple[int, str]]:
    # dict: of two entries with one index, the last counts.
    return sorted((index, _word(name)) for index, name in dict(wanted.initial).items())


def _word(symbol: str) -> str:
    """Return *symbol* as a C identifier: an untrusted name must not end a comment or statement."""
    return _NO_WORD.sub("_", symbol)


def _is_too_wide(wanted: MapSpec) -> bool:
    return max((index for index, _ in wanted.initial), default=0) > _LAST_INDEX


def _prototypes(spec: ObjectSpec, wanted: MapSpec) -> list[str]:
    """Return declarations of the initial programs of a program array; none if a type is unknown."""
    if not traits_of(wanted.type).holds_programs:
        return []
    declarations = [_prototype(spec, name) for _, name in _entries(wanted)]
    return declarations if all(declarations) else []


def _prototype(spec: ObjectSpec, name: str) -> str:
    """Return a declaration of program *name*; "" if its type is unknown."""
    program, btf = spec.programs.get(name), spec.btf
    if program is None or btf is None:
        return ""
    # The first function of a program is its entry; the others are called by it.
    function = btf[program.functions[0].type_id]
    kind = btf[function.type_id] if isinstance(function, Function) else None
    if not isinstance(kind, FunctionPrototype) or len(kind.parameters) != 1:
        return ""
    answer, context = c_name(btf.ref(kind.return_id)), c_name(btf.ref(kind.parameters[0].type_id))
    return f"{answer} {name}({context});" if answer and context else ""


def _notes(wanted: MapSpec, *, has_prototypes: bool) -> Sequence[str]:
    notes = [_PINNING_NOTES[wanted.pinning]] if wanted.pinning in _PINNING_NOTES else []
    if wanted.pinning is Pinning.FILE:
        notes.append(
            f"iproute2 pinned it where its bpf_pinning file says for {wanted.pinning_id}, for"
            " which libbpf has no word."
        )
    notes += [
        f"{name} is {number}, more than BTF can say: set it at run time."
        for name, number in _numbers(wanted).items()
        if number > _LARGEST and name not in _type_names(wanted)
    ]
    if traits_of(wanted.type).holds_maps and wanted.inner is None:
        which = f", like the one with id {wanted.inner_id}" if wanted.inner_id else ""
        notes.append(
            f"It holds maps{which}, which the object does not define: say of what kind by"
            " __array(values, struct { ... })."
        )
    if traits_of(wanted.type).holds_programs and wanted.initial:
        notes.append("The sections ID/KEY of its programs are iproute2's: name their type instead.")
    if wanted.initial and (_is_too_wide(wanted) or not (wanted.inner or has_prototypes)):
        entries = ", ".join(f"{name} at {index}" for index, name in _entries(wanted))
        notes.append(f"To be put there at run time: {entries}.")
    return notes
