"""The BPF programs and headers that come with the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from bpfpin.btf import compare
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import MapType

ROOT = Path(__file__).parents[2]
BUILTIN = ROOT / "src" / "bpfpin" / "builtin"
OBJECTS = {  # the functions of each, and their sections
    "cgroup_stats": {
        "cgroup_egress": "cgroup_skb/egress",
        "cgroup_ingress": "cgroup_skb/ingress",
    },
    "tc_stats": {"tc_stats": "tc"},
    "xdp_pass": {"xdp_pass": "xdp"},
    "xdp_protocols": {"xdp_protocols": "xdp"},
    "xdp_sizes": {"xdp_sizes": "xdp"},
    "xdp_stats": {"xdp_stats": "xdp"},
}
KERNEL_NAME_LENGTH = 15


@pytest.mark.parametrize("script", ["build_builtin.py", "gen_helpers.py"])
def test_committed_files_are_what_the_sources_give(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "--check"]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stderr) == (0, "")


def test_every_source_has_its_object() -> None:
    assert sorted(path.name for path in BUILTIN.glob("*.bpf.c")) == [
        f"{name}.bpf.c" for name in OBJECTS
    ]
    assert sorted(path.name for path in BUILTIN.glob("*.bpf.o")) == [
        f"{name}.bpf.o" for name in OBJECTS
    ]


@pytest.mark.parametrize("name", OBJECTS)
def test_a_program_stands_in_the_section_of_its_kind(name: str) -> None:
    with (BUILTIN / f"{name}.bpf.o").open("rb") as stream:
        elf = ELFFile(stream)
        symbols = elf.get_section_by_name(".symtab").iter_symbols()
        functions = {
            symbol.name: elf.get_section(symbol["st_shndx"]).name
            for symbol in symbols
            if symbol["st_info"]["type"] == "STT_FUNC"
        }
        license_text = elf.get_section_by_name("license").data()

        assert (elf["e_machine"], functions) == ("EM_BPF", OBJECTS[name])
        assert max(map(len, functions)) <= KERNEL_NAME_LENGTH
        assert license_text == b"Dual MIT/GPL\0"


@pytest.mark.parametrize("name", ["tc_stats", "cgroup_stats", "xdp_protocols"])
def test_the_counters_have_the_definition_of_those_of_xdp_stats(name: str) -> None:
    """What makes one map fit all of them."""
    mine, first = (
        read_object(f"builtin:{each}").maps["xdp_stats_map"] for each in (name, "xdp_stats")
    )
    assert mine.value is not None
    assert first.value is not None

    assert (mine.type, mine.key_size, mine.value_size) == (MapType.PERCPU_ARRAY, 4, 16)
    assert (mine.max_entries, mine.map_flags) == (first.max_entries, first.map_flags) == (5, 0)
    assert compare.differences(mine.value, first.value) == []


def test_the_counters_of_xdp_sizes_are_those_of_xdp_stats_and_one_member_more() -> None:
    """What the demo migrates."""
    first, wider = (
        read_object(f"builtin:{each}").maps["xdp_stats_map"] for each in ("xdp_stats", "xdp_sizes")
    )
    assert first.value is not None
    assert wider.value is not None

    found = compare.differences(first.value, wider.value)
    assert (first.value_size, wider.value_size) == (16, 24)
    assert [one[0] for one in found if one[0]] == ["rx_small"]


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_knows_no_folder_of_the_machine_that_built_it(name: str) -> None:
    data = (BUILTIN / f"{name}.bpf.o").read_bytes()

    assert f"./{name}.bpf.c".encode() in data
    assert b"/site-packages/" not in data
    assert bytes(ROOT) not in data
