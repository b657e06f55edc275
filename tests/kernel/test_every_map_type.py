"""Every type of map that the kernel knows, written and read with what it is made for.

Those whose entries stand for things of the kernel are in `test_every_map_type_things.py`. Where the
kernel of the test cannot have a type, its refusal is checked; a test holds that none is left out.
"""

from __future__ import annotations

import mmap
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bpfpin import restore_map, save_map
from bpfpin.btf.layout import size_of
from bpfpin.errors import (
    EmptyMapError,
    KeyNotFoundError,
    MapFullError,
    SyscallError,
)
from bpfpin.insn import call_helper, exit_, mov_imm
from bpfpin.objects.kernel.btf import BtfHandle, value_type_of, vmlinux_btf
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.queue import BloomFilter, Queue
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import MapCreateAttr, ProgTestRunAttr
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType, ProgramType
from support.kernel_needs import need_map_type
from support.map_types import RECORD, each, exercised, is_listed, of, spec, with_map
from support.maps import DATAREC, FLOWS, U32

CPUS = possible_cpus()
GET_STACKID = 27


def test_no_type_of_map_is_left_out() -> None:
    """Every member of the kernel's list is exercised below."""
    assert exercised() | {MapType.UNSPEC} == set(MapType)


@each(MapType.HASH, MapType.LRU_HASH, MapType.ARRAY)
def test_entries_with_keys(kind: MapType) -> None:
    with Map.create(spec(kind, 4, 16, key=U32, value=DATAREC)) as held:
        held[2] = RECORD

        assert held[2] == RECORD
        assert (2, RECORD) in held.items()
        assert dict(held)[2] == RECORD
        assert held.is_array or len(held) == 1


@each(MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH, MapType.PERCPU_ARRAY)
def test_entries_with_a_value_for_each_cpu(kind: MapType) -> None:
    with Map.create(spec(kind, 4, 16, key=U32, value=DATAREC)) as held:
        held[2] = [RECORD] * CPUS

        assert held[2] == [RECORD] * CPUS
        assert held.total(2)["rx_packets"] == CPUS * 3


def test_reading_an_entry_of_an_lru_map_does_not_keep_it() -> None:
    """User space reads past the marks, so that watching a map does not change what it forgets."""
    (cpu,) = sorted(os.sched_getaffinity(0))[:1]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        few = spec(
            MapType.LRU_HASH,
            4,
            4,
            max_entries=8 * CPUS,
            map_flags=MapFlag.NO_COMMON_LRU,
            key=U32,
            value=U32,
        )
        with Map.create(few) as held:
            held.update(dict.fromkeys(range(8), 0))
            read = [held[0] for _ in range(100)]
            held[8] = 0

            assert read == [0] * 100
            assert 0 not in held
            assert 8 in held
    finally:
        os.sched_setaffinity(0, before)


@of(MapType.LPM_TRIE)
def test_a_trie_answers_with_the_longest_prefix() -> None:
    def prefix(length: int, address: str) -> bytes:
        return length.to_bytes(4, "little") + socket.inet_aton(address)

    wide, narrow = prefix(8, "10.0.0.0"), prefix(24, "10.1.2.0")
    trie = spec(MapType.LPM_TRIE, 8, 4, map_flags=MapFlag.NO_PREALLOC)
    with (
        Map.create(
            trie,
        ) as held,
        Map.from_id(held.id, value_format="I") as routes,
    ):
        routes[wide] = 1
        routes[narrow] = 2

        assert routes[prefix(32, "10.1.2.3")] == 2
        assert routes[prefix(32, "10.9.9.9")] == 1
        assert prefix(32, "11.0.0.1") not in routes
        assert routes.to_dict() == {narrow: 2, wide: 1}
        with pytest.raises(KeyNotFoundError):
            del routes[prefix(32, "10.1.2.3")]
        del routes[narrow]
        assert routes[prefix(32, "10.1.2.3")] == 1


@each(MapType.QUEUE, MapType.STACK)
def test_a_queue_and_a_stack_give_back_what_was_pushed(kind: MapType) -> None:
    with Queue.create(spec(kind, 0, 16, value=DATAREC)) as held:
        values = [{"rx_packets": number, "rx_bytes": 0} for number in range(5)]
        for value in values[:4]:
            held.push(value)
        with pytest.raises(MapFullError, match="holds 4 values already"):
            held.push(values[4])
        held.push(values[4], overwrite=True)
        first = held.peek()
        popped = held.pop()
        rest = list(held.drain())
        with pytest.raises(IndexError, match="is empty"):
            held.pop()
        with pytest.raises(EmptyMapError):
            held.peek()

        left = values[1:] if kind == MapType.QUEUE else values[:0:-1]
        assert first == popped == left[0]
        assert rest == left[1:]


def test_a_queue_is_no_hash() -> None:
    with Map.create(FLOWS) as hash_, pytest.raises(TypeError, match="hash, not a queue or stack"):
        Queue.of(hash_)


@of(MapType.BLOOM_FILTER)
def test_a_bloom_filter_knows_what_was_added() -> None:
    asked = spec(MapType.BLOOM_FILTER, 0, 4, max_entries=1000, map_extra=3, value=U32)
    with BloomFilter.create(asked) as seen:
        seen.add(7)
        seen.update(range(100, 200))
        wrong = [value for value in range(1000, 2000) if value in seen]

        assert 7 in seen
        assert all(value in seen for value in range(100, 200))
        assert len(wrong) < 100
        assert seen.hash_functions == 3


@of(MapType.STACK_TRACE)
@pytest.mark.parametrize(("flags", "frame_size"), [(MapFlag(0), 8), (MapFlag.STACK_BUILD_ID, 32)])
def test_a_stack_trace_reads_as_a_list_of_frames(flags: MapFlag, frame_size: int) -> None:
    """A raw tracepoint's program collects the stack of its own test run: three frames or more."""
    stacks = spec(MapType.STACK_TRACE, 4, 8 * frame_size, map_flags=flags)
    with Map.create(stacks) as held:
        code = (mov_imm(3, 0), call_helper(GET_STACKID), exit_())
        with with_map(ProgramType.RAW_TRACEPOINT, held, *code, register=2) as program:
            run = ProgTestRunAttr(prog_fd=program.fd)
            bpf.prog_test_run(run)
        found = held[run.retval]
        with pytest.raises(TypeError, match="is a stack_trace: only programs write it"):
            held[0] = found
        del held[run.retval]

        frames = [frame["offset"] if flags else frame for frame in found]
        assert len(frames) == 8
        assert all(frame > 1 << 63 for frame in frames[:3])
        assert held.to_dict() == {}


@of(MapType.STRUCT_OPS)
def test_struct_ops_are_shown_by_the_type_of_the_kernel() -> None:
    """Before anybody registers it, a TCP congestion control of zeros."""
    kernel = vmlinux_btf()
    type_id = kernel.find("bpf_struct_ops_tcp_congestion_ops") or 0
    types, _ = BtfHandle.load_types([U32])
    with types:
        asked = MapCreateAttr(
            map_type=MapType.STRUCT_OPS,
            key_size=4,
            value_size=size_of(kernel, type_id),
            max_entries=1,
            map_name=b"ops",
            btf_fd=types.fd,
            btf_vmlinux_value_type_id=type_id,
        )
        made = bpf.map_create(asked)
    with Map.from_fd(made) as held:
        value = held.to_dict()[0]

        assert held.value_type is not None
        assert held.value_type.name == "bpf_struct_ops_tcp_congestion_ops"
        # Before Linux 6.9 the kernel told no id of its BTF, and its structures had no `common`.
        untold = value_type_of(replace(held.info, btf_vmlinux_id=0))
        assert untold is not None
        assert untold.name == held.value_type.name
        assert value.get("common", value)["state"] in {0, "BPF_STRUCT_OPS_STATE_INIT"}
        assert (value["data"]["name"], value["data"]["flags"]) == ("", 0)
        with pytest.raises(SyscallError):
            held[0] = value


@of(MapType.RHASH)
def test_a_resizable_hash_is_filled_walked_and_emptied_or_refused_by_an_older_kernel(
    tmp_path: Path,
) -> None:
    lazy = MapFlag.NO_PREALLOC
    asked = spec(MapType.RHASH, 4, 16, max_entries=1000, map_flags=lazy, key=U32, value=DATAREC)
    asked = asked.with_changes(map_extra=8)
    if not is_listed(MapType.RHASH):
        with pytest.raises(SyscallError):
            Map.create(asked)
        return
    with Map.create(asked) as held:
        held.update_batch((key, RECORD) for key in range(1000))
        with pytest.raises(MapFullError, match="max_entries is 1000"):
            held[1000] = RECORD
        assert (held.info.type, held.info.map_extra) == (MapType.RHASH, 8)
        assert sorted(held) == list(range(1000))
        assert dict(held.items()) == dict.fromkeys(range(1000), RECORD)
        assert save_map(held, tmp_path / "saved").entries == 1000
        assert held.pop(5) == RECORD
        with pytest.raises(KeyNotFoundError):
            held.lookup(5)
        # Each step deletes the key that the kernel was to go on from.
        for key in held:
            del held[key]
        assert list(held) == []
        held.update_batch((key, RECORD) for key in range(700))
        taken = [pair for pairs in held.lookup_and_delete_batch() for pair in pairs]
        assert sorted(key for key, _ in taken) == list(range(700))
        assert len(held) == 0
        assert restore_map(tmp_path / "saved", held).entries == 1000
        assert dict(held.items()) == dict.fromkeys(range(1000), RECORD)


@of(MapType.INSN_ARRAY)
def test_an_instruction_array_holds_places_in_a_program_or_is_refused_by_an_older_kernel() -> None:
    asked = spec(MapType.INSN_ARRAY, 4, 16, max_entries=2)
    if not is_listed(MapType.INSN_ARRAY):
        with pytest.raises(SyscallError):
            Map.create(asked)
        return
    with Map.create(asked) as held:
        held[0] = 2  # the instruction after the two slots that name the map
        held[1] = {"orig_off": 3}
        with pytest.raises(KeyNotFoundError, match="index 2 is past the end: max_entries is 2"):
            held[2] = 0
        with pytest.raises(TypeError, match="its entries are instructions of a program"):
            del held[0]
        with pytest.raises(SyscallError) as caught:
            held[1] = {"orig_off": 3, "jitted_off": 1}
        assert "it takes the index of an instruction" in caught.value.hint
        held.freeze()
        with with_map(ProgramType.XDP, held, mov_imm(0, 2), exit_()):
            first, second = held[0], held[1]
    assert (first["orig_off"], second["orig_off"]) == (2, 3)
    assert 2 <= first["xlated_off"] < second["xlated_off"]
    assert 0 < first["jitted_off"] < second["jitted_off"]


@of(MapType.ARENA)
def test_an_arena_is_memory_of_whoever_maps_it() -> None:
    need_map_type(MapType.ARENA)
    arena = spec(MapType.ARENA, 0, 0, max_entries=1, map_flags=MapFlag.MMAPABLE)
    with Map.create(arena) as held:
        with mmap.mmap(held.fd, mmap.PAGESIZE) as memory:
            memory[:5] = b"hello"
            read = memory[:5]
        with pytest.raises(TypeError, match="is an arena: it has no entries: it is memory"):
            list(held)
        with pytest.raises(TypeError, match="is an arena: it has no entries: it is memory"):
            held[b""]

        assert read == b"hello"


@each(MapType.RINGBUF, MapType.USER_RINGBUF)
def test_rings_have_no_entries(kind: MapType) -> None:
    """Their records are read and written in the tests of the rings."""
    with Map.create(spec(kind, 0, 0, max_entries=mmap.PAGESIZE)) as held:
        for use in (list, len, dict, lambda ring: ring[b""], lambda ring: ring.update(b"", b"")):
            with pytest.raises(TypeError, match=f"is a {kind.name.lower()}: it has no entries"):
                use(held)


@pytest.mark.parametrize("kind", [MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER])
def test_what_cannot_be_walked_says_why(kind: MapType) -> None:
    with Map.create(spec(kind, 0, 4)) as held:
        for use in (list, len, Map.to_dict, lambda it: next(iter(it.items()))):
            with pytest.raises(TypeError, match=r"open it as a (Queue|BloomFilter)$"):
                use(held)
        with pytest.raises(TypeError, match=r"open it as a (Queue|BloomFilter)$"):
            held.delete_bytes(b"")
