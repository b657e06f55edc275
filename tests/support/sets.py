"""Pin sets made by hand, for tests of those who only look at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpfpin.insn import exit_, mov_imm
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, remove_tree
from bpfpin.pins.manifest import AttachPoint, HookRecord, Manifest
from bpfpin.spec import FunctionSpec, MapSpec, ProgramSpec
from bpfpin.syscall.fs import Rename
from bpfpin.uapi import MapType, ProgramType, XdpAction


def xdp_program(name: str = "xdp_pass") -> Program:
    """Load a program that passes every packet."""
    function = FunctionSpec(name, "xdp", (mov_imm(0, XdpAction.XDP_PASS), exit_()))
    return Program.load(ProgramSpec(name, ProgramType.XDP, "xdp", (function,), license="GPL"))


def publish(path: Path, maps: Mapping[str, Map], programs: Mapping[str, Program]) -> None:
    """Make the set *path*, or its next generation, by one rename; *programs* by hook."""
    stage = names.stage_name(path.name)
    with Directory.open(path.parent) as root:
        with root.make(stage) as directory, directory.make(names.PROGRAMS) as below:
            for name, held in maps.items():
                held.pin(directory.pin_path(name))
            for hook, program in programs.items():
                program.pin(below.pin_path(f"at_{hook}"))
            hooks = tuple(HookRecord(hook, f"at_{hook}", hook) for hook in programs)
            manifest = Manifest("0.1.0", "x.o", "00" * 32, 1, 0, AttachPoint(), hooks)
            directory.write_text(names.MANIFEST, manifest.to_text())
        if not root.has(path.name):
            root.rename(stage, path.name, Rename.NOREPLACE)
            return
        root.rename(stage, path.name, Rename.EXCHANGE)
        remove_tree(root, stage)


@dataclass(frozen=True)
class Generations:
    """The set *path*, and what its generations are made of: two maps, two programs.

    Both maps are five pairs of packets and bytes without BTF; the first one has counted 1000
    packets of XDP_PASS, the second one 10.
    """

    path: Path
    maps: tuple[Map, Map]
    programs: tuple[Program, Program]

    def publish(self, *, map_: int, program: int) -> None:
        """Make the first generation or the next one, of a map and a program by number."""
        publish(self.path, {"counters": self.maps[map_]}, {"xdp": self.programs[program]})

    @property
    def program_ids(self) -> list[int]:
        """The ids of the two programs."""
        return [program.id for program in self.programs]

    @property
    def map_ids(self) -> list[int]:
        """The ids of the two maps."""
        return [held.id for held in self.maps]


@contextmanager
def generations(path: Path) -> Iterator[Generations]:
    """Make the set *path* of the first map and the first program."""
    spec = MapSpec("counters", MapType.ARRAY, 4, 16, 5)
    with (
        Map.create(spec) as first,
        Map.create(spec) as second,
        xdp_program() as old,
        xdp_program() as new,
    ):
        first[XdpAction.XDP_PASS], second[XdpAction.XDP_PASS] = counted(1000), counted(10)
        made = Generations(path, (first, second), (old, new))
        made.publish(map_=0, program=0)
        yield made


def counted(packets: int) -> bytes:
    """Return the value of so many packets and no bytes."""
    return packets.to_bytes(8, "little") + bytes(8)


def unpublish(path: Path) -> None:
    """Remove the set *path*."""
    with Directory.open(path.parent) as root:
        root.rename(path.name, names.stage_name(path.name), Rename.NOREPLACE)
        remove_tree(root, names.stage_name(path.name))
