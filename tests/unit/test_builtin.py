"""The BPF programs and headers that come with the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).parents[2]
BUILTIN = ROOT / "src" / "bpfpin" / "builtin"
PROGRAMS = ["xdp_pass", "xdp_stats"]


@pytest.mark.parametrize("script", ["build_builtin.py", "gen_helpers.py"])
def test_committed_files_are_what_the_sources_give(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "--check"]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stderr) == (0, "")


def test_every_source_has_its_object() -> None:
    assert sorted(path.name for path in BUILTIN.glob("*.bpf.c")) == [
        f"{name}.bpf.c" for name in PROGRAMS
    ]
    assert sorted(path.name for path in BUILTIN.glob("*.bpf.o")) == [
        f"{name}.bpf.o" for name in PROGRAMS
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_stands_in_the_xdp_section_under_its_own_name(name: str) -> None:
    with (BUILTIN / f"{name}.bpf.o").open("rb") as stream:
        elf = ELFFile(stream)
        symbol = elf.get_section_by_name(".symtab").get_symbol_by_name(name)[0]
        section = elf.get_section(symbol["st_shndx"])
        license_text = elf.get_section_by_name("license").data()

        assert (elf["e_machine"], section.name) == ("EM_BPF", "xdp")
        assert license_text == b"Dual MIT/GPL\0"


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_object_knows_no_folder_of_the_machine_that_built_it(name: str) -> None:
    data = (BUILTIN / f"{name}.bpf.o").read_bytes()

    assert f"./{name}.bpf.c".encode() in data
    assert b"/site-packages/" not in data
    assert bytes(ROOT) not in data
