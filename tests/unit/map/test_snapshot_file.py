"""Snapshots as files: what is written reads back, and nothing of a file is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfpin.errors import ObjectFileError, ObjectNotFoundError, UsageError
from bpfpin.map.snapshot_file import (
    START,
    SavedDefinition,
    SnapshotReader,
    SnapshotWriter,
    new_file,
)
from bpfpin.objects.maps import layouts
from bpfpin.uapi import MapType
from support.maps import DATAREC, U32

FLOWS = SavedDefinition("flows", MapType.HASH, 4, 16, 100, 0, 0, 1)
TYPES = layouts.encode(U32, DATAREC)
KEYS, VALUES = bytes(range(8)), bytes(range(32))


def snapshot(
    keys: bytes = KEYS,
    values: bytes = VALUES,
    *,
    definition: SavedDefinition = FLOWS,
    types: bytes = TYPES,
) -> bytes:
    """Return the file that has these entries."""
    file = io.BytesIO()
    writer = SnapshotWriter(file, definition, types)
    writer.add(memoryview(keys), memoryview(values))
    writer.end()
    return file.getvalue()


def signed(data: bytes) -> bytes:
    """Return a file with a checksum that is right for what stands before it."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def read(path: Path, data: bytes) -> tuple[SavedDefinition, bytes, bytes]:
    """Return what a file with these bytes has."""
    path.write_bytes(data)
    with SnapshotReader(path) as reader:
        blocks = list(reader.blocks())
        return (
            reader.definition,
            b"".join(keys for keys, _ in blocks),
            b"".join(values for _, values in blocks),
        )


def test_a_snapshot_reads_back_and_again(tmp_path: Path) -> None:
    path = tmp_path / "flows.snapshot"
    path.write_bytes(snapshot())
    with SnapshotReader(path) as reader:
        twice = [[(bytes(k), bytes(v)) for k, v in reader.blocks()] for _ in range(2)]

        assert twice == [[(KEYS, VALUES)]] * 2
        assert reader.definition == FLOWS
        assert [ref.size for ref in reader.types if ref] == [4, 16]


def test_many_entries_are_in_several_blocks(tmp_path: Path) -> None:
    wide = dataclasses.replace(FLOWS, value_size=1 << 20)
    _, keys, values = read(
        tmp_path / "wide", snapshot(bytes(32), bytes(8 << 20), definition=wide, types=b"")
    )

    assert (len(keys), len(values)) == (32, 8 << 20)


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    """At each byte, and nothing but `ObjectFileError` comes of it."""
    whole = snapshot()
    for size in range(len(whole)):
        with pytest.raises(ObjectFileError, match="it ends within") as error:
            read(tmp_path / "cut", whole[:size])
        assert error.value.path == str(tmp_path / "cut")


def test_a_byte_that_changed_is_found(tmp_path: Path) -> None:
    whole = snapshot()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        with pytest.raises(ObjectFileError):
            read(tmp_path / "damaged", bytes(damaged))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    at=st.integers(0, len(snapshot()) - 33),
    put=st.binary(min_size=1, max_size=8),
    tail=st.booleans(),
)
def test_whatever_has_a_right_checksum_reads_or_is_refused(
    tmp_path: Path, at: int, put: bytes, tail: bool
) -> None:
    """Somebody who makes a file on purpose writes the checksum, too."""
    data = bytearray(snapshot())
    data[at : at + len(put)] = put
    try:
        definition, keys, _ = read(tmp_path / "hostile", signed(bytes(data)) + bytes(tail))
    except ObjectFileError:
        return
    assert len(keys) % definition.key_size == 0


ARRAY = dataclasses.replace(FLOWS, type=MapType.ARRAY)
TRIE = dataclasses.replace(FLOWS, type=MapType.LPM_TRIE, key_size=8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x7fELF" + bytes(100), "not a snapshot of a map"),
        (START.pack(b"bpfpin-snapshot\n", 2, 0, 0) + bytes(99), "of version 2"),
        (START.pack(b"bpfpin-snapshot\n", 1, 5000, 0) + bytes(9999), "too large"),
        (START.pack(b"bpfpin-snapshot\n", 1, 2, 0) + b"{}" + bytes(99), "'key_size' is missing"),
        (START.pack(b"bpfpin-snapshot\n", 1, 2, 0) + b"\xff\xff" + bytes(99), "cannot be read"),
        (snapshot(definition=dataclasses.replace(FLOWS, cpus=0)), "a size is 0"),
        (snapshot(types=TYPES[:-3]), "types cannot be read"),
        (snapshot(types=layouts.encode(DATAREC, U32)), "do not have the sizes"),
        (snapshot(definition=dataclasses.replace(ARRAY, key_size=8), types=b""), "has 4 bytes"),
        (snapshot(bytes(8), definition=ARRAY), "indexes of the array do not follow"),
        (snapshot(b"\x21" + bytes(7), VALUES[:16], definition=TRIE, types=b""), "longer than 32"),
        (snapshot() + b"\0", "after its end"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(ObjectFileError, match=reason):
        read(tmp_path / "wrong", data)


def test_a_block_that_claims_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    whole = snapshot()
    at = whole.index(KEYS) - 4
    huge = whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :]

    with pytest.raises(ObjectFileError, match="a block of 4294967295 entries"):
        read(tmp_path / "huge", signed(huge))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ObjectFileError, match="not a regular file"):
        SnapshotReader(tmp_path / "pipe")
    with pytest.raises(ObjectFileError, match="directory"):
        SnapshotReader(tmp_path)
    with pytest.raises(ObjectNotFoundError):
        SnapshotReader(tmp_path / "nosuch")


def test_a_new_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), new_file(path) as file:
        file.write(bytes(1 // 0))

    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    with new_file(path) as file:
        file.write(b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)


def test_a_new_file_replaces_nothing_but_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("link", "."):
        with pytest.raises(UsageError, match="not a regular file"), new_file(tmp_path / name):
            pass
    with pytest.raises(ObjectNotFoundError, match="no such directory"), new_file(tmp_path / "a/b"):
        pass
