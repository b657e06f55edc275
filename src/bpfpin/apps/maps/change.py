"""Writing one entry of any map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bpfpin.apps.maps import keys
from bpfpin.apps.maps.entries import Entry, parsed_key, said
from bpfpin.apps.maps.naming import open_map
from bpfpin.errors import UsageError
from bpfpin.objects.codec_btf import codec
from bpfpin.objects.map import Map
from bpfpin.syscall.cpu import possible_cpus


def change(target: str, key: str, words: Sequence[str]) -> Entry:
    """Set the value under *key* to what *words* say, and return the entry as it is now.

    One word is the whole value. Words `FIELD=VALUE` change these fields of a structure; the others
    keep what they have, 0 where the key is new. In a per-CPU map one value goes to every CPU; a
    JSON list has one for each.
    """
    with open_map(target, read_only=False) as held:
        wanted = parsed_key(held, key)
        with said(held):
            held[wanted] = _new_value(held, wanted, words)
            return Entry(wanted, held[wanted], held.is_per_cpu)


def _new_value(held: Map, key: Any, words: Sequence[str]) -> Any:
    is_percpu = held.is_per_cpu
    if keys.is_structure(held.value_type) and keys.is_fields(words):
        current = held.get(key)
        if current is None:
            current = _zero(held)
        if not is_percpu:
            return keys.with_fields(current, words)
        return [keys.with_fields(value, words) for value in current]
    if len(words) != 1:
        raise UsageError(
            f"{' '.join(words)!r} is more than one value",
            hint="give one value, in quotes if it has spaces, or FIELD=VALUE for a structure",
        )
    if is_percpu and words[0].startswith("["):
        return keys.parse_list(words[0], held.value_type, held.value_size)
    value = keys.parse(words[0], held.value_type, held.value_size)
    return [value] * possible_cpus() if is_percpu else value


def _zero(held: Map) -> Any:
    """Return what a value of zero bytes means in this map."""
    zero = codec(held.value_type, held.value_size).decode(bytes(held.value_size))
    return [zero] * possible_cpus() if held.is_per_cpu else zero
