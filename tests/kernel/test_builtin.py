"""The counting programs that are shipped: one map for XDP, tc and cgroups, and other loaders."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import builtin_path, read_object
from bpfpin.uapi import XdpAction
from support.tools import need

PACKET = bytes(12) + b"\x08\x00" + b"\x45" + bytes(49)  # Ethernet, then IPv4: 64 bytes
NEXT_DECIDES = 0xFFFFFFFF  # TC_ACT_UNSPEC
ALLOW = 1


def sharing(name: str, counters: Map) -> Loaded:
    """Load builtin:NAME with a descriptor of its own for *counters*."""
    return load(read_object(f"builtin:{name}"), maps={"xdp_stats_map": Map.from_id(counters.id)})


def test_one_map_counts_what_passes_xdp_tc_and_a_cgroup() -> None:
    with ExitStack() as stack:
        loaded = stack.enter_context(load(read_object("builtin:xdp_stats")))
        counters = loaded.maps["xdp_stats_map"]
        tc = stack.enter_context(sharing("tc_stats", counters))
        cgroup = stack.enter_context(sharing("cgroup_stats", counters))
        answers = {
            name: program.test_run(PACKET, repeat=10).return_value
            for each in (loaded, tc, cgroup)
            for name, program in each.programs.items()
        }
        rows = {XdpAction(row).name: counters.total(row) for row in counters}

    assert answers == {
        "xdp_stats": XdpAction.XDP_PASS,
        "tc_stats": NEXT_DECIDES,
        "cgroup_ingress": ALLOW,
        "cgroup_egress": ALLOW,
    }
    # A cgroup sees packets without their 14 bytes of Ethernet.
    counted = {"rx_packets": 40, "rx_bytes": 20 * 64 + 20 * 50}
    none = {"rx_packets": 0, "rx_bytes": 0}
    assert rows == {name: counted if name == "XDP_PASS" else none for name in rows}


@pytest.mark.parametrize(
    ("name", "kind", "programs"),
    [
        ("tc_stats", "sched_cls", ["tc_stats"]),
        ("cgroup_stats", "cgroup_skb", ["cgroup_egress", "cgroup_ingress"]),
    ],
)
def test_libbpf_loads_what_is_shipped(
    bpffs: Path, name: str, kind: str, programs: list[str]
) -> None:
    need("bpftool")
    path = builtin_path(f"builtin:{name}")
    command = ["bpftool", "prog", "loadall", str(path), str(bpffs / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pins = sorted((bpffs / name).iterdir())
    shown = [
        subprocess.run(
            ["bpftool", "prog", "show", "pinned", str(pin)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for pin in pins
    ]

    assert done.returncode == 0, done.stderr
    assert [pin.name for pin in pins] == programs
    assert all(f": {kind} " in text for text in shown)
