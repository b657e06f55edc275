"""Old parts find their new ones by name, and what stands in the way is told."""

from __future__ import annotations

import pytest

from bpfpin.btf.layout import Span
from bpfpin.btf.types import Array, Enum, Enumerator, Member, Struct
from bpfpin.cli.failure import words_of
from bpfpin.migration.match import PartMoves, match_members
from bpfpin.migration.members import Leaf, MemberMove, leaves
from bpfpin.migration.request import NO_RULES, MigrationRules, Rule
from support.btf_tables import U32, U64, table
from support.layouts import Field, struct_of

PACKETS, BYTES = Field("packets", "u64"), Field("bytes", "u64")


def matched(old: list[Field], new: list[Field], wishes: MigrationRules = NO_RULES) -> PartMoves:
    before, after = struct_of(old), struct_of(new)
    return match_members(leaves(before, before.size), leaves(after, after.size), wishes)


def verdict(**names: int) -> tuple[Leaf, ...]:
    values = tuple(Enumerator(name, number) for name, number in names.items())
    return leaves(table(Enum("verdict", 4, False, values)).ref(1), 4)


def test_members_go_where_their_names_are() -> None:
    moves = matched([PACKETS, BYTES], [BYTES, PACKETS, Field("drops", "u64")])

    assert moves.moves == (
        MemberMove("packets", Span(0, 8), Span(8, 8)),
        MemberMove("bytes", Span(8, 8), Span(0, 8)),
    )
    assert [one.path for one in moves.added] == ["drops"]
    assert not moves.unfit


def test_a_member_without_a_place_must_be_dropped_or_renamed() -> None:
    (lost,) = matched([PACKETS, BYTES], [PACKETS]).unfit
    (renamed,) = matched([PACKETS, BYTES], [PACKETS, Field("size", "u64")]).unfit

    assert (lost.may_be_lost, lost.may_be_renamed) == (True, False)
    assert (renamed.may_be_lost, renamed.may_be_renamed) == (True, True)


def test_a_dropped_member_is_given_up() -> None:
    moves = matched([PACKETS, BYTES], [PACKETS], MigrationRules(dropped=frozenset({"bytes"})))

    assert [one.path for one in moves.dropped] == ["bytes"]
    assert not moves.unfit


def test_a_renamed_member_goes_to_its_new_name() -> None:
    moves = matched(
        [PACKETS], [Field("frames", "u64")], MigrationRules(renamed={"packets": "frames"})
    )

    assert [one.path for one in moves.moves] == ["frames"]


def test_two_members_cannot_get_one_name() -> None:
    moves = matched([PACKETS, BYTES], [BYTES], MigrationRules(renamed={"packets": "bytes"}))

    assert ("bytes", "packets and bytes") in [(one.path, one.old) for one in moves.unfit]


def test_a_wider_member_needs_no_check_and_a_narrower_one_does() -> None:
    wider = matched([Field("n", "u32")], [Field("n", "u64")])
    narrower = matched([Field("n", "u64")], [Field("n", "u32")])

    assert not wider.checks
    assert [one.limits for one in narrower.checks] == [(0, 0xFFFFFFFF)]


def test_a_sign_that_changes_is_checked_for_what_both_can_hold() -> None:
    (check,) = matched([Field("n", "s32")], [Field("n", "u32")]).checks

    assert check.limits == (0, 0x7FFFFFFF)
    assert not check.fits((-1).to_bytes(4, "little", signed=True))


def test_clamping_cuts_instead_of_checking() -> None:
    moves = matched([Field("n", "u64")], [Field("n", "u16")], MigrationRules(clamp=True))

    assert [check.is_accepted for check in moves.checks] == [True]
    assert moves.moves[0].limits == (0, 0xFFFF)


def test_a_shorter_array_wants_an_empty_end() -> None:
    moves = matched([Field("slots", "u32", 3)], [Field("slots", "u32", 2)])

    assert [(one.path, one.must_be_zero) for one in moves.checks] == [("slots[2]", True)]


def test_a_shorter_array_of_structures_wants_an_empty_end_too() -> None:
    def array_of(length: int) -> tuple[Leaf, ...]:
        pair = Struct("pair", 8, (Member("a", 1, 0), Member("b", 1, 32)))
        made = table(U32, pair, Array(2, 1, length)).ref(3)
        return leaves(made, made.size)

    moves = match_members(array_of(3), array_of(2), NO_RULES)

    assert [one.path for one in moves.checks] == ["[2].a", "[2].b"]


def test_a_longer_text_is_no_matter_and_a_shorter_one_wants_zeros() -> None:
    longer = matched([Field("name", "char", 4)], [Field("name", "char", 8)])
    (check,) = matched([Field("name", "char", 8)], [Field("name", "char", 4)]).checks

    assert longer.moves[0].is_bytes
    assert not longer.checks
    assert check.place == Span(4, 4)


def test_enumerations_are_matched_by_name() -> None:
    moves = match_members(verdict(PASS=0, DROP=1), verdict(DROP=0, PASS=1), NO_RULES)

    assert moves.moves[0].renumbered == ((0, 1), (1, 0))


def test_a_name_that_is_gone_must_not_occur() -> None:
    (check,) = match_members(verdict(PASS=0, DROP=1), verdict(PASS=0), NO_RULES).checks

    assert check.forbidden == {1}


def test_a_number_with_two_names_stays_as_long_as_one_of_them_does() -> None:
    moves = match_members(verdict(PASS=0, DROP=1, DENY=1), verdict(PASS=0, DENY=1), NO_RULES)
    renumbered = match_members(verdict(DROP=1, DENY=1), verdict(DENY=7), NO_RULES)

    assert (moves.checks, moves.moves[0].renumbered) == ((), ())
    assert (renumbered.checks, renumbered.moves[0].renumbered) == ((), ((1, 7),))


def test_a_number_whose_names_part_must_not_occur() -> None:
    moves = match_members(verdict(DROP=1, DENY=1), verdict(DROP=1, DENY=2), NO_RULES)
    (check,) = moves.checks

    assert check.forbidden == {1}
    assert moves.moves[0].renumbered == ()
    assert "its names have different numbers" in check.what


def test_a_sum_that_may_be_cut_saturates() -> None:
    """Also of numbers of one size: those of all CPUs together may have no room."""

    def saturates(old: str, new: str, *, clamp: bool = True, rule: Rule = Rule.SUM) -> bool:
        wishes = MigrationRules(clamp=clamp, rules={"*": rule})
        return matched([Field("n", old)], [Field("n", new)], wishes).moves[0].saturates

    assert saturates("u64", "u32")
    assert saturates("u32", "u32")
    assert saturates("s64", "u64")
    assert not saturates("u64", "u64")
    assert not saturates("u64", "u32", clamp=False)
    assert not saturates("u64", "u32", rule=Rule.MAX)


def test_a_number_without_a_rule_asks_for_one() -> None:
    both = leaves(table(U64).ref(1), 8)
    moves = match_members(both, both, NO_RULES, default_rule=lambda old, new: None)

    assert [member.needs_rule for member in moves.unfit] == [True]


@pytest.mark.parametrize("name", ["slots", "slots[1]", "*"])
def test_a_rule_is_said_of_a_member_an_element_or_all(name: str) -> None:
    fields = [Field("slots", "u32", 2)]
    moves = matched(fields, fields, MigrationRules(rules={name: Rule.MAX}))

    assert moves.moves[1].rule is Rule.MAX


def test_a_member_that_is_carried_over_has_no_first_value() -> None:
    (unfit,) = matched([PACKETS], [PACKETS], MigrationRules(start={"packets": 1})).unfit

    assert unfit.reason.text() == "start is for new members"
    assert words_of(unfit.reason) == "--start is for new members"
