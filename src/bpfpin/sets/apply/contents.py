"""The entries that a state file gives a map, as the bytes of its keys and values.

Such a map belongs to user space: a program that writes it would be undone by the next `apply`. So a
map that a program of the object writes is refused.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.prefix import without_other_bits
from bpfpin.errors import (
    LimitError,
    ObjectFileError,
    ObjectNotFoundError,
    PermissionDeniedError,
    UsageError,
)
from bpfpin.hints import Placeholder, shell_line
from bpfpin.map import form as literals
from bpfpin.map import parse
from bpfpin.map.form import InputForm
from bpfpin.map.verdict import USUAL_NAME
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import type_name
from bpfpin.objects.maps.entry_write import overlaid
from bpfpin.records import dataclass
from bpfpin.sets.apply.model import CSV, LIST, NDJSON, Contents, WantedMap
from bpfpin.spec import MapSpec, ObjectSpec
from bpfpin.syscall.cpu import possible_cpus

_KEY, _VALUE = "key", "value"
_VERDICT_BYTES: Final = 4
_FORMULA: Final = "'"  # `map dump -o csv` writes it before a text that looks like a formula
_FILE_BYTES_MAX: Final = 1 << 30
_KNOWN_VALUES_MAX: Final = 10_000
Entries = tuple[bytes, bytes]


def entries_for(spec: ObjectSpec, wanted: WantedMap) -> Entries:
    """Return the entries of a map, all keys and all values back to back.

    `UsageError` for a map that cannot have stated entries, and for entries that do not fit it.
    """
    assert wanted.contents is not None
    map_spec = spec.maps[wanted.name]
    _require_stated(map_spec)
    _require_not_written(spec, map_spec)
    return _entries(map_spec, wanted.contents)


def slots_for(spec: ObjectSpec, wanted: WantedMap) -> tuple[tuple[bytes, MapSpec], ...]:
    """Return the inner maps of a map of maps, by the bytes of their keys."""
    outer = spec.maps[wanted.name]
    if not traits_of(outer.type).holds_maps or outer.inner is None:
        raise UsageError(
            f"map {outer.name} is a {type_name(outer.type)}, which has no slots for inner maps"
            if not traits_of(outer.type).holds_maps
            else f"map {outer.name}: the object does not define the inner maps",
            hint="entries = … says what a map itself has",
        )
    _require_stated(outer.inner)
    form = _key_form(outer)
    slots = []
    for word, contents in wanted.slots.items():
        key = form.codec.encode(parse.parse_value(word, form))
        if traits_of(outer.type).has_index_key and _index(key) >= outer.max_entries:
            raise UsageError(
                f"map {outer.name} has the slots 0 to {outer.max_entries - 1}, not {word}"
            )
        inner = outer.inner.with_changes(name=outer.inner.name or outer.name)
        slots.append((key, inner.with_changes(entries=_entries(inner, contents))))
    return tuple(slots)


def key_text(spec: MapSpec, key: bytes) -> str:
    """Return a key of a map as people write it."""
    form = _key_form(spec)
    if traits_of(spec.type).is_trie:
        from bpfpin.codecs.prefix import is_address_prefix, text_of_bytes  # noqa: PLC0415 - for tries

        if is_address_prefix(form.codec):
            return text_of_bytes(key)
    value = form.codec.decode(key)
    return f"hex:{key.hex()}" if isinstance(value, bytes) else str(value)


def _require_stated(spec: MapSpec) -> None:
    traits = traits_of(spec.type)
    if traits.is_plain_data and not traits.is_percpu and not traits.is_lru:
        return
    reason = (
        "it has a value for each CPU, which programs count in"
        if traits.is_percpu
        else "it evicts entries by itself"
        if traits.is_lru
        else "its entries are not plain bytes"
    )
    raise UsageError(
        f"map {spec.name} is a {type_name(spec.type)}: its entries cannot be stated, for {reason}"
    )


def _require_not_written(spec: ObjectSpec, map_spec: MapSpec) -> None:
    from bpfpin.analysis.follow import users_of_specs  # noqa: PLC0415 - few files state entries

    for user in users_of_specs(spec.programs.values()).get(map_spec.name, ()):
        use = user.use
        if use.writes or use.inserts or use.overwrites or use.deletes:
            raise UsageError(
                f"map {map_spec.name} is written by program {user.program}: entries that are stated"
                " would undo what it writes, at every run",
                hint='to fill a new map once: snapshot = "FILE", a file of bpfpin map save',
            )


def _entries(spec: MapSpec, contents: Contents) -> Entries:
    reading = _EntryReader(spec, _key_form(spec), _value_form(spec))
    if contents.file is None:
        place = str(contents.place)
        return reading.packed((place, reading.pair(*pair)) for pair in contents.entries)
    with _opened(contents.file) as file:
        try:
            return reading.packed(reading.rows(file, contents))
        except UnicodeDecodeError:
            raise UsageError(f"{contents.file}: it is not UTF-8") from None


def _opened(path: Path) -> IO[str]:
    try:
        if not path.is_file():
            if path.exists():
                raise ObjectFileError("it is not a regular file", path=str(path))
            raise ObjectNotFoundError("no such file", path=str(path))
        if (size := path.stat().st_size) > _FILE_BYTES_MAX:
            raise LimitError(
                f"{path} has {size} bytes, more than {_FILE_BYTES_MAX}",
                limit=_FILE_BYTES_MAX,
                asked=size,
            )
        return path.open(encoding="utf-8", newline="")
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{path} cannot be read", command="open", errno=error.errno or 0, target=str(path)
        ) from None


def _key_form(spec: MapSpec) -> InputForm:
    form = InputForm(codec(spec.key, spec.key_size, is_key=True), spec.key, _KEY)
    if traits_of(spec.type).is_trie:
        form = form.with_first(literals.prefix)
    return form.with_last(literals.device) if spec.key_size == _VERDICT_BYTES else form


def _value_form(spec: MapSpec) -> InputForm:
    form = InputForm(codec(spec.value, spec.value_size), spec.value)
    if spec.value_size == _VERDICT_BYTES and form.may_be_number:
        return form.with_last(literals.action if spec.name == USUAL_NAME else literals.verdict)
    return form


def _index(key: bytes) -> int:
    return int.from_bytes(key, "little")


@dataclass(frozen=True)
class _EntryReader:
    """Reads the entries of one map; a *row* is where it stands, and the bytes of its parts."""

    spec: MapSpec
    key: InputForm
    value: InputForm
    known_values: dict[str, bytes] = field(default_factory=dict)

    def pair(self, key: Any, value: Any) -> Entries:
        """Return the bytes of a key and a value as TOML or JSON has them."""
        return self.key_bytes(key), self.value_bytes(value)

    def key_bytes(self, key: Any) -> bytes:
        """Return the bytes of a key."""
        # Lists of prefixes are long, and the usual way tries several other forms first.
        if self.is_trie and isinstance(key, str):
            data = literals.prefix(key, self.spec.key_size)
            if data is not None:
                return data
        return _encoded(key, self.key)

    def value_bytes(self, value: Any) -> bytes:
        """Return the bytes of a value; those of a text are remembered, for most are repeated."""
        if not isinstance(value, str):
            return _encoded(value, self.value)
        if value not in self.known_values:
            if len(self.known_values) > _KNOWN_VALUES_MAX:
                self.known_values.clear()
            self.known_values[value] = _encoded(value, self.value)
        return self.known_values[value]

    @cached_property
    def is_trie(self) -> bool:
        """Whether keys are prefixes."""
        return traits_of(self.spec.type).is_trie

    def rows(self, file: IO[str], contents: Contents) -> Iterator[tuple[str, Entries]]:
        """Yield the entries of a file."""
        readers = {CSV: self._csv, NDJSON: self._ndjson, LIST: self._list}
        number = 0
        try:
            for number, entry in readers[contents.format](file, contents):
                yield f"{contents.file}:{number}", entry
        except UsageError as error:
            if not error.message.startswith(f"{contents.file}:"):
                error.message = f"{contents.file}:{number + 1}: {error.message}"
            raise

    def _list(self, file: IO[str], contents: Contents) -> Iterator[tuple[int, Entries]]:
        value = self.value_bytes(contents.value)
        for number, line in enumerate(file, 1):
            with _at(contents.file, number):
                if word := line.partition("#")[0].strip():
                    yield number, (self.key_bytes(word), value)

    def _ndjson(self, file: IO[str], contents: Contents) -> Iterator[tuple[int, Entries]]:
        for number, line in enumerate(file, 1):
            with _at(contents.file, number):
                if not line.strip():
                    continue
                entry = _json_object(line)
                if not {_KEY, _VALUE} <= set(entry):
                    raise UsageError(
                        "an entry has the members key and value; this one has:"
                        f" {', '.join(entry) or 'none'}"
                    )
                # The bytes of a key whose padding is not zero.
                key = entry.get("key_bytes", entry[_KEY])
                yield number, self.pair(key, entry[_VALUE])

    def _csv(self, file: IO[str], contents: Contents) -> Iterator[tuple[int, Entries]]:
        table = csv.reader(file, strict=True)
        try:
            header = next(table, None)
            if header is None:
                raise UsageError("it is empty: the first line has the names of the columns")
            columns = _CsvColumns(header, self)
            for cells in table:
                with _at(contents.file, table.line_num):
                    if cells:
                        yield table.line_num, columns.entry(cells)
        except csv.Error as error:
            raise UsageError(f"{contents.file}:{table.line_num}: it is not CSV: {error}") from None

    def packed(self, rows: Iterable[tuple[str, Entries]]) -> Entries:
        """Return all entries back to back; an array has all of its elements."""
        traits = traits_of(self.spec.type)
        entries: dict[bytes, bytes] = {}
        places: dict[bytes, str] = {}
        for place, (key, value) in rows:
            canonical = without_other_bits(key) if traits.is_trie else key
            if entries.setdefault(canonical, value) != value:
                raise UsageError(
                    f"{place}: map {self.spec.name}: {key_text(self.spec, canonical)} has another"
                    f" value at {places[canonical]}"
                )
            places.setdefault(canonical, place)
            if traits.is_array and _index(key) >= self.spec.max_entries:
                raise UsageError(
                    f"{place}: map {self.spec.name} has the elements 0 to"
                    f" {self.spec.max_entries - 1}, not {_index(key)}"
                )
        if traits.is_array:
            zero = bytes(self.spec.value_size)
            keys = [number.to_bytes(4, "little") for number in range(self.spec.max_entries)]
            entries = {key: entries.get(key, zero) for key in keys}
        if len(entries) > self.spec.max_entries:
            raise UsageError(
                f"map {self.spec.name} has room for {self.spec.max_entries} entries, and"
                f" {len(entries)} are stated",
                hint=f"max_entries = {len(entries)}",
            )
        return b"".join(entries), b"".join(entries.values())


class _CsvColumns:
    """The columns of CSV: `key`, `value`, or their members as `map dump -o csv` names them."""

    def __init__(self, header: Sequence[str], reading: _EntryReader) -> None:
        self._reading = reading
        self._parts = [self._part(name.strip()) for name in header]
        for part in (_KEY, _VALUE):
            if part not in {of for of, _, _ in self._parts}:
                raise UsageError(f"no column is the {part} or a member of it: {', '.join(header)}")

    def _part(self, name: str) -> tuple[str, tuple[parse.Step, ...], InputForm]:
        of, _, below = name.partition(".")
        if of not in (_KEY, _VALUE) or (of == _VALUE and _VALUE in self._reading.value.names):
            of, below = _VALUE, name  # a member of the value
        form = self._reading.key if of == _KEY else self._reading.value
        if not below:
            return of, (), form
        steps, form = parse.resolve_path(below, form)
        if any(isinstance(step, int) for step in steps):
            raise UsageError(f"column {name}: an array is one column, written as JSON")
        return of, steps, form

    def entry(self, cells: Sequence[str]) -> Entries:
        """Return the bytes of one row."""
        if len(cells) != len(self._parts):
            raise UsageError(f"it has {len(cells)} cells, and there are {len(self._parts)} columns")
        reading = self._reading
        # A whole key and a whole value, as most lists have them.
        if [of for of, steps, _ in self._parts if not steps] == [_KEY, _VALUE]:
            key, value = (cell.removeprefix(_FORMULA) for cell in cells)
            return reading.key_bytes(key), reading.value_bytes(value)
        wholes: dict[str, Any] = {_KEY: {}, _VALUE: {}}
        for (of, steps, form), cell in zip(self._parts, cells, strict=True):
            value = parse.parse_value(cell.removeprefix(_FORMULA), form)
            if not steps:
                wholes[of] = value
                continue
            inner = wholes[of]
            for step in steps[:-1]:
                inner = inner.setdefault(step, {})
            inner[steps[-1]] = value
        return _overlaid(wholes[_KEY], reading.key), _overlaid(wholes[_VALUE], reading.value)


class _at:  # noqa: N801 - reads as a statement: with _at(file, number)
    """Names file and line in a `UsageError` of the block."""

    def __init__(self, file: Path | None, number: int) -> None:
        self._place = f"{file}:{number}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UsageError) and not error.message.startswith(self._place):
            error.message = f"{self._place}: {error.message}"


def _encoded(value: Any, form: InputForm) -> bytes:
    """Return the bytes of a value of TOML or JSON; texts are read as people write them."""
    # A number is read as text: without a type, 255 and -1 are the same byte.
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    if isinstance(value, str):
        return form.codec.encode(parse.parse_value(value, form))
    return _overlaid(parse.converted(value, form), form)


def _overlaid(value: Any, form: InputForm) -> bytes:
    """Return the bytes of a value; members that a structure does not name are zero."""
    try:
        return overlaid(form.codec, value, bytes(form.codec.size))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{form.what} {value!r}: {error}", hint=f"give {form.forms()}") from None


def _json_object(line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("it is not JSON") from None
    if not isinstance(entry, dict):
        raise UsageError("it is not a JSON object")
    return entry


def snapshot_entries(spec: MapSpec, path: Path) -> Entries:
    """Return the entries of a file of `map save` for a new map; `UsageError` if it does not fit."""
    from bpfpin.map.snapshot_file import SnapshotReader  # noqa: PLC0415 - few files name one

    keys, values = bytearray(), bytearray()
    with SnapshotReader(path) as file:
        saved = file.definition
        sizes = (saved.type, saved.key_size, saved.value_size)
        cpus = possible_cpus() if traits_of(spec.type).is_percpu else 1
        if sizes != (spec.type, spec.key_size, spec.value_size) or saved.cpus != cpus:
            raise UsageError(
                f"{path}: the snapshot is of another map than {spec.name}: a"
                f" {type_name(saved.type)} with keys of {saved.key_size} and values of"
                f" {saved.value_size} bytes, of {saved.cpus} CPUs",
                hint="load the set without it, then: "
                + shell_line("bpfpin map restore --migrate", path, Placeholder("MAP")),
            )
        for block_keys, block_values in file.blocks():
            keys += block_keys
            values += block_values
    if len(keys) // spec.key_size > spec.max_entries:
        raise UsageError(
            f"{path}: the snapshot has {len(keys) // spec.key_size} entries, and map {spec.name}"
            f" has room for {spec.max_entries}"
        )
    return bytes(keys), bytes(values)
