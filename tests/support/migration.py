"""Traffic on both CPUs, and maps that change their layout under it, piece by piece."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpfpin.attach.xdp import XdpLink, attach_xdp
from bpfpin.btf.layout import Span
from bpfpin.loading.collection import Loaded, load
from bpfpin.migration.fold import FoldPrograms, FoldSpec, wait_for_programs
from bpfpin.migration.members import MemberMove
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.spec import XdpMode
from bpfpin.syscall import netns
from support.cli import run_cli_ok
from support.folding import shape_of
from support.lab import TestLab
from support.objects import compiled
from support.wait import HANG_S

HERE = Path(__file__).parent
FIRST_PORT = 10_000
FLOWS = 10_000
MAPS = ("counts", "flows", "recent")
OLD, NEW = "migrate_old", "migrate_new"
_SCHANNELS, _SIOCETHTOOL = 0x3D, 0x8946  # linux/ethtool.h, linux/sockios.h

# Where packets and bytes stand in the values of each version.
PLACES = {
    (OLD, "counts"): {"packets": 0},
    (OLD, "flows"): {"packets": 0, "bytes": 8},
    (OLD, "recent"): {"packets": 0},
    (NEW, "counts"): {"packets": 8},
    (NEW, "flows"): {"packets": 8, "bytes": 0},
    (NEW, "recent"): {"packets": 8},
}


def other(version: str) -> str:
    """Return the other version."""
    return NEW if version == OLD else OLD


def moves(name: str, old: str) -> list[MemberMove]:
    """Return what goes where in map *name*, from version *old* to the other one."""
    sides = PLACES[old, name], PLACES[other(old), name]
    return [
        MemberMove(member, Span(sides[0][member], 8), Span(sides[1][member], 8))
        for member in sides[0]
    ]


# traffic


@dataclass
class Senders:
    """Processes that send, one on a CPU."""

    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether the last packet was sent."""
        return all(process.poll() is not None for process in self.processes)

    def stopped(self) -> int:
        """Send no more, and return how many packets there were."""
        for process in self.processes:
            process.terminate()
        return self.sent()

    def sent(self) -> int:
        """Wait for the last packet, and return how many there were."""
        return sum(int(process.communicate(timeout=HANG_S)[0]) for process in self.processes)


def use_both_cpus(lab: TestLab, folder: Path) -> None:
    """Give the devices two queues, and each CPU a queue of its own (XPS)."""
    for name, inside in ((lab.device, False), (lab.lab.peer, True)):
        with netns.enter(lab.lab.netns) if inside else contextlib.nullcontext():
            _set_channels(name, 2)
    with netns.enter(lab.lab.netns), sysfs(folder) as path:
        for queue in range(2):
            one = path / "class/net" / lab.lab.peer / f"queues/tx-{queue}/xps_cpus"
            one.write_text(f"{1 << queue:x}")


def steer(lab: TestLab, folder: Path, cpu: int) -> None:
    """Let *cpu* take the packets of the device in generic mode, whoever sends them (RPS)."""
    with sysfs(folder) as path:
        for queue in (path / "class/net" / lab.device / "queues").glob("rx-*"):
            (queue / "rps_cpus").write_text(f"{1 << cpu:x}")


@contextlib.contextmanager
def sysfs(folder: Path) -> Iterator[Path]:
    """Mount /sys as this network namespace sees it."""
    path = folder / "sys"
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "sysfs", "sysfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def _set_channels(device: str, count: int) -> None:
    channels = array.array("I", [_SCHANNELS, 0, 0, 0, 0, count, count, 0, 0])
    request = struct.pack("16sP8x", device.encode(), channels.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, request)


@contextlib.contextmanager
def traffic(
    lab: TestLab,
    *,
    per_second: int,
    seconds: float = 60.0,
    cpus: tuple[int, ...] = (0, 1),
    flows: int = FLOWS,
) -> Iterator[Senders]:
    """Send from the peer, *per_second* on all *cpus* together, each with ports of its own."""
    ports, rate = flows // len(cpus), per_second // len(cpus)
    senders = Senders()
    with contextlib.ExitStack() as undo:
        for number, cpu in enumerate(cpus):
            with netns.enter(lab.lab.netns):
                made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                made.bind((lab.lab.peer, 0))
            undo.enter_context(made)
            numbers = (FIRST_PORT + number * ports, ports, int(seconds * rate), rate)
            words = [str(made.fileno()), str(cpu), _mac(lab.device), *map(str, numbers)]
            command = [sys.executable, str(HERE / "migration_sender.py"), *words]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, pass_fds=(made.fileno(),)
            )
            undo.callback(process.wait)
            undo.callback(process.kill)
            assert process.stdout is not None
            undo.callback(process.stdout.close)
            senders.processes.append(process)
        for process in senders.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
        yield senders


def _mac(device: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        found = fcntl.ioctl(
            control, 0x8927, struct.pack("16s24x", device.encode())
        )  # SIOCGIFHWADDR
    return found[18:24].hex()


# what was counted


@dataclass(frozen=True)
class Loss:
    """Packets and bytes that are not counted (negative: counted twice), flows that are wrong."""

    packets: int
    bytes: int | None = None
    keys: int | None = None

    def __str__(self) -> str:
        found = [self.packets, self.bytes, self.keys]
        return " / ".join(f"{number:,}" for number in found if number is not None)

    def __add__(self, others: Loss) -> Loss:
        return Loss(self.packets + others.packets)


NO_LOSS = {"counts": Loss(0), "flows": Loss(0, 0, 0), "recent": Loss(0, None, 0)}


def read(held: Map, version: str, name: str) -> dict[int, tuple[int, ...]]:
    """Return packets, and bytes where they are counted, by key; all CPUs together."""
    places = [at // 8 for at in PLACES[version, name].values()]
    words = (held.value_size + 7) // 8
    found = {}
    for key, value in held.items_bytes():
        numbers = memoryview(value).cast("Q")
        found[int.from_bytes(key, "little")] = tuple(sum(numbers[at::words]) for at in places)
    return found


def truth_of(held: Map) -> dict[int, tuple[int, int]]:
    """Return what really came, packets and bytes by port."""
    found = {}
    for key, value in held.items_bytes():
        packets, size = struct.unpack("<QQ", value)
        found[int.from_bytes(key, "little")] = (packets, size)
    return found


def losses(
    truth: Mapping[int, tuple[int, int]], maps: Mapping[str, Map], version: str
) -> dict[str, Loss]:
    """Compare the counts of each map with the truth."""
    packets, size = (sum(part) for part in zip(*truth.values(), strict=True))
    found = {}
    for name in MAPS:
        counted = read(maps[name], version, name)
        missing = packets - sum(value[0] for value in counted.values())
        if name == "counts":
            found[name] = Loss(missing)
            continue
        width = len(PLACES[version, name])
        wrong = sum(
            counted.get(port, (0, 0))[:width] != value[:width] for port, value in truth.items()
        )
        lost_bytes = size - sum(value[1] for value in counted.values()) if width > 1 else None
        found[name] = Loss(missing, lost_bytes, wrong)
    return found


# migrating by the library's pieces

Migrate = Callable[["Pieces", Loaded, str], None]


class Pieces:
    """A program at a device, and the steps of a migration; *variables* are those of both."""

    def __init__(self, device: str, mode: XdpMode, **variables: int) -> None:
        self._variables = variables
        self.version = OLD
        self.loaded = self._load(OLD)
        self.link: XdpLink = attach_xdp(self.program, device, mode=mode)
        self.left = 0  # packets that were found in an old map after its fold

    def close(self) -> None:
        """Detach and let all go."""
        self.link.close()
        self.loaded.close()

    @property
    def program(self) -> Any:
        """The program that runs."""
        return self.loaded.programs["count_port"]

    @property
    def maps(self) -> Mapping[str, Map]:
        """The maps that it counts in."""
        return self.loaded.maps

    def losses(self) -> dict[str, Loss]:
        """Compare with the truth."""
        return losses(truth_of(self.maps["truth"]), self.maps, self.version)

    def _load(self, version: str, **maps: Map) -> Loaded:
        spec = read_object(compiled(version))
        for name, value in self._variables.items():
            spec = spec.with_variable(name, value)
        return load(spec, maps=maps)

    def migrate(self, how: Migrate, *, hold: str | None = None) -> None:
        """Go to the other version; *hold* is a device where both programs stay attached meanwhile.

        Without it the kernel's own dispatcher of XDP programs waits for the old one.
        """
        version = other(self.version)
        new = self._load(version, truth=Map.from_id(self.maps["truth"].id))
        with contextlib.ExitStack() as undo:
            if hold:
                for device, held in zip((hold, f"{hold}p"), (self.loaded, new), strict=True):
                    undo.enter_context(
                        attach_xdp(held.programs["count_port"], device, mode=XdpMode.NATIVE)
                    )
            how(self, new, version)
            self.loaded.close()
            self.loaded, self.version = new, version

    def switch(self, new: Loaded) -> None:
        """Let the link run the new program."""
        self.link.update(new.programs["count_port"])


def fold_specs(pieces: Pieces, new: Loaded) -> dict[str, FoldSpec]:
    """Describe the fold of each map."""
    found = {}
    for name in MAPS:
        old_map, new_map = pieces.maps[name], new.maps[name]
        found[name] = FoldSpec(
            shape_of(old_map),
            shape_of(new_map),
            moves(name, pieces.version),
            bytes(new_map.value_size),
        )
    return found


@dataclass(frozen=True)
class Fold:
    """Our way; what is switched off is switched off to see that a loss would be seen."""

    waits: bool = True
    inserts_first: bool = True
    maps: tuple[str, ...] = MAPS

    def __call__(self, pieces: Pieces, new: Loaded, _version: str) -> None:
        """Migrate."""
        specs = fold_specs(pieces, new)
        with contextlib.ExitStack() as undo:
            foldings = [
                undo.enter_context(
                    FoldPrograms.load(specs[name], pieces.maps[name], new.maps[name])
                )
                for name in self.maps
            ]
            pieces.switch(new)
            self._wait()
            if self.inserts_first:
                for folding in foldings:
                    folding.insert()
                self._wait()
            for folding in foldings:
                folding.move()
        wait_for_programs()
        # What an old program still counted after the fold.
        for name in self.maps:
            pieces.left += sum(
                value[0] for value in read(pieces.maps[name], pieces.version, name).values()
            )

    def _wait(self) -> None:
        if self.waits:
            wait_for_programs()


def copy_then_switch(pieces: Pieces, new: Loaded, version: str) -> None:
    """Copy in user space, then switch: what is counted between is lost."""
    for name in reversed(MAPS):  # the shortest last, that it waits for no other
        _copy(pieces, new, version, name, add=False)
    pieces.switch(new)


def switch_then_copy(pieces: Pieces, new: Loaded, version: str) -> None:
    """Switch, wait, then read both maps and write the sum: what is counted between is lost."""
    pieces.switch(new)
    wait_for_programs()
    for name in MAPS:
        _copy(pieces, new, version, name, add=True)


def _copy(pieces: Pieces, new: Loaded, version: str, name: str, *, add: bool) -> None:
    source, target = pieces.maps[name], new.maps[name]
    old_places, new_places = PLACES[pieces.version, name], PLACES[version, name]
    width, new_width = source.value_size // 8, target.value_size // 8
    for key, value in source.items_bytes():
        old_numbers = memoryview(value).cast("Q")
        cpus = len(old_numbers) // width
        there = bytes(8 * new_width * cpus)
        if add:
            with contextlib.suppress(KeyError):
                there = target.lookup_bytes(key)
        numbers = array.array("Q", there)
        for member, at in old_places.items():
            for cpu in range(cpus):
                numbers[cpu * new_width + new_places[member] // 8] += old_numbers[
                    cpu * width + at // 8
                ]
        target.update_bytes(key, numbers.tobytes())


# the command


class MigratedSet:
    """What `load --migrate` makes on the road's device; *defines* are those of both versions."""

    def __init__(
        self, road: TestLab, root: Path, mode: XdpMode, *, defines: tuple[str, ...] = ()
    ) -> None:
        self._set = root / road.device
        self._words = ("--dev", road.device, "--mode", mode.value, "--pin-root", root)
        self._objects = {version: compiled(version, defines=defines) for version in (OLD, NEW)}
        self.version = OLD
        run_cli_ok("load", self._objects[OLD], *self._words)

    def migrate(self, *options: str) -> str:
        """Load the other version; return what became of it."""
        loaded = run_cli_ok(*self.words(*options)).json
        self.version = other(self.version)
        return str(loaded["result"])

    def words(self, *options: str) -> tuple[object, ...]:
        """Return the command that loads the other version."""
        version = other(self.version)
        gone = ("counts:bytes", "recent:bytes", "drops") if version == OLD else ()
        dropped = [word for member in gone for word in ("--drop", member)]
        words = ("load", self._objects[version], *self._words, "--migrate", *dropped)
        return (*words, *options, "-o", "json")

    @contextlib.contextmanager
    def maps(self) -> Iterator[dict[str, Map]]:
        """Open the pinned maps."""
        with contextlib.ExitStack() as undo:
            yield {
                name: undo.enter_context(Map.from_pin(self._set / name))
                for name in (*MAPS, "truth")
            }

    def came(self) -> int:
        """Return how many packets came."""
        with self.maps() as held:
            return sum(packets for packets, _ in truth_of(held["truth"]).values())

    def losses(self) -> dict[str, Loss]:
        """Compare with the truth."""
        with self.maps() as held:
            return losses(truth_of(held["truth"]), held, self.version)
