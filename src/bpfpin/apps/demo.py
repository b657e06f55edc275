"""Demonstrates bpfpin on a throw-away lab: real commands, real output, every claim checked.

Each scene runs the commands that it shows, as a user would type them, and shows their output. The
demo itself sends traffic meanwhile, and compares the number of packets with the counters in the
maps; those lines begin with `#`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bpfpin.apps.lab import Lab, lab_down, labs, traffic
from bpfpin.attach import interface
from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.errors import BpfError, BusyError, CgroupNotFoundError, ExitCode, PinNotFoundError
from bpfpin.hints import shell_line
from bpfpin.migration.exact import is_realtime
from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS, PRIVATE_MOUNT
from bpfpin.records import dataclass
from bpfpin.sets.find import require_attach
from bpfpin.sets.undeploy import undeploy
from bpfpin.syscall import netns
from bpfpin.uapi import XdpAction

OBJECT = "builtin:xdp_stats"
NEXT_OBJECT = "builtin:xdp_protocols"
TC_OBJECT = "builtin:tc_stats"
CGROUP_OBJECT = "builtin:cgroup_stats"
WIDER_OBJECT = "builtin:xdp_sizes"
COUNTERS = "xdp_stats_map"
PINGS = 5
# Several demos may run at once, and killed ones leave labs behind.
_LABS = 10
_CGROUP_HOOKS = 4  # count each ping: the cgroup and tc on the way out, XDP and the cgroup back
_SETTLE_S = 10.0
_AROUND_RELOAD_S = 0.3
_ENVIRONMENT = {
    "BPFPIN_COLUMNS": "77",  # 80 less the indentation of the output
    "NO_COLOR": "1",
    PRIVATE_MOUNT: "1",  # the pins of the demo may end with this mount namespace
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """One step of the demo: a title, a command, and the lines of its output.

    A scene with several commands consists of several steps; only the first has a title.
    """

    title: str
    command: str = ""
    lines: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {"title": self.title, "command": self.command, "lines": list(self.lines)}


def demo(*, keep: bool = False, pin_root: Path = BPFFS) -> Generator[Scene, None, None]:
    """Run the demo; close the iterator to end it early and remove the lab.

    Args:
        keep: Leave the lab up and the program loaded.
        pin_root: The bpffs directory to pin in.

    Yields:
        A title before its scene begins, then a `Scene` without a title for each command of it.

    Raises:
        BpfError: The kernel does not do what the scene says, or a command failed.
        PermissionDeniedError: The caller is not root.
    """
    require_attach("the demo")
    with ExitStack() as clean_up:
        play = _Play(_free_name(), pin_root, clean_up)
        for title, scene in _SCENES:
            yield Scene(title)
            yield from scene(play)
        if keep:
            clean_up.pop_all()
            yield Scene("Kept, as asked: look around.")
            yield Scene("", lines=play.last_words())
            return
        yield Scene("Clean up: nothing of it is left.")
        yield play.run("unload", play.device)
        yield play.run("lab", "down", play.device)


class _Play:
    """The lab that the scenes share; runs their commands and reads the counters."""

    def __init__(self, device: str, pin_root: Path, clean_up: ExitStack) -> None:
        self.device = device
        self.pin_root = pin_root
        self.counters = pin_root / device / COUNTERS
        self.cgroup: Path | None = None
        self.clean_up = clean_up

    @property
    def lab(self) -> Lab:
        return next(lab for lab in labs() if lab.name == self.device)

    def run(self, *words: str, expected: int = 0) -> Scene:
        """Run `bpfpin WORDS` in a process of its own; `BpfError` if it exits otherwise."""
        if self.pin_root != BPFFS and words[0] not in ("lab",):
            words = (*words, "--pin-root", str(self.pin_root))
        # -P: never import a module from the current directory.
        program = [sys.executable, "-P", "-m", "bpfpin"]
        return _run([*program, *words], shown=["bpfpin", *words], expected=expected)

    def packets(self, action: int = XdpAction.XDP_PASS, member: str = "rx_packets") -> int:
        return _packets(self.counters, action, member)

    def last_words(self) -> tuple[str, ...]:
        return (
            f"# look: {shell_line('bpfpin stats', self.device)}",
            f"# when done: {shell_line('bpfpin unload', self.device)} &&"
            f" {shell_line('bpfpin lab down', self.device)}",
        )


def _lab(play: _Play) -> Iterator[Scene]:
    yield play.run("lab", "up", play.device)
    # Registered by the scene that made it. After an error or Ctrl-C the stack undoes the scenes in
    # reverse: sets before the lab.
    play.clean_up.callback(_take_down, play.device)


def _load(play: _Play) -> Iterator[Scene]:
    yield play.run("load", OBJECT, "--dev", play.device)
    play.clean_up.callback(_unload, play.device, play.pin_root)


def _ping(play: _Play) -> Iterator[Scene]:
    before = play.packets()
    yield play.run("lab", "exec", play.device, "--", *_pinging(play))
    counted = play.packets() - before
    _require(counted == PINGS, f"{PINGS} packets were sent, {counted} counted")
    yield Scene("", lines=(f"# {PINGS} sent, {counted} counted as XDP_PASS",))


def _stats(play: _Play) -> Iterator[Scene]:
    with traffic(play.lab):
        yield play.run("stats", play.device, "--interval", "0.5", "--count", "4")


def _reader(play: _Play) -> Iterator[Scene]:
    yield play.run("map", "get", str(play.counters), str(int(XdpAction.XDP_PASS)))


def _drop(play: _Play) -> Iterator[Scene]:
    yield play.run("action", play.device, "XDP_DROP")
    before = play.packets(XdpAction.XDP_DROP)
    yield play.run("lab", "exec", play.device, "--", *_pinging(play, answer_s=0.3), expected=1)
    dropped = play.packets(XdpAction.XDP_DROP) - before
    _require(dropped == PINGS, f"of {PINGS} pings {dropped} were dropped")
    yield Scene("", lines=(f"# {PINGS} sent, {dropped} counted as XDP_DROP",))


def _pass(play: _Play) -> Iterator[Scene]:
    yield play.run("action", play.device, "XDP_PASS")
    yield play.run("lab", "exec", play.device, "--", *_pinging(play))


def _reload(play: _Play) -> Iterator[Scene]:
    before = play.packets()
    # Traffic before and after the reload, so that both programs count.
    with traffic(play.lab) as meanwhile:
        time.sleep(_AROUND_RELOAD_S)
        yield play.run("load", NEXT_OBJECT, "--dev", play.device)
        time.sleep(_AROUND_RELOAD_S)
    counted = _settled(play, before + meanwhile.sent) - before
    _require(counted == meanwhile.sent, f"{meanwhile.sent} packets were sent, {counted} counted")
    protocols = play.pin_root / play.device / "protocols"
    # Only the new program has this map, so it tells how many packets that program saw.
    by_new = _packets(protocols, socket.IPPROTO_UDP)
    # Otherwise the reload was not under traffic, and the scene would prove nothing.
    _require(0 < by_new < counted, f"of {counted} packets the new program saw {by_new}")
    yield Scene(
        "",
        lines=(
            f"# {meanwhile.sent} packets sent meanwhile, {counted} counted in the same map:",
            f"# {counted - by_new} by the old program, {by_new} by the new one",
        ),
    )


def _share_with_tc(play: _Play) -> Iterator[Scene]:
    name = f"{play.device}-tc"
    shared = f"{COUNTERS}={play.counters}"
    yield play.run(
        *("load", TC_OBJECT, "--dev", play.device, "--hook", "tc-egress"),
        *("--name", name, "--map", shared),
    )
    play.clean_up.callback(_unload, name, play.pin_root)
    yield _same_map(play, name)


def _share_with_cgroup(play: _Play) -> Iterator[Scene]:
    try:
        cgroup = cgroup2_mount() / f"bpfpin-{play.device}"
        made = _run(["mkdir", str(cgroup)])
    except (CgroupNotFoundError, BpfError) as error:  # as in many containers
        yield Scene("", lines=(f"# left out: no cgroup can be made here: {error}",))
        return
    play.cgroup = cgroup
    play.clean_up.callback(_remove_cgroup, cgroup)
    yield made
    shared = f"{COUNTERS}={play.counters}"
    yield play.run("load", CGROUP_OBJECT, "--cgroup", str(cgroup), "--map", shared)
    play.clean_up.callback(_unload, _set_of(cgroup), play.pin_root)
    yield _same_map(play, _set_of(cgroup))
    before = play.packets()
    pinging = shlex.join(_pinging(play, address=play.lab.addresses.peer[0]))
    # The shell moves itself into the cgroup, so that ping is in it from its first packet on.
    yield _run(["sh", "-c", f"echo $$ > {cgroup}/cgroup.procs; exec {pinging}"])
    counted = play.packets() - before
    _require(counted == PINGS * _CGROUP_HOOKS, f"{PINGS} pings were counted as {counted} packets")
    yield Scene(
        "",
        lines=(
            f"# {PINGS} pings from the cgroup, {counted} packets counted: each by the cgroup and",
            "# by tc on its way out, its answer by XDP and by the cgroup",
        ),
    )


def _graph(play: _Play) -> Iterator[Scene]:
    yield play.run("graph", play.device)


def _migrate(play: _Play) -> Iterator[Scene]:
    # A map can be migrated only if no other set uses it.
    yield play.run("unload", f"{play.device}-tc")
    if play.cgroup is not None:
        yield play.run("unload", _set_of(play.cgroup))
        yield _run(["rmdir", str(play.cgroup)])
    # The built-in programs add without atomic operations, as the counters are those of each CPU.
    # There a task may interrupt an addition, so that the migration is not exact.
    is_exact = not is_realtime()
    if not is_exact:
        yield Scene(
            "",
            lines=(
                "# this kernel is PREEMPT_RT: an addition may be interrupted, so that",
                "# bpfpin migrates these counters at best effort only",
            ),
        )
    before = play.packets()
    with traffic(play.lab) as meanwhile:
        time.sleep(_AROUND_RELOAD_S)
        rest = () if is_exact else ("--best-effort",)
        yield play.run("load", WIDER_OBJECT, "--dev", play.device, "--migrate", *rest)
        time.sleep(_AROUND_RELOAD_S)
    expected = before + meanwhile.sent
    counted = _settled(play, expected)
    is_right = counted == expected if is_exact else 0 < counted <= expected
    _require(is_right, f"of {expected} packets the new counters have {counted}")
    small = play.packets(member="rx_small")
    _require(0 < small < meanwhile.sent, f"the new program counted {small} small packets")
    yield Scene(
        "",
        lines=(
            f"# {before} packets counted before, {meanwhile.sent} sent meanwhile: {counted} in the"
            " new map;",
            f"# {small} of them are small, as the new program saw",
        ),
    )


_SCENES = (
    ("A throw-away lab: a cable into a network namespace.", _lab),
    ("Load a compiled object: attached and pinned, it outlives this process.", _load),
    ("Send packets, and count them exactly.", _ping),
    ("Watch the counters under traffic.", _stats),
    ("Another process reads the pin, typed, without the object file.", _reader),
    ("Switch the running program to XDP_DROP.", _drop),
    ("And back to XDP_PASS.", _pass),
    ("Reload another object under traffic: no packet goes uncounted.", _reload),
    ("Let tc count outgoing packets in the same map.", _share_with_tc),
    ("Let a cgroup count the packets of its processes there, too.", _share_with_cgroup),
    ("Show everything that uses the map, as the kernel reports it.", _graph),
    ("Add a member to the counters under traffic: the counts are carried over.", _migrate),
)


def _pinging(play: _Play, *, answer_s: float = 5.0, address: str | None = None) -> list[str]:
    """Return the command that sends the pings: `ping`, or our own if it is not installed."""
    program = (
        ["ping", "-q", "-i", "0.05", "-W", f"{answer_s:g}"]
        if shutil.which("ping")
        else [sys.executable, "-P", "-m", "bpfpin.apps.ping", "-W", f"{answer_s:g}"]
    )
    return [*program, "-c", str(PINGS), address or play.lab.addresses.host[0]]


def _run(command: Sequence[str], *, shown: Sequence[str] = (), expected: int = 0) -> Scene:
    completed = subprocess.run(
        command,
        # A command that asks something must fail here and not wait.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | _ENVIRONMENT,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    typed = shlex.join(shown or command)
    output = completed.stdout.strip("\n")
    if completed.returncode != expected:
        error = BpfError(f"the demo did not work: {typed}: {output}", hint="bpfpin doctor")
        with suppress(ValueError):
            error.exit_code = ExitCode(completed.returncode)
        raise error
    return Scene("", typed, tuple(output.splitlines()))


def _same_map(play: _Play, name: str) -> Scene:
    """Return a line that the set *name* uses the map of the XDP program; compares the ids first."""
    with (
        Map.from_pin(play.counters, read_only=True) as of_xdp,
        Map.from_pin(play.pin_root / name / COUNTERS, read_only=True) as of_other,
    ):
        _require(of_other.id == of_xdp.id, f"map id {of_other.id}, that of XDP is {of_xdp.id}")
        return Scene(
            "", lines=(f"# the map of {name} is the map of {play.device}: id {of_xdp.id}",)
        )


def _settled(play: _Play, expected: int) -> int:
    """Return the count of XDP_PASS, once it has reached *expected* or `_SETTLE_S` has passed."""
    deadline = time.monotonic() + _SETTLE_S
    # sendto(2) returns before the packet went through XDP at the other end of the cable.
    while (counted := play.packets()) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return counted


def _packets(counters: Path, key: int, member: str = "rx_packets") -> int:
    """Return the packets that a map has counted under *key*, on all CPUs."""
    with Map.from_pin(counters, read_only=True) as bpf_map:
        return int(bpf_map.total(key)[member])


def _require(is_met: bool, failure: str) -> None:
    if not is_met:
        raise BpfError(f"the demo did not work: {failure}", hint="bpfpin doctor")


def _free_name() -> str:
    taken = {*interface.names().values(), *netns.names()}
    with suppress(CgroupNotFoundError):  # a killed demo left cgroups, or another demo uses them
        taken |= {
            path.name.removeprefix("bpfpin-") for path in cgroup2_mount().glob("bpfpin-demo*")
        }
    for number in range(_LABS):
        if (name := f"demo{number}") not in taken:
            return name
    raise BusyError(
        f"devices or namespaces demo0 to demo{_LABS - 1} all exist",
        holder="labs",
        hint="bpfpin lab down demo0",
    )


def _set_of(cgroup: Path) -> str:
    return f"@{cgroup.relative_to(cgroup2_mount())}"


def _take_down(name: str) -> None:
    with suppress(BpfError):  # the last scene did it
        lab_down(name)


def _unload(name: str, pin_root: Path) -> None:
    with suppress(PinNotFoundError):  # a scene did it
        undeploy(name, pin_root=pin_root)


def _remove_cgroup(cgroup: Path) -> None:
    with suppress(OSError):  # a scene did it
        cgroup.rmdir()
