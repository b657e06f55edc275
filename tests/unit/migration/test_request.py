"""What the user says of a migration, read and told apart by map."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.migration.members import layout_type, leaves
from bpfpin.migration.refusal import MemberNames, require_known
from bpfpin.migration.request import (
    KEY,
    VALUE,
    Migration,
    Rule,
    new_path,
    rules_of_part,
)

THERE = {
    "flows": MemberNames(frozenset({"packets", "key.port"}), frozenset({"packets", "key.sport"}))
}


def test_words_are_of_all_maps_or_of_one() -> None:
    rules = {"packets": Rule.SUM, "flows:packets": Rule.MAX}
    said = Migration(rules=rules, dropped=["drops"])

    assert said.of("flows").rules == {"packets": Rule.MAX}
    assert said.of("ports").rules == {"packets": Rule.SUM}
    assert said.of("ports").dropped == {"drops"}


def test_words_of_keys_and_values_are_told_apart() -> None:
    wishes = Migration(renamed={"key.port": "key.sport", "n": "packets"}).of("flows")

    assert rules_of_part(wishes, KEY, has_members=True).renamed == {"port": "sport"}
    assert rules_of_part(wishes, VALUE, has_members=True).renamed == {"n": "packets"}


def test_a_value_that_is_one_number_is_called_value() -> None:
    wishes = Migration(rules={"value": Rule.SUM}).of("hits")

    assert rules_of_part(wishes, VALUE, has_members=False).rules == {"": Rule.SUM}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Migration(rules={"bytes": Rule.SUM}), "no new member 'bytes'"),
        (Migration(dropped=["drops"]), "no old member 'drops'"),
        (Migration(renamed={"key.port": "dport"}), "no new member 'key.dport'"),
        (Migration(dropped=["ports:packets"]), "no map 'ports'"),
        (Migration(layouts={"ports": "u64 n"}), "no map 'ports'"),
    ],
)
def test_members_that_no_map_has_are_refused_with_those_that_there_are(
    said: Migration, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        require_known(said, THERE)


def test_members_that_are_there_are_known() -> None:
    require_known(Migration(renamed={"key.port": "sport"}, rules={"packets": Rule.SUM}), THERE)


def test_renaming_a_member_of_array_elements_keeps_their_indices() -> None:
    assert new_path("slots[2].bytes", {"slots.bytes": "slots.octets"}) == "slots[2].octets"
    assert new_path("slots[2].bytes", {"slots": "places"}) == "places[2].bytes"
    assert new_path("slots_2", {"slots": "places"}) == "slots_2"


def test_a_given_layout_is_laid_out_as_c_does() -> None:
    made = layout_type("u8 kind; u64 packets; char name[4]; s32 delta", 24)

    assert [(one.path, one.place.offset) for one in leaves(made, 24)] == [
        ("kind", 0),
        ("packets", 8),
        ("name", 16),
        ("delta", 20),
    ]


@pytest.mark.parametrize("text", ["u64 packets", "u128 packets; u64 n", "packets"])
def test_a_given_layout_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        layout_type(text, 16)
