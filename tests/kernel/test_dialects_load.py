"""Each way an object defines a map: it loads, its map works, and bpftool and we read the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bpfpin.loading.collection import load
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.uapi import AttachType, MapType, ProgramType, XdpAction
from support.objects import COMPILERS, compiled
from support.tools import need

PACKET = bytes(64)
PASS = XdpAction.XDP_PASS


def bpftool(*words: object) -> Any:
    """Run bpftool and return what it says in JSON."""
    need("bpftool")
    command = ["bpftool", "--json", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else None


def number(data: list[str]) -> int:
    """Return the number that bpftool shows as bytes in hexadecimal."""
    return int.from_bytes(bytes(int(byte, 16) for byte in data), "little")


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
def test_a_map_of_bpf_map_def_counts_and_steers(compiler: str, has_debug: bool) -> None:
    spec = read_object(compiled("legacy_map_def", compiler, has_debug=has_debug))
    with load(spec) as loaded:
        program, packets = loaded.programs["count_packets"], loaded.maps["packets"]
        program.test_run(PACKET, repeat=10)
        counted = packets.lookup_bytes(PASS.to_bytes(4, "little"))
        loaded.maps["action"].update_bytes(bytes(4), XdpAction.XDP_DROP.to_bytes(4, "little"))
        steered = program.test_run(PACKET).return_value

        assert packets.type == MapType.PERCPU_ARRAY
    assert sum(counted[::8]) == 10
    assert steered == XdpAction.XDP_DROP


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("has_debug", [True, False], ids=["with BTF", "without BTF"])
def test_a_map_of_bpf_elf_map_counts(compiler: str, has_debug: bool) -> None:
    spec = read_object(compiled("elf_map", compiler, has_debug=has_debug))
    with load(spec) as loaded:
        loaded.programs["count_packets"].test_run(PACKET, repeat=10)
        counted = loaded.maps["packets"].lookup_bytes(bytes(4))

    assert int.from_bytes(counted, "little") == 10


def test_a_map_defined_by_btf_is_typed_by_it() -> None:
    with load(read_object(compiled("btf_maps"))) as loaded:
        flows = loaded.maps["flows"]
        flows[7] = {"packets": 1, "bytes": 64}
        with Map.from_id(flows.id) as again:
            entries = again.to_dict()

    assert entries == {7: {"packets": 1, "bytes": 64}}


def test_bpftool_reads_what_we_pin(bpffs: Path) -> None:
    with load(read_object(compiled("elf_map"))) as loaded:
        loaded.programs["count_packets"].test_run(PACKET, repeat=3)
        loaded.maps["packets"].pin(bpffs / "packets")
        loaded.programs["count_packets"].pin(bpffs / "program")
    (entry,) = bpftool("map", "dump", "pinned", bpffs / "packets")
    shown = bpftool("prog", "show", "pinned", bpffs / "program")

    assert number(entry["value"]) == 3
    assert (shown["type"], shown["name"]) == ("xdp", "count_packets")


def test_we_read_what_bpftool_pins(bpffs: Path) -> None:
    words = ["type", "hash", "key", "4", "value", "8", "entries", "16", "name", "made_by_bpftool"]
    bpftool("map", "create", bpffs / "made", *words)
    bpftool(
        *("map", "update", "pinned", bpffs / "made"),
        *("key", "hex", 1, 0, 0, 0, "value", "hex", 2, 0, 0, 0, 0, 0, 0, 0),
    )
    with Map.from_pin(bpffs / "made", key_format="I", value_format="Q") as made:
        assert made.to_dict() == {1: 2}
        assert made.info.max_entries == 16


def test_we_open_a_program_that_bpftool_loads(bpffs: Path) -> None:
    bpftool("prog", "load", compiled("several_programs"), bpffs / "one", "type", "xdp")
    with Program.from_pin(bpffs / "one") as program:
        assert program.type == ProgramType.XDP
        assert program.name == "pass"


def test_bpftool_sees_the_link_that_we_pin(bpffs: Path) -> None:
    with (
        load(read_object(compiled("elf_map"))) as loaded,
        Link.create(loaded.programs["count_packets"], 1, AttachType.XDP) as link,
    ):
        link.pin(bpffs / "link")
        shown = bpftool("link", "show", "pinned", bpffs / "link")

        assert (shown["type"], shown["prog_id"]) == ("xdp", link.program_id())
    (bpffs / "link").unlink()
