"""Which part of an old key or value goes where in the new one, by the names of members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from bpfpin.btf.layout import Span
from bpfpin.migration.members import Leaf, LeafKind, MemberMove
from bpfpin.migration.request import (
    MigrationRules,
    Rule,
    is_beyond_end,
    is_named,
    new_path,
    setting_of,
    without_indices,
)

DefaultRule = Callable[[Leaf, Leaf], Rule | None]
_COUNTABLE: Final = (LeafKind.NUMBER, LeafKind.ENUM)

"""Says the rule of an old and a new number that nobody said one of, None if it is not known."""


@dataclass(frozen=True, slots=True)
class EntryCheck:
    """What every entry must keep to be moved: the old number at *place* is within *limits*.

    None of *forbidden* may occur; with *is_zero* all bytes there are 0. *what* says why. With
    *is_wished* the user gave up what does not fit: then it is told, and refuses nothing.
    """

    path: str
    place: Span
    what: str
    limits: tuple[int, int] | None = None
    forbidden: frozenset[int] = frozenset()
    is_zero: bool = False
    is_wished: bool = False

    def fits(self, data: bytes | memoryview) -> bool:
        """Whether the old value *data* keeps it."""
        part = data[self.place.offset : self.place.offset + self.place.size]
        if self.is_zero:
            return not any(part)
        number = int.from_bytes(part, "little", signed=self.place.is_signed)
        is_within = self.limits is None or self.limits[0] <= number <= self.limits[1]
        return is_within and number not in self.forbidden


@dataclass(frozen=True, slots=True)
class UnfitMember:
    """A part that cannot be moved as things are: what it was, what it is to be, what to type.

    With *may_be_lost* it can be given up instead; with *may_be_renamed* the new value has a part
    that it may be under another name.
    """

    path: str
    old: str
    new: str
    hint: str = ""
    may_be_lost: bool = False
    may_be_renamed: bool = False


@dataclass(frozen=True)
class PartMoves:
    """How the parts of an old key or value become those of a new one.

    *moves* have their old and new parts in *carried*. *added* are new parts, which start at 0
    unless the user said otherwise; *dropped* are old ones that are given up. It may be done only if
    nothing is *unfit* and every entry keeps the *checks*.
    """

    moves: tuple[MemberMove, ...]
    carried: tuple[tuple[Leaf, Leaf], ...] = ()
    checks: tuple[EntryCheck, ...] = ()
    added: tuple[Leaf, ...] = ()
    dropped: tuple[Leaf, ...] = ()
    unfit: tuple[UnfitMember, ...] = ()


def match_members(
    old: Iterable[Leaf],
    new: Iterable[Leaf],
    wishes: MigrationRules,
    *,
    default_rule: DefaultRule = lambda old, new: Rule.SUM,
    otherwise: Rule = Rule.KEEP_NEW,
    is_unused: Callable[[Leaf], bool] = lambda leaf: False,
) -> PartMoves:
    """Find for each old part the new one of its name, and how its number gets there.

    *otherwise* is the rule of what is no number, if nobody said one. Old parts that *are unused*,
    such as padding with a name, need no word: nobody writes them, and they are 0 everywhere.
    """
    before, after = list(old), list(new)
    pairs = list(_pairs(before, after, wishes))
    free = [target for leaf, target in pairs if leaf is None and target is not None]
    paths = frozenset(one.path for one in after)
    matching = _Matching(wishes, default_rule, otherwise, is_unused, paths, free)
    for leaf, target in pairs:
        matching.take(leaf, target)
    matching.unfit += _wrong_words(before, after, wishes)
    return matching.result()


def _pairs(
    old: list[Leaf], new: list[Leaf], wishes: MigrationRules
) -> Iterable[tuple[Leaf | None, Leaf | None]]:
    """Yield old parts with their new ones, None where there is none on that side."""
    targets = {leaf.path: leaf for leaf in new}
    for leaf in old:
        yield leaf, targets.pop(new_path(leaf.path, wishes.renamed), None)
    for leaf in targets.values():
        yield None, leaf


def _wrong_words(old: list[Leaf], new: list[Leaf], wishes: MigrationRules) -> Iterable[UnfitMember]:
    """Yield what is said of new parts that cannot be: two names for one, or values of old ones."""
    paths = [new_path(leaf.path, wishes.renamed) for leaf in old]
    there = {leaf.path: leaf for leaf in new}
    for path, count in Counter(paths).items():
        if count > 1 and path in there:
            both = " and ".join(
                one.path for one, its in zip(old, paths, strict=True) if its == path
            )
            yield UnfitMember(
                path, both, there[path].type, "--rename: two old members have this name"
            )
    for path in wishes.start:
        if any(is_named(one, [path]) for one in paths if one in there):
            yield UnfitMember(
                path, "it is there", "it is carried over", "--start is for new members"
            )


@dataclass
class _Matching:
    wishes: MigrationRules
    default_rule: DefaultRule
    otherwise: Rule
    is_unused: Callable[[Leaf], bool]
    new_paths: frozenset[str]
    free: list[Leaf]  # new parts that have no old one
    moves: list[MemberMove] = field(default_factory=list)
    carried: list[tuple[Leaf, Leaf]] = field(default_factory=list)
    checks: list[EntryCheck] = field(default_factory=list)
    added: list[Leaf] = field(default_factory=list)
    dropped: list[Leaf] = field(default_factory=list)
    unfit: list[UnfitMember] = field(default_factory=list)

    def result(self) -> PartMoves:
        return PartMoves(
            tuple(self.moves),
            tuple(self.carried),
            tuple(self.checks),
            tuple(self.added),
            tuple(self.dropped),
            tuple(self.unfit),
        )

    def take(self, old: Leaf | None, new: Leaf | None) -> None:
        if new is not None and old is None:
            self.added.append(new)
        elif old is not None and new is None:
            self._lose(old)
        elif old is not None and new is not None:
            self._move(old, new)

    def _lose(self, old: Leaf) -> None:
        """Give an old part up if that was wished; the end of an array if there is nothing in it."""
        if is_named(old.path, self.wishes.dropped):
            self._drop(old)
        elif is_beyond_end(new_path(old.path, self.wishes.renamed), self.new_paths):
            self.checks.append(
                EntryCheck(old.path, old.place, "the new array ends before it", is_zero=True)
            )
        elif self.is_unused(old):
            self.dropped.append(old)
            self.checks.append(EntryCheck(old.path, old.place, "it has no place", is_zero=True))
        else:
            is_free = any(_is_alike(old, one) for one in self.free)
            self.unfit.append(
                UnfitMember(old.path, old.type, "none", may_be_lost=True, may_be_renamed=is_free)
            )

    def _drop(self, old: Leaf) -> None:
        self.dropped.append(old)
        self.checks.append(EntryCheck(old.path, old.place, "dropped", is_zero=True, is_wished=True))

    def _move(self, old: Leaf, new: Leaf) -> None:
        if old.kind in _COUNTABLE and new.kind in _COUNTABLE:
            self._move_number(old, new)
        elif old.kind is new.kind is LeafKind.TEXT:
            self._move_text(old, new)
        elif (old.kind, old.type, old.place.size) == (new.kind, new.type, new.place.size):
            self._add(old, new, self._rule(new) or self.otherwise, is_bytes=True)
        elif is_named(old.path, self.wishes.dropped):
            self._drop(old)
            self.added.append(new)
        else:
            self.unfit.append(UnfitMember(old.path, old.type, new.type, may_be_lost=True))

    def _move_text(self, old: Leaf, new: Leaf) -> None:
        cut = old.place.size - new.place.size
        if cut > 0:
            tail = Span(old.place.offset + new.place.size, cut)
            is_wished = is_named(old.path, self.wishes.dropped)
            what = "the new text is shorter"
            self.checks.append(EntryCheck(old.path, tail, what, is_zero=True, is_wished=is_wished))
        self._add(old, new, self._rule(new) or self.otherwise, is_bytes=True)

    def _move_number(self, old: Leaf, new: Leaf) -> None:
        rule = self._rule(new) or self._default(old, new)
        if rule is None and self.is_unused(old):
            rule = Rule.KEEP_NEW
        if rule is None:
            name = without_indices(new.path) or "value"
            hint = f"--rule {name}={'|'.join(rule.value for rule in Rule)}"
            self.unfit.append(UnfitMember(new.path, old.type, new.type, hint))
            return
        limits = _limits(old, new)
        if limits:
            what, is_cut = f"{new.type} has no room", self.wishes.clamp
            self.checks.append(EntryCheck(old.path, old.place, what, limits, is_wished=is_cut))
        renumbered, lost = _renumbered(old, new)
        if lost:
            what, is_dropped = (
                f"{new.type} has no such name",
                is_named(old.path, self.wishes.dropped),
            )
            self.checks.append(
                EntryCheck(old.path, old.place, what, forbidden=lost, is_wished=is_dropped)
            )
        self._add(
            old,
            new,
            rule,
            renumbered=renumbered,
            limits=limits if self.wishes.clamp else None,
        )

    def _add(  # noqa: PLR0917  (the fields of a move)
        self,
        old: Leaf,
        new: Leaf,
        rule: Rule,
        is_bytes: bool = False,
        renumbered: tuple[tuple[int, int], ...] = (),
        limits: tuple[int, int] | None = None,
    ) -> None:
        self.carried.append((old, new))
        self.moves.append(
            MemberMove(new.path, old.place, new.place, rule, is_bytes, renumbered, limits)
        )

    def _rule(self, new: Leaf) -> Rule | None:
        return setting_of(new.path, self.wishes.rules)

    def _default(self, old: Leaf, new: Leaf) -> Rule | None:
        return self.otherwise if new.kind is LeafKind.ENUM else self.default_rule(old, new)


def _is_alike(old: Leaf, new: Leaf) -> bool:
    """Whether an old part could be the new one under another name."""
    if old.kind in _COUNTABLE and new.kind in _COUNTABLE:
        return True
    if old.kind is new.kind is LeafKind.TEXT:
        return True
    return (old.kind, old.type, old.place.size) == (new.kind, new.type, new.place.size)


def _limits(old: Leaf, new: Leaf) -> tuple[int, int] | None:
    """Return the numbers that both sides can hold, None if those are all of the old ones.

    An enumeration of the same size can: only compilers from clang 15 on say whether it is signed.
    """
    if old.kind is new.kind is LeafKind.ENUM and old.place.size == new.place.size:
        return None
    (low, high), (least, greatest) = _reach(old.place), _reach(new.place)
    both = max(low, least), min(high, greatest)
    return None if both == (low, high) else both


def _reach(place: Span) -> tuple[int, int]:
    bits = 8 * place.size
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if place.is_signed else (0, (1 << bits) - 1)


def _renumbered(old: Leaf, new: Leaf) -> tuple[tuple[tuple[int, int], ...], frozenset[int]]:
    """Return the values whose names have other numbers, and those whose names are gone."""
    if not old.values or not new.values:
        return (), frozenset()
    numbers = dict(new.values)
    mask = _compared_bits(old, new)
    moved = tuple((n, numbers[name]) for name, n in old.values if (numbers.get(name, n) ^ n) & mask)
    return moved, frozenset(number for name, number in old.values if name not in numbers)


def _compared_bits(old: Leaf, new: Leaf) -> int:
    """Return the bits in which two numbers of one name differ; all, for two sizes.

    Compilers before clang 15 store no sign, and of 64 bits the lower 32.
    """
    size = old.place.size
    if size != new.place.size:
        return -1
    is_cut = any(all(0 <= n < 1 << 32 for _, n in one.values) for one in (old, new))
    return (1 << (32 if size == 8 and is_cut else 8 * size)) - 1


# A plan member by member: what was where, where it goes, and by which rule.


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member: its old and its new part, None where there is none, and what becomes of it."""

    old: Leaf | None
    new: Leaf | None
    becomes: str

    def text(self) -> str:
        """Return it as a line: `packets u64 at 0 -> u64 at 8: sum`."""
        path = self.old.path if self.old else ""
        later = self.new.path if self.new else ""
        name = path or later or "value"
        renamed = f"{later} " if path and later and later != path else ""
        return f"{name} {_place(self.old)} -> {renamed}{_place(self.new)}: {self.becomes}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"old": _json(self.old), "new": _json(self.new), "rule": self.becomes}


def member_rows(moves: PartMoves) -> Iterator[MemberRow]:
    """Yield the members: what is carried over, what is new, what is dropped."""
    for (old, new), move in zip(moves.carried, moves.moves, strict=True):
        yield MemberRow(old, new, move.rule.value)
    for leaf in moves.added:
        yield MemberRow(None, leaf, "new")
    for leaf in moves.dropped:
        yield MemberRow(leaf, None, "dropped")


def _place(leaf: Leaf | None) -> str:
    return f"{leaf.type} at {leaf.place.offset}" if leaf else "none"


def _json(leaf: Leaf | None) -> dict[str, Any] | None:
    if leaf is None:
        return None
    return {
        "member": leaf.path,
        "type": leaf.type,
        "offset": leaf.place.offset,
        "size": leaf.place.size,
    }
