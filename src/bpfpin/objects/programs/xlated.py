"""The instructions of a loaded program as the kernel shows them, and the helpers' names."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bpfpin.insn import Instruction, decode
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgInfoAnswer

SYMBOLS: Final = Path("/proc/kallsyms")
_BASE: Final = rb"^([0-9a-f]+) \w __bpf_call_base$"
_WORD: Final = (1 << 64) - 1


def xlated(fd: int) -> tuple[Instruction, ...]:
    """Return the instructions of the program *fd* as the verifier left them.

    They refer to maps by id, and to helpers by their distance (`helper_names`). The result is empty
    if the kernel does not show them: that needs CAP_SYSLOG, or kernel.kptr_restrict at 0
    (`bpf_prog_get_info_by_fd()` of kernel/bpf/syscall.c).
    """
    # Two calls: the length is known only to the kernel.
    size = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(fd, size)
    code = ctypes.create_string_buffer(size.xlated_prog_len or 1)
    answer = ProgInfoAnswer(
        xlated_prog_len=size.xlated_prog_len, xlated_prog_insns=ctypes.addressof(code)
    )
    bpf.obj_get_info_by_fd(fd, answer)
    # The kernel sets the address to 0 where it shows no instructions.
    if not answer.xlated_prog_insns:
        return ()
    return decode(code.raw[: min(answer.xlated_prog_len, size.xlated_prog_len)])


def helper_names(distances: Iterable[int]) -> dict[int, str]:
    """Return the names of kernel functions by their distance from `__bpf_call_base`.

    Names that /proc/kallsyms does not have are left out. Callers without CAP_SYSLOG see only zeros
    for addresses there, so that the result is empty.
    """
    wanted = set(distances)
    symbols = SYMBOLS.read_bytes() if wanted else b""
    base = re.search(_BASE, symbols, re.MULTILINE)
    if base is None or not int(base[1], 16):
        return {}
    # The distance is BPF_CALL_IMM of the kernel's include/linux/filter.h: address minus base.
    names = {}
    for distance in wanted:
        address = b"%016x" % (int(base[1], 16) + distance & _WORD)
        symbol = re.search(rb"^" + address + rb" \w (\w+)", symbols, re.MULTILINE)
        if symbol:
            names[distance] = symbol[1].decode()
    return names
