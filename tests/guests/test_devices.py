"""XDP and tc on the kinds of devices that only stock kernels have."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.attach import devices
from bpfpin.attach.devices import XdpFeature
from bpfpin.attach.query import is_known
from bpfpin.spec import Hook
from support.here import Here, packets
from support.lab import TestLab
from support.links import Wire, bond, bridge, dummy, ip, vlan, wireguard, xdp_of
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

pytestmark = pytest.mark.lab

COUNTERS = "xdp_stats_map"
PASSED = 2
SENT = 5
KINDS = {"bond": bond, "bridge": bridge, "vlan": vlan, "dummy": dummy, "wireguard": wireguard}
Load = Callable[[TestLab], contextlib.AbstractContextManager[Wire]]


@pytest.fixture(params=sorted(KINDS))
def wire(request: pytest.FixtureRequest, lab: TestLab) -> Iterator[Wire]:
    """A device of each kind, to which the lab's peer sends."""
    need("ip", "tc")
    with KINDS[request.param](lab) as made:
        yield made


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the device of the test."""
    return str(request.node.callspec.params["wire"])


def device_checks(here: Here) -> dict[str, tuple[bool, str]]:
    """Return the checks of the doctor that are about the device."""
    document = here.run("doctor", "--dev", here.device).json
    return {one["name"]: (one["ok"], one["text"]) for one in document["checks"]}


def attached_in_graph(here: Here, program: int) -> list[tuple[str, str, str, str]]:
    """Return kind and name of what runs the program, its hook and mode, as the graph has them."""
    graph = here.ok("graph")
    nodes = {node["id"]: node for node in graph["nodes"]}
    return [
        (
            nodes[edge["from"]].get("type", ""),
            nodes[edge["from"]]["name"],
            edge["hook"],
            edge["mode"],
        )
        for edge in graph["edges"]
        if (edge["kind"], edge["to"]) == ("attached", f"program:{program}")
    ]


def test_xdp_counts_through_a_reload(wire: Wire, kind: str, bpffs: Path) -> None:
    here = Here(bpffs, wire.device)
    has_ethernet = kind != "wireguard"
    # The first pair drops UDP to one port below an Ethernet header, the other one passes all.
    old, new = [str(compiled(name)) for name in ("reload_old", "reload_new")]
    row = 1
    if not has_ethernet:
        old, new, row = "builtin:xdp_stats", "builtin:xdp_protocols", PASSED
    checks = device_checks(here)
    loaded = here.load(old, *(() if has_ethernet else ("--replace",)))
    (program,) = loaded["programs"]
    wire.send(SENT)
    wait_until(lambda: packets(here.set / COUNTERS, row) >= SENT)

    # The doctor foresaw the mode where the kernel tells it, and ip(8) sees the same.
    has_native, text = checks["native XDP"]
    is_told = "the kernel does not report" not in text
    assert not is_told or (program["mode"] == "native") == has_native, text
    assert xdp_of(here.device) == (program["mode"], program["id"])
    assert checks["XDP hook"] == (True, f"{here.device} is free")
    assert f"runs program id {program['id']}" in device_checks(here)["XDP hook"][1]
    assert attached_in_graph(here, program["id"]) == [(kind, here.device, "xdp", program["mode"])]

    reloaded = here.load(new, *(() if has_ethernet else ("--replace",)))
    wire.send(SENT)
    wait_until(lambda: packets(here.set / COUNTERS, row) >= 2 * SENT)
    (shown,) = here.ok("status", here.device)["sets"]
    (now,) = reloaded["programs"]

    assert packets(here.set / COUNTERS, row) == 2 * SENT
    assert (reloaded["result"], now["link"]) == ("reloaded", program["link"])
    assert (shown["state"], shown["programs"]) == ("ok", reloaded["programs"])

    here.ok("unload", here.device)
    assert xdp_of(here.device) is None
    assert here.ok("status")["sets"] == []


def test_native_mode_is_had_or_refused_with_the_words_of_the_driver(
    wire: Wire, bpffs: Path
) -> None:
    here = Here(bpffs, wire.device)
    result = here.run("load", compiled("reload_old"), "--dev", here.device, "--mode", "native")
    if result.exit_code == 0:
        assert xdp_of(here.device) == ("native", result.json["programs"][0]["id"])
        return

    assert result.exit_code == 8
    assert f"{here.device} refuses program count_port in native mode" in result.stderr
    assert "--mode generic" in result.json["error"]["hint"]
    assert xdp_of(here.device) is None
    assert here.ok("status")["sets"] == []


def test_tc_counts_what_comes_in_and_what_goes_out(wire: Wire, bpffs: Path) -> None:
    here = Here(bpffs, wire.device)
    hook = "tcx" if is_known(socket.if_nametoindex(wire.device), Hook.TCX_EGRESS) else "tc"
    words = ["--name", "out", "--hook", f"{hook}-egress"]
    here.load("builtin:tc_stats", *words)
    here.load("builtin:tc_stats", "--name", "in", "--hook", f"{hook}-ingress")
    before = packets(bpffs / "in" / COUNTERS, PASSED)
    wire.send(SENT)
    wait_until(lambda: packets(bpffs / "in" / COUNTERS, PASSED) >= before + SENT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, here.device.encode())
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        before = packets(bpffs / "out" / COUNTERS, PASSED)
        for _ in range(SENT):
            sender.sendto(bytes(32), (_other_end(wire), 9))
    wait_until(lambda: packets(bpffs / "out" / COUNTERS, PASSED) >= before + SENT)
    shown = here.ok("status")["sets"]

    assert {one["set"]: one["state"] for one in shown} == {"in": "ok", "out": "ok"}
    here.ok("unload", "in")
    here.ok("unload", "out")
    assert here.ok("status")["sets"] == []


def _other_end(wire: Wire) -> str:
    """Return an address that the device sends to; a dummy takes anything."""
    if wire.address == wire.lab.host_address:
        return wire.lab.peer_address
    return f"{wire.address.rpartition('.')[0]}.2"


def test_a_port_of_a_bond_that_runs_a_program_says_who_is_in_the_way(
    lab: TestLab, bpffs: Path
) -> None:
    with bond(lab) as wire:
        Here(bpffs, wire.device).load(compiled("reload_old"))
        port = Here(bpffs, lab.device)
        refused = port.run("load", compiled("reload_old"), "--dev", port.device)

    assert refused.exit_code == 7, refused.stderr
    assert "upper device" in refused.stderr


@pytest.fixture
def virtio() -> Iterator[str]:
    """The virtio-net device of a guest, in this network namespace for the test."""
    if not os.environ.get("BPFPIN_GUEST"):
        pytest.skip("only in a guest: the device of a host is not ours to take")
    first = ["nsenter", "--net=/proc/1/ns/net", "ip"]
    names = subprocess.run([*first, "-brief", "link"], check=True, capture_output=True, text=True)
    name = next(
        (line.split()[0] for line in names.stdout.splitlines() if not line.startswith("lo ")), ""
    )
    if not name:
        pytest.skip("this guest has no virtio-net device")
    subprocess.run([*first, "link", "set", name, "netns", str(os.getpid())], check=True)
    try:
        ip("address", "add", "10.0.2.15/24", "dev", name)
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "set", name, "netns", "1")


def test_virtio_net_runs_xdp_in_native_mode(virtio: str, bpffs: Path) -> None:
    here = Here(bpffs, virtio)
    checks = device_checks(here)
    loaded = here.load("builtin:xdp_stats")
    (program,) = loaded["programs"]
    features = devices.xdp_features(socket.if_nametoindex(virtio))
    subprocess.run(["ping", "-q", "-c", str(SENT), "-i", "0.2", "10.0.2.2"], check=True)
    counted = packets(here.set / COUNTERS, PASSED)
    reloaded = here.load("builtin:xdp_protocols", "--replace")
    subprocess.run(["ping", "-q", "-c", str(SENT), "-i", "0.2", "10.0.2.2"], check=True)

    assert program["mode"] == "native", loaded["notes"]
    assert xdp_of(virtio) == ("native", reloaded["programs"][0]["id"])
    assert features is None or XdpFeature.BASIC in features
    assert checks["native XDP"][0]
    assert "virtio_net" in checks["device"][1]
    assert counted >= SENT
    assert packets(here.set / COUNTERS, PASSED) >= counted + SENT
    assert attached_in_graph(here, reloaded["programs"][0]["id"])[0][2:] == ("xdp", "native")
    here.ok("unload", virtio)
    assert xdp_of(virtio) is None
