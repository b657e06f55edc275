"""Entries of any map by typed keys and values: look up, delete, push and pop.

`key_form` and `value_form` say how keys and values of a map are typed; `map/parse.py` reads them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from bpfpin.codecs.prefix import without_other_bits
from bpfpin.codecs.stray import KeyCodec, key_bytes_of
from bpfpin.errors import KeyNotFoundError, UsageError
from bpfpin.map import form as literals
from bpfpin.map import parse
from bpfpin.map.form import HEX, InputForm, Literal
from bpfpin.map.open import AS_IT_IS, Typing, open_typed, require_entries, usage_errors, whole
from bpfpin.map.verdict import USUAL_NAME, can_hold_verdict
from bpfpin.map_traits import MapFamily, ValueKind, traits_of
from bpfpin.objects.events.user_ring_buffer import UserRingBuffer
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.codec import PerCpuCodec
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.queue import BloomFilter, Queue
from bpfpin.records import dataclass
from bpfpin.syscall.cpu import cpus_of_values
from bpfpin.syscall.fd import Descriptor

_VERDICT_BYTES: Final = 4
_KEYS_SHOWN: Final = 8


class ChangeGuard(Protocol):
    """Checks a change of a map before it is made; `bpfpin.sets.guard` implements it."""

    def require_way_back(self, bpf_map: Map, what: str, change: Callable[[Map], object], /) -> None:
        """Raise `UsageError` if *change*, described by *what*, would cut the user's connection."""


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A key and its value; *is_percpu*: the value is a list with one item per possible CPU."""

    key: Any
    value: Any
    is_percpu: bool

    @property
    def by_cpu(self) -> list[tuple[int, Any]]:
        """The number of each CPU and its value, where the value is such a list."""
        return list(zip(cpus_of_values(len(self.value)), self.value, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the entry in the form of the JSON documents.

        A key whose padding is not zero also has `key_bytes`.
        """
        raw = key_bytes_of(self.key)
        more = {} if raw is None else {"key_bytes": raw}
        return {"key": self.key, **more, "values" if self.is_percpu else "value": self.value}


def lookup(target: str, key: str, *, raw: bool = False, typing: Typing = AS_IT_IS) -> MapEntry:
    """Return the entry of the typed *key*; `KeyNotFoundError` if the map does not have it.

    With *raw* enumerations are decoded as numbers and texts as bytes, without formats. In a bloom
    filter *key* is a value, and True means that it may have been added. Waits while a migration
    moves the entries.
    """
    return whole(target, lambda: _lookup(target, key, raw=raw, typing=typing))


def _lookup(target: str, key: str, *, raw: bool, typing: Typing) -> MapEntry:
    with open_typed(target, typing=typing) as bpf_map, usage_errors(bpf_map):
        if traits_of(bpf_map.type).family is MapFamily.BLOOM_FILTER:
            return _bloom_filter_entry(bpf_map, parsed_value(bpf_map, key))
        require_entries(bpf_map)
        wanted = present_key(bpf_map, key)
        if not raw:
            return MapEntry(wanted, bpf_map[wanted], bpf_map.is_per_cpu)
        with _raw_handle(bpf_map) as raw_map:
            data = bpf_map.key_codec.encode(wanted)
            # The key as the raw handle names it; a subclass of bytes refers to something open.
            wanted = raw_map.key_codec.decode(data) if type(data) is bytes else wanted
            return MapEntry(wanted, raw_map[wanted], raw_map.is_per_cpu)


def _bloom_filter_entry(bpf_map: Map, value: Any) -> MapEntry:
    with BloomFilter.of(bpf_map) as bloom:
        # The kernel answers 0 or ENOENT (bloom_map_peek_elem() in kernel/bpf/bloom_filter.c): other
        # values may have set the same bits, so only a "no" is certain.
        if value in bloom:
            return MapEntry(value, value=True, is_percpu=False)
    raise KeyNotFoundError(f"map {bpf_map.name!r} (id {bpf_map.id}): {value!r} was never added")


def _raw_handle(bpf_map: Map) -> Map:
    """Return another handle of the map that decodes by its types, without names and formats."""
    # By dup(2): opening the map by its id would need CAP_SYS_ADMIN.
    copy = Descriptor(os.dup(bpf_map.fd))
    options = bpf_map._options
    return Map(
        copy,
        key_type=bpf_map.key_type,
        value_type=bpf_map.value_type,
        key_format=options.key_format,
        value_format=options.value_format,
        raw=True,
    )


def parsed_key(bpf_map: BaseMap, text: str) -> Any:
    """Return the key that *text* stands for in this map."""
    return parse.parse_value(text, key_form(bpf_map))


def present_key(bpf_map: Map, text: str) -> Any:
    """Return the key in the map that *text* stands for, whatever its padding holds.

    A program that does not clear a structure leaves random bytes in its padding, and the kernel
    compares all bytes of a key. If no key of the map matches, the padding is zero. If several
    match, `UsageError` lists the bytes of each; typed as `hex:…` a key is unambiguous.
    """
    key = parsed_key(bpf_map, text)
    if text.startswith(literals.HEX) or not isinstance(bpf_map.key_codec, KeyCodec):
        return key
    alike = bpf_map.keys_like(key)
    if len(alike) <= 1:
        return alike[0] if alike else key
    listed = [literals.HEX + bpf_map.key_codec.encode(match).hex() for match in alike]
    more = f", … ({len(listed)} of them)" if len(listed) > _KEYS_SHOWN else ""
    raise UsageError(
        f"{len(listed)} keys of map {bpf_map.name!r} (id {bpf_map.id}) read {text}: they differ in"
        " bytes that belong to no member (padding), which the program did not clear",
        hint=f"name one by its bytes: {', '.join(listed[:_KEYS_SHOWN])}{more}",
    )


def parsed_value(bpf_map: BaseMap, text: str) -> Any:
    """Return the value that *text* stands for in this map; of one CPU in a per-CPU map."""
    return parse.parse_value(text, value_form(bpf_map))


def key_form(bpf_map: BaseMap) -> InputForm:
    """Return how a key of this map is typed."""
    form = InputForm(bpf_map.key_codec, bpf_map.key_type, "key")
    form = form.with_first(*_key_literals(bpf_map))
    # A key of 32 bits is often an XDP action or an ifindex.
    if bpf_map.key_size == _VERDICT_BYTES:
        last = (literals.verdict, literals.device)
        return form.with_last(*(literal for literal in last if literal not in form.literals))
    return form


def _key_literals(bpf_map: BaseMap) -> tuple[Literal, ...]:
    traits = traits_of(bpf_map.type)
    if traits.is_trie:
        return (literals.prefix,)
    return (literals.device,) if traits.value is ValueKind.DEVICE else ()


def value_form(bpf_map: BaseMap) -> InputForm:
    """Return how a value of this map is typed; of one CPU in a per-CPU map."""
    codec = bpf_map.value_codec
    form = InputForm(codec.value if isinstance(codec, PerCpuCodec) else codec, bpf_map.value_type)
    if form.may_be_number and can_hold_verdict(bpf_map):
        return form.with_last(literals.action if bpf_map.name == USUAL_NAME else literals.verdict)
    return form


def delete(
    target: str,
    typed_keys: Sequence[str],
    *,
    typing: Typing = AS_IT_IS,
    guard: ChangeGuard | None = None,
) -> int:
    """Delete the entries of the typed keys, and return how many.

    All keys are looked up first: if one is missing, `KeyNotFoundError` is raised and nothing is
    deleted. `UsageError` for maps whose entries cannot be deleted, such as arrays, and for changes
    that *guard* refuses.
    """
    with open_typed(target, read_only=False, typing=typing) as bpf_map, usage_errors(bpf_map):
        require_entries(bpf_map)
        wanted = _different(bpf_map, [present_key(bpf_map, key) for key in typed_keys])
        # All lookups come before the first deletion, so a mistyped key deletes nothing.
        for key in wanted:
            with suppress(TypeError):  # the kernel lets nobody read some types of map
                _ = bpf_map[key]
            require_exact(bpf_map, key)
        if guard is not None:
            guard.require_way_back(bpf_map, f"deleting {', '.join(typed_keys)}", _deleting(wanted))
        for key in wanted:
            del bpf_map[key]
        return len(wanted)


def require_exact(bpf_map: Map, key: Any) -> None:
    """Raise `KeyNotFoundError` if only another prefix of an LPM trie covers the key."""
    bpf_map._entry_access().require(bpf_map.key_codec.encode(key), named=key)


def _different(bpf_map: Map, keys: Sequence[Any]) -> list[Any]:
    """Return each key once.

    A second deletion fails with ENOENT (htab_map_delete_elem() in kernel/bpf/hashtab.c), when the
    first one is done.
    """
    if not traits_of(bpf_map.type).is_trie:
        return list(dict.fromkeys(keys))
    encode = bpf_map.key_codec.encode
    return list({without_other_bits(encode(key)): key for key in keys}.values())


def delete_all(target: str, *, guard: ChangeGuard | None = None) -> int:
    """Delete all entries that a walk of the map yields, and return how many.

    Entries that are added meanwhile stay; those that somebody else deletes are not counted.
    """
    with open_typed(target, read_only=False) as bpf_map, usage_errors(bpf_map):
        require_entries(bpf_map)
        if guard is not None:
            guard.require_way_back(bpf_map, "deleting all entries", Map.clear)
        # List all keys first: once a key is deleted, BPF_MAP_GET_NEXT_KEY after it starts again at
        # the first one (htab_map_get_next_key() in kernel/bpf/hashtab.c).
        return bpf_map.delete_present(list(bpf_map))


def _deleting(wanted: Iterable[object]) -> Callable[[Map], None]:
    def change(copy: Map) -> None:
        for key in wanted:
            with suppress(KeyNotFoundError):  # the guard copies only a part of a large map
                del copy[key]

    return change


def push(target: str, word: str, *, overwrite: bool = False) -> Any:
    """Push the typed value *word* to a map without keys, and return it as the map decodes it.

    The map is a queue, a stack, a bloom filter, or a user ring buffer (bytes). `MapFullError` if
    it is full, unless *overwrite* lets a queue or a stack drop its oldest value.
    """
    with open_typed(target, read_only=False) as bpf_map, usage_errors(bpf_map):
        pusher = PUSHERS.get(traits_of(bpf_map.type).family)
        # BPF_EXIST lets a queue or a stack drop its oldest value (queue_stack_map_push_elem() in
        # kernel/bpf/queue_stack_maps.c); a bloom filter refuses the flag (bloom_map_push_elem()).
        if overwrite and pusher is not None:
            raise UsageError(f"a {type_name(bpf_map.type)} has no oldest value to drop")
        if pusher is not None:
            return pusher(bpf_map, word)
        with _as_queue(bpf_map) as queue:
            value = parsed_value(queue, word)
            queue.push(value, overwrite=overwrite)
            return value


def _add_to_bloom_filter(bpf_map: Map, word: str) -> Any:
    with BloomFilter.of(bpf_map) as bloom:
        value = parsed_value(bloom, word)
        bloom.add(value)
        return value


def _submit_to_ring_buffer(bpf_map: Map, word: str) -> bytes:
    # A ring buffer has no BTF of its records; only the program knows what they are.
    if not word.startswith(HEX):
        raise UsageError(
            f"{word!r}: the type of a record is unknown", hint=f"give its bytes: {HEX}0a00…"
        )
    with UserRingBuffer.of(bpf_map) as ring:
        record = bytes.fromhex(word.removeprefix(HEX))
        ring.submit(record)
        return record


PUSHERS: Final[dict[MapFamily, Callable[[Map, str], Any]]] = {
    MapFamily.BLOOM_FILTER: _add_to_bloom_filter,
    MapFamily.USER_RING_BUFFER: _submit_to_ring_buffer,
}


def pop(target: str, *, count: int = 1) -> list[Any]:
    """Take up to *count* values out of a queue or a stack; `EmptyMapError` if it is empty."""
    with open_typed(target, read_only=False) as bpf_map, _as_queue(bpf_map) as queue:
        # The first one alone may raise EmptyMapError; `drain` ends without an error.
        first = queue.pop()
        return [first, *itertools.islice(queue.drain(), count - 1)]


def peek(target: str) -> Any:
    """Return the next value of a queue or a stack and leave it; `EmptyMapError` if it is empty."""
    with open_typed(target) as bpf_map, _as_queue(bpf_map) as queue:
        return queue.peek()


@contextmanager
def _as_queue(bpf_map: Map) -> Iterator[Queue]:
    if bpf_map.type not in Queue.map_types:
        raise UsageError(
            f"map {bpf_map.name!r} (id {bpf_map.id}) is a {type_name(bpf_map.type)}, not a queue or"
            " a stack",
            hint="a map with keys is read by `bpfpin map get` and written by `bpfpin map set`",
        )
    with Queue.of(bpf_map) as queue:
        yield queue
