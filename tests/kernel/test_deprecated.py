"""Old names of the public API still work, with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin import BloomFilter, Map, MapSpec, MapType, Queue, restore_map, save_map


def test_queues_take_and_show_bytes() -> None:
    with Queue.create(MapSpec("q", MapType.QUEUE, 0, 4, 4)) as queue:
        with pytest.warns(DeprecationWarning, match="use Queue.push"):
            queue.update_bytes(b"", b"\1\0\0\0")
        with pytest.warns(DeprecationWarning, match="use Queue.peek"):
            assert queue.lookup_bytes(b"") == b"\1\0\0\0"


def test_a_bloom_filter_takes_bytes() -> None:
    with BloomFilter.create(MapSpec("b", MapType.BLOOM_FILTER, 0, 4, 4)) as words:
        with pytest.warns(DeprecationWarning, match="use BloomFilter.add"):
            words.update_bytes(b"", b"\1\0\0\0")

        assert b"\1\0\0\0" in words


def test_a_snapshot_is_made_and_read_by_the_old_keyword(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with Map.create(MapSpec("m", MapType.HASH, 4, 4, 4)) as bpf_map:
        bpf_map.update_bytes(b"\1\0\0\0", b"\2\0\0\0")
        with pytest.warns(DeprecationWarning, match=r"save_map\(held=…\) is deprecated"):
            save_map(held=bpf_map, path=path)  # type: ignore[call-arg]
        bpf_map.clear()
        with pytest.warns(DeprecationWarning, match=r"use bpf_map=…"):
            restore_map(path, held=bpf_map)  # type: ignore[call-arg]

        assert bpf_map.lookup_bytes(b"\1\0\0\0") == b"\2\0\0\0"
