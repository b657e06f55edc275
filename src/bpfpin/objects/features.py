"""Probes for kernel features: each is tried in its smallest form; versions are never compared.

A distribution's kernel has features of later versions, so only trying tells. Each probe runs once a
process. A missing privilege says nothing about the kernel: it raises `PermissionDeniedError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

from bpfpin import insn
from bpfpin.btf.types import Int
from bpfpin.btf.write import BtfBuilder
from bpfpin.errors import BpfError, KeyNotFoundError, PermissionDeniedError
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall import bpf, fs, netns
from bpfpin.syscall.attr import MapBatchAttr, MapCreateAttr
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, MapType, ProgramType, XdpFlag

_LOOPBACK = 1
_RETURN_ONE = (insn.mov_imm(0, 1), insn.exit_())  # allowed to programs of every type


@dataclass(frozen=True, slots=True)
class Feature:
    """A kernel feature; *reason* is the kernel's error if it is not supported."""

    name: str
    is_supported: bool
    reason: str = ""


def features() -> list[Feature]:
    """Probe the features that bpfpin uses and that a kernel may lack."""
    return [
        probe_btf(),
        probe_program(ProgramType.XDP),
        probe_program(ProgramType.SCHED_CLS),
        probe_program(ProgramType.CGROUP_SKB),
        probe_xdp_link(),
        *map(probe_batch, (MapType.HASH, MapType.ARRAY, MapType.PERCPU_ARRAY)),
    ]


@functools.cache
def probe_program(program_type: ProgramType) -> Feature:
    """Whether the simplest program of this type loads."""
    return _probe(f"programs of type {program_type.name.lower()}", lambda: _load(program_type))


@functools.cache
def probe_btf() -> Feature:
    """Whether the kernel loads BTF (Linux 4.18); without it maps have no types."""
    return _probe("BTF", _load_btf)


@functools.cache
def probe_xdp_link() -> Feature:
    """Whether XDP programs can be attached by links (Linux 5.9)."""
    return _probe("XDP by bpf_link", _link_aside)


@functools.cache
def probe_batch(map_type: MapType) -> Feature:
    """Whether maps of this type can be read in batches."""
    name = f"batches of {map_type.name.lower()} maps"
    return _probe(name, lambda: _read_batch(map_type))


def is_machine_code() -> bool:
    """Whether the kernel compiles the simplest program to machine code."""
    with Program.load(_spec(ProgramType.XDP)) as program:
        return program.info.jited_size > 0


def probe_rename_exchange(directory: str | Path) -> Feature:
    """Whether two names in the bpffs *directory* can be exchanged atomically (Linux 5.16).

    It creates two directories there and removes them again.
    """
    return _probe("exchange of names in bpffs", lambda: _exchange(Path(directory)))


def _probe(name: str, attempt: Callable[[], None]) -> Feature:
    try:
        attempt()
    except PermissionDeniedError:
        raise
    except BpfError as error:
        return Feature(name, is_supported=False, reason=str(error))
    return Feature(name, is_supported=True)


def _spec(program_type: ProgramType) -> ProgramSpec:
    function = FunctionSpec("probe", "", _RETURN_ONE)
    return ProgramSpec("probe", program_type, "", (function,), license="GPL")


def _load(program_type: ProgramType) -> None:
    Program.load(_spec(program_type)).close()


def _load_btf() -> None:
    builder = BtfBuilder()
    builder.add(Int("int", 4, 32))
    Descriptor(bpf.btf_load(builder.build(), target="a probe")).close()


def _link_aside() -> None:
    """Attach to the loopback device of a new network namespace, which ends with the call."""
    with Program.load(_spec(ProgramType.XDP)) as program, netns.enter(netns.OWN):
        netns.unshare()
        # Generic mode needs nothing of the driver, so that a refusal is that of the link.
        Link.create(program, _LOOPBACK, AttachType.XDP, flags=XdpFlag.SKB_MODE).close()


def _read_batch(map_type: MapType) -> None:
    made = Descriptor(bpf.map_create(MapCreateAttr(map_type, 4, 8, 1), target="a probe"))
    values = ctypes.create_string_buffer(1 << 16)  # a value for each possible CPU
    keys, position = ctypes.create_string_buffer(4), ctypes.create_string_buffer(4)
    addresses = [ctypes.addressof(buffer) for buffer in (position, keys, values)]
    # ENOENT is the answer at the end of a map, here of an empty one: the command is known.
    with made, contextlib.suppress(KeyNotFoundError):
        attribute = MapBatchAttr(0, *addresses, 1, made.fileno())
        bpf.map_lookup_batch(attribute, target="a probe")


def _exchange(directory: Path) -> None:
    names = [directory / name for name in fs.probe_names()]
    with contextlib.ExitStack() as undo:
        for name in names:
            try:
                name.mkdir(mode=0o700)
            except OSError as error:  # the bpffs is read-only
                raise syscall_error("mkdir", error.errno or 0, target=str(name)) from None
            undo.callback(name.rmdir)
        fs.renameat2(*names, flags=fs.Rename.EXCHANGE)
