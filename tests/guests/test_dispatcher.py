"""Beside libxdp: programs that xdp-loader put in its dispatcher are shown by their names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from bpfpin.errors import PermissionDeniedError
from bpfpin.loading.collection import load
from bpfpin.objfile.reader import read_object
from bpfpin.pins.bpffs import BPFFS
from support import isolation
from support.here import Here, packets, run_here
from support.lab import TestLab
from support.links import xdp_of
from support.objects import compiled
from support.tools import need

pytestmark = pytest.mark.lab

DROPPED = 1
SENT = 5
PROGRAMS = ["first_of_two", "second_of_two"]


@pytest.fixture
def dispatched(lab: TestLab) -> Iterator[Here]:
    """A device whose dispatcher runs PROGRAMS; libxdp pins in the usual place."""
    need("xdp-loader")
    _need_extensions()
    isolation.mount("bpf", BPFFS)
    try:
        xdp_loader("load", lab.device, compiled("dispatched"), "-n", PROGRAMS[0])
        xdp_loader("load", lab.device, compiled("dispatched"), "-n", PROGRAMS[1])
        yield Here(BPFFS, lab.device)
        subprocess.run(["xdp-loader", "unload", lab.device, "--all"], check=False)
    finally:
        isolation.umount(BPFFS)


def _need_extensions() -> None:
    """Skip the test where the kernel takes no programs of type EXT, which a dispatcher calls."""
    spec = read_object(compiled("module_types", "clang"))
    with load(spec, programs=["target"]) as loaded:
        try:
            load(
                spec, programs=["replacement"], targets={"replacement": loaded.programs["target"]}
            ).close()
        except PermissionDeniedError as error:
            pytest.skip(f"this kernel has no extension programs (freplace): {error}")


def xdp_loader(*words: object) -> str:
    """Run a line of xdp-loader that must succeed, and return what it writes."""
    command = ["xdp-loader", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_programs_of_a_dispatcher_are_told_by_name_and_taken_over(
    dispatched: Here, lab: TestLab
) -> None:
    here = dispatched
    (other,) = here.ok("status")["others"]
    (beside,) = here.ok("status", here.device)["others"]
    text = run_here("status", "--pin-root", here.root).stderr
    names = [one["name"] for one in other["extensions"]]
    ids = [one["id"] for one in other["extensions"]]
    listed = f"first_of_two (id {ids[0]}) and second_of_two (id {ids[1]})"

    assert (other["name"], names) == ("xdp_dispatcher", PROGRAMS)
    assert beside == other
    assert f"xdp_dispatcher (id {other['id']}) at xdp of {here.device} in native mode" in text
    assert f"which runs {listed}" in text

    graph = here.ok("graph")
    nodes = {node["id"]: node["name"] for node in graph["nodes"]}
    edges = {(nodes[edge["from"]], edge["kind"], nodes[edge["to"]]) for edge in graph["edges"]}

    assert (here.device, "attached", "xdp_dispatcher") in edges
    assert {("xdp_dispatcher", "extends", name) for name in PROGRAMS} <= edges

    refused = here.load_refused(7, compiled("reload_old"))
    doctor = here.run("doctor", "--dev", here.device).json["checks"]

    assert listed in refused.stderr
    assert "--take-over" in refused.json["error"]["hint"]
    assert any(check["name"] == "XDP hook" and listed in check["text"] for check in doctor)

    taken = here.load(compiled("reload_old"), "--take-over")
    lab.flood(SENT)
    (program,) = taken["programs"]

    assert xdp_of(here.device) == ("native", program["id"])
    assert packets(here.set / "xdp_stats_map", DROPPED) == SENT
    assert "count_port" in xdp_loader("status", here.device)
    here.ok("unload", here.device)
    assert xdp_of(here.device) is None
