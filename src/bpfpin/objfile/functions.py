"""Which functions an object's code sections hold, and where each begins and ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from bpfpin.insn import INSN_SIZE
from bpfpin.objfile.elf.file import Elf, Section, Symbol, SymbolType
from bpfpin.objfile.elf.records import MAX_FUNCTIONS, check_limit

TEXT = ".text"  # where compilers put functions that name no section


@dataclass(frozen=True, slots=True)
class FunctionSpan:
    """The bytes from *start* to *end* of *section* are the function *name*.

    *name* is unique in the object: of static functions of one name, each carries its place.
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
        self.places = tuple(_places(elf))
        self._by_start = {(place.section.index, place.start): place for place in self.places}
        self._by_name = {place.name: place for place in self.places}

    def __getitem__(self, name: str) -> FunctionSpan:
        """Return the function of that unique name."""
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        """Whether there is a function of that unique name."""
        return name in self._by_name

    def at(self, section: Section, offset: int) -> FunctionSpan | None:
        """Return the function that begins at byte *offset* of *section*."""
        return self._by_start.get((section.index, offset))


def _symbols(elf: Elf, section: Section) -> list[Symbol]:
    """Return the symbols that stand for functions, by address."""
    symbols = [symbol for symbol in elf.symbols_in(section) if symbol.name]
    functions = [symbol for symbol in symbols if symbol.type == SymbolType.FUNCTION]
    # Assemblers, and LLVM before 7, give functions no type; local labels have none either.
    return functions or [symbol for symbol in symbols if not symbol.is_local]


def _places(elf: Elf) -> Iterator[FunctionSpan]:
    sections = _code_sections(elf)
    symbols = [symbol for section in sections for symbol in _symbols(elf, section)]
    if not symbols and (code := [each for each in sections if each.size]):
        raise elf.error(
            f"{code[0].size} bytes of code, and no symbol says what they are: it was stripped",
            section=code[0],
            hint="keep the symbols: strip -g (llvm-strip -g) takes the debug information alone",
        )
    check_limit(len(symbols), MAX_FUNCTIONS, "functions")
    counts = Counter(symbol.name for symbol in symbols)
    taken: set[str] = set()
    for symbol, following in zip_longest(symbols, symbols[1:]):
        section = elf.sections[symbol.section_index]
        name = symbol.name
        if symbol.is_local and counts[name] > 1:
            name = f"{section.name}:{name}"
        if symbol.is_local and name in taken:
            name = f"{name}+{symbol.value:#x}"
        if name in taken:
            raise elf.error("the function is defined twice", section=section, symbol=symbol)
        taken.add(name)
        neighbour = following if following and following.section_index == section.index else None
        start, end = _extent(elf, symbol, neighbour)
        yield FunctionSpan(name, section, start, end, symbol.is_local)


def _code_sections(elf: Elf) -> list[Section]:
    found: dict[str, Section] = {}
    for section in elf.sections:
        # Its name is all that .BTF.ext knows of a section.
        if section.is_code and found.setdefault(section.name, section) is not section:
            raise elf.error("a second code section of that name", section=section)
    return list(found.values())


def _extent(elf: Elf, symbol: Symbol, following: Symbol | None) -> tuple[int, int]:
    """Return where the function begins and ends; without size it reaches up to the next."""
    section = elf.sections[symbol.section_index]
    limit = following.value if following else section.size
    start, end = symbol.value, symbol.value + symbol.size if symbol.size else limit
    if start % INSN_SIZE or end % INSN_SIZE or not start < end <= limit:
        raise elf.error(
            f"the function from byte {start} to {end} is cut within an instruction, empty, or "
            f"runs into what begins at {limit}",
            section=section,
            symbol=symbol,
        )
    return start, end
