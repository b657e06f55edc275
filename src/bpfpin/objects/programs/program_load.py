"""One BPF_PROG_LOAD: the attribute, the buffers it points to, and asking again for the log."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Mapping, Sequence

from bpfpin import insn
from bpfpin.btf.btf import Btf
from bpfpin.errors import (
    NotSupportedError,
    PermissionDeniedError,
    SyscallError,
    VerifierError,
)
from bpfpin.fixup import calls
from bpfpin.fixup import calls as maps
from bpfpin.objects import verifier
from bpfpin.objects.kernel.attach_target import AttachTarget
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.spec import ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgLoadAttr
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import OBJ_NAME_LEN, AttachType, ProgramType

_FUNCTION_INFO = struct.Struct("<II")
_LINE_INFO = struct.Struct("<IIII")
# A link of attach type none cannot take a program loaded as XDP since Linux 6.18.
_ATTACH_TYPES = {ProgramType.XDP: AttachType.XDP}


class ProgramLoad:
    """The attribute of one BPF_PROG_LOAD and the buffers it points to."""

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
        self._spec = spec
        self._target = target
        linked = calls.link(spec)
        self._places = verifier.Places(linked.lines, types or (btf.btf if btf else None))
        code = maps.fill_maps(linked.instructions, linked.references, descriptors)
        self._slots = len(code)
        # Calls of functions of modules count from 1; 0 would be the kernel itself.
        fds = struct.pack(f"<{len(module_fds) + 1}i", 0, *module_fds) if module_fds else b""
        self._fds = bpf.buffer_of(fds) if fds else None
        self._code = bpf.buffer_of(insn.encode(code))
        self._license = ctypes.create_string_buffer(spec.license.encode())
        self._functions = b"".join([_FUNCTION_INFO.pack(*each) for each in linked.functions])
        self._lines = b"".join([_LINE_INFO.pack(*line) for line in linked.lines])
        self._btf = btf if self._functions else None
        if spec.exception_callback and self._btf is None:
            raise NotSupportedError(
                f"program {spec.name}: its exception callback {spec.exception_callback} is found by"
                " BTF, which is not loaded",
                feature="BTF of programs",
            )

    def load(self, choice: verifier.LogChoice, path: str) -> tuple[Descriptor, str]:
        """Load without a log first, which is faster; only a refusal is asked about again."""
        if choice.level:
            return self._load_explained(choice, path, None)
        try:
            return Descriptor(self._enter(self._attribute())), ""
        except PermissionDeniedError as error:
            if error.missing:
                raise
            return self._load_explained(choice, path, error)
        except SyscallError as error:
            return self._load_explained(choice, path, error)

    def _load_explained(
        self, choice: verifier.LogChoice, path: str, first: SyscallError | None
    ) -> tuple[Descriptor, str]:
        made = verifier.explain(self._attempt, choice)
        if made.fd is not None:
            return Descriptor(made.fd), made.log
        error = first or made.error
        assert error is not None
        # A program is never loaded with less than it has: its BTF says what its functions are for
        # (an exception callback, the arguments of a global function), which is no ornament.
        if verifier.is_before_instructions(made.log) and not verifier.reason_lines(made.log):
            raise error
        if not made.log.strip():
            raise error
        raise self._refusal(error, made.log, path) from None

    def _refusal(self, error: SyscallError, log: str, path: str) -> VerifierError:
        from bpfpin.objects.verifier.report import refusal  # noqa: PLC0415 - many patterns: 10 ms

        return refusal(error, log, program=self._spec.name, path=path, places=self._places)

    def _attempt(self, log_level: int, size: int) -> verifier.Attempt:
        log = ctypes.create_string_buffer(size)
        attribute = self._attribute()
        attribute.log_level, attribute.log_size = log_level, size
        attribute.log_buf = ctypes.addressof(log)
        fd, error = None, None
        try:
            fd = self._enter(attribute)
        except SyscallError as refused:
            error = refused
        text = verifier.printable(log.value)
        return verifier.Attempt(fd, error, text, attribute.log_true_size)

    def _enter(self, attribute: ProgLoadAttr) -> int:
        return bpf.prog_load(attribute, target=f"program {self._spec.name}")

    def _attribute(self) -> ProgLoadAttr:
        spec = self._spec
        attach_type = spec.expected_attach_type or _ATTACH_TYPES.get(spec.type)
        attribute = ProgLoadAttr(
            prog_type=spec.type,
            insn_cnt=self._slots,
            insns=ctypes.addressof(self._code),
            license=ctypes.addressof(self._license),
            kern_version=spec.kernel_version,
            prog_flags=spec.program_flags,
            prog_ifindex=spec.ifindex,
            prog_name=_kernel_name(spec.name),
            expected_attach_type=attach_type or 0,
            fd_array=bpf.address(self._fds),
        )
        if self._btf is not None:
            self._add_debug_information(attribute, self._btf)
        if self._target is not None:
            attribute.attach_btf_id = self._target.btf_id
            attribute.attach_btf_obj_fd = self._target.fd
            attribute.expected_attach_type = self._target.member or attribute.expected_attach_type
        return attribute

    def _add_debug_information(self, attribute: ProgLoadAttr, btf: BtfHandle) -> None:
        attribute.prog_btf_fd = btf.fd
        # The buffers are kept: the attribute holds only their addresses.
        self._function_buffer = bpf.buffer_of(self._functions)
        attribute.func_info = ctypes.addressof(self._function_buffer)
        attribute.func_info_rec_size = _FUNCTION_INFO.size
        attribute.func_info_cnt = len(self._functions) // _FUNCTION_INFO.size
        self._line_buffer = bpf.buffer_of(self._lines) if self._lines else None
        attribute.line_info = bpf.address(self._line_buffer)
        attribute.line_info_rec_size = _LINE_INFO.size
        attribute.line_info_cnt = len(self._lines) // _LINE_INFO.size


def _kernel_name(name: str) -> bytes:
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)[: OBJ_NAME_LEN - 1].encode()
