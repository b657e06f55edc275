"""Probes of user programs: the places of their arguments, in the words of compilers."""

from __future__ import annotations

import ctypes
import re
import subprocess

import pytest

from bpfpin.errors import ObjectFileError
from bpfpin.objfile.elf.executable import Executable
from bpfpin.objfile.elf.usdt import (
    ARM64,
    X86,
    X86_64,
    ArgumentPlace,
    ProbeArgument,
    pack_spec,
    parse_arguments,
    read_probes,
)
from support.tools import need
from support.user_program import probed

BP, AX, DX, SI, R8, IP = 32, 80, 96, 104, 72, 128  # struct pt_regs of x86
SP = 248  # and of arm64


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        (X86_64, "", []),
        (X86_64, "-4@%eax", [ProbeArgument(4, True, ArgumentPlace.REGISTER, 0, AX)]),
        (X86_64, "1@%ah", [ProbeArgument(1, False, ArgumentPlace.REGISTER, 0, AX + 1)]),
        (X86_64, "%rdx", [ProbeArgument(8, False, ArgumentPlace.REGISTER, 0, DX)]),
        (
            X86_64,
            "8@%r8 2@%r8w",
            [ProbeArgument(n, False, ArgumentPlace.REGISTER, 0, R8) for n in (8, 2)],
        ),
        (X86_64, "-4@-1204(%rbp)", [ProbeArgument(4, True, ArgumentPlace.MEMORY, -1204, BP)]),
        (X86_64, "8@(%rdx)", [ProbeArgument(8, False, ArgumentPlace.MEMORY, 0, DX)]),
        (X86_64, "-4@$-9", [ProbeArgument(4, True, ArgumentPlace.CONSTANT, -9)]),
        (X86_64, "8@$0x10", [ProbeArgument(8, False, ArgumentPlace.CONSTANT, 16)]),
        (
            X86_64,
            "1@-96(%rbp,%rax,8)",
            [ProbeArgument(1, False, ArgumentPlace.INDEXED, -96, BP, AX, 3)],
        ),
        (X86_64, "4@(%rsi,%rax)", [ProbeArgument(4, False, ArgumentPlace.INDEXED, 0, SI, AX, 0)]),
        (
            X86_64,
            "-4@4+pair(%rip) 8@.LC0-8(%rip)",
            [
                ProbeArgument(4, True, ArgumentPlace.MEMORY, 4, IP, symbol="pair"),
                ProbeArgument(8, False, ArgumentPlace.MEMORY, -8, IP, symbol=".LC0"),
            ],
        ),
        (X86, "4@8(%ebp)", [ProbeArgument(4, False, ArgumentPlace.MEMORY, 8, BP)]),
        (
            ARM64,
            "8@x20 -4@w0",
            [
                ProbeArgument(8, False, ArgumentPlace.REGISTER, 0, 160),
                ProbeArgument(4, True, ArgumentPlace.REGISTER),
            ],
        ),
        (ARM64, "-4@[sp, 12]", [ProbeArgument(4, True, ArgumentPlace.MEMORY, 12, SP)]),
        (ARM64, "8@[x19]", [ProbeArgument(8, False, ArgumentPlace.MEMORY, 0, 152)]),
        (ARM64, "8@[x0, x1, lsl 3]", [ProbeArgument(8, False, ArgumentPlace.INDEXED, 0, 0, 8, 3)]),
        (
            ARM64,
            "-4@5 8@xzr",
            [
                ProbeArgument(4, True, ArgumentPlace.CONSTANT, 5),
                ProbeArgument(8, False, ArgumentPlace.CONSTANT),
            ],
        ),
    ],
)
def test_arguments_are_where_the_text_says(
    machine: int, text: str, expected: list[ProbeArgument]
) -> None:
    assert parse_arguments(text, machine) == expected


@pytest.mark.parametrize(
    ("machine", "text", "named"),
    [
        (X86_64, "8@%rax 8f@%xmm0", "8f@%xmm0"),
        (X86_64, "4@16(%rip)", "4@16(%rip)"),
        (X86_64, "16@%rax", "16@%rax"),
        (X86_64, "8@%fs:16", "8@%fs:16"),
        (X86_64, "4@8(%eax", "4@8(%eax"),
        (ARM64, "8@[x0, w1, sxtw 3]", "sxtw"),
        (8, "4@$2", "machine 8"),
    ],
)
def test_a_place_that_no_program_can_read_is_named(machine: int, text: str, named: str) -> None:
    with pytest.raises(ObjectFileError, match=re.escape(named)):
        parse_arguments(text, machine)


def test_a_spec_has_the_layout_of_the_header() -> None:
    class ArgumentSpec(ctypes.Structure):
        _fields_ = [
            ("val_off", ctypes.c_uint64),
            ("arg_type", ctypes.c_uint32, 8),
            ("idx_reg_off", ctypes.c_uint32, 12),
            ("scale_bitshift", ctypes.c_uint32, 4),
            ("reserved", ctypes.c_uint32, 8),
            ("reg_off", ctypes.c_short),
            ("arg_signed", ctypes.c_bool),
            ("arg_bitshift", ctypes.c_char),
        ]

    class Spec(ctypes.Structure):
        _fields_ = [
            ("args", ArgumentSpec * 12),
            ("usdt_cookie", ctypes.c_uint64),
            ("arg_cnt", ctypes.c_short),
        ]

    one = ProbeArgument(2, True, ArgumentPlace.INDEXED, -96, BP, AX, 3)
    spec = Spec.from_buffer_copy(pack_spec([one], ctypes.sizeof(Spec), cookie=7))
    packed = spec.args[0]

    assert (spec.arg_cnt, spec.usdt_cookie) == (1, 7)
    assert (packed.arg_type, packed.idx_reg_off, packed.scale_bitshift) == (3, AX, 3)
    assert (packed.reg_off, packed.arg_signed) == (BP, True)
    assert (packed.val_off, packed.arg_bitshift) == ((1 << 64) - 96, bytes([48]))
    with pytest.raises(ValueError, match="13 arguments"):
        pack_spec([one] * 13, ctypes.sizeof(Spec))


def test_the_probes_of_a_program_are_those_of_readelf() -> None:
    need("readelf")
    output = subprocess.check_output(["readelf", "-n", probed()], text=True)
    theirs = re.findall(
        r"Provider: (.*)\n\s+Name: (.*)\n\s+Location: (.*), Base: .*, Semaphore: (.*)\n"
        r"\s+Arguments: ?(.*)",
        output,
    )
    with Executable(probed()) as executable:
        ours = list(read_probes(executable))

    assert len(ours) >= 7
    assert [(it.provider, it.name, it.address, it.semaphore, it.arguments) for it in ours] == [
        (provider, name, int(address, 16), int(semaphore, 16), arguments)
        for provider, name, address, semaphore, arguments in theirs
    ]
