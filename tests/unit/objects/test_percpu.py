"""Values of which every CPU has its own."""

from __future__ import annotations

import pytest

from bpfpin.codecs.codec import BytesCodec, ScalarCodec
from bpfpin.codecs.formats import Nanoseconds
from bpfpin.map_traits import stride_of
from bpfpin.objects.maps.codec import PerCpuCodec, maximum, total


@pytest.mark.parametrize(("size", "stride"), [(1, 8), (4, 8), (8, 8), (9, 16), (16, 16)])
def test_a_value_is_padded_to_eight_bytes(size: int, stride: int) -> None:
    assert stride_of(size) == stride


def test_a_list_has_one_value_a_cpu() -> None:
    made = PerCpuCodec(ScalarCodec("I"), 3)
    data = made.encode([1, 2, 3])

    assert data.hex() == "010000000000000002000000000000000300000000000000"
    assert made.decode(data) == [1, 2, 3]
    assert made.decode_many(data + made.encode([4, 5, 6]), made.size) == [[1, 2, 3], [4, 5, 6]]


def test_the_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values, but 3 possible CPUs"):
        PerCpuCodec(ScalarCodec("I"), 3).encode([1, 2])


def test_one_value_for_all_cpus_is_refused() -> None:
    with pytest.raises(TypeError, match="a list of one value for each of 3 CPUs"):
        PerCpuCodec(BytesCodec(4), 3).encode(b"abcd")


def test_a_value_that_does_not_fit_is_named_by_its_cpu() -> None:
    with pytest.raises(ValueError, match=r"^\[1\]: -1 does not fit"):
        PerCpuCodec(ScalarCodec("I"), 2).encode([0, -1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3], 6),
        ([2**64 - 1, 1], 2**64),
        ([1.5, 1.0], 2.5),
        ([{"a": 1, "b": [1, 2]}, {"a": 2, "b": [10, 20]}], {"a": 3, "b": [11, 22]}),
        ([{"n": 1, "name": "x"}, {"n": 1, "name": "x"}], {"n": 2, "name": "x"}),
        ([True, True], True),
    ],
)
def test_a_total_adds_member_by_member(values: list[object], expected: object) -> None:
    assert total(values) == expected


def test_a_maximum_is_found_member_by_member() -> None:
    values = [{"a": 1, "b": [9, 2], "s": "x"}, {"a": 3, "b": [1, 4], "s": "x"}]

    assert maximum(values) == {"a": 3, "b": [9, 4], "s": "x"}
    with pytest.raises(TypeError, match="str values of several CPUs cannot be compared"):
        maximum(["a", "b"])


def test_times_stay_times() -> None:
    times = [Nanoseconds(1_500_000_000), Nanoseconds(2_000_000_000)]

    assert str(total(times)) == "3.500000000 s"
    assert str(maximum(times)) == "2.000000000 s"


def test_different_texts_have_no_total() -> None:
    with pytest.raises(TypeError, match="str values of several CPUs cannot be added"):
        total(["a", "b"])
