"""Programs in the kernel: verified, loaded, run on test input."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from bpfpin.errors import (
    ObjectFileError,
    UsageError,
)
from bpfpin.objects.info import ProgramInfo, program_id, program_info
from bpfpin.objects.kernel_btf import BtfHandle
from bpfpin.objects.kernel_object import KernelObject, ObjectKind
from bpfpin.objects.map import Map
from bpfpin.objects.program_load import ProgramLoad
from bpfpin.spec import ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgTestRunAttr
from bpfpin.uapi import XDP_PACKET_HEADROOM, ProgramType

_NEED_KERNEL_BTF = frozenset(
    {ProgramType.TRACING, ProgramType.LSM, ProgramType.EXT, ProgramType.STRUCT_OPS}
)


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a program answered to a test: its return value, packet and context; time of one run."""

    __test__ = False

    return_value: int
    data: bytes
    context: bytes
    duration_ns: int


class Program(KernelObject):
    """A program held by descriptor; closing it lets it go unless it is pinned or attached."""

    kind = ObjectKind.PROGRAM
    log: str = ""

    @classmethod
    def load(
        cls,
        spec: ProgramSpec,
        *,
        maps: Mapping[str, Map] | None = None,
        btf: BtfHandle | None = None,
        log_level: int = 0,
        path: str = "",
    ) -> Self:
        """Verify and load *spec* (BPF_PROG_LOAD); *maps* are those it refers to, by name.

        With *btf*, the loaded BTF of its object, the verifier's log shows lines of C. *log_level*
        asks for a log of a good program too, in `log`. `VerifierError` if it is refused,
        `PermissionDeniedError` if a capability lacks; *path* names the object in errors.
        """
        _check_type(spec, path)
        descriptors = {name: used.fd for name, used in (maps or {}).items()}
        descriptor, log = ProgramLoad(spec, descriptors, btf).load(log_level, path)
        program = cls(descriptor)
        program.log = log
        return program

    @property
    def info(self) -> ProgramInfo:
        """What the kernel reports of the program now."""
        return program_info(self.fd)

    @property
    def id(self) -> int:
        """The id, unique on this host until it restarts."""
        return program_id(self.fd)

    @property
    def name(self) -> str:
        """The name, of which the kernel keeps fifteen characters."""
        return self.info.name

    @property
    def type(self) -> ProgramType | int:
        """The program type."""
        return self.info.type

    def test_run(self, data: bytes = b"", *, repeat: int = 1, context: bytes = b"") -> TestRun:
        """Run the program on the packet *data*, *repeat* times (BPF_PROG_TEST_RUN).

        XDP and tc programs want at least 14 bytes of packet; programs of type syscall take
        *context* alone.
        """
        packet, packet_out = _input(data), _output(len(data))
        ctx = _input(context)
        is_syscall = self.type == ProgramType.SYSCALL
        attribute = ProgTestRunAttr(
            prog_fd=self.fd,
            data_in=bpf.address(packet),
            data_size_in=len(data),
            data_out=bpf.address(packet_out) if data else 0,
            data_size_out=len(packet_out) if data else 0,
            ctx_in=bpf.address(ctx),
            ctx_size_in=len(context),
            repeat=0 if is_syscall else repeat,
        )
        bpf.prog_test_run(attribute, target=f"program {self.name}")
        return TestRun(
            return_value=attribute.retval,
            data=packet_out.raw[: attribute.data_size_out] if data else b"",
            context=ctx.raw if ctx is not None else b"",
            duration_ns=attribute.duration,
        )


def _input(data: bytes) -> ctypes.Array[ctypes.c_char] | None:
    return bpf.buffer_of(data) if data else None


def _output(size: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(size + XDP_PACKET_HEADROOM)


def _check_type(spec: ProgramSpec, path: str) -> None:
    if spec.type == ProgramType.UNSPEC:
        raise UsageError(
            f"the section {spec.section!r} of program {spec.name!r} does not say its type",
            hint="Say it with --type, for example --type xdp.",
        )
    if spec.type in _NEED_KERNEL_BTF:
        raise ObjectFileError(
            f"programs of type {spec.type.name.lower()} name a target in the kernel's BTF,"
            " which bpfpin does not look up yet",
            path=path,
            section=spec.section,
            symbol=spec.name,
        )
