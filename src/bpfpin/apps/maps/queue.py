"""Maps without keys: pushing to queues, stacks and the like, and taking values out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from bpfpin.apps.maps.entries import parsed_value, said
from bpfpin.apps.maps.literals import HEX
from bpfpin.apps.maps.naming import open_typed, type_name
from bpfpin.errors import UsageError
from bpfpin.objects.bloom_filter import BloomFilter
from bpfpin.objects.events.user_ring_buffer import UserRingBuffer
from bpfpin.objects.map import Map
from bpfpin.objects.queue import Queue
from bpfpin.uapi import MapType


def push(target: str, word: str, *, overwrite: bool = False) -> Any:
    """Push what *word* means to a map without keys, and return it as it reads there.

    To a queue, a stack or a user ring buffer (bytes), or to what a bloom filter knows. A full map
    is `MapFullError`, unless *overwrite* lets a queue or a stack drop its oldest value.
    """
    with open_typed(target, read_only=False) as held, said(held):
        pusher = PUSHERS.get(held.type)
        if overwrite and pusher is not None:
            raise UsageError(f"a {type_name(held.type)} has no oldest value that it could drop")
        if pusher is not None:
            return pusher(held, word)
        with _as_queue(held) as queue:
            value = parsed_value(queue, word)
            queue.push(value, overwrite=overwrite)
            return value


def _add(held: Map, word: str) -> Any:
    with BloomFilter.of(held) as bloom:
        value = parsed_value(bloom, word)
        bloom.add(value)
        return value


def _submit(held: Map, word: str) -> bytes:
    if not word.startswith(HEX):
        raise UsageError(f"{word!r}: nothing tells the type of a record", hint=f"give {HEX}0a00…")
    with UserRingBuffer.of(held) as ring:
        record = bytes.fromhex(word.removeprefix(HEX))
        ring.submit(record)
        return record


PUSHERS: Final[dict[MapType | int, Callable[[Map, str], Any]]] = {
    MapType.BLOOM_FILTER: _add,
    MapType.USER_RINGBUF: _submit,
}


def pop(target: str, *, count: int = 1) -> list[Any]:
    """Take up to *count* values out of a queue or a stack; `EmptyMapError` if there is none."""
    with open_typed(target, read_only=False) as held, _as_queue(held) as queue:
        first = queue.pop()
        return [first, *itertools.islice(queue.drain(), count - 1)]


def peek(target: str) -> Any:
    """Return the value that comes next and leave it there; `EmptyMapError` if there is none."""
    with open_typed(target) as held, _as_queue(held) as queue:
        return queue.peek()


@contextmanager
def _as_queue(held: Map) -> Iterator[Queue]:
    if held.type not in Queue.map_types:
        raise UsageError(
            f"map {held.name!r} (id {held.id}) is a {type_name(held.type)}, not a queue or a stack",
            hint="a map with keys is read by `bpfpin map get` and written by `bpfpin map set`",
        )
    with Queue.of(held) as queue:
        yield queue
