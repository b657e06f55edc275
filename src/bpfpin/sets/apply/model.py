"""What state files ask for, as frozen values: sets, contents of maps, metrics to export.

Reading is pure but for the files themselves: the kernel is not asked, and objects and files with
contents are not opened. Every part keeps its place in the files for messages.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from bpfpin.errors import LimitError, ObjectNotFoundError, PermissionDeniedError, UsageError
from bpfpin.migration.request import Migration, Rule
from bpfpin.objfile.reader import PREFIX
from bpfpin.records import dataclass
from bpfpin.sets.apply.keys import CONTENTS, KeyProblem, problems
from bpfpin.sets.apply.lines import KeyPath, line_at, lines_of
from bpfpin.sets.device_pattern import DevicePattern

SUFFIX: Final = ".toml"
_FILE_BYTES_MAX: Final = 16 << 20
_AT_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FORMATS: Final = {
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".txt": "list",
    ".list": "list",
}
CSV, NDJSON, LIST = "csv", "ndjson", "list"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a state file."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Contents:
    """The entries that a map is to have: *entries* of the state file itself, or those of *file*.

    An entry is a key and a value as TOML has them: texts are parsed when the map is known. *value*
    is that of every key of a list.
    """

    place: Place
    entries: tuple[tuple[Any, Any], ...] = ()
    file: Path | None = None
    format: str = ""
    value: Any = None


@dataclass(frozen=True)
class WantedMap:
    """What is wanted of one map of a set; *slots* are the inner maps of a map of maps."""

    name: str
    place: Place
    max_entries: int | None = None
    use: str | None = None
    pinning: str | None = None
    contents: Contents | None = None
    slots: Mapping[str, Contents] = field(default_factory=dict)
    snapshot: Path | None = None


@dataclass(frozen=True)
class WantedSet:
    """One `[[set]]`; with several devices it stands for as many sets.

    *options* are keyword arguments of `deploy` that need no more than their value.
    """

    place: Place
    object: str
    sha256: str = ""
    devices: tuple[DevicePattern, ...] = ()
    cgroup: str | None = None
    netns: str | None = None
    name: str | None = None
    is_optional: bool = False
    maps: Mapping[str, WantedMap] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    migrate: bool | Migration = False
    replace: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The set as messages name it, before its devices are known."""
        devices = ", ".join(map(str, self.devices))
        return self.name or devices or self.cgroup or Path(self.object).name


@dataclass(frozen=True)
class WantedMetric:
    """One `[[metric]]`: what the exporter reads from maps; *keys* are those of its rule."""

    place: Place
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class DesiredState:
    """All that the state files ask for, in their order."""

    files: tuple[Path, ...] = ()
    sets: tuple[WantedSet, ...] = ()
    metrics: tuple[WantedMetric, ...] = ()


def read_state(paths: Iterable[str | Path]) -> DesiredState:
    """Read state files, and the files `*.toml` of directories in the order of their names.

    Raises `ObjectNotFoundError` for a path that does not exist, and for a directory without such
    files, and `UsageError` with everything that is wrong in the files.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(Path(path))))
    states: list[DesiredState] = []
    faults: list[str] = []
    for file in files:
        try:
            states.append(parse_state(_text(file), file))
        except UsageError as error:
            faults.append(error.message)
    # All files first: one run shows everything that is to be mended.
    if faults:
        raise UsageError("\n".join(faults), hint="nothing was changed")
    sets = tuple(wanted for state in states for wanted in state.sets)
    _require_different(sets)
    metrics = tuple(metric for state in states for metric in state.metrics)
    return DesiredState(tuple(files), sets, metrics)


def parse_state(text: str, file: Path) -> DesiredState:
    """Return what the text of one state file asks for; `UsageError` lists all that is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _AT_LINE.search(str(error))
        line = int(match[1]) if match else text.count("\n") + 1
        message = _AT_LINE.sub("", str(error)).replace("(at end of document)", "").strip()
        raise UsageError(f"{file}:{line}: it is not TOML: {message}") from None
    except RecursionError:
        raise UsageError(f"{file}:1: it is not TOML: it nests too deep") from None
    reading = _StateFile(file, lines_of(text))
    found = problems(document)
    if not found:
        found = list(reading.contradictions(document))
    if found:
        raise UsageError("\n".join(map(reading.describe, found)))
    return reading.state(document)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.glob(f"*{SUFFIX}") if not each.name.startswith("."))
    if not files:
        raise ObjectNotFoundError(f"no file *{SUFFIX} in this directory", path=str(path))
    return files


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ObjectNotFoundError("no such file", path=str(file)) from None
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{file} cannot be read", command="open", errno=error.errno or 0, target=str(file)
        ) from None
    if len(data) > _FILE_BYTES_MAX:
        raise LimitError(
            f"{file} is larger than {_FILE_BYTES_MAX} bytes",
            limit=_FILE_BYTES_MAX,
            asked=len(data),
            hint='keep the entries of large maps in a file of their own: file = "….csv"',
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}:{line}: it is not UTF-8") from None


def _require_different(sets: Sequence[WantedSet]) -> None:
    """Raise `UsageError` for two sets of one name, or two without names at one place."""
    known: dict[tuple[str, ...], WantedSet] = {}
    for wanted in sets:
        for identity in _identities(wanted):
            other = known.setdefault(identity, wanted)
            if other is not wanted:
                what = "name" if identity[0] == "name" else "place"
                raise UsageError(
                    f"{wanted.place}: set {wanted.title}: {other.place} has a set with the same"
                    f" {what}, {identity[-1]}",
                    hint='give each of them another name: name = "…"; nothing was changed',
                )


def _identities(wanted: WantedSet) -> Iterator[tuple[str, ...]]:
    if wanted.name:
        yield ("name", wanted.name)
        return
    for pattern in wanted.devices:
        yield ("device", wanted.netns or "", str(pattern))
    if not wanted.devices:
        yield ("cgroup", wanted.cgroup) if wanted.cgroup else ("object", wanted.object)


@dataclass(frozen=True)
class _StateFile:
    """One file, whose document fits the keys, and the lines of its keys."""

    file: Path
    lines: Mapping[KeyPath, int]

    def place(self, *path: str | int) -> Place:
        return Place(self.file, line_at(self.lines, path))

    def describe(self, problem: KeyProblem) -> str:
        """Return a problem as a line: file, line, key, what is wrong."""
        return f"{self.place(*problem.path)}: {_key_text(problem.path)}: {problem.text}"

    def contradictions(self, document: Mapping[str, Any]) -> Iterator[KeyProblem]:
        """Yield what is wrong between keys and in texts of a document that fits the keys."""
        for number, table in enumerate(document.get("set", ())):
            path: KeyPath = ("set", number)
            digits = table.get("sha256")
            if digits is not None and not _SHA256.fullmatch(digits.lower()):
                yield KeyProblem((*path, "sha256"), "it is not 64 hexadecimal digits")
            for word in _texts(table.get("device")):
                try:
                    DevicePattern.parse(word)
                except UsageError as error:
                    yield KeyProblem(
                        (*path, "device"), f"{error.message}. {error.hint}".rstrip(". ")
                    )
            if not table["object"]:
                yield KeyProblem((*path, "object"), "it is empty")
            if table.get("name") == "":
                yield KeyProblem((*path, "name"), "it is empty")
            if table.get("name") and len(_texts(table.get("device"))) > 1:
                text = "it is for one set, and several devices make several sets"
                yield KeyProblem((*path, "name"), text)
            for name, wanted in table.get("maps", {}).items():
                yield from _of_map(wanted, (*path, "maps", name))

    def state(self, document: Mapping[str, Any]) -> DesiredState:
        sets = (self._set(table, number) for number, table in enumerate(document.get("set", ())))
        metrics = (
            WantedMetric(self.place("metric", number), table)
            for number, table in enumerate(document.get("metric", ()))
        )
        return DesiredState((self.file,), tuple(sets), tuple(metrics))

    def _set(self, table: Mapping[str, Any], number: int) -> WantedSet:
        path = ("set", number)
        maps = {
            name: self._map(name, wanted, (*path, "maps", name))
            for name, wanted in table.get("maps", {}).items()
        }
        options = {name: table[name] for name in _PLAIN if name in table}
        if "programs" in table:
            options["programs"] = _texts(table["programs"])
        if "kernel_btf" in table:
            options["kernel_btf"] = self._path(table["kernel_btf"])
        source = table["object"]
        return WantedSet(
            self.place(*path),
            source if source.startswith(PREFIX) else str(self._path(source)),
            sha256=table.get("sha256", "").lower(),
            devices=tuple(map(DevicePattern.parse, _texts(table.get("device")))),
            cgroup=table.get("cgroup"),
            netns=table.get("netns"),
            name=table.get("name"),
            is_optional=table.get("optional", False),
            maps=maps,
            variables=table.get("variables", {}),
            migrate=_migration(table.get("migrate", False)),
            replace=table.get("replace", False),
            options=options,
        )

    def _map(self, name: str, table: Mapping[str, Any], path: KeyPath) -> WantedMap:
        has_contents = any(key in table for key in CONTENTS)
        return WantedMap(
            name,
            self.place(*path),
            max_entries=table.get("max_entries"),
            use=table.get("use"),
            pinning=table.get("pinning"),
            contents=self._contents(table, path) if has_contents else None,
            slots={
                key: self._contents(slot, (*path, "slots", key))
                for key, slot in table.get("slots", {}).items()
            },
            snapshot=self._path(table["snapshot"]) if "snapshot" in table else None,
        )

    def _contents(self, table: Mapping[str, Any], path: KeyPath) -> Contents:
        place = self.place(*path, "file" if "file" in table else "entries")
        if "file" not in table:
            return Contents(place, _pairs(table.get("entries", {})))
        file = self._path(table["file"])
        kind = table.get("format") or _FORMATS[file.suffix]
        return Contents(place, (), file, kind, table.get("value"))

    def _path(self, text: str) -> Path:
        """Return a path of the file; a relative one begins at the directory of the file."""
        return self.file.absolute().parent / text


# Keys of a set that are passed on as they are.
_PLAIN: Final = (
    *("hook", "program_type", "mode", "order", "stub", "group", "chmod"),
    *("max_map_memory", "take_over", "force"),
)


def _of_map(table: Mapping[str, Any], path: KeyPath) -> Iterator[KeyProblem]:
    """Yield what is wrong between the keys of one map."""
    if "use" in table:
        others = [key for key in table if key not in ("use",)]
        if others:
            text = f"an existing map is used as it is: leave out {', '.join(others)}"
            yield KeyProblem((*path, "use"), text)
    given = [key for key in ("entries", "file", "slots", "snapshot") if key in table]
    if len(given) > 1:
        yield KeyProblem(
            (*path, given[1]), f"there is {given[0]} already: one of them says what the map has"
        )
    yield from _of_contents(table, path)
    for key, slot in table.get("slots", {}).items():
        here = (*path, "slots", key)
        if "entries" not in slot and "file" not in slot:
            yield KeyProblem(here, "it has neither entries nor a file")
        yield from _of_contents(slot, here)


def _of_contents(table: Mapping[str, Any], path: KeyPath) -> Iterator[KeyProblem]:
    if "file" not in table:
        for key in ("format", "value"):
            if key in table:
                yield KeyProblem((*path, key), "it belongs to a file, and there is none")
        return
    if "entries" in table and "slots" not in table:
        return  # said by `_of_map`
    kind = table.get("format") or _FORMATS.get(Path(table["file"]).suffix)
    if kind is None:
        known = ", ".join(_FORMATS)
        text = (
            f'its name does not say its format ({known}): give format = "csv", "ndjson" or "list"'
        )
        yield KeyProblem((*path, "file"), text)
    elif (kind == LIST) != ("value" in table):
        text = (
            "a list has keys alone: give value = …, the value of each of them"
            if kind == LIST
            else f"a file of format {kind} has the value of each key: leave out value"
        )
        yield KeyProblem((*path, "value" if "value" in table else "file"), text)


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _pairs(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[tuple[Any, Any], ...]:
    if isinstance(entries, Mapping):
        return tuple(entries.items())
    return tuple((entry["key"], entry["value"]) for entry in entries)


def _migration(value: bool | Mapping[str, Any]) -> bool | Migration:
    if isinstance(value, bool):
        return value
    settings = dict(value)
    settings["rules"] = {name: Rule(word) for name, word in settings.get("rules", {}).items()}
    settings["dropped"] = _texts(settings.get("dropped"))
    return Migration(**settings)


def _key_text(path: KeyPath) -> str:
    """Return a path as people write it: `set 2, maps.flows.max_entries`."""
    head, rest = path[:1], path[1:]
    if rest and isinstance(rest[0], int):
        number, rest = rest[0] + 1, rest[1:]
        inner = ".".join(map(str, rest))
        return f"{head[0]} {number}{f', {inner}' if inner else ''}"
    return ".".join(map(str, path)) or "the file"
