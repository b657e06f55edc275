"""Members of the kernel's own, in maps whose programs use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfpin
from bpfpin import Map
from support.c_structs import HEAD, compiled
from support.tools import need

PACKET = bytes(64)
SOURCE = (
    HEAD
    + """
struct bpf_spin_lock { u32 val; };
struct bpf_timer { u64 opaque[2]; } __attribute__((aligned(8)));
struct locked { struct bpf_spin_lock lock; u32 count; u64 bytes; };
struct timed { u64 before; struct bpf_timer timer; u64 after; };
struct { int (*type)[1]; int (*max_entries)[4]; u32 *key; struct locked *value; }
    locks SEC(".maps");
struct { int (*type)[2]; int (*max_entries)[1]; u32 *key; struct timed *value; }
    timers SEC(".maps");
static void (*take)(struct bpf_spin_lock *) = (void *)93;
static void (*leave)(struct bpf_spin_lock *) = (void *)94;
static long (*timer_init)(struct bpf_timer *, void *map, u64 clock) = (void *)169;
static long (*set_callback)(struct bpf_timer *, void *function) = (void *)170;
static long (*start)(struct bpf_timer *, u64 after_ns, u64 flags) = (void *)171;
static int expired(void *map, u32 *key, struct timed *value) { return 0; }

SEC("xdp") int touch(void *ctx)
{
    u32 key = 0;
    struct locked *locked = lookup(&locks, &key);
    struct timed *timed = lookup(&timers, &key);

    if (!locked || !timed)
        return -1;
    take(&locked->lock);
    locked->count++;
    leave(&locked->lock);
    timer_init(&timed->timer, &timers, 1);
    set_callback(&timed->timer, expired);
    timed->before++;
    return start(&timed->timer, 3600000000000ull, 0);
}
"""
)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[bpfpin.Loaded]:
    """The maps with the program that uses them."""
    need("clang")
    with bpfpin.load(bpfpin.read_object(compiled(SOURCE, tmp_path))) as made:
        yield made


def touch(loaded: bpfpin.Loaded) -> int:
    """Run the program and return what it returns."""
    return loaded.programs["touch"].test_run(PACKET).return_value


def test_a_lock_is_neither_read_nor_written(loaded: bpfpin.Loaded) -> None:
    locks: Map = loaded.maps["locks"]
    locks[0] = {"count": 5, "bytes": 7}

    assert touch(loaded) == 0
    assert locks[0] == {"count": 6, "bytes": 7}
    assert locks.to_dict() == {0: {"count": 6, "bytes": 7}}
    assert locks.value_codec.has_lock
    with pytest.raises(ValueError, match="no member lock; the members are count, bytes"):
        locks[0] = {"lock": {"val": 1}, "count": 6, "bytes": 7}


def test_a_locked_copy_is_whole_and_leaves_the_lock_alone(loaded: bpfpin.Loaded) -> None:
    locks: Map = loaded.maps["locks"]
    locks[0] = {"count": 1, "bytes": 2}

    locks.update(0, {"count": 3, "bytes": 4}, lock=True)

    assert locks.lookup(0, lock=True) == {"count": 3, "bytes": 4}
    assert touch(loaded) == 0
    assert locks.lookup(0, lock=True) == {"count": 4, "bytes": 4}


def test_a_timer_is_neither_read_nor_written(loaded: bpfpin.Loaded) -> None:
    timers: Map = loaded.maps["timers"]
    loaded.maps["locks"][0] = {"count": 0, "bytes": 0}

    assert touch(loaded) == 0
    assert timers[0] == {"before": 1, "after": 0}

    timers[0] = {"before": 10, "after": 20}

    assert touch(loaded) == 0
    assert timers[0] == {"before": 11, "after": 20}
    assert not timers.value_codec.has_lock


def test_what_is_the_kernels_is_not_in_arrays_either(loaded: bpfpin.Loaded) -> None:
    pytest.importorskip("numpy")
    locks: Map = loaded.maps["locks"]
    locks[0] = {"count": 5, "bytes": 7}

    assert locks.to_numpy()[1].dtype.names == ("count", "bytes")
    assert locks.to_numpy()[1]["bytes"].tolist() == [7]
