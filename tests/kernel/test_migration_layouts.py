"""Random old and new structures: what a fold makes of them in the kernel is what a model says."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfpin.migration.fold import FoldPrograms
from bpfpin.migration.plan import MigrationRequest, plan_migration
from bpfpin.migration.request import Migration, Rule
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.layouts import WORDS, Field, cut, folded, struct_of

NAMES = "abcdef"
TYPES = (MapType.HASH, MapType.ARRAY)
KEYS = 3


@st.composite
def structures(draw: st.DrawFn) -> tuple[list[Field], list[Field]]:
    """Two structures that have some names in common, in any order and of any width."""
    sides = []
    for _ in range(2):
        names = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
        sides.append([Field(name, draw(st.sampled_from(sorted(WORDS)))) for name in names])
    return sides[0], sides[1]


def values(fields: list[Field]) -> st.SearchStrategy[dict[str, int]]:
    """Numbers for each member, often such as are in the way: 0, the least, the greatest."""
    return st.fixed_dictionaries(
        {one.name: st.one_of(st.just(0), st.integers(*one.limits())) for one in fields}
    )


def spec_of(fields: list[Field], kind: MapType) -> MapSpec:
    value = struct_of(fields)
    return MapSpec("flows", kind, 4, value.size, KEYS, value=value, key=None)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), both=structures())
def test_a_fold_moves_random_values_into_random_structures_as_the_model_says(
    data: st.DataObject, both: tuple[list[Field], list[Field]]
) -> None:
    """With whatever rules; numbers that do not fit are cut, members without a place dropped."""
    old_fields, new_fields = both
    kind = data.draw(st.sampled_from(TYPES))
    rules = {one.name: data.draw(st.sampled_from(list(Rule))) for one in new_fields}
    before = data.draw(st.lists(values(old_fields), min_size=KEYS, max_size=KEYS))
    there = data.draw(st.lists(values(new_fields), min_size=KEYS, max_size=KEYS))
    into = {one.name: one for one in new_fields}
    out_of = {one.name: one for one in old_fields}
    gone = [one.name for one in old_fields if one.name not in into]
    migration = Migration(rules=rules, dropped=gone, clamp=True, best_effort=True)
    spec = spec_of(new_fields, kind)

    with Map.create(spec_of(old_fields, kind)) as old, Map.create(spec) as new:
        for key in range(KEYS):
            index = key.to_bytes(4, "little")
            write(old, index, before[key])
            write(new, index, there[key])
        plan = plan_migration(MigrationRequest(spec, old, migration=migration))
        with FoldPrograms.load(plan.fold, old, new) as folding:
            folding.insert()
            counts = folding.move()
            again = folding.move()
        read = [read_value(new, key.to_bytes(4, "little")) for key in range(KEYS)]

    expected = [dict(one) for one in there]
    for name in {one.name for one in old_fields} & set(into):
        for key in range(KEYS):
            moved = cut(before[key][name], into[name])
            expected[key][name] = folded(
                rules[name], moved, there[key][name], out_of=out_of[name], into=into[name]
            )
    assert read == expected
    assert (counts.failed, again.failed) == (0, 0)


def write(held: Map, key: bytes, value: dict[str, int]) -> None:
    held.update_bytes(key, held._value.encode(value))


def read_value(held: Map, key: bytes) -> dict[str, Any]:
    return dict(held._value.decode(held.lookup_bytes(key)))
