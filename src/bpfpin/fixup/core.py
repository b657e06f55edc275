"""CO-RE: fits the instructions of an object to the types of another kernel.

Pure: functions, the object's BTF and a target in, functions and a report out. The rules and the
numbers of the kinds are those of the kernel (enum bpf_core_relo_kind in linux/bpf.h) and of libbpf.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bpfpin.btf.btf import Btf
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_find import Finder
from bpfpin.fixup.core_patch import patch
from bpfpin.fixup.core_report import Resolution, describe
from bpfpin.fixup.core_target import CoreTarget
from bpfpin.insn import Instruction
from bpfpin.spec import CoreRelocation, FunctionSpec, ObjectSpec, ProgramSpec


@dataclass(frozen=True)
class Relocated:
    """An object whose instructions fit the target, and what each relocation came to.

    A poisoned instruction carries the number of its relocation in *resolutions*.
    """

    spec: ObjectSpec
    resolutions: tuple[Resolution, ...] = ()


def relocate(spec: ObjectSpec, target: CoreTarget) -> Relocated:
    """Return *spec* with the instructions of all its programs fitted to *target*.

    `ObjectFileError` if a relocation is malformed, or the target has several types of the name
    that give different answers. What the target lacks is no error before the program gets there.
    """
    if spec.btf is None or not spec.has_relocations:
        return Relocated(spec)
    relocator = _Relocator(spec.btf, target)
    programs = {name: relocator.program(each) for name, each in spec.programs.items()}
    changed = dataclasses.replace(spec, programs=programs)
    return Relocated(changed, tuple(relocator.resolutions))


class _Relocator:
    """Fits functions, each one once however many programs share it."""

    def __init__(self, btf: Btf, target: CoreTarget) -> None:
        self.resolutions: list[Resolution] = []
        self._btf = btf
        self._finder = Finder(btf, target)
        self._done: dict[str, FunctionSpec] = {}

    def program(self, spec: ProgramSpec) -> ProgramSpec:
        functions = tuple([self._function(each) for each in spec.functions])
        return spec.with_changes(functions=functions)

    def _function(self, function: FunctionSpec) -> FunctionSpec:
        if not function.relocations:
            return function
        if function.name not in self._done:
            code = list(function.instructions)
            for relocation in function.relocations:
                self._apply(code, function, relocation)
            self._done[function.name] = dataclasses.replace(
                function, instructions=tuple(code), relocations=()
            )
        return self._done[function.name]

    def _apply(
        self, code: list[Instruction], function: FunctionSpec, relocation: CoreRelocation
    ) -> None:
        if relocation.index >= len(code):
            raise self._placed(
                ObjectFileError("there is no such instruction"), function, relocation
            )
        number = len(self.resolutions)
        try:
            found = self._finder.find(relocation.type_id, relocation.access, relocation.kind)
            fits = patch(code, relocation.index, found.local, found.target, number=number)
        except ObjectFileError as error:
            raise self._placed(error, function, relocation) from None
        value = found.target.number if found.target else None
        self.resolutions.append(
            Resolution(function, relocation, self._btf, value, found.type, is_poisoned=not fits)
        )

    def _placed(
        self, error: ObjectFileError, function: FunctionSpec, relocation: CoreRelocation
    ) -> ObjectFileError:
        """Say which relocation it is about; sections of the target's BTF are none of the object."""
        what = describe(self._btf, relocation)
        message = f"instruction {relocation.index} of {function.name} asks for {what}"
        return ObjectFileError(
            f"{message}: {error.message}",
            section=error.section or function.section,
            symbol=function.name,
            offset=error.offset,
            hint=error.hint,
        )
