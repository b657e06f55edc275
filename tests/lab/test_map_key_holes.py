"""Keys whose padding a program did not clear: shown, found, deleted, and told apart."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest

import bpfpin
from bpfpin import KeyExistsError, KeyNotFoundError, Map, MapSpec, MapType, UpdateFlag
from bpfpin.syscall.cpu import possible_cpus
from support.map_command import ok, refused, run, said
from support.objects import compiled_case

KEY = {"proto": 1, "ip": 0x0100000A, "port": 0}
TYPED = "proto=1,ip=16777226,port=0"
FIRST, SECOND = "hex:010101010a00000100000101", "hex:010202020a00000100000202"
CLEAN = "hex:010000000a00000100000000"


def packet(ip_id: int) -> bytes:
    """Return an ICMP packet from 10.0.0.1 whose id fills the stack of the program."""
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, ip_id, 0, 64, 1, 0, b"\n\0\0\1", b"\n\0\0\2")
    return bytes(12) + b"\x08\0" + header + bytes(40)


@pytest.fixture
def flows() -> Iterator[Map]:
    """The map of the case, with one flow counted twice under two keys that read alike."""
    with bpfpin.load(bpfpin.read_object(compiled_case("key_holes"))) as loaded:
        program = loaded.programs["real"]
        for ip_id in (0x0100, 0x0200):
            program.test_run(packet(ip_id))
        yield loaded.maps["flows"]


def name(flows: Map) -> str:
    """Return what names the map on the command line."""
    return f"id:{flows.id}"


def test_two_keys_that_read_alike_stay_two_in_python(flows: Map) -> None:
    keys = list(flows)

    assert keys == [KEY, KEY]
    assert len(flows) == len(flows.to_dict()) == len(dict(flows)) == len(set(keys)) == 2
    assert [flows[key] for key in keys] == [1, 1]
    assert all(key in flows for key in keys)
    assert KEY not in flows
    assert flows.keys_like(KEY) == keys
    flows[keys[0]] = 7
    flows.update(keys[0], 8, UpdateFlag.EXIST)
    assert sorted(flows.values()) == [1, 8]
    flows[KEY] = 5
    assert (len(flows), flows[KEY]) == (3, 5)


def test_every_key_of_a_walk_can_be_deleted(flows: Map) -> None:
    for key, _ in list(flows.items()):
        del flows[key]
        with pytest.raises(KeyNotFoundError):
            del flows[key]
    flows[KEY] = 1
    assert flows.popitem() == (KEY, 1)
    flows.update_batch([(KEY, 1)])
    assert flows.delete_batch(list(flows)) == 1
    assert len(flows) == 0


def test_keys_go_from_map_to_map_with_their_bytes(flows: Map) -> None:
    spec = MapSpec("copy", MapType.HASH, 12, 8, 64, key=flows.key_type, value=flows.value_type)
    with Map.create(spec) as copy:
        copy.update(flows.items())
        copy.update(dict.fromkeys(flows, 1))

        assert set(copy) == set(flows)
        with pytest.raises(KeyExistsError):
            copy.update(next(iter(flows)), 1, UpdateFlag.NOEXIST)
        before = copy.watch(interval_s=0.01, count=1)
        copy.clear()
        assert set(next(before).removed) == set(flows)


def test_the_command_tells_keys_that_read_alike_apart(flows: Map) -> None:
    shown = said("dump", name(flows))
    rows = shown.stdout.splitlines()
    document = ok("dump", name(flows))
    lines = map(json.loads, said("dump", name(flows), "-o", "ndjson").stdout.splitlines())

    assert rows[0].split() == ["key", "value", "key_bytes"]
    assert {row.split()[-1] for row in rows[1:]} == {FIRST, SECOND}
    assert "2 of the keys read have padding that is not zero" in shown.stderr
    assert {entry["key_bytes"] for entry in document["entries"]} == {FIRST, SECOND}
    assert all(entry["key"] == KEY for entry in document["entries"])
    assert {entry["key_bytes"] for entry in lines} == {FIRST, SECOND}
    assert len(ok("dump", name(flows), "--where", f"key={TYPED}")["entries"]) == 2


def test_a_key_that_is_shown_is_found_by_the_command(flows: Map) -> None:
    error = refused(2, "get", name(flows), TYPED)
    assert "2 keys of map 'flows'" in error["message"]
    assert {FIRST, SECOND} <= set(error["hint"].replace(",", "").split())
    for verb in (("delete",), ("set", "9")):
        refused(2, verb[0], name(flows), TYPED, *verb[1:])
    assert ok("get", name(flows), FIRST) == {
        "schema": 1, "key": KEY, "key_bytes": FIRST, "value": 1,
    }  # fmt: skip
    assert ok("delete", name(flows), FIRST)["deleted"] == 1

    assert ok("get", name(flows), TYPED)["key_bytes"] == SECOND
    assert ok("set", name(flows), TYPED, 9)["value"] == 9
    assert ok("get", name(flows), SECOND)["value"] == 9
    refused(7, "set", name(flows), TYPED, 9, "--flag", "noexist")
    assert ok("delete", name(flows), TYPED)["deleted"] == 1
    assert ok("dump", name(flows))["entries"] == []
    assert "key_bytes" not in ok("set", name(flows), TYPED, 9)
    assert ok("get", name(flows), CLEAN)["key"] == KEY
    refused(4, "get", name(flows), "proto=2,ip=1,port=0")


def test_all_of_them_are_deleted(flows: Map) -> None:
    assert ok("delete", name(flows), "--all")["deleted"] == 2
    assert run("dump", name(flows)).stderr == "the map is empty\n"


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH])
def test_deleting_counts_what_it_deleted_and_not_what_others_did(kind: MapType) -> None:
    spec = MapSpec("counted", kind, 4, 4, 20_000)
    with Map.create(spec) as held:
        keys = [number.to_bytes(4, "little") for number in range(10_000)]
        one = [bytes(4)] * possible_cpus() if held.is_per_cpu else bytes(4)
        held.update_batch((key, one) for key in keys)
        gone = [keys[number] for number in (0, 1, 7, 4095, 4096, 9_998, 9_999)]
        assert held.delete_batch(gone) == len(gone)

        assert held.delete_present(keys) == len(keys) - len(gone)
        assert held.delete_present(keys) == 0


def test_deleting_key_by_key_counts_the_same() -> None:
    with Map.create(MapSpec("sockets", MapType.DEVMAP_HASH, 4, 4, 8)) as held:
        held.update({1: 1, 2: 1})

        assert held.delete_present([2, 3, 1, 2]) == 2
    with (
        Map.create(MapSpec("array", MapType.ARRAY, 4, 4, 8)) as array,
        pytest.raises(TypeError),
    ):
        array.delete_present([1])
