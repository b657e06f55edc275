"""The command as a user types it, in this process and in a pin root of the test's own.

A process for each line would take most of a test's time; where the process itself matters (signals,
other users, other namespaces) `support.cli` starts one.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfpin.attach import clsact
from bpfpin.attach.clsact import clsact_filters
from bpfpin.attach.query import tcx_programs
from bpfpin.attach.xdp import XdpHolder, xdp_holder
from bpfpin.cli.main import main
from bpfpin.errors import IdNotFoundError
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook
from support.cli import CliResult
from support.tools import need
from support.wait import wait_until

_numbers = itertools.count(1)


def run_here(*words: object) -> CliResult:
    """Run `bpfpin WORDS…` in this process and return how it ended, whatever the exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
    ):
        exit_code = main([*map(str, words)])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return CliResult(int(exit_code), stdout.getvalue(), stderr.getvalue())


@dataclass(frozen=True)
class Here:
    """One device with sets below the pin root *root*, and what is typed about them."""

    root: Path
    device: str

    @property
    def set(self) -> Path:
        """The directory of the set that is called after the device."""
        return self.root / self.device

    @property
    def typed(self) -> str:
        """What lines about sets of this pin root begin with, where a message has them."""
        return f"bpfpin --pin-root {self.root}"

    def run(self, *words: object) -> CliResult:
        """Run a line of this pin root, with one JSON document as its answer."""
        return run_here(*words, "--pin-root", self.root, "-o", "json")

    def ok(self, *words: object) -> Any:
        """Run a line that must succeed, and return its document."""
        result = self.run(*words)
        assert result.exit_code == 0, f"exit {result.exit_code}: {result.stderr}"
        return result.json

    def load(self, source: object, *words: object) -> Any:
        """Load an object on the device, which must succeed."""
        return self.ok("load", source, "--dev", self.device, *words)

    def refused(self, exit_code: int, *words: object) -> CliResult:
        """Run a line that must be refused with that exit code and change nothing at all."""
        before = self.everything()
        result = self.run(*words)

        assert (result.exit_code, result.json["error"]["exit"]) == (exit_code, exit_code), (
            result.stderr
        )
        assert self.everything() == before
        return result

    def load_refused(self, exit_code: int, source: object, *words: object) -> CliResult:
        """Load an object on the device, which must be refused and change nothing at all."""
        return self.refused(exit_code, "load", source, "--dev", self.device, *words)

    def holder(self) -> XdpHolder | None:
        """Return who is attached to the device."""
        return holder_of(self.device)

    def everything(self) -> tuple[dict[str, tuple[object, ...]], XdpHolder | None, object]:
        """Return all names of the pin root with what they are, and who is attached."""
        return tree(self.root), self.holder(), tc_of(self.device)


@contextlib.contextmanager
def counting_veth(root: Path) -> Iterator[Here]:
    """A device with the set of `builtin:xdp_stats` in the pin root *root*."""
    with veth() as device:
        here = Here(root, device)
        here.load("builtin:xdp_stats")
        yield here
        here.ok("unload", device)


def listed_by_id(noun: str, *words: object) -> dict[int, Any]:
    """Return the rows of `prog list` or `link list` by id."""
    result = run_here(noun, "list", "-o", "json", *words)
    assert result.exit_code == 0, result.stderr
    (rows,) = [value for key, value in result.json.items() if key != "schema"]
    return {row["id"]: row for row in rows}


def holder_of(device: str) -> XdpHolder | None:
    """Return who is attached to that device; nobody where it is gone."""
    try:
        return xdp_holder(socket.if_nametoindex(device))
    except OSError:
        return None


def tc_of(device: str) -> tuple[object, ...]:
    """Return what tcx and classic tc run on that device, and its qdisc; nothing if it is gone."""
    try:
        index = socket.if_nametoindex(device)
    except OSError:
        return ()
    tcx = [tcx_programs(index, hook) for hook in (Hook.TCX_INGRESS, Hook.TCX_EGRESS)]
    return (*tcx, clsact_filters(index), clsact.qdiscs().get(index))


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Return every name below *root* but the lock's: inode, mode, owner, a symlink's text."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        text = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""  # noqa: PTH115
        owner = (status.st_uid, status.st_gid)
        found[str(path.relative_to(root))] = (status.st_ino, oct(status.st_mode), *owner, text)
    found.pop("bpfpin~", None)
    return found


@contextlib.contextmanager
def veth(name: str = "") -> Iterator[str]:
    """Make a device that XDP runs on, and yield its name."""
    name = name or f"here{next(_numbers)}"
    words = ["ip", "link", "add", name, "type", "veth", "peer", f"{name}-peer"]
    subprocess.run(words, check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def decisions(document: Any) -> dict[str, str]:
    """Return what became of each map."""
    return {one["name"]: one["decision"] for one in document["maps"]}


def map_ids(document: Any) -> dict[str, int]:
    """Return the id of each map."""
    return {one["name"]: one["id"] for one in document["maps"]}


def packets(pin: Path, key: int = 1) -> int:
    """Return the packets that a map of `struct datarec` has counted, by default those dropped."""
    with Map.from_pin(pin, read_only=True) as counters:
        return int(counters.total(key)["rx_packets"])


def bpftool(*words: object) -> Any:
    """Return what bpftool says, which sees all this without us."""
    command = ["bpftool", "-j", *map(str, words)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def id_at(pin: Path) -> int:
    """Return the id of the map that is pinned there."""
    with Map.from_pin(pin, read_only=True) as held:
        return held.id


def maps_used(document: Any) -> list[int]:
    """Return the maps that the first program of a load uses, as bpftool sees it."""
    need("bpftool")
    return list(bpftool("prog", "show", "id", document["programs"][0]["id"])["map_ids"])


def wait_for_the_end_of(document: Any) -> None:
    """Wait until the kernel has freed the programs of a load: they use maps until then."""
    ids = [program["id"] for program in document["programs"]]
    wait_until(lambda: not any(map(_is_loaded, ids)))


def _is_loaded(program_id: int) -> bool:
    try:
        with Program.from_id(program_id):
            return True
    except IdNotFoundError:
        return False
