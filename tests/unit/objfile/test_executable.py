"""The reader of programs and shared libraries, held against readelf."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bpfpin.attach.user_files import find_file, function_offset
from bpfpin.errors import NotSupportedError, ObjectFileError, TargetNotFoundError, UsageError
from bpfpin.objfile.elf.executable import Executable
from support.tools import need
from support.user_program import probed


def built(folder: Path, source: str, *options: str, name: str = "made") -> Path:
    """Return a program or library made of a C source."""
    need("gcc")
    target = folder / name
    words = ["gcc", "-x", "c", "-o", str(target), "-", *options]
    subprocess.run(words, input=source, text=True, check=True)
    return target


def readelf_functions(path: Path) -> dict[str, int]:
    """Return the functions in the dynamic symbols, by NAME@VERSION and NAME@@VERSION."""
    need("readelf")
    output = subprocess.check_output(["readelf", "-W", "--dyn-syms", path], text=True)
    lines = [line.split() for line in output.splitlines()]
    return {
        line[7]: int(line[1], 16)
        for line in lines
        if len(line) > 7 and line[3] == "FUNC" and line[6] != "UND"
    }


def test_the_functions_of_the_c_library_are_those_of_readelf() -> None:
    path = find_file("libc.so.6")
    expected = readelf_functions(path)
    with Executable(path) as executable:
        wrong = [
            word
            for word, address in expected.items()
            if address not in {it.address for it in executable.symbols(word.partition("@")[0])}
        ]
        versions = {
            f"{symbol.name}@{'@' if symbol.is_default else ''}{symbol.version}"
            for symbol in executable.functions(re.compile(".*"))
        }

    assert len(expected) > 500
    assert wrong == []
    assert {word for word in expected if "@@" in word} & versions


def test_a_version_chooses_the_symbol(tmp_path: Path) -> None:
    """Two versions of one name: without one, the default is meant."""
    source = """
        __asm__(".symver old, same@ONE"); __asm__(".symver new, same@@TWO");
        int old(void) { return 1; }
        int new(void) { return 2; }
    """
    script = tmp_path / "versions"
    script.write_text("ONE { global: same; local: *; }; TWO { global: same; } ONE;")
    path = built(tmp_path, source, "-shared", "-fPIC", f"-Wl,--version-script={script}")
    expected = readelf_functions(path)
    with Executable(path) as executable:
        at = {word: executable.file_offset(expected[word]) for word in ("same@ONE", "same@@TWO")}

        assert function_offset(executable, "same") == at["same@@TWO"]
        assert function_offset(executable, "same@TWO") == at["same@@TWO"]
        assert function_offset(executable, "same@ONE") == at["same@ONE"]
        assert function_offset(executable, "same@ONE+0x1") == (at["same@ONE"] or 0) + 1
        with pytest.raises(TargetNotFoundError) as error:
            function_offset(executable, "same@THREE")
    assert "same@ONE" in error.value.hint


def test_a_stripped_program_has_its_dynamic_symbols_alone(tmp_path: Path) -> None:
    source = "int seen(void) { return 1; } static int hidden(void) { return 2; }"
    source += "int (*keep)(void) = hidden; int main(void) { return keep(); }"
    path = built(tmp_path, source, "-rdynamic", "-s")
    with Executable(path) as executable:
        assert function_offset(executable, "seen") > 0
        with pytest.raises(TargetNotFoundError):
            function_offset(executable, "hidden")


def test_two_static_functions_of_one_name_are_told_by_their_offsets(tmp_path: Path) -> None:
    body = "static __attribute__((noinline)) int same(int n) { return n * %d; }"
    body += "int %s(int n) { return same(n) + 1; }"
    (tmp_path / "other.c").write_text(body % (3, "other"))
    source = body % (5, "here") + "int other(int); int main(void) { return here(1) + other(2); }"
    path = built(tmp_path, source, "-x", "c", str(tmp_path / "other.c"))
    with Executable(path) as executable, pytest.raises(UsageError) as error:
        function_offset(executable, "same")

    assert len(re.findall("0x[0-9a-f]+", error.value.hint)) == 2


def test_an_ifunc_is_refused_by_name(tmp_path: Path) -> None:
    source = """
        int fast(void) { return 1; }
        static int (*choose(void))(void) { return fast; }
        int chosen(void) __attribute__((ifunc("choose")));
        int main(void) { return chosen(); }
    """
    with (
        Executable(built(tmp_path, source)) as executable,
        pytest.raises(NotSupportedError, match="IFUNC"),
    ):
        function_offset(executable, "chosen")


def test_a_program_of_32_bits_is_read(tmp_path: Path) -> None:
    """Made by hand: a compiler for it is not everywhere."""
    strings, text = b"\0seen\0", 0x1000
    symbols = bytes(16) + struct.pack("<IIIBBH", 1, text + 4, 8, 0x12, 0, 1)
    names_at, symbols_at = 0x100, 0x120
    sections_at = 0x200
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, text, 52, sections_at, 0, 52, 32, 1, 40, 3, 2)
    segment = struct.pack("<8I", 1, 0x40, text, text, 0x20, 0x20, 5, 4)
    sections = bytes(40) + struct.pack("<10I", 1, 2, 0, 0, symbols_at, len(symbols), 2, 1, 4, 16)
    sections += struct.pack("<10I", 1, 3, 0, 0, names_at, len(strings), 0, 0, 1, 0)
    data = bytearray(sections_at + len(sections))
    for at, part in [(0, header), (52, segment), (names_at, strings), (symbols_at, symbols)]:
        data[at : at + len(part)] = part
    data[sections_at:] = sections
    path = tmp_path / "narrow"
    path.write_bytes(data)

    with Executable(path) as executable:
        assert not executable.is_wide
        assert function_offset(executable, "seen") == 0x44


def test_a_damaged_file_raises_one_kind_of_error(tmp_path: Path) -> None:
    """Cut at many places, and with bytes changed in the headers."""
    whole = probed().read_bytes()
    path = tmp_path / "damaged"
    cut = [whole[:size] for size in (*range(0, 1200, 29), *range(1200, len(whole), 1501))]
    section_headers = int.from_bytes(whole[40:48], "little")
    places = (*range(4, 64), *range(section_headers, len(whole), 11))
    changed = [
        whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]
        for at in places
        for bits in (0xFF,)
    ]
    for data in (*cut, *changed):
        path.write_bytes(data)
        try:
            with Executable(path) as executable:
                executable.symbols("probed_sum")
                executable.functions(re.compile("p.*"))
                list(executable.notes(".note.stapsdt", b"stapsdt", 3))
        except ObjectFileError:
            pass


def test_libraries_are_found_where_ldconfig_has_them() -> None:
    need("ldconfig")
    output = subprocess.check_output(["ldconfig", "-p"], text=True)
    machine = "x86-64" if sys.platform == "linux" and "x86-64" in output else "AArch64"
    listed = [
        (line.split()[0], line.rpartition("=> ")[2])
        for line in output.splitlines()
        if machine in line
    ]
    first: dict[str, str] = {}
    for name, path in listed:
        first.setdefault(name, path)

    some = {name: path for name, path in first.items() if Path(path).is_file()}
    some = dict(sorted(some.items())[:: len(some) // 20 + 1])
    assert some
    assert {name: str(find_file(name)) for name in some} == some
    assert find_file("libc").name.startswith("libc.so")
    assert find_file("bash").name == "bash"


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(TargetNotFoundError) as error:
        find_file("libcc.so.6")

    assert "libc.so.6" in error.value.hint
