"""CO-RE relocations for tests: one question, or one function with relocations."""

from __future__ import annotations

from collections.abc import Sequence

from bpfpin.btf.btf import Btf
from bpfpin.fixup.core import Relocated, relocate
from bpfpin.fixup.core_find import CoreTarget, Finder, Found
from bpfpin.insn import Instruction, exit_
from bpfpin.spec import CoreRelocation, FunctionSpec, ObjectSpec, ProgramSpec
from bpfpin.uapi import CoreRelocationKind, ProgramType


def target_of(btf: Btf) -> CoreTarget:
    return CoreTarget(lambda: btf)


def found(
    local: Btf, target: Btf, kind: CoreRelocationKind, access: str = "0", *, type_id: int
) -> Found:
    """Return what the two tables answer."""
    return Finder(local, target_of(target)).find(type_id, access, kind)


def answer(
    local: Btf, target: Btf, kind: CoreRelocationKind, access: str = "0", *, type_id: int
) -> int | None:
    """Return the target's number, None if it has none."""
    value = found(local, target, kind, access, type_id=type_id).target
    return value.number if value else None


def object_of(btf: Btf, code: Sequence[Instruction], *relocations: CoreRelocation) -> ObjectSpec:
    """Return an object with one program, whose one function has these relocations."""
    function = FunctionSpec("main", "xdp", (*code, exit_()), relocations=relocations)
    program = ProgramSpec("main", ProgramType.XDP, "xdp", (function,))
    return ObjectSpec({}, {"main": program}, btf=btf)


def patched(
    local: Btf,
    target: Btf,
    code: Sequence[Instruction],
    relocation: CoreRelocation,
) -> tuple[Instruction, ...]:
    """Return *code* fitted to the target."""
    return code_of(relocate(object_of(local, code, relocation), target_of(target)))[: len(code)]


def code_of(done: Relocated) -> tuple[Instruction, ...]:
    return tuple(done.spec.programs["main"].functions[0].instructions)
