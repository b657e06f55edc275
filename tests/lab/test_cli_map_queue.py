"""`bpfpin map push` and `bpfpin map pop`: maps without keys.

The kernel keeps no types for queues and stacks: their values are bytes, which integers stand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfpin.errors import ReadOnlyMapError
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.queue import Queue
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType
from support.here import run_here
from support.maps import DATAREC, FLOWS, U32

SEVEN, EIGHT = "hex:07000000", "hex:08000000"


@contextmanager
def made(kind: MapType, value_size: int = 4, **more: Any) -> Iterator[str]:
    """Make a map of two values and yield what the command calls it."""
    fields: dict[str, Any] = {"max_entries": 2, **more}
    with Map.create(MapSpec("jobs", kind, 0, value_size, **fields)) as held:
        yield f"id:{held.id}"


def ok(*words: object) -> Any:
    """Run a line of `bpfpin map` that must succeed, and return its document."""
    result = run_here("map", *words, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return result.json


def test_a_queue_gives_back_the_first_and_a_stack_the_last() -> None:
    with made(MapType.QUEUE) as queue, made(MapType.STACK) as stack:
        pushed = [ok("push", target, value) for target in (queue, stack) for value in (7, "0x8")]

        assert pushed == [{"schema": 1, "value": value} for value in (SEVEN, EIGHT) * 2]
        assert ok("pop", queue, "--peek") == ok("pop", queue) == {"schema": 1, "value": SEVEN}
        assert ok("pop", stack, "--peek") == ok("pop", stack) == {"schema": 1, "value": EIGHT}


def test_several_values_are_popped_at_once_as_many_as_there_are() -> None:
    with made(MapType.QUEUE) as queue:
        ok("push", queue, 7)
        ok("push", queue, 8)
        document = ok("pop", queue, "--count", 5)
        ok("push", queue, 9)
        table = run_here("map", "pop", queue, "--count", 2)

        assert document == {"schema": 1, "values": [SEVEN, EIGHT]}
        assert (table.exit_code, table.stdout) == (0, "hex:09000000\n")


def test_an_empty_queue_is_exit_4_and_a_full_one_exit_7() -> None:
    with made(MapType.QUEUE) as queue:
        empty = run_here("map", "pop", queue)
        peeked = run_here("map", "pop", queue, "--peek")
        ok("push", queue, 6)
        ok("push", queue, 7)
        full = run_here("map", "push", queue, "8")
        ok("push", queue, 8, "--overwrite")
        left = ok("pop", queue, "--count", 2)["values"]

        assert (empty.exit_code, peeked.exit_code, full.exit_code) == (4, 4, 7)
        assert "it is empty" in empty.stderr
        assert "it holds 2 values already" in full.stderr
        assert left == [SEVEN, EIGHT]


def test_what_is_popped_can_be_pushed_again() -> None:
    with made(MapType.QUEUE, 16) as queue:
        told = run_here("map", "push", queue, "hex:" + "0a" * 16)
        text = run_here("map", "pop", queue).stdout.strip()
        again = ok("push", queue, text)["value"]

        assert told.stderr.startswith("pushed hex:0a0a")
        assert text == again == "hex:" + "0a" * 16


def test_what_is_pushed_to_a_bloom_filter_is_known() -> None:
    one, other = '{"rx_packets": 1, "rx_bytes": 60}', '{"rx_packets": 2, "rx_bytes": 60}'
    with made(MapType.BLOOM_FILTER, 16, max_entries=1000, value=DATAREC) as bloom:
        pushed = ok("push", bloom, one)
        overwritten = run_here("map", "push", bloom, other, "--overwrite")
        popped = run_here("map", "pop", bloom)

        assert pushed == {"schema": 1, "value": {"rx_packets": 1, "rx_bytes": 60}}
        assert run_here("map", "get", bloom, one).exit_code == 0
        assert run_here("map", "get", bloom, other).exit_code == 4
        assert (overwritten.exit_code, popped.exit_code) == (2, 2)
        assert "no oldest value" in overwritten.stderr
        assert "is a bloom_filter, not a queue or a stack" in popped.stderr


def test_a_record_is_pushed_to_a_user_ring_buffer_as_bytes() -> None:
    ring = MapSpec("ring", MapType.USER_RINGBUF, 0, 0, 4096)
    with Map.create(ring) as held:
        pushed = ok("push", f"id:{held.id}", "hex:0a0b")
        refused = run_here("map", "push", f"id:{held.id}", "7")

    assert pushed == {"schema": 1, "value": "hex:0a0b"}
    assert (refused.exit_code, "type of a record" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("push", "{}", "x"), "'x'"),
        (("push", "{}", str(1 << 32)), "4294967296"),
        (("pop", "{}", "--count", "0"), "--count"),
        (("pop", "{}", "--peek", "--count", "2"), "--peek"),
    ],
)
def test_words_that_do_not_fit_are_usage_errors(words: tuple[str, ...], said: str) -> None:
    with made(MapType.QUEUE) as queue:
        refused = run_here("map", *(word.format(queue) for word in words))

        assert refused.exit_code == 2
        assert said in refused.stderr


def test_a_map_with_keys_is_no_queue() -> None:
    with Map.create(FLOWS) as flows:
        for verb in (("push", f"id:{flows.id}", "1"), ("pop", f"id:{flows.id}")):
            refused = run_here("map", *verb)

            assert refused.exit_code == 2
            assert "is a hash, not a queue or a stack" in refused.stderr


def test_a_look_needs_no_permission_to_write(bpffs: Path) -> None:
    spec = MapSpec("jobs", MapType.QUEUE, 0, 4, 2, value=U32)
    with Queue.create(spec) as queue:
        queue.push(7)
        queue.pin(bpffs / "jobs")
        with Queue.from_pin(bpffs / "jobs", read_only=True, value_format="I") as reader:
            peeked = reader.peek()
            with pytest.raises(ReadOnlyMapError):
                reader.pop()

    assert peeked == 7
