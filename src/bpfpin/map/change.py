"""Writing one entry of any map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from bpfpin.errors import KeyNotFoundError, MapFullError, UsageError, ValueDiffersError
from bpfpin.map import parse
from bpfpin.map.entries import ChangeGuard, Entry, present_key, require_entries, said, value_form
from bpfpin.map.form import Form
from bpfpin.map.open import AS_IT_IS, Typing, open_kind, open_typed
from bpfpin.map.parse import Field
from bpfpin.map_traits import ValueKind, traits_of
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.codec import stride_of
from bpfpin.objects.maps.entry_write import overlaid
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import UpdateFlag

# Their values are objects of the kernel, named on the command line as a map is.
_OBJECTS: Final[dict[ValueKind, type[KernelObject]]] = {
    ValueKind.MAP: Map,
    ValueKind.PROGRAM: Program,
}


@dataclass(frozen=True, slots=True)
class _Choice:
    flag: UpdateFlag
    cpu: int | None


# Values that are descriptors of the writing process: a command line cannot name them.
_DESCRIPTORS: Final = frozenset({ValueKind.SOCKET, ValueKind.PERF_EVENT})


def change(
    target: str,
    key: str,
    words: Sequence[str],
    *,
    flag: UpdateFlag = UpdateFlag.ANY,
    conditions: Sequence[str] = (),
    cpu: int | None = None,
    typing: Typing = AS_IT_IS,
    guard: ChangeGuard | None = None,
) -> Entry:
    """Set the value under *key* to what *words* say, and return the entry as it is now.

    One word is the whole value. Words `FIELD=VALUE` change these fields of a structure; the others
    keep what they have, 0 where the key is new. In a per-CPU map one value goes to every CPU, or to
    *cpu* alone; a JSON list has one for each. In a map of maps or programs the value is named by
    its path or `id:N`.

    *conditions*, `FIELD=VALUE` or a whole value, are compared first: `ValueDiffersError` if one
    does not hold on every CPU that is to be written, `KeyNotFoundError` if there is no such key.
    Somebody else may write between our reading and our writing: it is not atomic.

    *guard* refuses what would cut the user's own way to this host.
    """
    with open_typed(target, read_only=False, typing=typing) as held, said(held):
        require_entries(held)
        _require_nameable(held)
        _check_cpu(held, cpu)
        wanted = present_key(held, key)
        _check(held, wanted, conditions, cpu)
        with _holding(held, words) as there, _told_if_full(held, wanted):
            if guard is not None:
                what = f"setting {key} to {' '.join(words)}"
                guard.require_way_back(
                    held,
                    what,
                    lambda copy: (
                        _write(copy, wanted, words, _Choice(flag, cpu))
                        if there is None
                        else copy.update(wanted, there, flag)
                    ),
                )
            if there is None:
                _write(held, wanted, words, _Choice(flag, cpu))
            else:
                held.update(wanted, there, flag)
        return Entry(wanted, _read_back(held, wanted, words), held.is_per_cpu)


def _read_back(held: Map, key: Any, words: Sequence[str]) -> Any:
    """Return what is there now, else what was written, as it was typed."""
    # Of some types nobody may read; an entry of an LRU map may be gone already.
    with suppress(TypeError, KeyNotFoundError):
        return held[key]
    return " ".join(words)


def _require_nameable(held: Map) -> None:
    if traits_of(held.type).value in _DESCRIPTORS:
        raise UsageError(
            f"map {held.name!r} (id {held.id}) is a {type_name(held.type)}: its values are open"
            " sockets or events, which a command line cannot name",
            hint="the process that has them open writes them, with the library: Map.update",
        )


def _check_cpu(held: Map, cpu: int | None) -> None:
    if cpu is None:
        return
    if not held.is_per_cpu:
        raise UsageError(f"map {held.name!r} (id {held.id}) has no values of single CPUs")
    if not 0 <= cpu < possible_cpus():
        raise UsageError(f"there is no CPU {cpu}: the possible ones are 0 to {possible_cpus() - 1}")


def _check(held: Map, key: Any, conditions: Sequence[str], cpu: int | None) -> None:
    """Raise `ValueDiffersError` at the first condition that does not hold."""
    if not conditions:
        return
    form, value = value_form(held), held[key]
    for number, one in enumerate(value if held.is_per_cpu else [value]):
        if cpu in (None, number) or not held.is_per_cpu:
            for condition in conditions:
                _compare(condition, one, form, f" of CPU {number}" if held.is_per_cpu else "")


def _compare(condition: str, value: Any, form: Form, where: str) -> None:
    what, expected, there = "the value", None, value
    if form.names and parse.is_fields([condition]):
        field = parse.parse_field(condition, form)
        what, expected, there = field.path, field.value, field.of(value)
    else:
        expected = parse.parse_value(condition, form)
    if expected != there:
        raise ValueDiffersError(
            f"{what}{where} is {there!r}, not {expected!r}: nothing was written"
        )


@contextmanager
def _told_if_full(held: Map, key: Any) -> Iterator[None]:
    try:
        yield
    except MapFullError as error:
        error.message = f"map {held.name!r} (id {held.id}) has no room for key {key!r}: it is full"
        raise


@contextmanager
def _holding(held: Map, words: Sequence[str]) -> Iterator[KernelObject | None]:
    """Yield the object of the kernel that is to be the value, None for values of other kinds."""
    kind = _OBJECTS.get(traits_of(held.type).value)
    if kind is None:
        yield None
        return
    with open_kind(kind, _only(words)) as there:
        yield there


def _write(held: Map, key: Any, words: Sequence[str], choice: _Choice) -> None:
    form = value_form(held)
    if form.names and parse.is_fields(words):
        changes = [parse.parse_field(word, form) for word in words]
        _rewrite(held, key, changes, choice)
        return
    word = _only(words)
    if held.is_per_cpu and choice.cpu is None and word.startswith("["):
        held.update(key, parse.parse_list(word, form), choice.flag)
        return
    is_for_all = held.is_per_cpu and choice.cpu is None
    value = parse.parse_value(word, form)
    held.update(key, value, choice.flag, cpu=choice.cpu, all_cpus=is_for_all)


def _rewrite(held: Map, key: Any, changes: Sequence[Field], choice: _Choice) -> None:
    """Write back what is there, zeros for a new key, with these fields of the chosen CPUs changed.

    The bytes that no field names stay as they are.
    """
    codec, place = value_form(held).codec, held.key_codec.encode(key)
    try:
        old = held.lookup_bytes(place)
    except KeyNotFoundError:
        old = bytes(held.value_codec.size)

    def changed(at: int) -> bytes:
        value = old[at : at + codec.size]
        return overlaid(codec, parse.partial(changes, codec.decode(value)), value)

    stride = stride_of(codec.size) if held.is_per_cpu else codec.size
    if choice.cpu is not None:
        one = codec.decode(changed(choice.cpu * stride))
        held.update(key, one, choice.flag, cpu=choice.cpu)
        return
    whole = b"".join(changed(at).ljust(stride, b"\0") for at in range(0, len(old), stride))
    held.update_bytes(place, whole, flag=choice.flag)


def _only(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    raise UsageError(
        f"{' '.join(words)!r} is more than one value",
        hint="give one value, in quotes if it has spaces, or FIELD=VALUE for a structure",
    )
