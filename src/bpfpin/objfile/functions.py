"""The functions in an object's code sections, with their start and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from bpfpin.insn import INSN_SIZE
from bpfpin.objfile.elf.file import Elf, Section, Symbol, SymbolType
from bpfpin.objfile.elf.records import MAX_FUNCTIONS, check_limit
from bpfpin.records import dataclass

TEXT = ".text"  # where compilers put functions that name no section


@dataclass(frozen=True, slots=True)
class FunctionSpan:
    """The bytes of one function: those from *start* to *end* of *section*.

    *name* is unique in the object: if static functions share a name, their section and offset are
    part of it (`section:name+0x10`).
    """

    name: str
    section: Section
    start: int
    end: int
    is_static: bool

    @property
    def code(self) -> bytes:
        """The function's instructions."""
        return self.section.data[self.start : self.end]


class Functions:
    """All functions of an object, in the order of the file."""

    def __init__(self, elf: Elf) -> None:
        self.spans = tuple(_spans(elf))
        self._by_start = {(span.section.index, span.start): span for span in self.spans}
        self._by_name = {span.name: span for span in self.spans}

    def __getitem__(self, name: str) -> FunctionSpan:
        """Return the function with that unique name."""
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        """Whether there is a function with that unique name."""
        return name in self._by_name

    def at(self, section: Section, offset: int) -> FunctionSpan | None:
        """Return the function that begins at byte *offset* of *section*; None if none does."""
        return self._by_start.get((section.index, offset))


def _symbols(elf: Elf, section: Section) -> list[Symbol]:
    """Return the symbols of functions, by address."""
    symbols = [symbol for symbol in elf.symbols_in(section) if symbol.name]
    functions = [symbol for symbol in symbols if symbol.type == SymbolType.FUNCTION]
    # Assemblers, and LLVM before 7, give functions no type; local labels have none either.
    return functions or [symbol for symbol in symbols if not symbol.is_local]


def _spans(elf: Elf) -> Iterator[FunctionSpan]:
    sections = _code_sections(elf)
    symbols = [symbol for section in sections for symbol in _symbols(elf, section)]
    if not symbols and (code := [section for section in sections if section.size]):
        raise elf.error(
            f"{code[0].size} bytes of code without symbols: the file was stripped",
            section=code[0],
            hint="keep the symbols: strip -g (llvm-strip -g) removes the debug information only",
        )
    check_limit(len(symbols), MAX_FUNCTIONS, "functions")
    # The linker (bpftool gen object) keeps static functions of several files with one name.
    counts = Counter(symbol.name for symbol in symbols)
    taken: set[str] = set()
    for symbol, following in zip_longest(symbols, symbols[1:]):
        section = elf.sections[symbol.section_index]
        name = symbol.name
        if symbol.is_local and counts[name] > 1:
            name = f"{section.name}:{name}"
        if symbol.is_local and name in taken:
            # Two of one name in one section: the linker has merged sections of several files.
            name = f"{name}+{symbol.value:#x}"
        if name in taken:
            raise elf.error("the function is defined twice", section=section, symbol=symbol)
        taken.add(name)
        neighbour = following if following and following.section_index == section.index else None
        start, end = _extent(elf, symbol, neighbour)
        yield FunctionSpan(name, section, start, end, symbol.is_local)


def _code_sections(elf: Elf) -> list[Section]:
    sections: dict[str, Section] = {}
    for section in elf.sections:
        # .BTF.ext refers to sections by name, so names of code sections must be unique.
        if section.is_code and sections.setdefault(section.name, section) is not section:
            raise elf.error("a second code section of that name", section=section)
    return list(sections.values())


def _extent(elf: Elf, symbol: Symbol, following: Symbol | None) -> tuple[int, int]:
    """Return start and end of the function; without a size it extends to the next one."""
    section = elf.sections[symbol.section_index]
    limit = following.value if following else section.size
    start, end = symbol.value, symbol.value + symbol.size if symbol.size else limit
    if start % INSN_SIZE or end % INSN_SIZE or not start < end <= limit:
        raise elf.error(
            f"the function from byte {start} to {end} splits an instruction, is empty, or "
            f"runs into the next one at {limit}",
            section=section,
            symbol=symbol,
        )
    return start, end
