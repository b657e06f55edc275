"""From an object file to its description; pure, so that it needs no privilege and no kernel."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Final

from bpfpin.btf.btf import Btf
from bpfpin.btf.check import check
from bpfpin.btf.ext import BtfExt, parse_ext
from bpfpin.btf.sanitize import for_kernel, with_large_numbers
from bpfpin.errors import ObjectFileError, ObjectNotFoundError, PermissionDeniedError
from bpfpin.externs import KCONFIG, ExternSpec
from bpfpin.objfile.dialects import is_old, read_old_maps, reader_for
from bpfpin.objfile.dialects.data import with_arena_variables
from bpfpin.objfile.dialects.iproute2 import link_tail_calls
from bpfpin.objfile.elf.file import SHF_ALLOC, Elf, SymbolType
from bpfpin.objfile.elf.records import MAX_BTF_BYTES, MAX_FILE_BYTES, check_limit
from bpfpin.objfile.externs import config_map, config_size, config_variables, read_externs
from bpfpin.objfile.functions import Functions
from bpfpin.objfile.programs import CodeReader, ProgramReader
from bpfpin.spec import Dialect, MapSpec, ObjectSpec

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
PREFIX: Final = "builtin:"
_FOLDER = Path(__file__).parents[1] / "builtin"
_SUFFIX = ".bpf.o"
_HIDDEN = (1, 2)  # STV_INTERNAL, STV_HIDDEN
_VERSION = struct.Struct("<I")
_ELF_MAGIC = b"\x7fELF"
_CHUNK_BYTES = 1 << 16


# All maps of an object, whatever the dialect, in libbpf's order.


def read_maps(elf: Elf, btf: Btf | None) -> list[MapSpec]:
    """Return the maps by place in the file, data maps last; names are unique and usable."""
    found: dict[str, MapSpec] = {}
    for spec in _maps(elf, btf):
        if spec.name in found:
            raise elf.error("a second map of that name", section=spec.section, symbol=spec.name)
        if spec.dialect != Dialect.DATA and not _IDENTIFIER.fullmatch(spec.name):
            raise elf.error(
                f"the map's name {spec.name!r} is no C identifier",
                section=spec.section,
                symbol=spec.name,
                hint="a map is pinned under its name; rename it in the source",
            )
        found[spec.name] = spec
    return sorted(with_arena_variables(elf, list(found.values())), key=_order)


def _maps(elf: Elf, btf: Btf | None) -> Iterator[MapSpec]:
    yield from read_old_maps(elf, [each for each in elf.sections if is_old(each)], btf)
    for section in elf.sections:
        reader = reader_for(section)
        yield from reader(elf, section, btf) if reader else ()


def _order(spec: MapSpec) -> tuple[bool, int, int]:
    return spec.dialect == Dialect.DATA, spec.section_index, spec.offset


# The objects that come with bpfpin, named `builtin:NAME`.


def builtins() -> list[str]:
    """Return the names of the objects that come with bpfpin, as they are typed."""
    return sorted(PREFIX + path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def builtin_path(name: str) -> Path:
    """Return where the object `builtin:NAME` is; `ObjectNotFoundError` if there is none."""
    if name not in builtins():
        raise ObjectNotFoundError(f"there is no {name}; there are: {', '.join(builtins())}")
    return _FOLDER / (name.removeprefix(PREFIX) + _SUFFIX)


def read_object(
    source: str | Path | bytes, *, program_types: Mapping[str, str] | str | None = None
) -> ObjectSpec:
    """Read the BPF object at a path, its bytes, or `builtin:NAME`; describe its maps and programs.

    *program_types* says what programs in sections with free names are: one word for all of them, or
    a word by program name (`xdp`, `sched_cls`, `cgroup/skb`); without it such a program has type
    `ProgramType.UNSPEC`, and loading it is refused.

    Raises `ObjectNotFoundError` (no such file), `PermissionDeniedError` (it may not be read),
    `ObjectFileError` (malformed, or it needs what bpfpin does not do) and `UsageError` (no such
    program or type). Any malformed part fails the whole file.
    """
    path = "" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _bytes_of(_file(source))
    try:
        return _describe(Elf.parse(data, path=path), data, program_types)
    except ObjectFileError as error:
        error.path = error.path or path
        raise


def read_btf(path: str | Path) -> Btf:
    """Read the types in a file of raw BTF, or in section `.BTF` of an ELF file such as vmlinux.

    `ObjectNotFoundError`, `PermissionDeniedError` and `ObjectFileError` as `read_object`.
    """
    data = _bytes_of(Path(path))
    try:
        if not data.startswith(_ELF_MAGIC):
            return Btf.parse(data)
        section = Elf.parse(data, path=str(path)).section(".BTF")
        if section is None:
            raise ObjectFileError("there is no section .BTF in it")
        return Btf.parse(section.data)
    except ObjectFileError as error:
        error.path = error.path or str(path)
        raise


def _describe(elf: Elf, data: bytes, program_types: Mapping[str, str] | str | None) -> ObjectSpec:
    compiled = _btf(elf)
    externs = read_externs(elf, compiled)
    btf = _for_kernel(elf, compiled, externs)
    maps = [
        *read_maps(elf, btf),
        *config_map(externs.values(), btf, section_index=len(elf.sections)),
    ]
    if elf.is_big_endian:  # the bytes of variables stand in the other order
        maps = [spec.with_changes(contents=None) for spec in maps]
    functions = Functions(elf)
    code = CodeReader(
        elf, functions, maps, btf=btf, ext=_ext(elf, btf), externs=externs, declared=compiled
    )
    license_text = _license(elf)
    reader = ProgramReader(elf, functions, code, program_types)
    found = reader.read(license_text, _version(elf))
    maps, programs = link_tail_calls(elf, maps, found)
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
            return _read_at_most(file, MAX_FILE_BYTES + 1)  # one more tells that it is too large
    except FileNotFoundError:
        raise ObjectNotFoundError("no such file", path=str(path)) from None
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{path} cannot be read", command="open", errno=error.errno or 0, target=str(path)
        ) from None
    except OSError as error:
        raise ObjectFileError(f"cannot be read: {error.strerror}", path=str(path)) from None


def _read_at_most(file: FileIO, size: int) -> bytes:
    """Return what *file* has, without making room for all of *size* when it has far less."""
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
    btf = with_large_numbers(Btf.parse(section.data))
    check(btf)
    return btf


def _for_kernel(elf: Elf, btf: Btf | None, externs: Mapping[str, ExternSpec]) -> Btf | None:
    if btf is None:
        return None
    given = config_variables(btf, externs)
    offsets = {each.name: each.offset for each in given.values()}
    config = {KCONFIG: (config_size(given.values()), offsets)} if given else {}
    return for_kernel(
        btf,
        data_sections={**_data_sections(elf), **config},
        static_functions=_hidden_functions(elf),
        defined=given.keys(),
    )


def _data_sections(elf: Elf) -> dict[str, tuple[int, dict[str, int]]]:
    """Return size and variables of each section, for what compilers leave 0 in the BTF."""
    found: dict[str, tuple[int, dict[str, int]]] = {
        section.name: (section.size, {})
        for section in elf.sections
        if section.flags & SHF_ALLOC and not section.is_code
    }
    for symbol in elf.symbols:
        if symbol.type == SymbolType.SECTION or not 0 < symbol.section_index < len(elf.sections):
            continue
        name = elf.sections[symbol.section_index].name
        if name in found:
            found[name][1][symbol.name] = symbol.value
    return found


def _hidden_functions(elf: Elf) -> set[str]:
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
        raise elf.error("the license is no text", section=section) from None


def _version(elf: Elf) -> int:
    section = elf.section("version")
    if section is None:
        return 0
    if len(section.data) != _VERSION.size:
        raise elf.error(f"a version of {section.size} bytes, not 4", section=section)
    (version,) = _VERSION.unpack(section.data)
    return int(version)
