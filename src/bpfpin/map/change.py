"""Changes one entry of a map: a typed value, fields of a structure, or the value of one CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from bpfpin.errors import KeyNotFoundError, MapFullError, UsageError, ValueDiffersError
from bpfpin.map import parse
from bpfpin.map.entries import ChangeGuard, MapEntry, present_key, require_exact, value_form
from bpfpin.map.form import InputForm
from bpfpin.map.open import AS_IT_IS, Typing, open_kind, open_typed, require_entries, usage_errors
from bpfpin.map.parse import FieldValue
from bpfpin.map_traits import ValueKind, stride_of, traits_of
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.kernel.object import KernelObject
from bpfpin.objects.maps.entry_write import WriteOptions, overlaid
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall.cpu import cpu_index, cpus_of_values
from bpfpin.uapi import UpdateFlag

# Kinds of values that are kernel objects, named on the command line like a map.
_OBJECTS: Final[dict[ValueKind, type[KernelObject]]] = {
    ValueKind.MAP: Map,
    ValueKind.PROGRAM: Program,
}
# Values that are descriptors of the writing process: a command line cannot name them.
_DESCRIPTORS: Final = frozenset({ValueKind.SOCKET, ValueKind.PERF_EVENT})


@dataclass(frozen=True, slots=True)
class _WriteOptions:
    flag: UpdateFlag
    cpu: int | None


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
) -> MapEntry:
    """Set the value of *key* to the typed *words*, and return the entry as it is now.

    One word is the whole value. Words `FIELD=VALUE` change these fields of a structure; the other
    fields keep their values, or are 0 for a new key. In a per-CPU map one value is written to every
    CPU, or to *cpu* alone; a JSON list has a value for each CPU. In a map of maps or programs the
    value is the path or `id:N` of one.

    *conditions*, `FIELD=VALUE` or a whole value, are compared first: `ValueDiffersError` if one
    does not hold on every CPU that is written, `KeyNotFoundError` if the key does not exist. That
    is not atomic: somebody else may write between the comparison and the update.

    *guard* refuses changes that would cut the user's own connection to this host.
    """
    with open_typed(target, read_only=False, typing=typing) as bpf_map, usage_errors(bpf_map):
        require_entries(bpf_map)
        _require_nameable(bpf_map)
        _check_cpu(bpf_map, cpu)
        wanted, options = present_key(bpf_map, key), _WriteOptions(flag, cpu)
        _check(bpf_map, wanted, conditions, cpu)
        # A map or a program stays open until the kernel has it: an update takes its descriptor
        # (bpf_fd_array_map_update_elem() in kernel/bpf/arraymap.c).
        with _opened_value(bpf_map, words) as value, _full_error_with_key(bpf_map, wanted):
            # The guard tries the change on a copy: when it refuses, this map was not touched.
            if guard is not None:
                what = f"setting {key} to {' '.join(words)}"
                guard.require_way_back(
                    bpf_map,
                    what,
                    lambda copy: (
                        _write(copy, wanted, words, options)
                        if value is None
                        else copy.update(wanted, value, flag)
                    ),
                )
            if value is None:
                _write(bpf_map, wanted, words, options)
            else:
                bpf_map.update(wanted, value, flag)
        return MapEntry(wanted, _read_back(bpf_map, wanted, words), bpf_map.is_per_cpu)


def _read_back(bpf_map: Map, key: Any, words: Sequence[str]) -> Any:
    """Return the value in the map now; if it cannot be read, the words that were typed."""
    # The kernel lets nobody read some types of map; an LRU map may have evicted the entry already.
    with suppress(TypeError, KeyNotFoundError):
        return bpf_map[key]
    return " ".join(words)


def _require_nameable(bpf_map: Map) -> None:
    if traits_of(bpf_map.type).value in _DESCRIPTORS:
        raise UsageError(
            f"map {bpf_map.name!r} (id {bpf_map.id}) is a {type_name(bpf_map.type)}: its values are"
            " open sockets or events, which a command line cannot name",
            hint="the process that has them open writes them, with the library: Map.update",
        )


def _check_cpu(bpf_map: Map, cpu: int | None) -> None:
    if cpu is None:
        return
    if not bpf_map.is_per_cpu:
        raise UsageError(f"map {bpf_map.name!r} (id {bpf_map.id}) has no values of single CPUs")
    try:
        cpu_index(cpu)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check(bpf_map: Map, key: Any, conditions: Sequence[str], cpu: int | None) -> None:
    """Raise `ValueDiffersError` at the first condition that does not hold."""
    if not conditions:
        return
    # bpf(2) has no compare-and-exchange of values: this read and the write are two calls.
    form, whole = value_form(bpf_map), bpf_map[key]
    require_exact(bpf_map, key)
    values = whole if bpf_map.is_per_cpu else [whole]
    for number, value in zip(cpus_of_values(len(values)), values, strict=True):
        if cpu in (None, number) or not bpf_map.is_per_cpu:
            for condition in conditions:
                _compare(condition, value, form, f" of CPU {number}" if bpf_map.is_per_cpu else "")


def _compare(condition: str, value: Any, form: InputForm, where: str) -> None:
    what, expected, actual = "the value", None, value
    if form.names and parse.is_fields([condition]):
        field = parse.parse_field(condition, form)
        what, expected, actual = field.path, field.value, field.of(value)
    else:
        expected = parse.parse_value(condition, form)
    # Both sides went through the codec of the map: `0x1f` equals 31, and a name its number.
    if expected != actual:
        raise ValueDiffersError(
            f"{what}{where} is {actual!r}, not {expected!r}: nothing was written"
        )


@contextmanager
def _full_error_with_key(bpf_map: Map, key: Any) -> Iterator[None]:
    try:
        yield
    except MapFullError as error:
        # E2BIG, whose usual text, "Argument list too long", would mislead.
        error.message = (
            f"map {bpf_map.name!r} (id {bpf_map.id}) has no room for key {key!r}: it is full"
        )
        raise


@contextmanager
def _opened_value(bpf_map: Map, words: Sequence[str]) -> Iterator[KernelObject | None]:
    """Yield the map or program that is to be the value; None if values are not kernel objects."""
    kind = _OBJECTS.get(traits_of(bpf_map.type).value)
    if kind is None:
        yield None
        return
    with open_kind(kind, _only(words)) as value:
        yield value


def _write(bpf_map: Map, key: Any, words: Sequence[str], options: _WriteOptions) -> None:
    form = value_form(bpf_map)
    if form.names and parse.is_fields(words):
        changes = [parse.parse_field(word, form) for word in words]
        _write_fields(bpf_map, key, changes, options)
        return
    word = _only(words)
    # Without --cpu a list has a value for each CPU; with it, it is one value that is an array.
    if bpf_map.is_per_cpu and options.cpu is None and word.startswith("["):
        bpf_map.update(key, parse.parse_list(word, form), options.flag)
        return
    is_for_all = bpf_map.is_per_cpu and options.cpu is None
    value = parse.parse_value(word, form)
    bpf_map.update(key, value, options.flag, cpu=options.cpu, all_cpus=is_for_all)


def _write_fields(
    bpf_map: Map, key: Any, changes: Sequence[FieldValue], options: _WriteOptions
) -> None:
    """Write the present value, zeros for a new key, with these fields of the chosen CPUs changed.

    Bytes that belong to no field keep their values.
    """
    codec, key_bytes = value_form(bpf_map).codec, bpf_map.key_codec.encode(key)
    try:
        old = bpf_map.lookup_bytes(key_bytes)
        require_exact(bpf_map, key)
    except KeyNotFoundError:
        # A new key starts at zero, like the elements of a new array.
        old = bytes(bpf_map.value_codec.size)

    def changed(at: int) -> bytes:
        value = old[at : at + codec.size]
        return overlaid(codec, parse.nested(changes, codec.decode(value)), value)

    # One update replaces the values of all CPUs (bpf_percpu_array_update() in
    # kernel/bpf/arraymap.c), so those of the other CPUs are written back as they were read.
    stride = stride_of(codec.size) if bpf_map.is_per_cpu else codec.size
    if options.cpu is not None:
        data = changed(cpu_index(options.cpu) * stride)
        how = WriteOptions(flag=options.flag, cpu=options.cpu)
        bpf_map._entry_access().write_cpu_bytes(key_bytes, data, how, named=key)
        return
    whole = b"".join(changed(at).ljust(stride, b"\0") for at in range(0, len(old), stride))
    bpf_map.update_bytes(key_bytes, whole, flag=options.flag)


# `map set` has no trials: these are of verdicts alone.
_ON_TRIAL = "action DEV|NAME ACTION --confirm SECONDS switches a verdict on trial"


def _only(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    if option := next((word for word in words if word.startswith("--")), ""):
        about = f"bpfpin {_ON_TRIAL}" if option.startswith("--confirm") else "bpfpin map set --help"
        raise UsageError(f"map set has no option {option.partition('=')[0]}", hint=about)
    raise UsageError(
        f"{' '.join(words)!r} is more than one value",
        hint="give one value, in quotes if it has spaces, or FIELD=VALUE for a structure",
    )
