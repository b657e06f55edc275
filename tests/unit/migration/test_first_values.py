"""Shapes of maps, and how keys are spread for the programs that walk them."""

from __future__ import annotations

import pytest

from bpfpin.btf.layout import Span
from bpfpin.errors import UsageError
from bpfpin.migration.first_values import start_value
from bpfpin.migration.fold import scatter
from bpfpin.migration.fold_member import is_atomic
from bpfpin.migration.members import MapShape, MemberMove
from bpfpin.uapi import MapType
from support.map_command import SESSIONS
from support.map_types import ARRAYS, HASHES, LRU


def test_a_shape_knows_whether_cpus_have_values_of_their_own() -> None:
    shapes = [MapShape(kind, 4, 8, 1) for kind in ARRAYS | HASHES]
    per_cpu = {shape.type for shape in shapes if shape.is_per_cpu}

    assert per_cpu == {MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH}
    assert {shape.type for shape in shapes if shape.is_array} == ARRAYS
    assert {shape.type for shape in shapes if shape.is_hash} == HASHES
    assert {shape.type for shape in shapes if shape.is_lru} == LRU


@pytest.mark.parametrize(
    ("old", "new", "is_whole"),
    [
        (Span(0, 8), Span(8, 8), True),
        (Span(4, 4), Span(8, 8), True),
        (Span(4, 8), Span(8, 8), False),
        (Span(0, 8), Span(2, 4), False),
        (Span(0, 2), Span(0, 8), False),
        (Span(0, 8), Span(0, 1), False),
    ],
)
def test_only_aligned_numbers_of_four_and_eight_bytes_are_atomic(
    old: Span, new: Span, *, is_whole: bool
) -> None:
    assert is_atomic(MemberMove("it", old, new)) is is_whole


@pytest.mark.parametrize(("size", "stride"), [(1, 8), (4, 8), (6, 8), (8, 8), (12, 16), (13, 16)])
def test_keys_are_spread_over_elements_of_eight_bytes(size: int, stride: int) -> None:
    keys = [bytes(range(16 * number, 16 * number + size)) for number in range(1, 6)]
    into = bytearray(stride * 7)
    scatter(memoryview(b"".join(keys)), size, memoryview(into), stride)

    assert into == b"".join(key.ljust(stride, b"\0") for key in keys) + bytes(2 * stride)


def test_first_values_are_typed_by_their_members() -> None:
    """Digits are a text in a `char[]`, and a number everywhere else, also in an enumeration."""
    typed = {"tag": "123", "verdict": "1", "ifindex": "0x10", "hits[1]": "7"}
    value = start_value("sessions", SESSIONS.value, bytes(28), typed)
    words = start_value("sessions", SESSIONS.value, bytes(28), {"tag": "0x1f", "verdict": "PASS"})

    assert value[16:24] == b"123".ljust(8, b"\0")
    assert value[:16] == b"".join(n.to_bytes(4, "little") for n in (1, 16, 0, 7))
    assert (words[16:24], words[0]) == (b"0x1f".ljust(8, b"\0"), 2)
    with pytest.raises(UsageError, match="tag: 9 bytes of text, 8 at most"):
        start_value("sessions", SESSIONS.value, bytes(28), {"tag": "123456789"})
