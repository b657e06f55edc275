"""The global variables of a loaded object, read and written in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from bpfpin.codecs.variable import VariableSpec, by_name, key_of
from bpfpin.errors import ReadOnlyMapError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.mapped import Cells, MappedMemory
from bpfpin.syscall.fd import Closing


class Variable(Closing):
    """A global variable in the memory that programs use; access makes no system call.

    A value of 1, 2, 4 or 8 bytes is read and written as a whole. A larger one is copied piece by
    piece, and `variable.value += 1` is a read and a write (see `MappedArray`).

    Args:
        spec: The definition, as `ObjectSpec.variables` has it.
        memory: The memory of the section's map.
    """

    def __init__(self, spec: VariableSpec, memory: MappedMemory) -> None:
        self.spec = spec
        self._memory = memory
        # A view of the variable alone: a write past its end cannot reach the next one.
        self._place = memory.view[spec.offset : spec.end]
        self._cells = Cells(self._place, spec.codec, spec.size)

    @property
    def name(self) -> str:
        """The name in the source."""
        return self.spec.name

    @property
    def section(self) -> str:
        """The section, which is the name of its map: `.data`, `.bss`, `.rodata` …."""
        return self.spec.section

    @property
    def type(self) -> str:
        """Its type as one line of C; empty if the object has no BTF."""
        return self.spec.type_name

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.spec.size

    @property
    def is_read_only(self) -> bool:
        """Whether it is a constant, which can only be set before the load."""
        return self._memory.is_read_only

    @property
    def value(self) -> Any:
        """The present value; without BTF an unsigned integer, or bytes.

        Writing a constant raises `ReadOnlyMapError`; a value that does not fit its type raises
        `ValueError` or `TypeError`.
        """
        return self._cells.read(0)

    @value.setter
    def value(self, value: Any) -> None:
        if self.is_read_only:
            raise _read_only(self.spec)
        self._cells.write(0, value)

    def close(self) -> None:
        """Release its memory."""
        self._cells.close()
        self._place.release()

    def __repr__(self) -> str:
        return f"<Variable {self.section}:{self.name} = {self.value!r}>"


class Variables(Mapping[str, Variable], Closing):
    """The global variables of an object by name, as `ObjectSpec.variables` has them.

    `SECTION:NAME` works as a name, too. A section's map is mapped into memory when a variable of it
    is first used.

    Args:
        specs: The definitions of the variables.
        maps: The map of each section by the section's name; they stay open.
    """

    def __init__(self, specs: Sequence[VariableSpec], maps: Mapping[str, BaseMap]) -> None:
        self._listed = specs
        self._maps = maps
        self._memory: dict[str, MappedMemory] = {}
        self._opened: dict[str, Variable] = {}

    @cached_property
    def _specs(self) -> dict[str, VariableSpec]:
        return by_name(self._listed)

    def __getitem__(self, name: str) -> Variable:
        try:
            key = key_of(self._specs, name)
        except LookupError as error:
            raise KeyError(error.args[0]) from None
        if key not in self._opened:
            spec = self._specs[key]
            # Mapped at the first use: most loads touch no variable, and a frozen or unmappable
            # section must not make them fail.
            self._opened[key] = Variable(spec, self._memory_of(spec.section))
        return self._opened[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def close(self) -> None:
        """Release the memory; the maps stay. Closing twice does nothing."""
        # The variables before their memory: a view that is in use keeps the mapping open.
        while self._opened:
            self._opened.popitem()[1].close()
        while self._memory:
            self._memory.popitem()[1].close()

    def _memory_of(self, section: str) -> MappedMemory:
        if section not in self._memory:
            # One mapping for each section; it keeps the map alive even if the handle is closed.
            self._memory[section] = MappedMemory(self._maps[section])
        return self._memory[section]


def _read_only(spec: VariableSpec) -> ReadOnlyMapError:
    return ReadOnlyMapError(
        f"variable {spec.name} stands in {spec.section}, which is read-only after the load",
        hint=Fix.of(
            "set it before the load: ",
            Argument("variables", {spec.name: Placeholder("VALUE")}),
            f", or to the spec: with_variable({spec.name!r}, VALUE)",
        ),
    )
