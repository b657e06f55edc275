"""The types of a map beside its pin: written as texts of symlinks, read back from them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.btf.types import Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.objects.maps.layouts import DIRECTORY
from bpfpin.pins import names, shared
from bpfpin.pins.directory import Directory
from support.btf_tables import U32


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """Any file system has symlinks; bpffs is not needed."""
    with Directory.open(tmp_path) as opened:
        yield opened


def u32_and_struct(members: int = 1) -> tuple[TypeRef, TypeRef]:
    """Return `u32` and a structure of so many u32."""
    builder = BtfBuilder()
    u32 = builder.add(U32)
    fields = tuple(Member(f"member_{i:04}", u32, 32 * i) for i in range(members))
    record = builder.add(Struct("record", 4 * members, fields))
    types = Btf.parse(builder.build())
    return types.ref(u32), types.ref(record)


def texts(ref: TypeRef | None) -> str | None:
    return c_type(ref) if ref else None


def test_types_read_back_as_they_were_written(directory: Directory) -> None:
    key, value = u32_and_struct()
    shared.write_types(directory, "counts", key=key, value=value)
    found = shared.read_types(directory, "counts")

    assert directory.names() == ["counts"]
    assert [texts(ref) for ref in found] == ["u32", "struct record { u32 member_0000; }"]


def test_a_map_may_have_only_one_of_the_two(directory: Directory) -> None:
    _, value = u32_and_struct()
    shared.write_types(directory, "queue", key=None, value=value)
    key_found, value_found = shared.read_types(directory, "queue")

    assert key_found is None
    assert value_found is not None
    assert value_found.size == 4


def test_a_map_without_types_has_no_layout(directory: Directory) -> None:
    shared.write_types(directory, "raw", key=None, value=None)

    assert directory.names() == []
    assert shared.read_types(directory, "raw") == (None, None)


def test_the_dot_of_a_data_map_is_encoded(directory: Directory) -> None:
    key, value = u32_and_struct()
    shared.write_types(directory, ".bss", key=key, value=value)

    assert directory.names() == ["%2ebss"]
    assert shared.read_types(directory, ".bss")[1] is not None


def test_large_types_go_on_in_further_texts(directory: Directory) -> None:
    key, value = u32_and_struct(300)
    shared.write_types(directory, "big", key=key, value=value)
    found = shared.read_types(directory, "big")[1]
    sizes = [len(directory.read_text(name)) for name in directory.names()]

    assert directory.names() == ["big", "big~1", "big~2", "big~3"][: len(sizes)]
    assert len(sizes) > 2
    assert max(sizes) < 4096
    assert found is not None
    assert texts(found) == texts(value)


def test_a_missing_part_is_no_layout_instead_of_a_wrong_one(directory: Directory) -> None:
    key, value = u32_and_struct(300)
    shared.write_types(directory, "big", key=key, value=value)
    directory.unlink("big~1")

    assert shared.read_types(directory, "big") == (None, None)


@pytest.mark.parametrize(
    "text",
    ["not base64!", "AAA", base64.b64encode(b"no BTF at all").decode(), "n+sBAA=="],
    ids=["letters", "cut", "other-bytes", "cut-header"],
)
def test_a_damaged_text_is_no_layout(directory: Directory, text: str) -> None:
    directory.write_text("counts", text)

    assert shared.read_types(directory, "counts") == (None, None)


def test_readers_look_where_they_are_written() -> None:
    assert names.LAYOUTS == DIRECTORY
