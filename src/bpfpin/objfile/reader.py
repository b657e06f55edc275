"""Reads an object file into an `ObjectSpec`; pure, without privileges and without the kernel."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from bpfpin.btf.btf import Btf
from bpfpin.btf.check import check
from bpfpin.btf.ext import BtfExt, parse_ext
from bpfpin.btf.sanitize import for_kernel, with_large_numbers
from bpfpin.errors import (
    ObjectFileError,
    ObjectLimitError,
    ObjectNotFoundError,
    PermissionDeniedError,
)
from bpfpin.externs import KCONFIG, ExternSpec
from bpfpin.objfile.dialects import btf_defined
from bpfpin.objfile.elf.file import SHF_ALLOC, Elf, Section, SectionType, SymbolType
from bpfpin.objfile.elf.records import MAX_BTF_BYTES, MAX_FILE_BYTES, check_limit
from bpfpin.objfile.externs import config_map, config_size, config_variables, read_externs
from bpfpin.objfile.functions import Functions
from bpfpin.objfile.programs import CodeReader, ProgramReader
from bpfpin.spec import Dialect, MapSpec, ObjectSpec

# What a map may be called. Data maps (`.rodata`) may be called otherwise: the pin layer encodes
# their names.
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
PREFIX: Final = "builtin:"
_FOLDER = Path(__file__).parents[1] / "builtin"
_SUFFIX = ".bpf.o"
_ARENA_SECTION = ".addr_space.1"  # clang's name for address space 1, the arena
_HIDDEN = (1, 2)  # STV_INTERNAL, STV_HIDDEN
_VERSION = struct.Struct("<I")
_ELF_MAGIC = b"\x7fELF"
_CHUNK_BYTES = 1 << 16
_TABLES = (".struct_ops", ".struct_ops.link")
_DATA = (".rodata", ".data", ".bss")
# Data sections of their own (`SEC(".data.hot")`); compilers write `.rodata.str1.1` and others.
_DATA_PREFIXES = (".rodata.", ".data.", ".bss.")
_WITH_DATA = (SectionType.PROGBITS, SectionType.NOBITS)
MapReader = Callable[[Elf, Section, Btf | None], list[MapSpec]]


def read_maps(elf: Elf, btf: Btf | None) -> list[MapSpec]:
    """Return the maps of all dialects, in libbpf's order: by position in the file, data maps last.

    Raises:
        ObjectFileError: Two maps have the same name, or a name cannot be pinned.
    """
    by_name: dict[str, MapSpec] = {}
    for spec in _maps(elf, btf):
        if spec.name in by_name:
            raise elf.error("a second map of that name", section=spec.section, symbol=spec.name)
        if spec.dialect != Dialect.DATA and not _IDENTIFIER.fullmatch(spec.name):
            raise elf.error(
                f"the map's name {spec.name!r} is not a C identifier",
                section=spec.section,
                symbol=spec.name,
                hint="a map is pinned under its name; rename it in the source",
            )
        by_name[spec.name] = spec
    maps = list(by_name.values())
    section = elf.section(_ARENA_SECTION)
    if section is not None and section.size:
        from bpfpin.objfile.dialects.data import with_arena_variables  # noqa: PLC0415 - few objects have them

        maps = with_arena_variables(elf, section, maps)
    return sorted(maps, key=_order)


def _maps(elf: Elf, btf: Btf | None) -> Iterator[MapSpec]:
    # Old maps come together, because their indices and ids count over all sections of the object.
    if old := [section for section in elf.sections if is_old(section)]:
        yield from read_old_maps(elf, old, btf)
    for section in elf.sections:
        reader = reader_for(section)
        yield from reader(elf, section, btf) if reader else ()


def reader_for(section: Section) -> MapReader | None:
    """Return the reader for the maps of *section*; None if it has none, or an old dialect.

    Only the dialects of an object are imported.
    """
    name = section.name
    if name.removeprefix("?") in _TABLES:
        from bpfpin.objfile.dialects import struct_ops  # noqa: PLC0415 - see above

        return struct_ops.read_maps
    if section.type not in _WITH_DATA or section.is_code:
        return None
    if name in _DATA or name.startswith(_DATA_PREFIXES):
        from bpfpin.objfile.dialects import data  # noqa: PLC0415 - see above

        return data.read_maps
    return btf_defined.read_maps if name == ".maps" else None


def is_old(section: Section) -> bool:
    """Whether *section* defines maps by C structures: `maps`, or `maps/NAME` for each map."""
    # `maps/NAME` is gobpf's form.
    is_named = section.name == "maps" or section.name.startswith("maps/")
    return is_named and section.type in _WITH_DATA and not section.is_code


def read_old_maps(elf: Elf, sections: Sequence[Section], btf: Btf | None) -> list[MapSpec]:
    """Return the maps of all old *sections*, which may refer to each other by index or id."""
    from bpfpin.objfile.dialects import iproute2, struct_form  # noqa: PLC0415 - see `reader_for`

    definitions = struct_form.read(elf, sections, btf)
    is_iproute2 = bool(definitions) and definitions[0].dialect is Dialect.BPF_ELF_MAP
    reader = iproute2.maps_of if is_iproute2 else struct_form.maps_of
    return reader(elf, definitions, btf)


def _order(spec: MapSpec) -> tuple[bool, int, int]:
    # libbpf creates user maps first, then data maps (bpf_object__init_maps()).
    return spec.dialect == Dialect.DATA, spec.section_index, spec.offset


def builtins() -> list[str]:
    """Return the names of the objects that are part of bpfpin: `builtin:NAME`."""
    return sorted(PREFIX + path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def builtin_path(name: str) -> Path:
    """Return the path of the object `builtin:NAME`; `ObjectNotFoundError` if there is none."""
    # Compared with the list, so that slashes in the name do not lead to another file.
    if name not in builtins():
        raise ObjectNotFoundError(f"there is no {name}; there are: {', '.join(builtins())}")
    return _FOLDER / (name.removeprefix(PREFIX) + _SUFFIX)


def read_object(
    source: str | Path | bytes, *, program_types: Mapping[str, str] | str | None = None
) -> ObjectSpec:
    """Read a BPF object file and describe its maps and programs.

    Nothing is loaded, and no privilege is needed. One malformed part fails the whole file.

    Args:
        source: Path of the file, its bytes, or `"builtin:NAME"`.
        program_types: Types of programs whose section name does not say one: a word for all of
            them, or a word by program name (`"xdp"`, `"sched_cls"`, `"cgroup/skb"`). Without it
            such a program has type `ProgramType.UNSPEC` and cannot be loaded.

    Returns:
        The description, which can be changed (`with_map`, `with_variable`, …) and loaded.

    Raises:
        ObjectNotFoundError: There is no such file or built-in object.
        PermissionDeniedError: The file may not be read.
        ObjectFileError: The file is malformed or needs a feature that bpfpin does not have; the
            error names section, symbol and offset.
        ObjectLimitError: The file exceeds a limit, such as 32 MiB.
        UsageError: There is no such program, or no such program type.
    """
    path = "" if isinstance(source, bytes) else str(source)
    # Read once: the hash and the description are those of the same bytes, even if the file is
    # replaced meanwhile.
    data = source if isinstance(source, bytes) else _bytes_of(_file(source))
    try:
        return _describe(Elf.parse(data, path=path), data, program_types)
    except ObjectFileError as error:
        error.path = error.path or path
        raise


def read_btf(path: str | Path) -> Btf:
    """Read the types of a file.

    Args:
        path: A file of raw BTF, such as `/sys/kernel/btf/vmlinux`, or an ELF file with a section
            `.BTF`, such as vmlinux.

    Returns:
        The type table.

    Raises:
        ObjectNotFoundError: There is no such file.
        PermissionDeniedError: The file may not be read.
        ObjectFileError: The file has no BTF, or it is malformed.
    """
    data = _bytes_of(Path(path))
    try:
        if not data.startswith(_ELF_MAGIC):
            return Btf.parse(data)
        section = Elf.parse(data, path=str(path)).section(".BTF")
        if section is None:
            raise ObjectFileError("the file has no section .BTF")
        return Btf.parse(section.data)
    except ObjectFileError as error:
        error.path = error.path or str(path)
        raise


def _describe(elf: Elf, data: bytes, program_types: Mapping[str, str] | str | None) -> ObjectSpec:
    # The kernel's form of the BTF lacks the externs, so both forms are needed.
    compiled = _btf(elf)
    externs = read_externs(elf, compiled)
    btf = _for_kernel(elf, compiled, externs)
    maps = [
        *read_maps(elf, btf),
        *config_map(externs.values(), btf, section_index=len(elf.sections)),
    ]
    if elf.is_big_endian:  # the bytes of variables are in the other order (see `to_little_endian`)
        maps = [spec.with_changes(contents=None) for spec in maps]
    # After the maps: references are resolved to them while the code is read.
    functions = Functions(elf)
    code = CodeReader(
        elf, functions, maps, btf=btf, ext=_ext(elf, btf), externs=externs, declared=compiled
    )
    license_text = _license(elf)
    reader = ProgramReader(elf, functions, code, program_types)
    kinds = reader.read(license_text, _version(elf))
    programs = [program for program, _ in kinds]
    if any(kind.tail_call is not None for _, kind in kinds):
        from bpfpin.objfile.dialects.iproute2 import link_tail_calls  # noqa: PLC0415 - few objects

        maps, programs = link_tail_calls(elf, maps, kinds)
    return ObjectSpec(
        maps={spec.name: spec for spec in maps},
        programs={program.name: program for program in programs},
        btf=btf,
        license=license_text,
        path=elf.path,
        sha256=hashlib.sha256(data).hexdigest(),
        notes=(
            *reader.notes(programs),
            *(f"map {spec.name}: {spec.note}" for spec in maps if spec.note),
        ),
        externs=externs,
        is_big_endian=elf.is_big_endian,
    )


def _file(source: str | Path) -> Path:
    if isinstance(source, str) and source.startswith(PREFIX):
        return builtin_path(source)
    return Path(source)


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            data = _read_at_most(file, MAX_FILE_BYTES + 1)  # one more shows that it is too large
    except FileNotFoundError:
        raise ObjectNotFoundError("no such file", path=str(path)) from None
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{path} cannot be read", command="open", errno=error.errno or 0, target=str(path)
        ) from None
    except OSError as error:
        raise ObjectFileError(f"cannot be read: {error.strerror}", path=str(path)) from None
    if len(data) > MAX_FILE_BYTES:
        # The rest was not read, so the whole size is not known.
        message = f"it has more than {MAX_FILE_BYTES} bytes; at most that many are read"
        error_of_size = ObjectLimitError(message, limit=MAX_FILE_BYTES, asked=len(data))
        error_of_size.path = str(path)
        raise error_of_size
    return data


def _read_at_most(file: FileIO, size: int) -> bytes:
    """Return up to *size* bytes of *file*.

    It is read in chunks: `file.read(size)` would allocate all of *size*, even for a small file.
    """
    parts = []
    while size and (part := file.read(min(size, _CHUNK_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _btf(elf: Elf) -> Btf | None:
    section = elf.section(".BTF")
    if section is None:
        return None
    check_limit(section.size, MAX_BTF_BYTES, "bytes of BTF", section=section.name)
    # Before `check`, which refuses arrays of 4 GiB and more.
    btf = with_large_numbers(Btf.parse(section.data))
    check(btf)
    return btf


def _for_kernel(elf: Elf, btf: Btf | None, externs: Mapping[str, ExternSpec]) -> Btf | None:
    if btf is None:
        return None
    # The variables of `.kconfig` stay in the BTF for the kernel: their map has it as its value
    # type.
    given = config_variables(btf, externs)
    offsets = {extern.name: extern.offset for extern in given.values()}
    config = {KCONFIG: (config_size(given.values()), offsets)} if given else {}
    return for_kernel(
        btf,
        data_sections={**_data_sections(elf), **config},
        static_functions=_hidden_functions(elf),
        defined=given.keys(),
    )


def _data_sections(elf: Elf) -> dict[str, tuple[int, dict[str, int]]]:
    """Return size and symbols of each data section, which compilers leave out of the BTF."""
    sections: dict[str, tuple[int, dict[str, int]]] = {
        section.name: (section.size, {})
        for section in elf.sections
        if section.flags & SHF_ALLOC and not section.is_code
    }
    for symbol in elf.symbols:
        # Section symbols have the name of their section and say nothing about variables.
        if symbol.type == SymbolType.SECTION or not 0 < symbol.section_index < len(elf.sections):
            continue
        name = elf.sections[symbol.section_index].name
        if name in sections:
            sections[name][1][symbol.name] = symbol.value
    return sections


def _hidden_functions(elf: Elf) -> set[str]:
    # libbpf does the same (`mark_btf_static` in its libbpf.c).
    return {
        symbol.name
        for symbol in elf.symbols
        if symbol.type == SymbolType.FUNCTION and symbol.visibility in _HIDDEN
    }


def _ext(elf: Elf, btf: Btf | None) -> BtfExt:
    section = elf.section(".BTF.ext")
    return parse_ext(section.data, btf) if section and btf else BtfExt()


def _license(elf: Elf) -> str:
    section = elf.section("license")
    if section is None:
        return ""
    try:
        return section.data.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise elf.error("the license is not UTF-8 text", section=section) from None


def _version(elf: Elf) -> int:
    section = elf.section("version")
    if section is None:
        return 0
    if len(section.data) != _VERSION.size:
        raise elf.error(f"a version of {section.size} bytes, not 4", section=section)
    (version,) = _VERSION.unpack(section.data)
    return int(version)
