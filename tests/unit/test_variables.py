"""Global variables of an object file: found, named, read and set before the load."""

from __future__ import annotations

import pytest

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Int
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.variable import VariableSpec, by_name, key_of
from bpfpin.errors import UsageError
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from support.objects import COMPILERS, compiled

PLACES = {
    "verdict": ".data",
    "weights": ".data",
    "limit": ".rodata",
    "greeting": ".rodata",
    "own": ".data.own",
    "packets": ".bss",
    "dropped": ".bss",
}


def globals_object(compiler: str = "zig", *, has_debug: bool = True) -> ObjectSpec:
    return read_object(compiled("globals", compiler, has_debug=has_debug))


def integer(size: int, *, at: int = 0) -> VariableSpec:
    return VariableSpec("number", ".data", at, size)


def u32() -> TypeRef:
    types = BtfBuilder()
    type_id = types.add(Int("unsigned int", 4, 32))
    return Btf.parse(types.build()).ref(type_id)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_all_variables_are_found_with_type_and_first_value(compiler: str) -> None:
    """Also the static ones, which no other object sees."""
    variables = globals_object(compiler).variables

    assert {name: one.section for name, one in variables.items()} == PLACES
    assert {name: one.value for name, one in variables.items()} == {
        "verdict": 2,
        "weights": [1, 2, 3, 4],
        "limit": 100,
        "greeting": "packet %d",
        "own": 7,
        "packets": 0,
        "dropped": 0,
    }
    assert (variables["weights"].type_name, variables["packets"].type_name) == ("u32[4]", "u64")


def test_without_btf_the_symbols_tell_name_and_place() -> None:
    variables = globals_object(has_debug=False).variables

    assert {name: one.section for name, one in variables.items()} == PLACES
    assert (variables["limit"].value, variables["limit"].type_name) == (100, "")
    assert variables["greeting"].value == b"packet %d\0"


def test_a_constant_is_set_in_a_copy() -> None:
    spec = globals_object()
    changed = spec.with_variable("limit", 3).with_variable("weights", [9, 8, 7, 6])

    assert (changed.variables["limit"].value, spec.variables["limit"].value) == (3, 100)
    assert changed.variables["weights"].value == [9, 8, 7, 6]
    assert changed.variables["verdict"].value == 2
    assert changed.maps[".bss"] == spec.maps[".bss"]


def test_a_variable_without_a_type_takes_integers_and_bytes() -> None:
    spec = globals_object(has_debug=False)

    assert spec.with_variable("limit", -1).variables["limit"].value == 0xFFFFFFFF
    assert spec.with_variable("limit", b"\5\0\0\0").variables["limit"].value == 5
    with pytest.raises(TypeError, match="greeting: no type is known"):
        spec.with_variable("greeting", 5)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1 << 32, "variable limit: 4294967296 does not fit"),
        (-1, "variable limit: -1 does not fit"),
        ("many", "variable limit: an integer was expected"),
    ],
)
@pytest.mark.parametrize("has_debug", [True])
def test_a_value_that_does_not_fit_names_the_variable(
    value: object, reason: str, has_debug: bool
) -> None:
    with pytest.raises((ValueError, TypeError), match=reason):
        globals_object(has_debug=has_debug).with_variable("limit", value)


def test_an_integer_that_is_too_large_for_untyped_bytes_does_not_fit() -> None:
    with pytest.raises(ValueError, match="256 does not fit into 8 bits"):
        integer(1).codec.encode(256)


def test_an_unknown_variable_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"no variable 'limits'; there are: .*limit"):
        globals_object().with_variable("limits", 3)


def test_a_type_of_another_size_is_not_believed() -> None:
    """C lets the last array of a structure be longer in a variable than in its type."""
    longer = VariableSpec("table", ".data", 0, 8, u32(), contents=b"\1" * 8)

    assert longer.value == b"\1" * 8


def test_a_name_that_is_there_twice_carries_its_place() -> None:
    variables = by_name(
        [
            VariableSpec("seen", ".data", 0, 4),
            VariableSpec("seen", ".bss", 0, 4),
            VariableSpec("count", ".bss", 4, 4),
            VariableSpec("count", ".bss", 8, 4),
        ]
    )

    assert list(variables) == [".data:seen", ".bss:seen", ".bss:count@4", ".bss:count@8"]
    with pytest.raises(LookupError, match=r"2 variables are named 'seen': \.data:seen, \.bss:seen"):
        key_of(variables, "seen")


def test_a_name_may_always_have_its_section_before_it() -> None:
    variables = by_name([VariableSpec("seen", ".bss", 0, 4)])

    assert key_of(variables, ".bss:seen") == "seen"
    with pytest.raises(LookupError, match="no variable"):
        key_of(variables, ".data:seen")
