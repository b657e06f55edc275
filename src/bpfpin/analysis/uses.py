"""What a program does to a map: which bytes of values it adds to or sets, what it inserts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from bpfpin.btf.layout import Span
from bpfpin.objects.kernel.info import ProgramInfo
from bpfpin.spec import ProgramSpec
from bpfpin.uapi import ProgramFlag, ProgramType

_MAY_SLEEP = frozenset(
    {
        ProgramType.TRACING,
        ProgramType.LSM,
        ProgramType.KPROBE,
        ProgramType.SYSCALL,
        ProgramType.STRUCT_OPS,
        ProgramType.EXT,
    }
)


class WriteKind(Enum):
    """How a program writes a number."""

    ATOMIC_ADD = "atomic add"
    PLAIN_ADD = "plain add"  # loaded, added to, stored
    STORE = "store"
    ATOMIC_STORE = "atomic store"  # exchanged, compared and exchanged, bits set


ADDS = frozenset({WriteKind.ATOMIC_ADD, WriteKind.PLAIN_ADD})


@dataclass(frozen=True, slots=True)
class Write:
    """A write of *size* bytes at *offset* of a value, None for an offset that varies."""

    how: WriteKind
    offset: int | None
    size: int

    def touches(self, place: Span) -> bool:
        """Whether it may write the number at *place*."""
        if self.offset is None:
            return self.size == place.size or place.size not in (1, 2, 4, 8)
        return self.offset < place.offset + place.size and place.offset < self.offset + self.size


@dataclass(frozen=True)
class Use:
    """What one program does to one map.

    *inserts* with a first value, where a lookup found nothing or only if there is none;
    *inserts_any* if such an insertion would replace a value that came between; *overwrites* whole
    values by BPF_MAP_UPDATE_ELEM; *unknown* says what could not be followed.
    """

    writes: frozenset[Write] = frozenset()
    inserts: bool = False
    inserts_any: bool = False
    overwrites: bool = False
    deletes: bool = False
    unknown: tuple[str, ...] = ()

    def to(self, place: Span) -> frozenset[WriteKind]:
        """Return the ways in which the number at *place* is written."""
        return frozenset(write.how for write in self.writes if write.touches(place))


UNUSED = Use()


@dataclass(frozen=True)
class UsingProgram:
    """A program that has a map, what it does to it, and where it runs.

    *can_sleep* is also true where only the program's type is known, and some of it sleep.
    """

    program: str
    type: ProgramType | int
    use: Use
    can_sleep: bool = False

    @classmethod
    def of_spec(cls, program: ProgramSpec, use: Use) -> UsingProgram:
        """Return a program of an object file."""
        can_sleep = bool(program.program_flags & ProgramFlag.SLEEPABLE)
        return cls(program.name, program.type, use, can_sleep)

    @classmethod
    def of_info(cls, info: ProgramInfo, use: Use) -> UsingProgram:
        """Return a program that is loaded; whether it sleeps the kernel does not tell."""
        return cls(info.name or f"program {info.id}", info.type, use, info.type in _MAY_SLEEP)


def write_kinds(users: Iterable[UsingProgram], place: Span) -> frozenset[WriteKind]:
    """Return in which ways any of *users* writes the number at *place*."""
    return frozenset(how for user in users for how in user.use.to(place))


# What was noticed of a program's maps while it was followed.


@dataclass
class _MapNotes:
    writes: set[Write] = field(default_factory=set)
    unknown: dict[str, None] = field(default_factory=dict)
    inserts: bool = False
    inserts_any: bool = False
    overwrites: bool = False
    deletes: bool = False


@dataclass
class UseNotes:
    """Collects what a program does; the same may be noted many times."""

    maps: dict[str, _MapNotes] = field(default_factory=lambda: defaultdict(_MapNotes))

    def write(self, name: str, how: WriteKind, offset: int | None, size: int) -> None:
        """Note a write to a value of the map *name*."""
        self.maps[name].writes.add(Write(how, offset, size))

    def insert(self, name: str, *, may_replace: bool) -> None:
        """Note that a first value is inserted."""
        self.maps[name].inserts = True
        self.maps[name].inserts_any |= may_replace

    def overwrite(self, name: str) -> None:
        """Note that a whole value is written, one that may be there already."""
        self.maps[name].overwrites = True

    def delete(self, name: str) -> None:
        """Note that an entry is deleted."""
        self.maps[name].deletes = True

    def tell(self, name: str, what: str) -> None:
        """Note what cannot be followed: what is not known of the map from then on."""
        self.maps[name].unknown[what] = None

    def use(self, name: str) -> Use:
        """Return all that was noted of a map."""
        noted = self.maps[name]
        return Use(
            frozenset(noted.writes),
            inserts=noted.inserts,
            inserts_any=noted.inserts_any,
            overwrites=noted.overwrites,
            deletes=noted.deletes,
            unknown=tuple(noted.unknown),
        )
