"""Fills what the running kernel has into an object: addresses, types, functions, configuration.

Pure: an object and the answers in, an object out. The pseudo sources are those of linux/bpf.h; what
is weak and absent becomes address 0, or the call of a helper that does not exist, as libbpf has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bpfpin.codecs.variable import VariableSpec
from bpfpin.errors import BpfError
from bpfpin.externs import KCONFIG, ExternKind, ExternSpec
from bpfpin.insn import CALL, Instruction, signed32
from bpfpin.spec import FunctionSpec, MapSpec, ObjectSpec, Reference, ReferenceKind
from bpfpin.uapi import PseudoCall, PseudoSource

POISON = 2002000000  # the helper that marks extern 0; the others count from here

_EXTERNS = (ReferenceKind.EXTERN, ReferenceKind.EXTERN_CALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel has for an extern.

    *number* is an address, or the id of a type in the BTF of *module* (empty: of vmlinux);
    *contents* is what stands in `.kconfig`. With neither it is absent, and *error* says so unless
    it may be.
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
        """The answer in words: `250`, `0xffffffff81000000`, `type 1234 of vmlinux`, `absent`."""
        if self.contents is not None:
            return str(variable_of(self.extern).with_contents_of(self._padded).value)
        if self.number is None:
            return "absent"
        if self.extern.kind is ExternKind.KSYM:
            return f"{self.number:#x}"
        return f"type {self.number} of {self.module or 'vmlinux'}"

    @property
    def _padded(self) -> bytes:
        return bytes(self.extern.offset) + (self.contents or b"")


@dataclass(frozen=True, slots=True)
class ModuleTypes:
    """The BTF of a kernel module: its descriptor and its place in the program's `fd_array`."""

    fd: int
    position: int


@dataclass(frozen=True, slots=True)
class _Filler:
    """The answers by name, and the externs' numbers for poisoned calls."""

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
            poison = POISON + self.numbers[reference.target]
            code[reference.index] = Instruction(CALL, imm=poison)
            return
        module = self.modules.get(answer.module)
        code[reference.index] = Instruction(
            CALL,
            src=int(PseudoCall.KFUNC_CALL),
            offset=module.position if module else 0,
            imm=answer.number,
        )

    def _fill_load(self, code: list[Instruction], reference: Reference) -> None:
        answer = self.answers[reference.target]
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
    """Return the externs that the programs of *spec* use, and all of `.kconfig`."""
    used = {
        reference.target
        for program in spec.programs.values()
        for function in program.functions
        for reference in function.references
        if reference.kind in _EXTERNS
    }
    return tuple(
        each
        for each in spec.externs.values()
        if each.kind is ExternKind.KCONFIG or each.name in used
    )


def fill(
    spec: ObjectSpec, answers: Iterable[Answer], modules: Mapping[str, ModuleTypes]
) -> ObjectSpec:
    """Return *spec* with the answers in its instructions and in the map of `.kconfig`.

    *answers* are those of `used_externs`, without an error; *modules* has all that they name.
    """
    by_name = {each.extern.name: each for each in answers}
    numbers = {name: number for number, name in enumerate(spec.externs)}
    filler = _Filler(by_name, modules, numbers)
    programs = {
        name: each.with_changes(functions=tuple([filler.function(it) for it in each.functions]))
        for name, each in spec.programs.items()
    }
    return dataclasses.replace(spec, programs=programs, maps=_with_config(spec, by_name.values()))


def poisoned_number(helper: int) -> int | None:
    """Return the number of the extern that the call of *helper* stands for, if it does."""
    return helper - POISON if POISON <= helper < 1 << 31 else None


def variable_of(extern: ExternSpec) -> VariableSpec:
    """Return the extern of `.kconfig` as a variable of its map."""
    return VariableSpec(extern.name, KCONFIG, extern.offset, extern.size, extern.type)


def _with_config(spec: ObjectSpec, answers: Iterable[Answer]) -> dict[str, MapSpec]:
    held = spec.maps.get(KCONFIG)
    if held is None:
        return dict(spec.maps)
    contents = bytearray(held.value_size)
    variables = []
    for answer in answers:
        extern = answer.extern
        if extern.kind is ExternKind.KCONFIG:
            contents[extern.offset : extern.offset + extern.size] = answer.contents or bytes(
                extern.size
            )
            variables.append(variable_of(extern))
    changed = held.with_changes(contents=bytes(contents), variables=tuple(variables))
    return {**spec.maps, KCONFIG: changed}
