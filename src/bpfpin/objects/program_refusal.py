"""Why the kernel refuses a program before it looks at one instruction: its type, or a policy."""

from __future__ import annotations

import ctypes

from bpfpin import insn
from bpfpin.errors import NotSupportedError, PermissionDeniedError, SyscallError
from bpfpin.spec import ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgLoadAttr
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.refusal import InvalidArgumentError

_RETURN_ONE = insn.encode((insn.mov_imm(0, 1), insn.exit_()))  # what every type may do


def named(error: SyscallError, spec: ProgramSpec) -> SyscallError:
    """Return *error*, the kernel's answer without a log, or one that says more.

    `NotSupportedError` if the simplest program of that type and attach type is refused likewise.
    Where all capabilities are there the kernel's or the host's policy is what forbids it.
    """
    if isinstance(error, PermissionDeniedError):
        if not error.missing and not error.hint:
            error.hint = (
                "The capabilities for it are there: this kernel, or a policy on this host, allows"
                f" no programs of {_words(spec)}."
            )
        return error
    if _loads_simplest(spec):
        return error
    return NotSupportedError(
        f"program {spec.name}: this kernel has no programs of {_words(spec)}",
        feature=f"programs of {_words(spec)}",
        command=error.command,
        errno=error.errno or 0,
        target=error.target,
    )


def _words(spec: ProgramSpec) -> str:
    kind = f"type {spec.type.name.lower()}"
    if spec.expected_attach_type is None:
        return kind
    return f"{kind} for {spec.expected_attach_type.name.lower()}"


def _loads_simplest(spec: ProgramSpec) -> bool:
    """Whether the type is there; a type whose programs all need a target cannot be asked so."""
    code, terms = bpf.buffer_of(_RETURN_ONE), ctypes.create_string_buffer(b"GPL")
    attribute = ProgLoadAttr(
        prog_type=spec.type,
        insn_cnt=len(_RETURN_ONE) // insn.INSN_SIZE,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(terms),
        expected_attach_type=spec.expected_attach_type or 0,
    )
    try:
        Descriptor(bpf.prog_load(attribute)).close()
    except InvalidArgumentError:
        return False
    except SyscallError:
        return True
    return True
