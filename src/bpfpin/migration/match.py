"""Matches old members with new ones by name, and derives the moves and the checks.

A move (`MemberMove`) says how a member's number or bytes get to the new place; the fold is
generated from the moves. A check (`EntryCheck`) says what every existing entry must satisfy for the
moves to lose nothing, such as a number that fits into a narrower member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Final

from bpfpin.btf.layout import Span
from bpfpin.hints import Argument, Fix
from bpfpin.migration.members import Leaf, LeafKind, MemberMove
from bpfpin.migration.request import (
    MigrationRules,
    Rule,
    is_beyond_end,
    is_named,
    new_path,
    setting_of,
)
from bpfpin.records import dataclass

# The rule of an old and a new number that the user gave none for; None: the user has to decide.
DefaultRule = Callable[[Leaf, Leaf], Rule | None]
_COUNTABLE: Final = (LeafKind.NUMBER, LeafKind.ENUM)
_WIDEST: Final = 8  # bytes of a number


@dataclass(frozen=True, slots=True)
class EntryCheck:
    """A condition that every old key or value must satisfy to be moved without loss.

    Attributes:
        path: The path of the member.
        place: Where its number is in the old key or value.
        what: The problem of an entry that fails.
        limits: The least and the greatest number allowed; None for any.
        forbidden: Numbers that are not allowed.
        must_be_zero: If true, the only condition is that all bytes there are 0; *limits* and
            *forbidden* do not apply.
        is_accepted: Whether the user accepts the loss: entries that fail are counted and reported,
            but do not refuse the migration.
    """

    path: str
    place: Span
    what: str
    limits: tuple[int, int] | None = None
    forbidden: frozenset[int] = frozenset()
    must_be_zero: bool = False
    is_accepted: bool = False

    def fits(self, data: bytes | memoryview) -> bool:
        """Whether the old key or value *data* satisfies the condition."""
        member = data[self.place.offset : self.place.offset + self.place.size]
        if self.must_be_zero:
            return not any(member)
        # All machines that bpfpin runs on are little-endian, and values are in the machine's byte
        # order.
        number = int.from_bytes(member, "little", signed=self.place.is_signed)
        is_within = self.limits is None or self.limits[0] <= number <= self.limits[1]
        return is_within and number not in self.forbidden


@dataclass(frozen=True, slots=True)
class UnfitMember:
    """A member that cannot be moved without a decision of the user.

    Attributes:
        path: The path of the member.
        old: The old member in words.
        new: The new member in words.
        needs_rule: Whether a rule decides.
        reason: What is wrong with the rules; empty if one more setting is enough.
        may_be_lost: Whether the member can be dropped.
        may_be_renamed: Whether there is a new member of a matching type that may be its new name.
    """

    path: str
    old: str
    new: str
    needs_rule: bool = False
    reason: Fix = Fix(())
    may_be_lost: bool = False
    may_be_renamed: bool = False


@dataclass(frozen=True)
class PartMoves:
    """How the members of an old key or value become those of the new one.

    Attributes:
        moves: One for each member that comes over.
        carried: The old and the new member of each move.
        checks: What every entry must satisfy.
        added: New members without an old one; they start at 0 or at the user's first value.
        dropped: Old members that are given up.
        unfit: Members that need a decision; while there are any, nothing is migrated.
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
    rules: MigrationRules,
    *,
    default_rule: DefaultRule = lambda old, new: Rule.SUM,
    otherwise: Rule = Rule.KEEP_NEW,
    is_unused: Callable[[Leaf], bool] = lambda leaf: False,
) -> PartMoves:
    """Find the new member for each old one, by name, and how it is moved.

    *default_rule* chooses the rule of numbers and *otherwise* is the rule of other members, where
    the user gave none. An old member for which *is_unused* is true may go without a decision: no
    program writes it and it is 0 everywhere, such as named padding.
    """
    before, after = list(old), list(new)
    pairs = list(_pairs(before, after, rules))
    free = [target for leaf, target in pairs if leaf is None and target is not None]
    paths = frozenset(leaf.path for leaf in after)
    matching = _Matching(rules, default_rule, otherwise, is_unused, paths, free)
    for leaf, target in pairs:
        matching.take(leaf, target)
    matching.unfit += _contradictions(before, after, rules)
    return matching.result()


def _pairs(
    old: list[Leaf], new: list[Leaf], rules: MigrationRules
) -> Iterable[tuple[Leaf | None, Leaf | None]]:
    """Yield each old member with its new one; None for a member without a counterpart."""
    targets = {leaf.path: leaf for leaf in new}
    for leaf in old:
        # Popped: if two old members are renamed to one new member, the second finds none, and
        # `_contradictions` says why.
        yield leaf, targets.pop(new_path(leaf.path, rules.renamed), None)
    for leaf in targets.values():
        yield None, leaf


def _contradictions(
    old: list[Leaf], new: list[Leaf], rules: MigrationRules
) -> Iterable[UnfitMember]:
    """Yield rules that contradict: two old members for a new one, a first value for an old one."""
    paths = [new_path(leaf.path, rules.renamed) for leaf in old]
    new_leaves = {leaf.path: leaf for leaf in new}
    for path, count in Counter(paths).items():
        if count > 1 and path in new_leaves:
            both = " and ".join(
                leaf.path for leaf, target in zip(old, paths, strict=True) if target == path
            )
            reason = Fix.of(Argument("renamed", None), ": two old members have this name")
            yield UnfitMember(path, both, new_leaves[path].type, reason=reason)
    for path in rules.start:
        if any(is_named(target, [path]) for target in paths if target in new_leaves):
            reason = Fix.of(Argument("start", None), " is for new members")
            yield UnfitMember(path, "exists", "comes over from the old map", reason=reason)


@dataclass
class _Matching:
    """Takes the pairs of members one by one (`take`), and collects their moves.

    The first six fields are what it decides by: the arguments of `match_members`, the paths of all
    new members, and the new members without an old one (*free*). The others are those of the
    `PartMoves` that `result` returns.
    """

    rules: MigrationRules
    default_rule: DefaultRule
    otherwise: Rule
    is_unused: Callable[[Leaf], bool]
    new_paths: frozenset[str]
    free: list[Leaf]
    moves: list[MemberMove] = field(default_factory=list)
    carried: list[tuple[Leaf, Leaf]] = field(default_factory=list)
    checks: list[EntryCheck] = field(default_factory=list)
    added: list[Leaf] = field(default_factory=list)
    dropped: list[Leaf] = field(default_factory=list)
    unfit: list[UnfitMember] = field(default_factory=list)

    def result(self) -> PartMoves:
        """Return the moves of all pairs."""
        return PartMoves(
            tuple(self.moves),
            tuple(self.carried),
            tuple(self.checks),
            tuple(self.added),
            tuple(self.dropped),
            tuple(self.unfit),
        )

    def take(self, old: Leaf | None, new: Leaf | None) -> None:
        """Decide on one pair; None for a member without a counterpart."""
        if new is not None and old is None:
            self.added.append(new)
        elif old is not None and new is None:
            self._lose(old)
        elif old is not None and new is not None:
            self._move(old, new)

    def _lose(self, old: Leaf) -> None:
        """Drop an old member, if the user accepts that or if every entry has 0 there."""
        if is_named(old.path, self.rules.dropped):
            self._give_up(old)
        elif is_beyond_end(new_path(old.path, self.rules.renamed), self.new_paths):
            self.checks.append(
                # The last elements of an array often were never used: only an entry with a value
                # there refuses the shorter array.
                EntryCheck(old.path, old.place, "the new array ends before it", must_be_zero=True)
            )
        elif self.is_unused(old):
            self.dropped.append(old)
            self.checks.append(
                EntryCheck(
                    old.path, old.place, "the new value has no such member", must_be_zero=True
                )
            )
        else:
            # `--rename` is only offered if there is a new member that could take the name.
            is_free = any(_is_alike(old, leaf) for leaf in self.free)
            self.unfit.append(
                UnfitMember(old.path, old.type, "none", may_be_lost=True, may_be_renamed=is_free)
            )

    def _give_up(self, old: Leaf) -> None:
        """Drop a member that the user allowed to lose."""
        self.dropped.append(old)
        self.checks.append(
            # An accepted check refuses nothing. It counts the entries that lose a value, for the
            # report.
            EntryCheck(old.path, old.place, "dropped", must_be_zero=True, is_accepted=True)
        )

    def _move(self, old: Leaf, new: Leaf) -> None:
        if old.kind in _COUNTABLE and new.kind in _COUNTABLE:
            self._move_number(old, new)
        elif old.kind is new.kind is LeafKind.TEXT:
            self._move_text(old, new)
        # Neither a number nor a text: bytes keep their meaning only if the type is the same in C.
        elif (old.kind, old.type, old.place.size) == (new.kind, new.type, new.place.size):
            self._add(old, new, self._rule(new) or self.otherwise, is_bytes=True)
        # The name stays, but nothing can convert the old type: the new member starts like an added
        # one.
        elif is_named(old.path, self.rules.dropped):
            self._give_up(old)
            self.added.append(new)
        else:
            self.unfit.append(UnfitMember(old.path, old.type, new.type, may_be_lost=True))

    def _move_text(self, old: Leaf, new: Leaf) -> None:
        cut = old.place.size - new.place.size
        if cut > 0:
            # Only the bytes beyond the new end count: a text that ends before them is not cut.
            tail = Span(old.place.offset + new.place.size, cut)
            is_accepted = is_named(old.path, self.rules.dropped)
            what = "the new text is shorter"
            self.checks.append(
                EntryCheck(old.path, tail, what, must_be_zero=True, is_accepted=is_accepted)
            )
        self._add(old, new, self._rule(new) or self.otherwise, is_bytes=True)

    def _move_number(self, old: Leaf, new: Leaf) -> None:
        rule = self._rule(new) or self._default(old, new)
        # Nobody writes it and it is 0 in every entry: every rule gives the same result, so the user
        # is not asked for one.
        if rule is None and self.is_unused(old):
            rule = Rule.KEEP_NEW
        if rule is None:
            self.unfit.append(UnfitMember(new.path, old.type, new.type, needs_rule=True))
            return
        # With --clamp the check is made as well: it counts the entries that are cut.
        limits = _limits(old, new)
        if limits:
            what, is_cut = f"{new.type} has no room", self.rules.clamp
            self.checks.append(EntryCheck(old.path, old.place, what, limits, is_accepted=is_cut))
        renumbered, lost, ambiguous = _renumbered(old, new)
        is_dropped = is_named(old.path, self.rules.dropped)
        for forbidden, what in (
            (lost, f"{new.type} has no such name"),
            (ambiguous, f"its names have different numbers in {new.type}"),
        ):
            if forbidden:
                self.checks.append(
                    EntryCheck(
                        old.path, old.place, what, forbidden=forbidden, is_accepted=is_dropped
                    )
                )
        self._add(
            old,
            new,
            rule,
            renumbered=renumbered,
            # Without --clamp no entry beyond the limits gets as far as the fold, so its programs
            # stay short.
            limits=limits if self.rules.clamp else None,
            # Numbers that fit may have a sum that does not: of several CPUs, or of several keys
            # that become one. Counters of 64 bits never get that far.
            saturates=self.rules.clamp
            and rule is Rule.SUM
            and (limits is not None or new.place.size < _WIDEST),
        )

    def _add(  # noqa: PLR0917  (the fields of a move)
        self,
        old: Leaf,
        new: Leaf,
        rule: Rule,
        is_bytes: bool = False,
        renumbered: tuple[tuple[int, int], ...] = (),
        limits: tuple[int, int] | None = None,
        saturates: bool = False,
    ) -> None:
        self.carried.append((old, new))
        self.moves.append(
            MemberMove(
                new.path, old.place, new.place, rule, is_bytes, renumbered, limits, saturates
            )
        )

    def _rule(self, new: Leaf) -> Rule | None:
        return setting_of(new.path, self.rules.rules)

    def _default(self, old: Leaf, new: Leaf) -> Rule | None:
        # Enumerators are states. Two of them cannot be added up, whatever the programs do to them.
        return self.otherwise if new.kind is LeafKind.ENUM else self.default_rule(old, new)


def _is_alike(old: Leaf, new: Leaf) -> bool:
    """Whether an old member could be the new one under another name."""
    if old.kind in _COUNTABLE and new.kind in _COUNTABLE:
        return True
    if old.kind is new.kind is LeafKind.TEXT:
        return True
    return (old.kind, old.type, old.place.size) == (new.kind, new.type, new.place.size)


def _limits(old: Leaf, new: Leaf) -> tuple[int, int] | None:
    """Return the range of numbers that both members can hold; None if the new one holds them all.

    Enumerations of the same size are taken to be alike: their signedness is in BTF only since
    clang 15 (BTF_KIND_ENUM's kind flag).
    """
    if old.kind is new.kind is LeafKind.ENUM and old.place.size == new.place.size:
        return None
    # By the types alone, not by the entries: an old program may write any number until the switch.
    (low, high), (least, greatest) = _reach(old.place), _reach(new.place)
    both = max(low, least), min(high, greatest)
    return None if both == (low, high) else both


def _reach(place: Span) -> tuple[int, int]:
    bits = 8 * place.size
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if place.is_signed else (0, (1 << bits) - 1)


def _renumbered(
    old: Leaf, new: Leaf
) -> tuple[tuple[tuple[int, int], ...], frozenset[int], frozenset[int]]:
    """Return the enumeration values to be renumbered, those without a name, the ambiguous ones.

    A number may have several names. It has none if all of them are gone, and is ambiguous if they
    have different numbers in the new enumeration. Checks refuse the entries that have either.
    """
    if not old.values or not new.values:
        return (), frozenset(), frozenset()
    numbers = dict(new.values)
    mask = _compared_bits(old, new)
    targets: dict[int, dict[int, int]] = {number: {} for _, number in old.values}
    for name, number in old.values:
        if name in numbers:
            targets[number].setdefault(numbers[name] & mask, numbers[name])
    moved = tuple(
        (number, next(iter(after.values())))
        for number, after in targets.items()
        if len(after) == 1 and number & mask not in after
    )
    lost = frozenset(number for number, after in targets.items() if not after)
    return moved, lost, frozenset(n for n, after in targets.items() if len(after) > 1)


def _compared_bits(old: Leaf, new: Leaf) -> int:
    """Return the bits that two numbers of one name are compared in; all, if the sizes differ.

    Compilers before clang 15 store no sign, and only the lower 32 bits of a 64-bit enumerator.
    """
    size = old.place.size
    if size != new.place.size:
        return -1
    is_cut = any(all(0 <= n < 1 << 32 for _, n in leaf.values) for leaf in (old, new))
    return (1 << (32 if size == 8 and is_cut else 8 * size)) - 1
