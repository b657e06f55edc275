"""Objects of clang 14 with old map definitions: today's tools refuse them, we load them."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest

from support.cli import run_cli, run_cli_ok
from support.documents import ROOT
from support.lab import TestLab
from support.tools import need

PINGS = 7
SOURCES = {"bpf_map_def": "counter_map_def", "bpf_elf_map": "counter_elf_map"}


def _compiled(name: str, folder: Path, *options: str) -> Path:
    target = folder / f"{name}.o"
    source = ROOT / "examples" / f"{name}.bpf.c"
    headers = [
        *("-I", f"/usr/include/{platform.machine()}-linux-gnu"),
        *("-idirafter", str(ROOT / "src/bpfpin/builtin/include"), "-DBPF_NO_MAP_DEF"),
    ]
    command = ["clang", "-O2", *options, "-target", "bpf", *headers, "-c", str(source)]
    subprocess.run([*command, "-o", str(target)], check=True)
    return target


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


def _sum(dump: str) -> int:
    """Add up the packets that `bpftool -j map dump` shows of the key 2, from hexadecimal bytes."""
    (entry,) = [entry for entry in json.loads(dump) if int(entry["key"][0], 16) == 2]
    values = [cpu["value"][:8] for cpu in entry["values"]]
    return sum(int.from_bytes(bytes(int(byte, 16) for byte in value), "little") for value in values)


@pytest.mark.parametrize("debug_info", [("-g",), ()], ids=["with BTF", "without BTF"])
@pytest.mark.parametrize("dialect", SOURCES)
def test_an_old_object_counts_pings_that_bpftool_and_stats_read(
    lab: TestLab, tmp_path: Path, dialect: str, debug_info: tuple[str, ...]
) -> None:
    need("bpftool", "clang", "ping")
    built = _compiled(SOURCES[dialect], tmp_path, *debug_info)
    refused = _run("bpftool", "prog", "load", built, "/sys/fs/bpf/refused", "type", "xdp")
    loaded = run_cli_ok("load", built, "--dev", lab.device, "--type", "xdp", "-o", "json").json
    before = run_cli_ok("stats", lab.device, "--count", "1", "--interval", "0.1", "-o", "ndjson")
    pinged = run_cli_ok(
        "lab", "exec", lab.lab.name, "--",
        "ping", "-4", "-q", "-c", PINGS, "-i", "0.05", "-W", "1", lab.host_address,
    )  # fmt: skip
    dumped = _run("bpftool", "-j", "map", "dump", "pinned", loaded["path"] + "/xdp_stats_map")
    after = run_cli_ok("stats", lab.device, "--count", "1", "--interval", "0.1", "-o", "ndjson")
    unloaded = run_cli("unload", lab.device)

    assert refused.returncode != 0
    assert f"{PINGS} received" in pinged.stdout
    assert _packets(before.json_lines) == 0
    assert _packets(after.json_lines) == PINGS
    assert _sum(dumped.stdout) == PINGS
    assert unloaded.exit_code == 0


def _packets(lines: list[dict[str, object]]) -> object:
    return next(line["packets"] for line in lines if line["action"] == "XDP_PASS")
