"""Programs in the kernel: loading, the verifier's refusals, and test runs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Self

from bpfpin.btf.btf import Btf
from bpfpin.btf.names import kernel_name
from bpfpin.errors import (
    NotSupportedError,
    PermissionDeniedError,
    SyscallError,
    UsageError,
    VerifierError,
)
from bpfpin.hints import Argument, Fix
from bpfpin.insn import INSN_SIZE, encode, exit_, mov_imm
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.attach_target import AttachTarget
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.kernel.info import ProgramInfo, program_id, program_info
from bpfpin.objects.kernel.object import KernelObject, ObjectKind
from bpfpin.objects.maps.map import Map
from bpfpin.objects.verifier.attempt import (
    LOG_LIMIT,
    Attempt,
    LogChoice,
    explain,
    is_before_instructions,
    printable,
    reason_lines,
)
from bpfpin.program_traits import RunInput, traits_of_program
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgLoadAttr, ProgTestRunAttr
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import XDP_PACKET_HEADROOM, AttachType, ProgramFlag, ProgramType, TestRunFlag

_FUNCTION_INFO = struct.Struct("<II")
_LINE_INFO = struct.Struct("<IIII")
_CONTEXT_SIZE = 1024  # more than any structure that describes a context; __sk_buff has 192 bytes
_FLAGS_SINCE: dict[int, str] = {
    ProgramFlag.SLEEPABLE: "5.10",
    ProgramFlag.XDP_HAS_FRAGS: "5.18",
    # Linux commit 2b3486bc2d23 ("bpf: Introduce device-bound XDP programs") (v6.3)
    ProgramFlag.XDP_DEV_BOUND_ONLY: "6.3",
}
_RETURN_ONE = encode((mov_imm(0, 1), exit_()))  # valid for every program type


class ProgramLoad:
    """One BPF_PROG_LOAD: its attribute, the buffers that it points to, and a retry for the log."""

    def __init__(
        self,
        spec: ProgramSpec,
        descriptors: Mapping[str, int],
        btf: BtfHandle | None,
        target: AttachTarget | None = None,
        *,
        types: Btf | None = None,
        module_fds: Sequence[int] = (),
    ) -> None:
        from bpfpin.fixup import calls  # noqa: PLC0415  (only to load a program)

        self._spec = spec
        self._target = target
        linked = calls.link(spec)
        self._source_lines = linked.lines
        self._types = types or (btf.btf if btf else None)
        code = calls.fill_maps(linked.instructions, linked.references, descriptors)
        self._slots = len(code)
        # A call of a module's function holds an index into fd_array, from 1 on; 0 means vmlinux.
        fds = struct.pack(f"<{len(module_fds) + 1}i", 0, *module_fds) if module_fds else b""
        self._fds = bpf.buffer_of(fds) if fds else None
        # Buffers are attributes: the kernel reads them at the addresses that the attribute holds.
        self._code = bpf.buffer_of(encode(code))
        self._license = ctypes.create_string_buffer(spec.license.encode())
        self._functions = b"".join(
            [_FUNCTION_INFO.pack(*function) for function in linked.functions]
        )
        self._lines = b"".join([_LINE_INFO.pack(*line) for line in linked.lines])
        self._btf = btf if self._functions else None
        if spec.exception_callback and self._btf is None:
            raise NotSupportedError(
                f"program {spec.name}: its exception callback {spec.exception_callback} is found by"
                " BTF, which is not loaded",
                feature="BTF of programs",
            )

    def load(self, choice: LogChoice, path: str) -> tuple[Descriptor, str]:
        """Load without a log, which is faster; load again with one if that is refused."""
        if choice.level:
            return self._load_explained(choice, path, None)
        try:
            # libbpf does the same (bpf_object_load_prog()): most programs load, and a log costs
            # time.
            return Descriptor(self._enter(self._attribute())), ""
        except PermissionDeniedError as error:
            if error.missing:
                raise
            return self._load_explained(choice, path, error)
        except SyscallError as error:
            return self._load_explained(choice, path, error)

    def _load_explained(
        self, choice: LogChoice, path: str, first: SyscallError | None
    ) -> tuple[Descriptor, str]:
        made = explain(self._attempt, choice)
        if made.fd is not None:
            return Descriptor(made.fd), made.log
        error = first or made.error
        assert error is not None
        # Never retry without BTF: it is more than debug information. The verifier reads from it
        # exception callbacks and the argument types of global functions.
        if is_before_instructions(made.log) and not reason_lines(made.log):
            raise error
        if not made.log.strip():
            raise error
        raise self._refusal(error, made.log, path) from None

    def _refusal(self, error: SyscallError, log: str, path: str) -> VerifierError:
        from bpfpin.objects.verifier.report import SourceLines, refusal  # noqa: PLC0415 - many patterns: 10 ms

        places = SourceLines(self._source_lines, self._types)
        return refusal(error, log, program=self._spec.name, path=path, places=places)

    def _attempt(self, log_level: int, size: int) -> Attempt:
        log = ctypes.create_string_buffer(size)
        attribute = self._attribute()
        attribute.log_level, attribute.log_size = log_level, size
        attribute.log_buf = ctypes.addressof(log)
        fd, error = None, None
        try:
            fd = self._enter(attribute)
        except SyscallError as refused:
            error = refused
        text = printable(log.value)
        return Attempt(fd, error, text, attribute.log_true_size)

    def _enter(self, attribute: ProgLoadAttr) -> int:
        return bpf.prog_load(attribute, target=f"program {self._spec.name}")

    def _attribute(self) -> ProgLoadAttr:
        spec = self._spec
        attach_type = spec.expected_attach_type or traits_of_program(spec.type).attach_type
        attribute = ProgLoadAttr(
            prog_type=spec.type,
            insn_cnt=self._slots,
            insns=ctypes.addressof(self._code),
            license=ctypes.addressof(self._license),
            kern_version=spec.kernel_version,
            prog_flags=spec.program_flags,
            prog_ifindex=spec.ifindex,
            prog_name=kernel_name(spec.name).encode(),
            expected_attach_type=attach_type or 0,
            fd_array=bpf.address(self._fds),
        )
        if self._btf is not None:
            self._add_debug_information(attribute, self._btf)
        if self._target is not None:
            attribute.attach_btf_id = self._target.btf_id
            attribute.attach_btf_obj_fd = self._target.fd
            # A program of struct_ops has the position of its member in the place of an attach type.
            attribute.expected_attach_type = self._target.member or attribute.expected_attach_type
        return attribute

    def _add_debug_information(self, attribute: ProgLoadAttr, btf: BtfHandle) -> None:
        attribute.prog_btf_fd = btf.fd
        # The buffers are attributes, so that they live as long as their addresses are in use.
        self._function_buffer = bpf.buffer_of(self._functions)
        attribute.func_info = ctypes.addressof(self._function_buffer)
        attribute.func_info_rec_size = _FUNCTION_INFO.size
        attribute.func_info_cnt = len(self._functions) // _FUNCTION_INFO.size
        self._line_buffer = bpf.buffer_of(self._lines) if self._lines else None
        attribute.line_info = bpf.address(self._line_buffer)
        attribute.line_info_rec_size = _LINE_INFO.size
        attribute.line_info_cnt = len(self._lines) // _LINE_INFO.size


def named(error: SyscallError, spec: ProgramSpec) -> SyscallError:
    """Return a better error for a refusal that came without a log, before any instruction was read.

    `NotSupportedError` if the simplest program of that type and attach type is refused as well,
    also if it is forbidden: then no privilege helps.
    """
    if isinstance(error, PermissionDeniedError):
        return error if error.missing or error.hint else _forbidden(error, spec)
    lacking, since = f"programs of {_words(spec)}", ""
    if _loads_simplest(spec):
        flags = [flag for flag in _bits(spec.program_flags) if not _loads_simplest(spec, flag)]
        # Type and flags work, or cannot be probed: the kernel's error stands.
        if not flags:
            return error
        lacking = f"program flag {ProgramFlag(flags[0]).name or hex(flags[0])}"
        since = _FLAGS_SINCE.get(flags[0], "")
    return NotSupportedError(
        f"program {spec.name}: this kernel has no {lacking}",
        feature=lacking,
        since=since,
        command=error.command,
        errno=error.errno or 0,
        target=error.target,
    )


def _forbidden(error: PermissionDeniedError, spec: ProgramSpec) -> SyscallError:
    """Return a better error for a refusal though no capability is missing."""
    words = f"programs of {_words(spec)}"
    # A filter that allows no bpf(2) at all, as in a container, forbids socket filters as well.
    if _is_forbidden(spec.type, spec.expected_attach_type) and not _is_forbidden(
        ProgramType.SOCKET_FILTER
    ):
        return NotSupportedError(
            f"program {spec.name}: this kernel, or a policy on this host, forbids {words}",
            feature=words,
            command=error.command,
            errno=error.errno or 0,
            target=error.target,
            hint="no capability is missing, and programs of other types are allowed",
        )
    error.hint = f"No capability is missing: a policy on this host forbids {words}."
    return error


def _is_forbidden(kind: ProgramType, attach_type: AttachType | None = None) -> bool:
    """Whether the simplest program is not permitted, which loads or lacks a target elsewhere."""
    try:
        _load_simplest(kind, attach_type)
    except PermissionDeniedError:
        return True
    except SyscallError:
        return False
    return False


def _words(spec: ProgramSpec) -> str:
    kind = f"type {spec.type.name.lower()}"
    if spec.expected_attach_type is None:
        return kind
    return f"{kind} for {spec.expected_attach_type.name.lower()}"


def _bits(flags: int) -> list[int]:
    return [1 << bit for bit in range(flags.bit_length()) if flags >> bit & 1]


def _loads_simplest(spec: ProgramSpec, flags: int = 0) -> bool:
    """Whether the simplest program of the type loads; True also if the kernel refuses otherwise.

    A type whose programs all need an attach target cannot be probed like this.
    """
    try:
        _load_simplest(spec.type, spec.expected_attach_type, flags)
    except InvalidArgumentError:
        return False
    except SyscallError:
        return True
    return True


def _load_simplest(kind: ProgramType, attach_type: AttachType | None, flags: int = 0) -> None:
    code, terms = bpf.buffer_of(_RETURN_ONE), ctypes.create_string_buffer(b"GPL")
    attribute = ProgLoadAttr(
        prog_type=kind,
        insn_cnt=len(_RETURN_ONE) // INSN_SIZE,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(terms),
        expected_attach_type=attach_type or 0,
        prog_flags=flags,
    )
    Descriptor(bpf.prog_load(attribute)).close()


@dataclass(frozen=True, slots=True)
class TestRun:
    """The result of `Program.test_run`.

    Args:
        return_value: What the program returned.
        data: The packet after the run.
        context: The context after the run.
        duration_ns: The average time of one run, in nanoseconds.
    """

    __test__ = False

    return_value: int
    data: bytes
    context: bytes
    duration_ns: int


class Program(KernelObject):
    """A program, held by a descriptor; the kernel unloads it once nothing references it.

    A pin, a link and a slot in a program array are references. `log` is the verifier's log of
    `load`, if one was asked for.
    """

    kind = ObjectKind.PROGRAM
    log: str = ""

    @classmethod
    def load(
        cls,
        spec: ProgramSpec,
        *,
        maps: Mapping[str, Map] | None = None,
        btf: BtfHandle | None = None,
        types: Btf | None = None,
        log_level: int = 0,
        log_size: int = LOG_LIMIT,
        path: str = "",
        target: Program | AttachTarget | None = None,
        module_fds: Sequence[int] = (),
    ) -> Self:
        """Verify and load a program.

        Args:
            spec: The program.
            maps: The maps that it refers to, by name.
            btf: The loaded BTF of its object; with it the verifier's log shows lines of C.
            types: The BTF as the object has it; with it errors show lines of C even if the kernel
                refused to load the BTF.
            log_level: Which log to keep of a program that loads, a sum of 1 (the instructions of a
                refused path), 2 (all instructions, with the state after each), 4 (figures) and 8
                (keep the beginning of a log that is too long, not its end). Default: 0, none.
            log_size: The most bytes of a log. Default: 16 MiB.
            path: The object file, for error messages.
            target: The program whose function `spec.attach_to` names. Default: a kernel function.
            module_fds: The BTF descriptors of kernel modules whose functions the program calls.

        Raises:
            VerifierError: The verifier refuses the program; it carries the cause and the line of C.
            NotSupportedError: The kernel does not have this type.
            TargetNotFoundError: There is no such attach target.
            PermissionDeniedError: A capability is missing.
            UsageError: The section does not say the program's type.
            ValueError: *log_level* or *log_size* is out of range.

        Kernel: BPF_PROG_LOAD.
        """
        from bpfpin.objects.maps import compat  # noqa: PLC0415  (only to load a program)

        _check_type(spec)
        choice = LogChoice(log_level, log_size)
        used = {ref.target for function in spec.functions for ref in function.references}
        descriptors = {name: maps[name].fd for name in used if name in maps} if maps else {}
        with _target(spec, target) as attach_to:
            loading = ProgramLoad(
                spec, descriptors, btf, attach_to, types=types, module_fds=module_fds
            )
            try:
                descriptor, log = loading.load(choice, path)
            except (InvalidArgumentError, PermissionDeniedError) as error:
                raise named(error, spec) from None
            except VerifierError as error:
                # A program array of programs of another type is refused after verification, without
                # a word in the log (bpf_prog_map_compatible() of kernel/bpf/core.c).
                if error.errno == errno.EINVAL:
                    arrays = [bpf_map for name, bpf_map in (maps or {}).items() if name in used]
                    arrays = [each for each in arrays if traits_of(each.type).holds_programs]
                    compat.require_owner(arrays, spec.type, program=spec.name)
                raise
        program = cls(descriptor)
        program.log = log
        return program

    @property
    def info(self) -> ProgramInfo:
        """The kernel's report of the program now."""
        return program_info(self.fd)

    @property
    def id(self) -> int:
        """The id, unique on this host until it restarts."""
        return program_id(self.fd)

    @cached_property
    def name(self) -> str:
        """The name as the kernel keeps it, 15 characters at most; it never changes."""
        return self.info.name

    @cached_property
    def type(self) -> ProgramType | int:
        """The program type, which never changes."""
        return self.info.type

    def test_run(
        self,
        data: bytes = b"",
        *,
        repeat: int = 1,
        context: bytes = b"",
        cpu: int | None = None,
        live_frames: bool = False,
        batch_size: int = 0,
    ) -> TestRun:
        """Run the program on a test packet.

        Args:
            data: The packet. XDP and tc programs need at least 14 bytes, an Ethernet header.
                Programs of types syscall and raw_tracepoint take none.
            repeat: How often to run it. Default: 1. Programs of types syscall and raw_tracepoint
                run once.
            context: The context, if the type of program takes one.
            cpu: The CPU to run it on; this thread moves there for the call. Default: any.
            live_frames: Let XDP programs really pass, send and redirect the packets; the result
                then has no return value and no data. Default: False.
            batch_size: How many live frames to handle at once, at most 256. Default: 64.

        Returns:
            The return value, the packet and the context after the last run, and the average time.

        Raises:
            NotSupportedError: Programs of this type cannot be run like this.
            PermissionDeniedError: A capability is missing.
            UsageError: This thread may not run on *cpu*.

        Kernel: BPF_PROG_TEST_RUN (Linux 4.12; live frames 5.18).
        """
        kind = self.type
        packet, packet_out = _input(data), _output(len(data))
        ctx = _input(context)
        # The kernel refuses data, repeat and an output context for these (EINVAL): the context
        # comes back in `ctx_in`.
        runs_once = traits_of_program(kind).test_run is RunInput.CONTEXT
        has_output = bool(data) and not live_frames
        ctx_out = None
        if context and not runs_once and not live_frames:
            ctx_out = ctypes.create_string_buffer(max(_CONTEXT_SIZE, len(context)))
        attribute = ProgTestRunAttr(
            prog_fd=self.fd,
            data_in=bpf.address(packet),
            data_size_in=len(data),
            data_out=bpf.address(packet_out) if has_output else 0,
            data_size_out=len(packet_out) if has_output else 0,
            ctx_in=bpf.address(ctx),
            ctx_size_in=len(context),
            ctx_out=bpf.address(ctx_out),
            ctx_size_out=len(ctx_out) if ctx_out is not None else 0,
            repeat=0 if runs_once else repeat,
            flags=TestRunFlag.XDP_LIVE_FRAMES if live_frames else 0,
            batch_size=batch_size,
        )
        # Not by BPF_F_TEST_RUN_ON_CPU, which works for raw tracepoints alone: all others run on the
        # CPU of the caller.
        with _on_cpu(cpu):
            bpf.prog_test_run(attribute, target=f"program {self.name}")
        if ctx_out is not None:
            context = ctx_out.raw[: min(attribute.ctx_size_out, len(ctx_out))]
        elif ctx is not None:
            context = ctx.raw
        return TestRun(
            return_value=attribute.retval,
            data=packet_out.raw[: attribute.data_size_out] if has_output else b"",
            context=context,
            duration_ns=attribute.duration,
        )


@contextlib.contextmanager
def _on_cpu(cpu: int | None) -> Iterator[None]:
    """Run the block on that CPU; None: on any."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, ValueError, OverflowError):
        allowed = ", ".join(map(str, sorted(before)))
        raise UsageError(f"no run on CPU {cpu}: this thread may run on {allowed}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _input(data: bytes) -> ctypes.Array[ctypes.c_char] | None:
    return bpf.buffer_of(data) if data else None


def _output(size: int) -> ctypes.Array[ctypes.c_char]:
    # bpf_xdp_adjust_head() can lengthen the packet by the room before it.
    return ctypes.create_string_buffer(size + XDP_PACKET_HEADROOM)


def _check_type(spec: ProgramSpec) -> None:
    if spec.type == ProgramType.UNSPEC:
        raise UsageError(
            f"program {spec.name!r}: the section {spec.section!r} does not say its type",
            hint=Fix.of("say it, for example: ", Argument("program_type", "xdp")),
        )


def _target(
    spec: ProgramSpec, given: Program | AttachTarget | None
) -> contextlib.AbstractContextManager[AttachTarget | None]:
    if given is None and not traits_of_program(spec.type).has_target:
        return contextlib.nullcontext()
    from bpfpin.objects.kernel import attach_target  # noqa: PLC0415 - few programs have a target

    if isinstance(given, AttachTarget):
        return contextlib.nullcontext(given)
    return attach_target.found(spec, given.fd if given is not None else None)
