"""The keys of a state file: one table, from which files are checked and the JSON Schema is made.

A `[[set]]` has the keyword arguments of `bpfpin.deploy` as its keys. What depends on the object,
such as the names of its maps, is checked when the set is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from enum import Enum
from typing import Any, Final

from bpfpin.choices import similar
from bpfpin.hooks import Hook, XdpMode
from bpfpin.migration.request import Rule
from bpfpin.records import dataclass
from bpfpin.sets.apply.lines import KeyPath
from bpfpin.sets.given_maps import PINNINGS

SCHEMA_ID: Final = "urn:bpfpin:state:1"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_U32_MAX: Final = (1 << 32) - 1
_I64_MAX: Final = (1 << 63) - 1  # TOML has no larger numbers


class Kind(Enum):
    """The type of a value, in the words of an error message."""

    TEXT = "a text"
    TEXTS = "a text or a list of texts"
    NUMBER = "a whole number"
    SCALE = "a number above 0"
    FLAG = "true or false"
    ANY = "a value"
    SCALAR = "a text, a number, true or false"
    TABLE = "a table"
    TABLES = "a list of tables"
    NAMED_TABLES = "a table of tables"
    NAMED_VALUES = "a table of values"
    NAMED_TEXTS = "a table of texts"
    ENTRIES = "a table, or a list of tables with `key` and `value`"
    RULES = "true, false or a table"


@dataclass(frozen=True)
class Key:
    """A key of a table: the kind of its value, and what it says.

    *words* are the only texts that it may have, *table* has the keys of the tables in it, *least*
    and *most* limit a number.
    """

    kind: Kind
    about: str
    words: tuple[str, ...] = ()
    table: Mapping[str, Key] = field(default_factory=dict)
    is_required: bool = False
    least: int = 0
    most: int = _U32_MAX


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """What is wrong with the value at *path* of a file."""

    path: KeyPath
    text: str


Table = Mapping[str, Key]

CONTENTS: Final[Table] = {
    "entries": Key(
        Kind.ENTRIES,
        "The entries: `{ KEY = VALUE }`, or a list of `{ key = …, value = … }` for keys that are"
        " structures. Keys and values are written as for `bpfpin map set`.",
    ),
    "file": Key(
        Kind.TEXT,
        "A file with the entries: CSV or NDJSON as `bpfpin map dump` writes them, or a list of"
        " keys, one a line. A relative path begins at the directory of the state file.",
    ),
    "format": Key(
        Kind.TEXT,
        "The format of the file, if its name does not end in .csv, .ndjson, .txt or .list.",
        words=("csv", "ndjson", "list"),
    ),
    "value": Key(Kind.ANY, "The value of every key of a list."),
}
MAP: Final[Table] = {
    "max_entries": Key(Kind.NUMBER, "Number of entries, instead of the object's.", least=1),
    "use": Key(
        Kind.TEXT, "An existing map to use: SET/MAP, the path of a pin, `id:N` or `name:NAME`."
    ),
    "pinning": Key(Kind.TEXT, "How the map is pinned outside of the set.", words=tuple(PINNINGS)),
    **CONTENTS,
    "slots": Key(
        Kind.NAMED_TABLES,
        "For a map of maps: the entries of its inner maps, by the key of the slot.",
        table=CONTENTS,
    ),
    "snapshot": Key(
        Kind.TEXT, "A file of `bpfpin map save`, restored into the map when the set makes it."
    ),
}
MIGRATION: Final[Table] = {
    "rules": Key(Kind.NAMED_TEXTS, "Rules of members.", words=tuple(rule.value for rule in Rule)),
    "renamed": Key(Kind.NAMED_TEXTS, "New names of members by old ones."),
    "dropped": Key(Kind.TEXTS, "Members that may be lost."),
    "start": Key(Kind.NAMED_VALUES, "First values of new members."),
    "layouts": Key(Kind.NAMED_VALUES, "Types of the values of maps without BTF, by map."),
    "clamp": Key(Kind.FLAG, "Reduce numbers to the range of the new member."),
    "best_effort": Key(Kind.FLAG, "Migrate even if it is not proven that no count is lost."),
}
SET: Final[Table] = {
    "object": Key(
        Kind.TEXT,
        "The object: `builtin:NAME` or a file. A relative path begins at the directory of the state"
        " file.",
        is_required=True,
    ),
    "sha256": Key(
        Kind.TEXT, "SHA-256 of the object, in hexadecimal digits; another object is refused."
    ),
    "device": Key(
        Kind.TEXTS,
        "Devices to attach to, a set each: a name, a pattern such as `veth*`, `driver=NAME` or"
        " `group=NUMBER`.",
    ),
    "cgroup": Key(Kind.TEXT, "Cgroup to attach to: a folder, or a path below the cgroup2 mount."),
    "netns": Key(Kind.TEXT, "Name of the network namespace of the devices."),
    "name": Key(Kind.TEXT, "Name of the set; by default its device or its cgroup."),
    "optional": Key(Kind.FLAG, "Allow that no device has the name, or matches the pattern, yet."),
    "programs": Key(Kind.TEXTS, "Programs to attach: NAME, NAME:HOOK or NAME:HOOK=TARGET."),
    "hook": Key(
        Kind.TEXT,
        "Hook of programs whose section names none.",
        words=tuple(hook.value for hook in Hook),
    ),
    "program_type": Key(Kind.TEXT, "Type of programs whose section names none."),
    "mode": Key(Kind.TEXT, "Mode of XDP.", words=tuple(mode.value for mode in XdpMode)),
    "order": Key(
        Kind.TEXT,
        "Place among the programs of a tcx or netkit hook: first, last, before:ID, after:ID.",
    ),
    "stub": Key(Kind.FLAG, "Attach by a stub where a link cannot change its program (true)."),
    "variables": Key(Kind.NAMED_VALUES, "First values of global variables."),
    "maps": Key(Kind.NAMED_TABLES, "What is wanted of maps, by name.", table=MAP),
    "migrate": Key(
        Kind.RULES,
        "Move the contents of maps whose definition changed to new maps; a table has rules.",
        table=MIGRATION,
    ),
    "group": Key(Kind.SCALAR, "Group that may read the maps, by name or number."),
    "chmod": Key(Kind.TEXT, 'Mode of the pins of maps, such as "0640".'),
    "max_map_memory": Key(
        Kind.NUMBER, "Bytes that the new maps of a set may take.", least=1, most=_I64_MAX
    ),
    "kernel_btf": Key(Kind.TEXT, "File with the types that CO-RE takes for the kernel's."),
    "replace": Key(
        Kind.FLAG,
        "Replace a set of that name that has another object or device, also if no apply made it.",
    ),
    "take_over": Key(Kind.FLAG, "Replace a program of others at an XDP hook."),
    "force": Key(Kind.FLAG, "Allow a program that would cut the caller's own connection."),
}
# `apps/exporter/rules.py` makes its rules of them, and checks the names.
METRIC: Final[Table] = {
    "map": Key(Kind.TEXT, "Name of the maps; a pattern.", is_required=True),
    "set": Key(Kind.TEXT, "Only maps of this pin set; a pattern."),
    "name": Key(
        Kind.TEXT, "Name of the metric; that of a counter ends with _total.", is_required=True
    ),
    "help": Key(Kind.TEXT, "What the metric counts.", is_required=True),
    "type": Key(Kind.TEXT, "Type of the metric.", words=("counter", "gauge", "histogram")),
    "value": Key(Kind.TEXT, "The member of the value that counts; by default the whole value."),
    "labels": Key(Kind.NAMED_TEXTS, "By label the member of the key that is its value."),
    "bucket": Key(Kind.TEXT, "For a histogram, the member of the key that is the power of two."),
    "scale": Key(Kind.SCALE, "What a number is multiplied with, such as 1e-9 for nanoseconds."),
    "max_series": Key(Kind.NUMBER, "How many series there may be.", least=1, most=100_000),
}
FILE: Final[Table] = {
    "schema": Key(Kind.NUMBER, "Version of the format of the file: 1."),
    "set": Key(Kind.TABLES, "A pin set that is to be loaded.", table=SET),
    "metric": Key(Kind.TABLES, "A metric that `bpfpin serve` reads from maps.", table=METRIC),
}


def problems(document: Mapping[str, Any]) -> list[KeyProblem]:
    """Return everything that is wrong with a parsed state file."""
    if document.get("schema", 1) != 1:
        # Said alone: the keys of another version are not those of this one.
        return [KeyProblem(("schema",), f"this bpfpin reads schema 1, not {document['schema']!r}")]
    return list(_of_table(document, FILE, ()))


def _of_table(value: Mapping[str, Any], table: Table, path: KeyPath) -> Iterator[KeyProblem]:
    for name, member in value.items():
        here = (*path, name)
        if name in table:
            yield from _of_value(member, table[name], here)
        else:
            near = similar(name, table)
            guess = (
                f"; did you mean {' or '.join(near)}?"
                if near
                else f"; there are: {', '.join(table)}"
            )
            yield KeyProblem(here, f"there is no such key{guess}")
    for name, key in table.items():
        if key.is_required and name not in value:
            yield KeyProblem(path, f"the key {name} is missing: {key.about}")


def _of_value(value: Any, key: Key, path: KeyPath) -> Iterator[KeyProblem]:
    if not _FITS[key.kind](value):
        yield KeyProblem(path, f"it is {key.kind.value}, not {_shown(value)}")
    elif key.kind is Kind.TABLES:
        for index, each in enumerate(value):
            yield from _of_table(each, key.table, (*path, index))
    elif key.kind is Kind.NAMED_TABLES:
        for name, each in value.items():
            yield from _of_table(each, key.table, (*path, name))
    elif key.kind is Kind.RULES and isinstance(value, dict):
        yield from _of_table(value, key.table, path)
    elif key.kind is Kind.NUMBER and not key.least <= value <= key.most:
        yield KeyProblem(path, f"{value} is not a number from {key.least} to {key.most}")
    elif key.words:
        words = value.values() if isinstance(value, dict) else [value]
        yield from (_no_word(word, key, path) for word in words if word not in key.words)


def _no_word(word: str, key: Key, path: KeyPath) -> KeyProblem:
    near = similar(word, key.words)
    guess = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(key.words)}"
    return KeyProblem(path, f"there is no {word!r}; {guess}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else repr(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(each, str) for each in value)
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _are_tables(values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _are_entries(value: Any) -> bool:
    if isinstance(value, dict):
        return True
    return isinstance(value, list) and all(
        isinstance(each, dict) and set(each) == {"key", "value"} for each in value
    )


_FITS: Final[Mapping[Kind, Callable[[Any], bool]]] = {
    Kind.TEXT: lambda value: isinstance(value, str),
    Kind.TEXTS: _is_texts,
    Kind.NUMBER: lambda value: type(value) is int,  # True is an int to isinstance()
    Kind.SCALE: lambda value: type(value) in (int, float) and value > 0,
    Kind.FLAG: lambda value: isinstance(value, bool),
    Kind.ANY: lambda value: True,
    Kind.SCALAR: _is_scalar,
    Kind.TABLE: lambda value: isinstance(value, dict),
    Kind.TABLES: lambda value: isinstance(value, list) and _are_tables(value),
    Kind.NAMED_TABLES: lambda value: isinstance(value, dict) and _are_tables(value.values()),
    Kind.NAMED_VALUES: lambda value: isinstance(value, dict),
    Kind.NAMED_TEXTS: lambda value: (
        isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    ),
    Kind.ENTRIES: _are_entries,
    Kind.RULES: lambda value: isinstance(value, bool | dict),
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a state file, for editors."""
    return {
        "$schema": _DIALECT,
        "$id": SCHEMA_ID,
        "title": "State of the pin sets of a host, as `bpfpin apply` reads it",
        **_schema_of_table(FILE),
    }


def _schema_of_table(table: Table) -> dict[str, Any]:
    required = [name for name, key in table.items() if key.is_required]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema_of(key) for name, key in table.items()},
        "additionalProperties": False,
    }
    return schema | ({"required": required} if required else {})


def _schema_of(key: Key) -> dict[str, Any]:
    return {"description": key.about, **_SCHEMAS[key.kind](key)}


def _text(key: Key) -> dict[str, Any]:
    return {"type": "string"} | ({"enum": list(key.words)} if key.words else {})


_SCHEMAS: Final[Mapping[Kind, Callable[[Key], dict[str, Any]]]] = {
    Kind.TEXT: _text,
    Kind.TEXTS: lambda key: {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    },
    Kind.NUMBER: lambda key: {"type": "integer", "minimum": key.least, "maximum": key.most},
    Kind.SCALE: lambda key: {"type": "number", "exclusiveMinimum": 0},
    Kind.FLAG: lambda key: {"type": "boolean"},
    Kind.ANY: lambda key: {},
    Kind.SCALAR: lambda key: {"type": ["string", "number", "boolean"]},
    Kind.TABLE: lambda key: {"type": "object"},
    Kind.TABLES: lambda key: {"type": "array", "items": _schema_of_table(key.table)},
    Kind.NAMED_TABLES: lambda key: {
        "type": "object",
        "additionalProperties": _schema_of_table(key.table),
    },
    Kind.NAMED_VALUES: lambda key: {"type": "object"},
    Kind.NAMED_TEXTS: lambda key: {"type": "object", "additionalProperties": _text(key)},
    Kind.ENTRIES: lambda key: {
        "anyOf": [
            {"type": "object"},
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"key": {}, "value": {}},
                    "required": ["key", "value"],
                    "additionalProperties": False,
                },
            },
        ]
    },
    Kind.RULES: lambda key: {"anyOf": [{"type": "boolean"}, _schema_of_table(key.table)]},
}
