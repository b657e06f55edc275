"""The number of entries of every hash of the host in one read, also for a user without rights.

An iterator runs a program for each map of the host (`iter/bpf_map`), which writes the id of the map
and what `bpf_map_sum_elem_count` returns; `read.read_entries` reads that. Making
the iterator needs capabilities; running it needs only the descriptor of its link. It is faster than
`objects/maps/fill.py`, which loads a program for the maps that are asked about, and keeps no map
alive.
"""

from __future__ import annotations

import os

from bpfpin import assembler as a
from bpfpin.apps.exporter.read import ENTRIES_RECORD
from bpfpin.assembler import Assembler
from bpfpin.attach.iterators import attach_iter
from bpfpin.btf.layout import members
from bpfpin.btf.types import Struct
from bpfpin.errors import BpfError, NotSupportedError
from bpfpin.insn import CALL
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.maps.fill import FUNCTION, SINCE, function_id
from bpfpin.objects.programs.program import Program
from bpfpin.spec import ProgramSpec
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, ProgramType, PseudoCall
from bpfpin.uapi_helpers import FuncId

# struct bpf_iter__bpf_map: pointers to the meta data, whose first member is the seq_file, and to
# the map, NULL after the last one (kernel/bpf/map_iter.c).
_META, _MAP = 0, 8


def make_link() -> Descriptor:
    """Return the link of the iterator.

    Raises:
        NotSupportedError: The kernel does not count entries (before Linux 6.6), or has no BTF.
        PermissionDeniedError: CAP_BPF or CAP_PERFMON is missing.

    Kernel: BPF_PROG_LOAD, BPF_LINK_CREATE with BPF_TRACE_ITER.
    """
    call_id = function_id()  # raises if the kernel lacks it
    code = Assembler("map_entries")
    done = code.new_label()
    code.move(a.R6, a.R1)
    code.load(a.R7, a.R6, _MAP, 8)
    code.jump(done, a.IF_EQUAL, a.R7, imm=0)
    code.load(a.R1, a.R7, _offset_of_id(), 4)
    code.store(a.FP, -16, a.R1)
    code.move(a.R1, a.R7)
    code.emit(CALL, src=PseudoCall.KFUNC_CALL, imm=call_id)
    code.store(a.FP, -8, a.R0)
    code.load(a.R1, a.R6, _META, 8)
    code.load(a.R1, a.R1, 0, 8)
    code.move(a.R2, a.FP)
    code.add(a.R2, -16)
    code.set(a.R3, ENTRIES_RECORD.size)
    code.call(FuncId.seq_write)
    code.put(done)
    code.leave()
    spec = ProgramSpec(
        "map_entries",
        ProgramType.TRACING,
        "iter/bpf_map",
        (code.finish(0),),
        license="GPL",
        expected_attach_type=AttachType.TRACE_ITER,
        attach_to="bpf_map",
    )
    with Program.load(spec) as program, attach_iter(program) as link:
        return Descriptor(os.dup(link.fd))


def _offset_of_id() -> int:
    try:
        kernel = vmlinux_btf()
    except OSError as error:
        raise _lacking(f"no BTF of the kernel: {error}") from None
    type_id = kernel.find("bpf_map", Struct)
    for member in members(kernel, type_id) if type_id is not None else ():
        if member.name == "id":
            return member.bit_offset // 8
    raise _lacking("its struct bpf_map has no member id")


def _lacking(reason: str) -> BpfError:
    return NotSupportedError(
        f"this kernel does not count the entries of maps: {reason}", feature=FUNCTION, since=SINCE
    )
