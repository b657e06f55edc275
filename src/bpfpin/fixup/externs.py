"""Fills the externs of an object: addresses, types, functions and configuration of the kernel.

The functions are pure; the answers of the kernel are arguments. The pseudo sources of instructions
are those of linux/bpf.h. As in libbpf, a weak extern that the kernel does not have becomes address
0, or a call of a helper that does not exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import field

from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import BpfError
from bpfpin.externs import KCONFIG, ExternKind, ExternSpec
from bpfpin.insn import CALL, Instruction, signed32
from bpfpin.records import dataclass
from bpfpin.spec import FunctionSpec, MapSpec, ObjectSpec, Reference, ReferenceKind
from bpfpin.uapi import PseudoCall, PseudoSource

POISON = 2002000000  # libbpf's POISON_CALL_KFUNC_BASE; extern N has this number plus N

_EXTERNS = (ReferenceKind.EXTERN, ReferenceKind.EXTERN_CALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """The kernel's answer for an extern.

    Without *number* and *contents* the extern is absent.

    Attributes:
        extern: The extern.
        number: An address, or the id of a type in the BTF of *module*.
        module: Name of the kernel module; empty: vmlinux.
        contents: Bytes of a variable in `.kconfig`.
        error: Set if the extern is absent and not weak.
    """

    extern: ExternSpec
    number: int | None = None
    module: str = ""
    contents: bytes | None = None
    error: BpfError | None = None

    @property
    def is_found(self) -> bool:
        """Whether the kernel has it."""
        return self.number is not None or self.contents is not None

    @property
    def text(self) -> str:
        """The answer as text: `250`, `0xffffffff81000000`, `type 1234 of vmlinux`, `absent`."""
        if self.contents is not None:
            return str(variable_of(self.extern).with_contents_of(self._padded).value)
        if self.number is None:
            return "absent"
        if self.extern.kind is ExternKind.KSYM:
            return f"{self.number:#x}"
        return f"type {self.number} of {self.module or 'vmlinux'}"

    @property
    def _padded(self) -> bytes:
        # `with_contents_of` takes the bytes at the variable's offset in the whole section.
        return bytes(self.extern.offset) + (self.contents or b"")


@dataclass(frozen=True, slots=True)
class ModuleTypes:
    """The BTF of a kernel module: its descriptor and its index in the program's `fd_array`."""

    fd: int
    position: int


@dataclass(frozen=True, slots=True)
class _Filler:
    """The answers by name, and the numbers of externs for poisoned calls."""

    answers: Mapping[str, Answer]
    modules: Mapping[str, ModuleTypes]
    numbers: Mapping[str, int] = field(default_factory=dict)

    def function(self, function: FunctionSpec) -> FunctionSpec:
        code = list(function.instructions)
        left = []
        for reference in function.references:
            if reference.kind is ReferenceKind.EXTERN_CALL:
                self._fill_call(code, reference)
            elif reference.kind is ReferenceKind.EXTERN:
                self._fill_load(code, reference)
            else:
                left.append(reference)
        return dataclasses.replace(function, instructions=tuple(code), references=tuple(left))

    def _fill_call(self, code: list[Instruction], reference: Reference) -> None:
        answer = self.answers[reference.target]
        if answer.number is None:
            # As in libbpf: the verifier removes the call if the program tests the weak address
            # before.
            poison = POISON + self.numbers[reference.target]
            code[reference.index] = Instruction(CALL, imm=poison)
            return
        module = self.modules.get(answer.module)
        # For a function of a module, the offset is the index of its BTF in fd_array.
        code[reference.index] = Instruction(
            CALL,
            src=int(PseudoCall.KFUNC_CALL),
            offset=module.position if module else 0,
            imm=answer.number,
        )

    def _fill_load(self, code: list[Instruction], reference: Reference) -> None:
        answer = self.answers[reference.target]
        # An untyped symbol, and an absent one, become a plain 64-bit number. For a typed one the
        # verifier wants the type's id and, in the upper half, the descriptor of its BTF.
        number, upper, source = answer.number or 0, 0, 0
        if answer.extern.kind is ExternKind.KSYM or not answer.is_found:
            upper = number >> 32
        else:
            source = int(PseudoSource.BTF_ID)
            upper = self.modules[answer.module].fd if answer.module else 0
        at = reference.index
        low, high = code[at : at + 2]
        code[at] = low._replace(src=source, imm=signed32(number))
        code[at + 1] = high._replace(imm=signed32(upper))


def used_externs(spec: ObjectSpec) -> tuple[ExternSpec, ...]:
    """Return the externs that the programs of *spec* use, and all of those in `.kconfig`."""
    used = {
        reference.target
        for program in spec.programs.values()
        for function in program.functions
        for reference in function.references
        if reference.kind in _EXTERNS
    }
    return tuple(
        extern
        # All of `.kconfig`, because the map has room for each, and its values are shown.
        for extern in spec.externs.values()
        if extern.kind is ExternKind.KCONFIG or extern.name in used
    )


def fill(
    spec: ObjectSpec, answers: Iterable[Answer], modules: Mapping[str, ModuleTypes]
) -> ObjectSpec:
    """Return *spec* with the answers in its instructions and in the map of `.kconfig`.

    Args:
        spec: The object.
        answers: The answers for `used_externs(spec)`, all without error.
        modules: The modules that the answers refer to, by name.

    Returns:
        A copy of *spec*, without references to externs.
    """
    by_name = {answer.extern.name: answer for answer in answers}
    # Numbers count all externs of the object, not only the used ones, so that they are stable.
    numbers = {name: number for number, name in enumerate(spec.externs)}
    filler = _Filler(by_name, modules, numbers)
    programs = {
        name: program.with_changes(
            functions=tuple([filler.function(function) for function in program.functions])
        )
        for name, program in spec.programs.items()
    }
    return dataclasses.replace(spec, programs=programs, maps=_with_config(spec, by_name.values()))


def poisoned_number(helper: int) -> int | None:
    """Return the number of the extern that a call of *helper* marks; None if it marks none."""
    return helper - POISON if POISON <= helper < 1 << 31 else None


def variable_of(extern: ExternSpec) -> VariableSpec:
    """Return an extern of `.kconfig` as a variable of that section's map."""
    return VariableSpec(extern.name, KCONFIG, extern.offset, extern.size, extern.type)


def _with_config(spec: ObjectSpec, answers: Iterable[Answer]) -> dict[str, MapSpec]:
    config = spec.maps.get(KCONFIG)
    if config is None:
        return dict(spec.maps)
    contents = bytearray(config.value_size)
    variables = []
    for answer in answers:
        extern = answer.extern
        if extern.kind is ExternKind.KCONFIG:
            contents[extern.offset : extern.offset + extern.size] = answer.contents or bytes(
                extern.size
            )
            variables.append(variable_of(extern))
    changed = config.with_changes(contents=bytes(contents), variables=tuple(variables))
    return {**spec.maps, KCONFIG: changed}
