"""Where iproute2 keeps the pins of its own kind of maps."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import pytest

from bpfpin.errors import PinNameError
from bpfpin.sets.given_maps import custom_directories, pin_path
from bpfpin.spec import MapSpec, ObjectSpec, Pinning, ProgramSpec
from bpfpin.uapi import MapType, ProgramType

TABLE = """\
#
3\ttracing
4 foo/bar  # for us
0x5\ttc/cls1
2 globals-of-another
4 foo/last
"""


def wanted(pinning: Pinning, *, name: str = "counts", pinning_id: int = 0) -> MapSpec:
    return MapSpec(name, MapType.HASH, 4, 8, 16, pinning=pinning, pinning_id=pinning_id)


def described(*types: ProgramType, path: str = "", data: bytes = b"") -> ObjectSpec:
    programs = {f"p{type_}": ProgramSpec(f"p{type_}", type_, "prog", ()) for type_ in types}
    return ObjectSpec({}, programs, path=path, sha256=hashlib.sha256(data).hexdigest())


def test_the_global_namespace_is_shared_by_all_kinds_of_programs(tmp_path: Path) -> None:
    """The symlink that iproute2 makes leads to the same place; it is not followed."""
    (tmp_path / "tc").mkdir()
    (tmp_path / "xdp").symlink_to(tmp_path / "tc")
    asked = wanted(Pinning.GLOBAL_NAMESPACE)
    places = {
        pin_path(described(kind), asked, pin_root=tmp_path)
        for kind in (ProgramType.XDP, ProgramType.SCHED_CLS, ProgramType.LWT_IN)
    }

    assert places == {tmp_path / "tc/globals/counts"}


def test_a_directory_of_its_own_is_used_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "xdp").mkdir()
    asked = wanted(Pinning.GLOBAL_NAMESPACE)

    assert pin_path(described(ProgramType.XDP), asked, pin_root=tmp_path) == (
        tmp_path / "xdp/globals/counts"
    )
    assert pin_path(described(ProgramType.SCHED_CLS), asked, pin_root=tmp_path) == (
        tmp_path / "tc/globals/counts"
    )


def test_the_object_namespace_is_named_by_the_sha1_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "object.o").write_bytes(b"abc")
    spec = described(ProgramType.XDP, path=str(tmp_path / "object.o"), data=b"abc")

    assert pin_path(spec, wanted(Pinning.OBJECT_NAMESPACE), pin_root=tmp_path) == (
        tmp_path / "tc/a9993e364706816aba3e25717850c26c9cd0d89d/counts"
    )


@pytest.mark.parametrize("path", ["", "object.o", "missing.o"])
def test_an_object_whose_file_is_not_what_was_read_has_no_namespace(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "object.o").write_bytes(b"changed meanwhile")
    spec = described(ProgramType.XDP, path=str(tmp_path / path) if path else "", data=b"abc")

    assert pin_path(spec, wanted(Pinning.OBJECT_NAMESPACE), pin_root=tmp_path) is None


def test_other_numbers_are_looked_up_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "bpf_pinning").write_text(TABLE)
    tables = [tmp_path / "missing", tmp_path / "bpf_pinning"]
    places = [
        pin_path(
            described(), wanted(Pinning.FILE, pinning_id=number), pin_root=tmp_path, tables=tables
        )
        for number in (3, 4, 5, 6)
    ]

    assert places == [
        tmp_path / "tracing/counts",
        tmp_path / "foo/last/counts",
        tmp_path / "tc/cls1/counts",
        None,
    ]


@pytest.mark.parametrize("line", ["what is this", "7", "7 ../../etc", "seven tracing"])
def test_reading_the_table_ends_at_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "bpf_pinning").write_text(f"3 tracing\n{line}\n8 later\n")

    assert custom_directories([tmp_path / "bpf_pinning"]) == {3: PurePosixPath("tracing")}


def test_without_a_table_no_number_asks_for_a_pin(tmp_path: Path) -> None:
    assert custom_directories([tmp_path / "missing"]) == {}


@pytest.mark.parametrize("name", ["../etc", "a/b", ".", "", "tab\tbed"])
@pytest.mark.parametrize("pinning", [Pinning.GLOBAL_NAMESPACE, Pinning.OBJECT_NAMESPACE])
def test_a_name_that_is_no_identifier_never_becomes_a_path(
    tmp_path: Path, name: str, pinning: Pinning
) -> None:
    with pytest.raises(PinNameError, match="not a C identifier"):
        pin_path(described(), wanted(pinning, name=name), pin_root=tmp_path)
