"""Tables of functions that the kernel calls: loaded in its own form, registered by a link."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.errors import NotSupportedError, UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.maps import struct_ops
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, MapType, ProgramType
from support.kernel_needs import need_struct_ops_links
from support.objects import COMPILERS, compiled

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def read(compiler: str = "zig") -> ObjectSpec:
    return read_object(compiled("function_tables", compiler))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_tables_are_maps_that_name_their_programs(compiler: str) -> None:
    spec = read(compiler)

    assert {name: dict(each.initial) for name, each in spec.maps.items()} == {
        "still": {0: "keep_threshold", 8: "keep_window", 16: "undo_nothing"},
        "outdated": {8: "called_by_none"},
        "dummy": {0: "answer"},
    }
    assert {each.type for each in spec.maps.values()} == {MapType.STRUCT_OPS}
    assert {each.type for each in spec.programs.values()} == {ProgramType.STRUCT_OPS}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_table_registers_an_algorithm_of_tcp_while_its_link_is_open(compiler: str) -> None:
    need_struct_ops_links()
    with load(read(compiler)) as loaded:
        fd = bpf.link_create(loaded.maps["still"].fd, 0, AttachType.STRUCT_OPS)
        with Descriptor(fd):
            there = AVAILABLE.read_text().split()
        after = AVAILABLE.read_text().split()

    assert "bpfpin_still" in there
    assert "bpfpin_still" not in after


def test_a_table_with_a_link_is_left_out_where_the_kernel_has_no_such_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(struct_ops, "has_enumerator", lambda *_names: False)
    with load(read()) as loaded:
        note = next(note for note in loaded.notes if note.startswith("map still: "))

        assert "still" not in loaded.maps
        assert "dummy" in loaded.maps
    assert note.startswith("map still: this kernel has no links for tables of functions")
    with pytest.raises(NotSupportedError, match="no links for tables") as refused:
        load(read(), programs=["keep_window"])
    assert refused.value.since == "6.4"


def test_a_program_of_a_table_runs() -> None:
    with load(read()) as loaded:
        run = loaded.programs["answer"].test_run(context=bytes(8))

    assert run.return_value == 42


def test_an_optional_table_and_its_programs_are_left_out() -> None:
    with load(read()) as loaded:
        assert "outdated" not in loaded.maps
        assert "called_by_none" not in loaded.programs


def test_a_member_that_the_kernels_structure_lacks_is_named() -> None:
    unlinked = read().with_map("outdated", map_flags=0)
    with pytest.raises(NotSupportedError, match="sets member gone, which struct tcp_congestion"):
        load(unlinked, programs=["called_by_none"])


def of_another_structure(spec: ObjectSpec) -> ObjectSpec:
    """Return *spec* with a table of a structure that the kernel takes from nobody."""
    assert spec.btf is not None
    ours = spec.btf.find("sock")
    assert ours is not None
    return spec.with_map("dummy", value=spec.btf.ref(ours))


def test_a_structure_that_the_kernel_takes_from_nobody_is_named() -> None:
    with pytest.raises(NotSupportedError, match="does not let programs provide a struct sock"):
        load(of_another_structure(read()), programs=["answer"])


def test_a_structure_that_the_kernel_takes_from_nobody_does_not_prevent_others() -> None:
    need_struct_ops_links()
    with load(of_another_structure(read())) as loaded:
        (note,) = loaded.notes

    assert "does not let programs provide a struct sock" in note


def test_a_program_of_no_table_is_refused() -> None:
    spec = read().with_map("dummy", initial=())
    with pytest.raises(UsageError, match="answer is not in a table"):
        load(spec, programs=["answer"])
