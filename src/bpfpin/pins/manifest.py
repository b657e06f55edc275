"""The manifest of a pin set: what the kernel does not store about it, in at most 4,095 bytes.

It is the text of the symlink `manifest~`: bpffs stores pins, directories and symlinks, and no
files. Any user may have written the text, so it is untrusted: each field is validated, and parsing
returns a `Manifest` or raises a `ValueError` with the reason.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple, Self

from bpfpin.errors import LimitError, PinNotFoundError, UnsafePathError
from bpfpin.hints import Argument, Fix
from bpfpin.hooks import HeldBy
from bpfpin.pins.directory import OTHERS_WRITE, Directory, user_name
from bpfpin.pins.names import MANIFEST, OBJECTS
from bpfpin.records import dataclass

TEXT_SIZE_MAX: Final = 4095  # the longest text of a symlink in bpffs (PATH_MAX without the NUL)
NUMBER_MAX: Final = (1 << 64) - 1
# Without dots, which bpffs refuses: so `..` is none either.
COMPONENT: Final = re.compile(r"[^/\0.]{1,255}")
SCHEMA: Final = 1
APPLY: Final = "apply"  # an origin of sets: `apply --prune` unloads these alone
# The highest number, -1, means "unchanged" to chown(2).
_ID_MAX = (1 << 32) - 2  # of users, groups and maps
_PRIORITY_MAX = (1 << 16) - 1
_HANDLE_MAX = (1 << 32) - 1
_DEPTH_MAX = 16  # components of an outside pin's path
_GATE_MAX = 255  # the numbers of gates are bytes
_KEYS = {"held_by": "held"}  # fields of `HookRecord` whose key in the manifest has another name


class JsonObject:
    """An untrusted JSON object, validated field by field; each error is a `ValueError`.

    Manifests and the records of trials are stored as such objects, in the text of a symlink.
    """

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
        self._values: dict[str, Any] = value

    @classmethod
    def load(cls, text: str) -> Self:
        """Parse an untrusted text."""
        import json  # noqa: PLC0415  (few commands need it)

        if len(text) > TEXT_SIZE_MAX:
            raise ValueError("it is too long")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # a text of 4,095 brackets nests too deep
            raise ValueError("it is not JSON") from None
        return cls(value)

    def value(self, key: str) -> object:
        """Return a value that must exist."""
        if key not in self._values:
            raise ValueError(f"{key!r} is missing")
        return self._values[key]

    def optional(self, key: str, default: object) -> object:
        """Return a value that manifests of earlier versions may lack, or *default*."""
        return self._values.get(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; without *default* it must exist."""
        value = self.value(key) if default is None else self.optional(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{key!r} is not a text")
        return value

    def number(self, key: str, *, limit: int = NUMBER_MAX, default: int | None = None) -> int:
        """Return a number from 0 to *limit*; without *default* it must exist."""
        value = self.value(key) if default is None else self.optional(key, default)
        # `type`, for True is an int to isinstance().
        if type(value) is not int or not 0 <= value <= limit:
            raise ValueError(f"{key!r} is not a number up to {limit}")
        return value

    def component(self, key: str) -> str:
        """Return a text that is used as one component of a path in bpffs."""
        value = self.text(key)
        if not COMPONENT.fullmatch(value):
            raise ValueError(f"{key!r} is not one name")
        return value


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """Where the hooks of a set are: a network device, a cgroup, or neither.

    *netns_inode* identifies the network namespace, of the device or of hooks that belong to the
    namespace itself; *netns* is the name by which it was entered, "" for that of the command.
    """

    netns_inode: int = 0
    netns: str = ""
    ifindex: int = 0
    device: str = ""
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class HookRecord:
    """One hook of a set: its program, the requested mode and the actual one.

    *target* is the function, tracepoint, … that this program names; "" where the place of the set
    says all. *link* is the name of the pin in `links~`. A hook without a link has such a name too,
    which identifies it over reloads, but no pin. *priority*, *handle* and *made_qdisc* belong to a
    filter of classic tc; *made_qdisc* says whether the qdisc is removed with the last filter in it.
    """

    hook: str
    program: str
    link: str
    target: str = ""
    asked_mode: str = ""
    mode: str = ""
    held_by: HeldBy = HeldBy.LINK
    priority: int = 0
    handle: int = 0
    made_qdisc: bool = False

    def to_record(self) -> dict[str, Any]:
        """Return the JSON object; fields with their default are left out to save room."""
        fields = self.__dataclass_fields__.items()
        values = ((name, getattr(self, name), field.default) for name, field in fields)
        return {_KEYS.get(name, name): value for name, value, usual in values if value != usual}


@dataclass(frozen=True, slots=True)
class Access:
    """The access to the maps of a set: the group *gid* (None: unchanged) and *mode* of the pins."""

    gid: int | None = None
    mode: int = 0o600

    @property
    def directory_mode(self) -> int:
        """The mode of a directory that lets the readers of the maps list and enter it."""
        group, others = (0o5 if self.mode & bits else 0 for bits in (0o060, 0o006))
        return 0o700 | group << 3 | others


@dataclass(frozen=True, slots=True)
class OutsidePin:
    """A shared name of map *map*: the path of a pin outside of the set, below the pin root."""

    map: str
    path: str

    def below(self, root: Path) -> Path:
        """Return the absolute path."""
        return root / self.path


class GateNumbers(NamedTuple):
    """The numbers of the gate of a program (`objects.gate`): its own, and the one before.

    *number* is admitted from the switch of the hooks on, *before* until then, and again after a
    roll-back; 0 for none. The map of the gate is pinned in `slots~` under the program's name.
    """

    number: int
    before: int


class Lineage(NamedTuple):
    """The migrations of a map: *id* has the contents of a chain of maps that began with *first*.

    A reader that missed migrations in between recognises the map by *first*.
    """

    id: int
    first: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a set: objects, file, hooks, and the options of the load."""

    tool: str
    object: str
    sha256: str
    generation: int
    time: int  # seconds since 1970, wall clock
    place: AttachPoint
    hooks: tuple[HookRecord, ...] = ()
    access: Access | None = None
    outside: tuple[OutsidePin, ...] = ()
    is_chosen: bool = False  # the user named programs and hooks; else the ELF sections decide
    variables: Mapping[str, str] = field(default_factory=dict)
    """By section: a hash of the variables that the user set."""
    migrated: Mapping[str, Lineage] = field(default_factory=dict)
    """By name: the maps with migrated contents, with which readers continue."""
    gates: Mapping[str, GateNumbers] = field(default_factory=dict)
    """By name: the programs that begin with a gate."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """By name: the variables and constants that the user set, as `--set` takes them."""
    origin: str = ""
    """The command that made the set, if that matters later (`APPLY`)."""
    given: Mapping[str, str] = field(default_factory=dict)
    """By name: the maps from elsewhere that the user named, by path or as `--map` takes them."""

    def without_hooks(self) -> Self:
        """Return the manifest of the next generation if nothing is attached in it."""
        return dataclasses.replace(
            self, generation=self.generation + 1, time=int(time.time()), hooks=(), gates={}
        )

    def to_text(self) -> str:
        """Return the text of the symlink.

        If it is too long, `settings` and `given` are left out, then the object's path is cut to its
        file name, and then `migrated` is left out. `LimitError` if that is not enough.
        """
        # Without `settings` and `given`, `state` cannot tell them; without `migrated` readers start
        # from zero, and no count is lost.
        shorter, text = self, ""
        cuts: tuple[dict[str, Any], ...] = (
            {},
            {"settings": {}, "given": {}},
            {"object": PurePath(self.object).name},
            {"migrated": {}},
        )
        for cut in cuts:
            shorter = dataclasses.replace(shorter, **cut)
            text = shorter._dump()
            if len(text) <= TEXT_SIZE_MAX:
                return text
        raise LimitError(
            f"the manifest of this set takes {len(text)} bytes, and bpffs has room for"
            f" {TEXT_SIZE_MAX}",
            limit=TEXT_SIZE_MAX,
            asked=len(text),
            hint=Fix.of("load fewer programs into one set (", Argument("programs", None), ")"),
        )

    def _dump(self) -> str:
        import json  # noqa: PLC0415  (few commands need it)

        record = {
            "schema": SCHEMA,
            "tool": self.tool,
            "object": self.object,
            "sha256": self.sha256,
            "generation": self.generation,
            "time": self.time,
            "place": dataclasses.asdict(self.place),
            "hooks": [hook.to_record() for hook in self.hooks],
            "access": dataclasses.asdict(self.access) if self.access else None,
            "outside": [dataclasses.asdict(pin) for pin in self.outside],
            "is_chosen": self.is_chosen,
        }
        if self.variables:
            record["variables"] = dict(self.variables)
        if self.migrated:
            record["migrated"] = {name: [*line] for name, line in self.migrated.items()}
        if self.gates:
            record["gates"] = {name: [*numbers] for name, numbers in self.gates.items()}
        if self.settings:
            record["settings"] = dict(self.settings)
        if self.origin:
            record["origin"] = self.origin
        if self.given:
            record["given"] = dict(self.given)
        # No spaces: with about 30 hooks a set reaches the limit of the text.
        return json.dumps(record, separators=(",", ":"), default=lambda choice: choice.value)

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Return the manifest in *text*; `ValueError` says why it is none."""
        return _parsed(text)


@lru_cache(maxsize=1024)  # one command reads the manifests of all sets again and again
def _parsed(text: str) -> Manifest:
    record = JsonObject.load(text)
    if record.number("schema") != SCHEMA:
        raise ValueError("it was made by another version of bpfpin")
    return Manifest(
        tool=record.text("tool"),
        object=record.text("object"),
        sha256=record.text("sha256"),
        generation=record.number("generation"),
        time=record.number("time"),
        place=_place(JsonObject(record.value("place"))),
        hooks=_hooks(record.value("hooks")),
        access=_access(record.optional("access", None)),
        outside=_outside(record.optional("outside", [])),
        is_chosen=record.optional("is_chosen", False) is True,
        variables=_texts("variables", record.optional("variables", {})),
        migrated=_migrated(record.optional("migrated", {})),
        gates=_gates(record.optional("gates", {})),
        settings=_texts("settings", record.optional("settings", {})),
        origin=record.text("origin", ""),
        given=_texts("given", record.optional("given", {})),
    )


def _place(record: JsonObject) -> AttachPoint:
    return AttachPoint(
        netns_inode=record.number("netns_inode"),
        netns=record.text("netns"),
        ifindex=record.number("ifindex"),
        device=record.text("device"),
        cgroup=record.text("cgroup"),
    )


def _hooks(value: object) -> tuple[HookRecord, ...]:
    if not isinstance(value, list):
        raise ValueError("'hooks' is not a list")
    return tuple(_hook(JsonObject(item)) for item in value)


def _hook(record: JsonObject) -> HookRecord:
    return HookRecord(
        hook=record.component("hook"),
        program=record.component("program"),
        link=record.component("link"),
        target=record.text("target", ""),
        asked_mode=record.text("asked_mode", ""),
        mode=record.text("mode", ""),
        held_by=HeldBy(record.optional("held", HeldBy.LINK.value)),
        priority=record.number("priority", limit=_PRIORITY_MAX, default=0),
        handle=record.number("handle", limit=_HANDLE_MAX, default=0),
        made_qdisc=record.optional("made_qdisc", False) is True,
    )


def _access(value: object) -> Access | None:
    if value is None:
        return None
    record = JsonObject(value)
    gid = None if record.value("gid") is None else record.number("gid", limit=_ID_MAX)
    return Access(gid, record.number("mode", limit=0o666))


def _texts(key: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{key!r} is not a table of texts")
    return value


def _migrated(value: object) -> dict[str, Lineage]:
    if not isinstance(value, dict):
        raise ValueError("'migrated' is not a table")
    return {name: _lineage(ids) for name, ids in value.items()}


def _lineage(ids: object) -> Lineage:
    if not isinstance(ids, list) or len(ids) != len(Lineage._fields):
        raise ValueError("'migrated' is not a table of pairs")
    if not all(type(map_id) is int and 0 < map_id <= _ID_MAX for map_id in ids):
        raise ValueError("'migrated' is not a table of pairs of map ids")
    return Lineage(*ids)


def _gates(value: object) -> dict[str, GateNumbers]:
    if not isinstance(value, dict) or not all(map(COMPONENT.fullmatch, value)):
        raise ValueError("'gates' is not a table of programs")
    return {name: _gate_numbers(numbers) for name, numbers in value.items()}


def _gate_numbers(numbers: object) -> GateNumbers:
    if not isinstance(numbers, list) or len(numbers) != len(GateNumbers._fields):
        raise ValueError("'gates' is not a table of pairs")
    # `type`, for True is an int to isinstance().
    if not all(type(number) is int and 0 <= number <= _GATE_MAX for number in numbers):
        raise ValueError("'gates' is not a table of pairs of bytes")
    return GateNumbers(*numbers)


def _outside(value: object) -> tuple[OutsidePin, ...]:
    if not isinstance(value, list):
        raise ValueError("'outside' is not a list")
    return tuple(_outside_pin(JsonObject(item)) for item in value)


def _outside_pin(record: JsonObject) -> OutsidePin:
    path = record.text("path")
    parts = path.split("/")
    if len(parts) > _DEPTH_MAX or not all(map(COMPONENT.fullmatch, parts)):
        raise ValueError("'path' is not a path below the pin root")
    return OutsidePin(record.component("map"), path)


def manifest_around(pin: Path) -> Manifest | None:
    """Return the manifest of the set around a pin, also of another owner; None without one."""
    with suppress(OSError, ValueError):
        # The target of the symlink is JSON text. Path.readlink would merge two slashes in it.
        return Manifest.parse(os.readlink(pin.parent / MANIFEST))  # noqa: PTH115
    return None


def read_manifest(directory: Directory, owners: Collection[int] | None = None) -> Manifest:
    """Return the manifest of the set in *directory*.

    Args:
        directory: The open directory of the set.
        owners: The users whose manifests are accepted; by default only the effective user.

    Raises:
        UnsafePathError: The directory or the manifest belongs to another user, others may write the
            directory, or the manifest is missing or damaged; the message is the reason.
    """
    allowed = {os.geteuid()} if owners is None else owners
    status = directory.status
    if status.st_uid not in allowed:
        raise _foreign(f"it belongs to {user_name(status.st_uid)}")
    if status.st_mode & OTHERS_WRITE:
        raise _foreign(f"others may write it (mode {stat.S_IMODE(status.st_mode):04o})")
    try:
        entry = directory.stat(MANIFEST)
    except PinNotFoundError:
        if directory.has(OBJECTS):
            raise _foreign(
                f"its {MANIFEST} was removed, so bpfpin does not know its hooks"
            ) from None
        raise _foreign("it has no manifest, so bpfpin did not make it") from None
    # Its owner counts as well as that of the directory: another user may have made it while the
    # directory was open to all.
    if not stat.S_ISLNK(entry.st_mode) or entry.st_uid not in allowed:
        raise _foreign("its manifest is not one of ours")
    try:
        return Manifest.parse(directory.read_text(MANIFEST))
    except ValueError as error:
        raise _foreign(f"its manifest is damaged: {error}") from None


def _foreign(reason: str) -> UnsafePathError:
    return UnsafePathError(reason)
