"""What a section's name means to us, it means to libbpf."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest

from bpfpin.objfile.elf.section import ROWS, program_kind

# That of the machine knows neither the names that came later nor iproute2's.
ALWAYS_KNOWN = {"xdp", "kprobe", "fentry", "cgroup/connect4", "sk_lookup", "struct_ops", "syscall"}


@pytest.fixture(scope="module")
def libbpf() -> ctypes.CDLL:
    found = ctypes.util.find_library("bpf")
    if found is None:
        pytest.skip("needs libbpf: apt install libbpf1")
    return ctypes.CDLL(found)


def meaning(libbpf: ctypes.CDLL, section: str) -> tuple[int, int] | None:
    """Return type and expected attach type of programs in *section*, None if it is unknown."""
    kind, attach = ctypes.c_int(), ctypes.c_int()
    places = ctypes.byref(kind), ctypes.byref(attach)
    answer = libbpf.libbpf_prog_type_by_name(section.encode(), *places)
    return (kind.value, attach.value) if answer == 0 else None


def test_every_name_that_libbpf_knows_means_the_same(libbpf: ctypes.CDLL) -> None:
    names = [name for row in ROWS.values() for name in (row.name, f"{row.name}/x"[:64])]
    theirs = {name: found for name in names if (found := meaning(libbpf, name)) is not None}
    ours = {
        name: (int(kind.type), int(kind.expected_attach_type or 0))
        for name in theirs
        if (kind := program_kind(name)) is not None and not kind.note
    }

    assert theirs.keys() >= ALWAYS_KNOWN
    assert {
        name: (found, ours.get(name)) for name, found in theirs.items() if found != ours.get(name)
    } == {}
