"""A loaded program's code as the kernel shows it: instructions, machine code, and their origins.

Of the programs that run with statistics on, it holds nothing: numbers are in `ProgramInfo`.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from bpfpin.insn import Instruction, decode
from bpfpin.records import dataclass
from bpfpin.spec import LineInfo
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgInfoAnswer
from bpfpin.uapi import TAG_SIZE

_FUNCTION: Final = struct.Struct("<II")
_LINE: Final = struct.Struct("<IIII")
_ADDRESS: Final = struct.Struct("<Q")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class CodeFunction:
    """A function of a program: the main one, or a subprogram.

    Attributes:
        first: The position of its first instruction; positions count slots of eight bytes.
        type_id: Its type in the BTF of the program; 0 without BTF.
        tag: A hash of its instructions, in hexadecimal; empty if the kernel does not say it.
        address: Where its machine code is; 0 if this user may not see it.
        jited_size: The size of its machine code in bytes.
    """

    first: int
    type_id: int = 0
    tag: str = ""
    address: int = 0
    jited_size: int = 0


@dataclass(frozen=True, slots=True)
class ProgramCode:
    """The code of a program.

    Attributes:
        instructions: As the verifier left them; empty if this user may not see them.
        functions: The functions in the order of the code.
        lines: The lines of C, by the position of their first instruction.
        jited: The machine code of all functions; empty if it is interpreted or hidden.
        jited_lines: The addresses of the machine code of `lines`; empty if hidden.
    """

    instructions: tuple[Instruction, ...]
    functions: tuple[CodeFunction, ...]
    lines: tuple[LineInfo, ...]
    jited: bytes
    jited_lines: tuple[int, ...]


def read_code(fd: int) -> ProgramCode:
    """Return the code of the program *fd*.

    Instructions and addresses are empty for callers without CAP_SYSLOG, unless kernel.kptr_restrict
    is 0 (bpf_dump_raw_ok() of include/linux/filter.h).

    Kernel: BPF_OBJ_GET_INFO_BY_FD (xlated and jited code Linux 4.13, lines 5.0).
    """
    # Two calls: the sizes are known only to the kernel. A program never changes, so they stay.
    sizes = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(fd, sizes)
    answer = ProgInfoAnswer(
        func_info_rec_size=_FUNCTION.size,
        line_info_rec_size=_LINE.size,
        jited_line_info_rec_size=_ADDRESS.size,
    )
    buffers = {}
    for address, length, size in _PARTS:
        count = getattr(sizes, length)
        buffers[address] = buffer = ctypes.create_string_buffer(max(count * size, 1))
        setattr(answer, length, count)
        setattr(answer, address, ctypes.addressof(buffer) if count else 0)
    bpf.obj_get_info_by_fd(fd, answer)
    # The kernel sets an address to 0 where it shows nothing.
    parts = {
        address: buffers[address].raw[: getattr(answer, length) * size]
        if getattr(answer, address)
        else b""
        for address, length, size in _PARTS
    }
    return ProgramCode(
        decode(parts["xlated_prog_insns"]),
        _functions(parts),
        tuple(
            LineInfo(position, name, text, place)
            for position, name, text, place in _LINE.iter_unpack(parts["line_info"])
        ),
        parts["jited_prog_insns"],
        tuple(address for (address,) in _ADDRESS.iter_unpack(parts["jited_line_info"])),
    )


# Address and length in struct bpf_prog_info, and the size of an element.
_PARTS: Final = (
    ("xlated_prog_insns", "xlated_prog_len", 1),
    ("jited_prog_insns", "jited_prog_len", 1),
    ("func_info", "nr_func_info", _FUNCTION.size),
    ("line_info", "nr_line_info", _LINE.size),
    ("jited_line_info", "nr_jited_line_info", _ADDRESS.size),
    ("jited_ksyms", "nr_jited_ksyms", _ADDRESS.size),
    ("jited_func_lens", "nr_jited_func_lens", _LENGTH.size),
    ("prog_tags", "nr_prog_tags", TAG_SIZE),
)


def _functions(parts: dict[str, bytes]) -> tuple[CodeFunction, ...]:
    infos = list(_FUNCTION.iter_unpack(parts["func_info"])) or [(0, 0)]
    addresses = [address for (address,) in _ADDRESS.iter_unpack(parts["jited_ksyms"])]
    lengths = [length for (length,) in _LENGTH.iter_unpack(parts["jited_func_lens"])]
    tags = [
        parts["prog_tags"][at : at + TAG_SIZE].hex()
        for at in range(0, len(parts["prog_tags"]), TAG_SIZE)
    ]
    return tuple(
        CodeFunction(first, type_id, *_nth(number, tags, addresses, lengths))
        for number, (first, type_id) in enumerate(infos)
    )


def _nth(
    number: int, tags: list[str], addresses: list[int], lengths: list[int]
) -> tuple[str, int, int]:
    return (
        tags[number] if number < len(tags) else "",
        addresses[number] if number < len(addresses) else 0,
        lengths[number] if number < len(lengths) else 0,
    )
