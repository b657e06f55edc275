"""What a program does to a map: which bytes of values it adds to or sets, what it inserts.

The result of the interpreter (`follow`), and the basis of the decision whether a migration is exact
(`migration.exact`). A `Use` lists everything that some path of the program may do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import field
from enum import Enum

from bpfpin.btf.layout import Span
from bpfpin.objects.kernel.info import ProgramInfo
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec
from bpfpin.uapi import ProgramFlag, ProgramType

# Types of which some programs are sleepable. bpf_prog_info does not report BPF_F_SLEEPABLE, so that
# a loaded program of these types is taken for one that sleeps.
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
    """A way of writing a number in a value."""

    ATOMIC_ADD = "atomic add"
    PLAIN_ADD = "plain add"  # load, add, store: not atomic
    STORE = "store"
    ATOMIC_STORE = "atomic store"  # exchange, compare-and-exchange, bit operations


ADDS = frozenset({WriteKind.ATOMIC_ADD, WriteKind.PLAIN_ADD})


@dataclass(frozen=True, slots=True)
class Write:
    """A write of *size* bytes at *offset* of a value; *offset* is None if it varies."""

    kind: WriteKind
    offset: int | None
    size: int

    def touches(self, place: Span) -> bool:
        """Whether it may write the number at *place*."""
        # At a variable offset, as in an array inside of the value, numbers of the same size may be
        # hit; a place that is not one number (text, an opaque part) always may.
        if self.offset is None:
            return self.size == place.size or place.size not in (1, 2, 4, 8)
        return self.offset < place.offset + place.size and place.offset < self.offset + self.size


@dataclass(frozen=True)
class Use:
    """What one program does to one map.

    Attributes:
        writes: The writes into values, through pointers to them.
        inserts: It inserts entries, with BPF_NOEXIST or after a lookup that found none.
        inserts_any: Such an insertion uses BPF_ANY, so it replaces a value that another CPU
            inserted between the lookup and the update.
        overwrites: It replaces whole values by `bpf_map_update_elem`.
        deletes: It deletes entries.
        unknown: What the analysis could not follow, in words for a message; empty if it saw all.
    """

    writes: frozenset[Write] = frozenset()
    inserts: bool = False
    inserts_any: bool = False
    overwrites: bool = False
    deletes: bool = False
    unknown: tuple[str, ...] = ()

    def to(self, place: Span) -> frozenset[WriteKind]:
        """Return the kinds of write that may hit the number at *place*."""
        return frozenset(write.kind for write in self.writes if write.touches(place))


UNUSED = Use()


@dataclass(frozen=True)
class UsingProgram:
    """A program that uses a map, what it does to it, and its type.

    *can_sleep* is also true if only the type is known and programs of that type may be sleepable.
    """

    program: str
    type: ProgramType | int
    use: Use
    can_sleep: bool = False

    @classmethod
    def of_spec(cls, program: ProgramSpec, use: Use) -> UsingProgram:
        """Return the record of a program of an object file."""
        can_sleep = bool(program.program_flags & ProgramFlag.SLEEPABLE)
        return cls(program.name, program.type, use, can_sleep)

    @classmethod
    def of_info(cls, info: ProgramInfo, use: Use) -> UsingProgram:
        """Return the record of a loaded program; the kernel does not report whether it sleeps."""
        return cls(info.name or f"program {info.id}", info.type, use, info.type in _MAY_SLEEP)


def write_kinds(users: Iterable[UsingProgram], place: Span) -> frozenset[WriteKind]:
    """Return the kinds of write by which any of *users* may hit the number at *place*."""
    return frozenset(kind for user in users for kind in user.use.to(place))


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
    """Collects what a program does to each of its maps, while the interpreter follows it.

    Notes are idempotent, since an instruction is followed once for each new state.
    """

    maps: dict[str, _MapNotes] = field(default_factory=lambda: defaultdict(_MapNotes))

    def write(self, name: str, kind: WriteKind, offset: int | None, size: int) -> None:
        """Note a write to a value of the map *name*."""
        self.maps[name].writes.add(Write(kind, offset, size))

    def insert(self, name: str, *, may_replace: bool) -> None:
        """Note that an entry is inserted with a first value."""
        self.maps[name].inserts = True
        self.maps[name].inserts_any |= may_replace

    def overwrite(self, name: str) -> None:
        """Note that a whole value is written, perhaps over an existing one."""
        self.maps[name].overwrites = True

    def delete(self, name: str) -> None:
        """Note that an entry is deleted."""
        self.maps[name].deletes = True

    def note_unknown(self, name: str, what: str) -> None:
        """Note that the analysis lost track of the map *name*, and *what* the program did."""
        self.maps[name].unknown[what] = None

    def use(self, name: str) -> Use:
        """Return everything noted about the map *name*."""
        noted = self.maps[name]
        return Use(
            frozenset(noted.writes),
            inserts=noted.inserts,
            inserts_any=noted.inserts_any,
            overwrites=noted.overwrites,
            deletes=noted.deletes,
            unknown=tuple(noted.unknown),
        )
