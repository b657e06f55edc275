"""Keys and values of any map, as they are typed and told."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bpfpin.codecs.stray import KeyCodec, key_bytes_of
from bpfpin.errors import BpfError, KeyNotFoundError, UsageError
from bpfpin.map import form as literals
from bpfpin.map import parse
from bpfpin.map.form import HEX, Form, Literal
from bpfpin.map.open import AS_IT_IS, Typing, open_typed, whole
from bpfpin.map.verdict import USUAL_NAME, can_hold_verdict
from bpfpin.map_traits import MapFamily, ValueKind, traits_of
from bpfpin.objects.events.user_ring_buffer import UserRingBuffer
from bpfpin.objects.kernel.info import ID, type_name
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.codec import PerCpuCodec
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.queue import BloomFilter, Queue
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType

# What reads and writes the maps that have no entries to look up.
INSTEAD: Final[dict[MapFamily, str]] = {
    MapFamily.RING_BUFFER: "bpfpin map events",
    MapFamily.PERF_BUFFER: "bpfpin map events",
    MapFamily.QUEUE: "bpfpin map pop, bpfpin map push",
    MapFamily.BLOOM_FILTER: "bpfpin map push, bpfpin map get",
    MapFamily.USER_RING_BUFFER: "bpfpin map push",
}
_VERDICT_BYTES: Final = 4
_ALIKE_TOLD: Final = 8


class ChangeGuard(Protocol):
    """Looks at a change of a map before it is made; `bpfpin.sets.guard` has the one we use."""

    def require_way_back(self, bpf_map: Map, what: str, change: Callable[[Map], object], /) -> None:
        """Raise `UsageError` if *change*, called *what*, would cut the user's way to this host."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value; *is_percpu*: the value is a list with one item a possible CPU."""

    key: Any
    value: Any
    is_percpu: bool

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the JSON documents have it.

        `key_bytes` stands beside a key whose padding is not zero.
        """
        raw = key_bytes_of(self.key)
        more = {} if raw is None else {"key_bytes": raw}
        return {"key": self.key, **more, "values" if self.is_percpu else "value": self.value}


def key_bytes(key: Any) -> bytes | None:
    """Return the bytes of a key that do not show in its members; None if there are none."""
    return key_bytes_of(key)


def lookup(target: str, key: str, *, raw: bool = False, typing: Typing = AS_IT_IS) -> Entry:
    """Return the entry under *key*, as it is typed; `KeyNotFoundError` if there is none.

    With *raw* enumerations are numbers, texts bytes, and no format applies. A bloom filter is asked
    for a value: True if it may have been added. A map that is just being migrated is waited for.
    """
    return whole(target, lambda: _lookup(target, key, raw=raw, typing=typing))


def _lookup(target: str, key: str, *, raw: bool, typing: Typing) -> Entry:
    with open_typed(target, typing=typing) as held, said(held):
        if traits_of(held.type).family is MapFamily.BLOOM_FILTER:
            return _asked(held, parsed_value(held, key))
        require_entries(held)
        wanted = present_key(held, key)
        if not raw:
            return Entry(wanted, held[wanted], held.is_per_cpu)
        with _raw(held) as plain:
            data = held.key_codec.encode(wanted)
            wanted = plain.key_codec.decode(data) if type(data) is bytes else wanted
            return Entry(wanted, plain[wanted], plain.is_per_cpu)


def _asked(held: Map, value: Any) -> Entry:
    with BloomFilter.of(held) as bloom:
        if value in bloom:
            return Entry(value, value=True, is_percpu=False)
    raise KeyNotFoundError(f"map {held.name!r} (id {held.id}): {value!r} was never added")


def _raw(held: Map) -> Map:
    """Return another handle of the map that reads its types without names and formats."""
    copy = Descriptor(os.dup(held.fd))
    options = held._options
    return Map(
        copy,
        key_type=held.key_type,
        value_type=held.value_type,
        key_format=options.key_format,
        value_format=options.value_format,
        raw=True,
    )


def require_entries(held: BaseMap) -> None:
    """Raise `UsageError` with what to use instead for a map without entries to look up."""
    if instead := INSTEAD.get(traits_of(held.type).family):
        assert isinstance(held.type, MapType)
        raise UsageError(
            f"map {held.name!r} (id {held.id}) is a {held.type.name.lower()}: it has no entries to"
            " look up by a key",
            hint=f"use {instead} instead",
        )


def parsed_key(held: BaseMap, text: str) -> Any:
    """Return the key that *text* means in this map."""
    return parse.parse_value(text, key_form(held))


def present_key(held: Map, text: str) -> Any:
    """Return the key of the map that *text* means: one that reads so, whatever its padding holds.

    As typed, with zeros in the padding, if none does. `UsageError` with the bytes of each if
    several do; as `hex:` one of them is meant for certain.
    """
    key = parsed_key(held, text)
    if text.startswith(literals.HEX) or not isinstance(held.key_codec, KeyCodec):
        return key
    alike = held.keys_like(key)
    if len(alike) <= 1:
        return alike[0] if alike else key
    named = [literals.HEX + held.key_codec.encode(one).hex() for one in alike]
    more = f", … ({len(named)} of them)" if len(named) > _ALIKE_TOLD else ""
    raise UsageError(
        f"{len(named)} keys of map {held.name!r} (id {held.id}) read {text}: they differ in bytes"
        " that belong to no member (padding), which the program did not clear",
        hint=f"name one by its bytes: {', '.join(named[:_ALIKE_TOLD])}{more}",
    )


def parsed_value(held: BaseMap, text: str) -> Any:
    """Return the value that *text* means in this map, of one CPU where each has its own."""
    return parse.parse_value(text, value_form(held))


def key_form(held: BaseMap) -> Form:
    """Return how a key of this map is typed."""
    form = Form(held.key_codec, held.key_type, "key").also(*_key_words(held))
    # A number of 32 bits that nothing else is known of often counts verdicts or devices.
    if held.key_size == _VERDICT_BYTES:
        last = (literals.verdict, literals.device)
        return form.at_last(*(one for one in last if one not in form.literals))
    return form


def _key_words(held: BaseMap) -> tuple[Literal, ...]:
    traits = traits_of(held.type)
    if traits.is_trie:
        return (literals.prefix,)
    return (literals.device,) if traits.value is ValueKind.DEVICE else ()


def value_form(held: BaseMap) -> Form:
    """Return how a value of this map is typed, that of one CPU where each has its own."""
    codec = held.value_codec
    form = Form(codec.value if isinstance(codec, PerCpuCodec) else codec, held.value_type)
    if form.may_be_number and can_hold_verdict(held):
        return form.at_last(literals.action if held.name == USUAL_NAME else literals.verdict)
    return form


@contextmanager
def said(held: BaseMap) -> Iterator[None]:
    """Turn what the codec says of a key or a value that does not fit into a `UsageError`.

    So is what the library says of a map whose type does not know the operation.
    """
    try:
        yield
    except BpfError:
        raise
    except (ValueError, TypeError) as error:
        is_about_map = f"(id {held.id})" in str(error)
        message = str(error) if is_about_map else f"map {held.name!r}: {error}"
        hint = "" if is_about_map else f"bpfpin map show {ID}{held.id} tells the types"
        raise UsageError(message, hint=hint) from None


# Deleting entries of any map.


def delete(
    target: str,
    typed_keys: Sequence[str],
    *,
    typing: Typing = AS_IT_IS,
    guard: ChangeGuard | None = None,
) -> int:
    """Delete the entries under these keys, as they are typed, and return how many.

    All keys are looked up first: if one is not there, `KeyNotFoundError` says so and nothing is
    deleted. `UsageError` for maps of which nothing can be deleted, such as arrays, and for what
    *guard* refuses.
    """
    with open_typed(target, read_only=False, typing=typing) as held, said(held):
        require_entries(held)
        wanted = list(dict.fromkeys(present_key(held, key) for key in typed_keys))
        for key in wanted:
            with suppress(TypeError):  # of some types nobody may read
                _ = held[key]
        if guard is not None:
            guard.require_way_back(held, f"deleting {', '.join(typed_keys)}", _deleting(wanted))
        for key in wanted:
            del held[key]
        return len(wanted)


def delete_all(target: str, *, guard: ChangeGuard | None = None) -> int:
    """Delete all entries that a walk finds and return how many; what others add meanwhile stays.

    What somebody else deletes first is not counted.
    """
    with open_typed(target, read_only=False) as held, said(held):
        require_entries(held)
        if guard is not None:
            guard.require_way_back(held, "deleting all entries", Map.clear)
        return held.delete_present(list(held))


def _deleting(wanted: Iterable[object]) -> Callable[[Map], None]:
    def change(copy: Map) -> None:
        for key in wanted:
            with suppress(KeyNotFoundError):  # of a large map only a part is copied
                del copy[key]

    return change


# Maps without keys: pushing to queues, stacks and the like, and taking values out.


def push(target: str, word: str, *, overwrite: bool = False) -> Any:
    """Push what *word* means to a map without keys, and return it as it reads there.

    To a queue, a stack or a user ring buffer (bytes), or to what a bloom filter knows. A full map
    is `MapFullError`, unless *overwrite* lets a queue or a stack drop its oldest value.
    """
    with open_typed(target, read_only=False) as held, said(held):
        pusher = PUSHERS.get(traits_of(held.type).family)
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


PUSHERS: Final[dict[MapFamily, Callable[[Map, str], Any]]] = {
    MapFamily.BLOOM_FILTER: _add,
    MapFamily.USER_RING_BUFFER: _submit,
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
