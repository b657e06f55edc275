"""Exact prefixes in LPM tries, where a lookup finds the longest prefix that covers the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import KeyNotFoundError
from bpfpin.map.snapshot import restore_map, save_map
from bpfpin.objects.maps import entry_write
from bpfpin.objects.maps.map import Map
from bpfpin.sets.lockout import map_copy
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType

PREFIXES = "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "128.0.0.0/1", "192.168.0.0/16"
# Covered by a prefix of the map, of the length of another one, longer, shorter, beside all.
ABSENT = (
    "10.2.0.0/16",
    "10.1.2.3/32",
    "10.1.3.0/24",
    "10.0.0.0/7",
    "11.0.0.0/8",
    "192.0.0.0/8",
    "192.169.0.0/16",
    "0.0.0.0/1",
    "0.0.0.0/0",
)


def routes() -> MapSpec:
    """Describe a trie of IPv4 prefixes whose values have two members."""
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    members = Member("hop", u32, 0), Member("cost", u32, 32)
    route = builder.add(Struct("route", 8, members))
    key = builder.add(Struct("net", 8, (Member("prefixlen", u32, 0), Member("addr", u32, 32))))
    btf = Btf.parse(builder.build())
    spec = MapSpec("routes", MapType.LPM_TRIE, 8, 8, 16, map_flags=MapFlag.NO_PREALLOC)
    return spec.with_changes(key=btf.ref(key), value=btf.ref(route))


def of(number: int) -> dict[str, int]:
    """Return a value."""
    return {"hop": number, "cost": number}


@pytest.fixture(params=[True, False], ids=["exact_next_key", "by_a_walk"])
def trie(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Map]:
    """A trie, also as on a kernel whose BPF_MAP_GET_NEXT_KEY takes another prefix for the key."""
    if not request.param:
        monkeypatch.setattr(entry_write, "next_key_is_exact", lambda: False)
    with Map.create(routes()) as made:
        for number, prefix in enumerate(PREFIXES):
            made[prefix] = of(number)
        yield made


def test_only_exact_prefixes_are_like_a_key(trie: Map) -> None:
    assert [prefix for prefix in PREFIXES if not trie.keys_like(prefix)] == []
    assert [prefix for prefix in ABSENT if trie.keys_like(prefix)] == []
    assert "10.2.0.0/16" in trie


def test_bits_behind_the_length_are_no_part_of_a_prefix(trie: Map) -> None:
    assert trie.keys_like("10.1.99.99/16")
    assert trie.setdefault("10.1.99.99/16", of(77)) == of(1)


def test_every_prefix_of_a_trie_is_found_and_none_of_an_empty_one(trie: Map) -> None:
    trie.clear()
    assert not trie.keys_like("0.0.0.0/0")
    trie["0.0.0.0/0"] = of(1)
    assert trie.keys_like("0.0.0.0/0")
    assert not trie.keys_like("10.0.0.0/8")


def test_setdefault_adds_a_prefix_that_another_one_covers(trie: Map) -> None:
    assert trie.setdefault("10.2.0.0/16", of(99)) == of(99)
    assert trie["10.2.0.0/16"] == of(99)
    assert trie.setdefault("10.2.0.0/16", of(98)) == of(99)
    assert trie["10.3.0.0/16"] == of(0)


def test_a_partial_write_needs_the_exact_prefix(trie: Map) -> None:
    with pytest.raises(KeyNotFoundError, match=r"key '10\.2\.0\.0/16': there is no such key"):
        trie.update("10.2.0.0/16", {"cost": 7}, partial=True)
    assert not trie.keys_like("10.2.0.0/16")

    trie.update("10.1.0.0/16", {"cost": 7}, partial=True)
    assert trie["10.1.0.0/16"] == {"hop": 1, "cost": 7}


def test_pop_takes_exact_prefixes_only(trie: Map) -> None:
    assert trie.pop("10.2.0.0/16", None) is None
    with pytest.raises(KeyNotFoundError):
        trie.pop("10.2.0.0/16")
    assert trie.pop("10.1.0.0/16") == of(1)
    assert len(trie) == len(PREFIXES) - 1


def test_a_kernel_that_mistakes_prefixes_for_others_is_recognised() -> None:
    with Map.create(routes()) as made:
        made["128.0.0.0/1"] = of(1)
        following = made._elements.next_key(made.key_codec.encode("0.0.0.0/1"))

    assert entry_write.next_key_is_exact() == (following is not None)


def test_an_exact_restore_knows_a_prefix_in_another_spelling(trie: Map, tmp_path: Path) -> None:
    path = tmp_path / "routes"
    save_map(trie, path)
    del trie["10.1.0.0/16"]
    trie["10.1.99.99/16"] = of(99)
    trie["10.7.0.0/16"] = of(7)
    restored = restore_map(path, trie, exact=True)

    assert (restored.entries, restored.deleted) == (len(PREFIXES), 1)
    assert trie["10.1.0.0/16"] == of(1)


def test_a_part_of_a_large_trie_has_all_prefixes_that_cover_an_address(trie: Map) -> None:
    """A change of one of them, such as its removal, then acts on the copy as on the trie."""
    address = bytes([10, 1, 2, 3])
    contents = map_copy.contents_of(trie, map_copy.Budget(entries=0), [address, bytes([10] * 4)])
    with Map.create(map_copy.spec_of(trie)) as copy:
        map_copy.fill(copy, contents)
        copied = [prefix for prefix in PREFIXES if copy.keys_like(prefix)]
        assert (copied, len(copy)) == (["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"], 3)

        del copy["10.1.2.0/24"]
        assert copy["10.1.2.3"] == of(1)
        copy["10.1.0.0/16"] = of(77)
        assert copy["10.1.2.3"] == of(77)
