"""Keys and values in one piece, without a kernel."""

from __future__ import annotations

from array import array

import pytest

from bpfpin.codecs.codec import BytesCodec, ScalarCodec
from bpfpin.objects.maps.batch_write import columns, flat, items


def test_entries_come_in_columns_of_so_many() -> None:
    entries = {1: "a", 2: "b", 3: "c"}
    expected = [([1, 2], ["a", "b"]), ([3], ["c"])]

    assert list(columns(entries, 2)) == expected
    assert list(columns(iter(entries.items()), 2)) == expected
    assert list(columns({}, 2)) == []


def test_an_array_is_used_where_it_lies() -> None:
    numbers = array("I", [1, 2, 3])
    whole = flat(numbers, 4)
    numbers[1] = 7

    assert bytes(whole) == array("I", [1, 7, 3]).tobytes()


def test_values_of_cpus_are_padded_to_what_the_kernel_copies() -> None:
    rows = memoryview(bytes(range(12))).cast("B", (2, 2, 3))  # two entries, two CPUs, three bytes

    assert bytes(flat(rows, 3, cpus=2, copied=16)) == (
        b"\0\1\2"
        + bytes(5)
        + b"\3\4\5"
        + bytes(5)
        + b"\6\7\x08"
        + bytes(5)
        + b"\t\n\x0b"
        + bytes(5)
    )


def test_elements_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="elements of 8 bytes, where the map has 4 bytes"):
        flat(array("Q", [1]), 4)
    with pytest.raises(ValueError, match="where the map has 2 values of 3 bytes"):
        flat(array("Q", [1]), 3, cpus=2, copied=16)
    with pytest.raises(TypeError):
        flat(7, 4)


def test_items_are_what_the_codec_reads() -> None:
    assert list(items(ScalarCodec("H"), memoryview(b"\1\0\2\0"))) == [1, 2]
    assert list(items(ScalarCodec("e"), memoryview(b"\0\x3c"))) == [1.0]
    assert list(items(BytesCodec(2), memoryview(b"abcd"))) == [b"ab", b"cd"]
