"""Codecs against the compiler: what BPF C writes we read, and what we write it finds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import bpfpin
from bpfpin.btf.layout import members
from bpfpin.codecs.of_btf import codec
from support.c_structs import HEAD, Leaf, Maker, Whole, compiled
from support.tools import need

STRUCTURES = 60
PACKET = bytes(64)


@dataclass(frozen=True)
class Case:
    """A structure, the value that C writes, and the one that we write."""

    whole: Whole
    from_c: dict[str, Any]
    to_c: dict[str, Any]


def draw(seed: int) -> tuple[list[Case], str]:
    """Return structures with their values, and the C program that has them all."""
    rng = random.Random(seed)
    maker = Maker(rng)
    wholes = [maker.whole() for _ in range(STRUCTURES)]
    cases = [Case(whole, whole.value(rng), whole.value(rng)) for whole in wholes]
    return cases, source(cases, maker.enums)


def source(cases: list[Case], enums: list[str]) -> str:
    """Return the C: a map for each structure, a program that fills and one that compares."""
    lines = [HEAD, *enums]
    fill, compare, sizes = [], [], []
    number = 0
    for at, case in enumerate(cases):
        lines.append(f"struct s{at} {case.whole.body()};")
        lines.append(
            f"struct {{ int (*type)[2]; u32 *key; struct s{at} *value; int (*max_entries)[2]; }}"
            f' map{at} SEC(".maps");'
        )
        fill += [f"{{ struct s{at} *p = lookup(&map{at}, &zero); if (!p) return 1;"]
        fill += [f"{place} = {literal};" for place, literal in leaves(case.whole, case.from_c)]
        fill += ["}"]
        compare += [f"{{ struct s{at} *p = lookup(&map{at}, &one); if (!p) return 1;"]
        for place, literal in leaves(case.whole, case.to_c):
            number += 1
            compare += [f"if ({place} != {literal}) return {at} << 16 | {number};"]
        compare += ["}"]
        sizes.append(f"sizeof(struct s{at})")
    offsets = [place for at, case in enumerate(cases) for place in offsets_of(at, case.whole)]
    return "\n".join(
        [
            *lines,
            f'const volatile u32 layout[] SEC(".rodata") = {{ {", ".join(sizes + offsets)} }};',
            'SEC("xdp") int fill(void *ctx) { u32 zero = 0;',
            *fill,
            'return 0; } SEC("xdp") int compare(void *ctx) { u32 one = 1;',
            *compare,
            "return 0; }",
        ]
    )


def leaves(whole: Whole, value: dict[str, Any]) -> list[Leaf]:
    """Return the places and literals of *value* behind the pointer `p`."""
    return list(whole.leaves("(*p)", value))


def plain_members(whole: Whole) -> list[str]:
    """Return the members whose place C tells: named ones that are no bit-fields."""
    return [
        name
        for name, node in whole.members.items()
        if not name.startswith("unnamed") and not getattr(node, "bits", 0)
    ]


def offsets_of(at: int, whole: Whole) -> list[str]:
    """Return the expressions of the offsets of the plain members."""
    return [f"__builtin_offsetof(struct s{at}, {name})" for name in plain_members(whole)]


@example(seed=0)
@given(seed=st.integers(1, 1 << 32))
@settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_codecs_agree_with_the_compiler(seed: int, tmp_path: Path) -> None:
    need("clang")
    cases, text = draw(seed)
    with bpfpin.load(bpfpin.read_object(compiled(text, tmp_path))) as loaded:
        held = [loaded.maps[f"map{at}"] for at in range(STRUCTURES)]
        for one, case in zip(held, cases, strict=True):
            one[1] = case.to_c

        assert loaded.programs["fill"].test_run(PACKET).return_value == 0
        assert told(loaded.programs["compare"].test_run(PACKET).return_value, cases) == ""
        for at, (one, case) in enumerate(zip(held, cases, strict=True)):
            read = one[0]
            assert case.whole.agrees(case.from_c, read), (at, case.whole.body(), case.from_c, read)
            raw = one.lookup_bytes(bytes(4))
            assert one.value_codec.encode(read) == raw
            assert is_key(one, raw)
        assert layout_of_btf(held, cases) == layout_of_c(loaded.maps[".rodata"])


def is_key(held: bpfpin.Map, raw: bytes) -> bool:
    """Whether these bytes make a key of the type, which can be hashed and written again."""
    as_key = codec(held.value_type, held.value_size, is_key=True)
    key = as_key.decode(raw)
    again = as_key.decode_many(as_key.encode(key), held.value_size)[0]
    # Not-a-number equals nothing, nor has it one hash.
    return (repr(again) == repr(key)) and (hash(again) == hash(key) or "nan" in repr(key))


def told(returned: int, cases: list[Case]) -> str:
    """Return what `compare` found to be something else than we wrote."""
    if not returned:
        return ""
    at, number = returned >> 16, returned & 0xFFFF
    before = sum(len(leaves(case.whole, case.to_c)) for case in cases[:at])
    place = leaves(cases[at].whole, cases[at].to_c)[number - before - 1]
    return f"s{at} {cases[at].whole.body()}: {place}"


def layout_of_c(rodata: bpfpin.Map) -> list[int]:
    """Return what the compiler says: sizes of all structures, offsets of their members."""
    raw = rodata.lookup_bytes(bytes(4))
    return list(memoryview(raw).cast("I"))


def layout_of_btf(held: list[bpfpin.Map], cases: list[Case]) -> list[int]:
    """Return the same from the types that the kernel has of the maps."""
    offsets = []
    for one, case in zip(held, cases, strict=True):
        assert one.value_type is not None
        there = {m.name: m.bit_offset // 8 for m in members(one.value_type.btf, one.value_type.id)}
        offsets += [there[name] for name in plain_members(case.whole)]
    return [one.value_size for one in held] + offsets
