"""The number of entries of hashes and LPM tries by the kernel's own count, without reading them.

The counter of a hash is what the kernel function `bpf_map_sum_elem_count` adds up over the CPUs.
Only programs may call it, so a small one is generated for the maps that are asked about, run once
by BPF_PROG_TEST_RUN and closed.

Each CPU counts for itself. Once nobody writes, the sum is exact. While a map is written, entries
that come or go between the addition of two CPUs may be counted or not, as with a walk.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from bpfpin import assembler as a
from bpfpin.assembler import Assembler
from bpfpin.errors import BpfError, NotSupportedError, PermissionDeniedError
from bpfpin.insn import CALL, Instruction, encode, exit_, load_imm64, mov_imm, mov_reg
from bpfpin.objects.kernel.info import fdinfo
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import MapCreateAttr, ProgLoadAttr, ProgTestRunAttr
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapFlag, MapType, ProgramFlag, ProgramType, PseudoCall, PseudoSource
from bpfpin.uapi_helpers import FuncId

# In kernel/bpf/map_iter.c; before Linux 6.6 only programs of tracing might call it, and no map that
# an instruction names was a valid argument.
FUNCTION: Final = "bpf_map_sum_elem_count"
SINCE: Final = "6.6"
# A program refers to 64 maps at most (MAX_USED_MAPS of include/linux/bpf_verifier.h).
_MAPS_MAX: Final = 64
_KIND_FUNC: Final = 12  # BTF_KIND_FUNC of linux/btf.h
_U64: Final = struct.Struct("<Q")


def entry_counts(map_fds: Sequence[int]) -> list[int]:
    """Return the number of entries of each of these hashes (`MapTraits.counts_entries`).

    Args:
        map_fds: Descriptors of the maps.

    Raises:
        NotSupportedError: The kernel does not have the function.
        PermissionDeniedError: CAP_BPF is missing.

    Kernel: BPF_PROG_LOAD, BPF_PROG_TEST_RUN for programs of type syscall (Linux 5.14),
    `bpf_map_sum_elem_count` (Linux 6.6). About 100 us for 64 maps, whatever their size.
    """
    counts: list[int] = []
    for first in range(0, len(map_fds), _MAPS_MAX):
        counts += _counts(map_fds[first : first + _MAPS_MAX])
    return counts


@functools.cache
def trie_entry_size(key_size: int, value_size: int) -> int:
    """Return the memory of an entry of an LPM trie, 0 where that does not tell the entries.

    The kernel reports the memory of a trie as that of its entries alone (trie_mem_usage() of
    kernel/bpf/lpm_trie.c, Linux 6.4), so the quotient of the two is their number. The size of an
    entry is the kernel's own business; it is that of a trie that was made for the question.
    """
    attribute = MapCreateAttr(
        MapType.LPM_TRIE, key_size, value_size, max_entries=1, map_flags=MapFlag.NO_PREALLOC
    )
    try:
        with Descriptor(bpf.map_create(attribute, target="a trie to measure")) as trie:
            empty = _memory(trie.fileno())
            bpf.map_update_elem(trie.fileno(), bytes(key_size), bytes(value_size))
            return _memory(trie.fileno()) if not empty else 0
    except BpfError:
        return 0


def _memory(fd: int) -> int:
    return int(fdinfo(fd).get("memlock", "0"))


def function_id() -> int:
    """Return the id of the kernel function in the BTF of vmlinux; errors as `entry_counts`."""
    found = _function_id()
    if isinstance(found, BpfError):
        raise found
    return found


@functools.cache
def _function_id() -> int | BpfError:
    # By a helper, because Python needs 60 ms to scan the BTF of vmlinux for one name.
    name = FUNCTION.encode() + b"\0"
    words = list(_U64.iter_unpack(name.ljust(-(-len(name) // _U64.size) * _U64.size, b"\0")))
    size = _U64.size * len(words)
    code = Assembler("find_function")
    code.move(a.R6, a.R1)
    for index, (word,) in enumerate(words):
        code.set(a.R1, word)
        code.store(a.FP, _U64.size * index - size, a.R1)
    code.move(a.R1, a.FP)
    code.add(a.R1, -size)
    code.set(a.R2, len(name))
    code.set(a.R3, _KIND_FUNC)
    code.set(a.R4, 0)
    code.call(FuncId.btf_find_by_name_kind)
    code.store(a.R6, 0, a.R0)
    code.leave()
    try:
        (answer,) = _run(code.finish(0).instructions, 1)
    except PermissionDeniedError as error:
        return error
    except BpfError as error:
        return _lacking(str(error))
    # A negative errno, or a function of a module, whose descriptor is in the upper half.
    if not 0 < answer < 1 << 31:
        return _lacking("the kernel has no function of that name")
    return answer


def _lacking(reason: str) -> NotSupportedError:
    return NotSupportedError(
        f"this kernel does not count the entries of maps: {reason}", feature=FUNCTION, since=SINCE
    )


def _counts(map_fds: Sequence[int]) -> Iterator[int]:
    call = Instruction(CALL, src=PseudoCall.KFUNC_CALL, imm=function_id())
    code = [mov_reg(a.R6, a.R1)]
    for index, fd in enumerate(map_fds):
        code += load_imm64(a.R1, fd, src=PseudoSource.MAP_FD)
        code.append(call)
        code.append(Instruction(a.STORE[8], a.R6, a.R0, _U64.size * index))
    code += (mov_imm(a.R0, 0), exit_())
    try:
        return _run(code, len(map_fds))
    except PermissionDeniedError:
        raise
    # The function exists, so programs of this type may not call it: it is of before 6.6.
    except BpfError as error:
        raise _lacking(str(error)) from None


def _run(code: Sequence[Instruction], count: int) -> Iterator[int]:
    """Load a program of type syscall, run it once and return *count* numbers of its context."""
    instructions, terms = bpf.buffer_of(encode(code)), ctypes.create_string_buffer(b"GPL")
    attribute = ProgLoadAttr(
        prog_type=ProgramType.SYSCALL,
        insn_cnt=len(code),
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(terms),
        prog_flags=ProgramFlag.SLEEPABLE,
        prog_name=b"entry_counts",
    )
    what = "the program that counts entries"
    context = ctypes.create_string_buffer(_U64.size * count)
    with Descriptor(bpf.prog_load(attribute, target=what)) as program:
        run = ProgTestRunAttr(
            prog_fd=program.fileno(), ctx_in=ctypes.addressof(context), ctx_size_in=len(context)
        )
        bpf.prog_test_run(run, target=what)
    # A CPU on which more was deleted than added counts below 0; while others write, the sum of all
    # may be for a moment.
    return (max(0, number) for number in struct.unpack(f"<{count}q", context.raw))
