"""Our frozen dataclasses behave as those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from bpfpin import records

# Each class below is made by both, and each test holds for both.
MAKERS = {"ours": vars(records)["dataclass"], "the standard library's": dataclasses.dataclass}


@pytest.fixture(params=MAKERS.values(), ids=list(MAKERS))
def dataclass(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[True, False], ids=["slots", "no slots"])
def point(request: pytest.FixtureRequest, dataclass: Any) -> Any:
    class Point:
        """A point."""

        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list)
        note: str = field(default="", compare=False, repr=False)

    return dataclass(frozen=True, slots=request.param)(Point)


def test_it_takes_fields_by_place_and_by_name(point: Any) -> None:
    made = point(1, tags=["a"])

    assert (made.x, made.y, made.tags, made.note) == (1, 2, ["a"], "")
    assert point(1).tags is not point(1).tags
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        point()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        point(1, z=2)


def test_its_signature_has_the_annotations_and_defaults(point: Any) -> None:
    parameters = inspect.signature(point).parameters

    assert list(parameters) == ["x", "y", "tags", "note"]
    assert parameters["x"].annotation == "int"
    assert parameters["y"].default == 2


def test_it_is_shown_with_its_fields(point: Any) -> None:
    assert repr(point(1, 3)).endswith(".Point(x=1, y=3, tags=[])")


def test_a_record_that_contains_itself_is_shown(point: Any) -> None:
    made = point(1)
    made.tags.append(made)

    assert "tags=[...]" in repr(made)


def test_it_is_equal_by_the_fields_that_are_compared(point: Any) -> None:
    class Other(point):  # type: ignore[misc]
        pass

    assert point(1, note="a") == point(1, note="b")
    assert point(1) != point(2)
    assert point(1) != Other(1)
    assert point(1) != (1, 2, [])


def test_its_hash_is_that_of_the_fields_that_are_compared(dataclass: Any) -> None:
    class Name:
        first: str
        last: str = field(default="", compare=False)

    name = dataclass(frozen=True)(Name)

    assert hash(name("a", "b")) == hash(name("a", "c")) == hash(("a",))
    assert len({name("a"), name("a"), name("b")}) == 2


def test_no_field_is_assigned_or_deleted(point: Any) -> None:
    made = point(1)

    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        made.x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del made.x
    assert made.x == 1


def test_slots_leave_no_dict(dataclass: Any) -> None:
    class Pair:
        a: int
        b: int = 0

    made = dataclass(frozen=True, slots=True)(Pair)(1)

    assert type(made).__slots__ == ("a", "b")
    assert not hasattr(made, "__dict__")


def test_it_is_copied_replaced_and_taken_apart(point: Any) -> None:
    made = point(1, 2, ["a"])

    assert copy.copy(made) == copy.deepcopy(made) == made
    assert dataclasses.replace(made, x=5) == point(5, 2, ["a"])
    assert dataclasses.asdict(made) == {"x": 1, "y": 2, "tags": ["a"], "note": ""}
    assert [each.name for each in dataclasses.fields(point)] == ["x", "y", "tags", "note"]
    match made:
        case point(x, y):
            assert (x, y) == (1, 2)


@records.dataclass(frozen=True, slots=True)
class Pickled:
    """A class that pickle finds by its name."""

    x: int
    y: str = ""


def test_it_is_pickled() -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(Pickled(1, "a"), protocol)) == Pickled(1, "a")


def test_fields_may_be_for_keywords_only(dataclass: Any) -> None:
    class Options:
        a: int
        b: int = 1

    options = dataclass(frozen=True, slots=True, kw_only=True)(Options)

    assert options(a=2) == options(b=1, a=2)
    with pytest.raises(TypeError):
        options(2)


def test_a_field_may_be_left_out_of_the_constructor(dataclass: Any) -> None:
    class Timer:
        start: float
        end: float = field(init=False, default=1.5)
        laps: list[int] = field(init=False, default_factory=list)

    made = dataclass(frozen=True)(Timer)(0.5)

    assert (made.start, made.end, made.laps) == (0.5, 1.5, [])


def test_post_init_runs_after_the_fields_are_set(dataclass: Any) -> None:
    class Positive:
        x: int

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError(self.x)

    positive = dataclass(frozen=True)(Positive)

    assert positive(1).x == 1
    with pytest.raises(ValueError, match="-1"):
        positive(-1)


def test_methods_that_the_class_writes_itself_stay(dataclass: Any) -> None:
    class Loud:
        x: int

        def __repr__(self) -> str:
            return "loud"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    loud = dataclass(frozen=True)(Loud)

    assert (repr(loud(1)), loud(1) == 5, hash(loud(1))) == ("loud", True, 7)


def test_fields_are_inherited(dataclass: Any) -> None:
    class Base:
        a: int
        b: int = 2

    base = dataclass(frozen=True, slots=True)(Base)

    class Derived(base):  # type: ignore[misc,valid-type]
        c: int = 3

    derived = dataclass(frozen=True, slots=True)(Derived)

    assert dataclasses.astuple(derived(1)) == (1, 2, 3)
    assert derived(1) == derived(1, 2, 3)
    assert hash(derived(1)) == hash((1, 2, 3))


def test_a_class_without_fields_is_equal_to_itself(dataclass: Any) -> None:
    class Nothing:
        pass

    nothing = dataclass(frozen=True, slots=True)(Nothing)

    assert nothing() == nothing()
    assert hash(nothing()) == hash(())


def test_a_class_that_is_not_frozen_is_the_standard_librarys() -> None:
    class Counter:
        x: int = 0

    made = MAKERS["ours"](Counter)()
    made.x += 1

    assert made == Counter(1)  # type: ignore[call-arg]
