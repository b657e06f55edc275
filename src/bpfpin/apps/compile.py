"""Compiles C to a BPF object, with the installed clang or the one in the `ziglang` wheel.

Sources that include <bpf/bpf_helpers.h> compile without libbpf's headers: our own come first, even
if libbpf's are installed, so that results are the same everywhere and the older map dialect works.
Kernel headers come from /usr/include. The wheel has its own, which a clang without any uses, too.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bpfpin.errors import BpfError, ObjectFileError, ObjectNotFoundError, UsageError
from bpfpin.hints import shell_line
from bpfpin.map.snapshot_file import resolved
from bpfpin.records import dataclass

OUR_HEADERS = Path(__file__).parents[1] / "builtin" / "include"
ZIGLANG = "ziglang"
# Some old sources define this structure themselves, others take it from bpf_helpers.h.
OWN_MAP_DEF = "redefinition of 'bpf_map_def'"
INSTALL_HINT = "apt install clang, or pip install 'bpfpin[compile]'"
_NO_HEADER = re.compile(r"'([^']+)' file not found")
_KERNEL_HEADERS = ("linux/", "asm/", "asm-generic/")
_LIBBPF_HEADERS = ("bpf/", "libbpf")
_C_HEADERS = re.compile(r"(sys|net|netinet|arpa|bits|gnu)/.*|[a-z]+\.h")

# The names that sources for libbpf know, by what uname(2) says.
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
# BPF is an architecture without an asm/ folder of its own: any little-endian one will do.
_WHEEL_FOLDERS = ("any-linux-any", "x86-linux-any", "x86_64-linux-musl", "generic-musl")


@dataclass(frozen=True, slots=True)
class CompileResult:
    """A compiled object: its path, the version of the compiler, and the compiler's warnings."""

    object_path: Path
    compiler: str
    warnings: str


@dataclass(frozen=True, slots=True)
class _Compiler:
    """The command line of one compiler for BPF."""

    program: tuple[str, ...]
    version: tuple[str, ...]
    target: str
    headers: tuple[Path, ...]


def compile_source(
    source: str | Path,
    object_path: str | Path | None = None,
    *,
    include: Sequence[str | Path] = (),
    defines: Sequence[str] = (),
    cpu: str = "v3",
    compiler: str | None = None,
    vmlinux: bool = False,
    arch: str | None = None,
) -> CompileResult:
    """Compile a C file to a BPF object.

    The same source gives the same bytes in every folder. If compiling fails, an older object is
    left alone. In C: `clang -target bpfel -O2 -g -c x.bpf.c -o x.bpf.o`.

    Args:
        source: The C file.
        object_path: The object to write; by default beside the source (`x.bpf.c` -> `x.bpf.o`).
        include: Folders to search for headers first.
        defines: Macros, `NAME` or `NAME=VALUE`.
        cpu: The BPF instruction set, `v1` to `v4`.
        compiler: A clang by name or path, or `ziglang`; by default the first that is installed.
        vmlinux: Offer the types of the running kernel as <vmlinux.h>.
        arch: The machine whose registers <bpf/bpf_tracing.h> reads, `x86` or `arm64`: the macro
            `__TARGET_ARCH_x86` is defined. By default this machine.

    Raises:
        ObjectNotFoundError: The source or the folder of the object does not exist.
        ObjectFileError: The source does not compile; the message has the compiler's words.
        UsageError: The object would overwrite its source.
        BpfError: No compiler is installed, or *vmlinux* is asked for and the kernel has no BTF.
    """
    source = Path(source).absolute()
    target = Path(object_path).absolute() if object_path else source.with_suffix(".o")
    _check_paths(source, target)
    # Symlinks of the folder are resolved once: the scratch folder and the object must be in the
    # same one for the rename.
    target = resolved(target.parent) / target.name
    chosen = _find_compiler(compiler)
    folders = [Path(folder).absolute() for folder in include]
    command = [*chosen.program, *_flags(chosen, cpu), *_prefix_maps(source.parent, folders)]
    command += [f"-I{folder}" for folder in folders]
    # Before those of the caller, who may define another one.
    command += [f"-D{define}" for define in (*_arch_macros(arch), *defines)]
    with _scratch(target) as scratch:
        if vmlinux:
            command += _vmlinux_header(Path(scratch))
        compiled = Path(scratch) / "object.o"
        # The source is named relative to its folder, in which the compiler runs: so the object does
        # not contain the path.
        command += ["-c", _as_argument(source.name), "-o", str(compiled)]
        run = _run(command, source.parent, scratch)
        # Only the compiler knows which of the two a source is, so it is asked first with the
        # definition in the header.
        if OWN_MAP_DEF in run.stderr:
            run = _run([*command, "-DBPF_NO_MAP_DEF"], source.parent, scratch)
        # Clang ends with 0 where it takes a file for something to link, and writes nothing.
        if run.returncode or not compiled.exists():
            raise _refusal(run.stderr, source)
        # A rename: a loader that opens the object meanwhile reads the old or the new one, never a
        # part.
        compiled.replace(target)
        version = _run(list(chosen.version), source.parent, scratch).stdout
    return CompileResult(target, _version_line(chosen, version), run.stderr)


def _arch_macros(arch: str | None) -> list[str]:
    known = arch or ARCHITECTURES.get(platform.machine())
    return [f"__TARGET_ARCH_{known}"] if known else []


def _vmlinux_header(scratch: Path) -> list[str]:
    """Write vmlinux.h into the scratch folder; return the options that make it known."""
    from bpfpin.apps.c_types import kernel_header  # noqa: PLC0415 - only where it is asked for

    # Written anew each time, which takes less time than compiling it: a header that was kept could
    # be that of another kernel, or another user's.
    folder = scratch / "vmlinux"
    folder.mkdir()
    (folder / "vmlinux.h").write_text(kernel_header().text)
    return [f"-I{folder}", f"-ffile-prefix-map={folder}=vmlinux"]


def wheel_include() -> Path:
    """Return the folder of headers in the `ziglang` wheel; `BpfError` if it is not installed."""
    wheel = _wheel()
    if wheel is None:
        raise BpfError("the ziglang wheel is not installed", hint=INSTALL_HINT)
    return wheel / "lib" / "libc" / "include"


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ObjectNotFoundError("no such source file", path=str(source))
    if not target.parent.is_dir():
        raise ObjectNotFoundError("no such folder to write the object to", path=str(target.parent))
    if source == target:
        raise UsageError(f"the object would overwrite its source {source}", hint="give a path")


def _find_compiler(word: str | None) -> _Compiler:
    if word is None:
        return _clang("clang") or _ziglang() or _missing("clang or ziglang")
    if word == ZIGLANG:
        return _ziglang() or _missing(word)
    return _clang(word) or _missing(word)


def _missing(word: str) -> _Compiler:
    raise BpfError(f"no compiler: {word} is not installed", hint=INSTALL_HINT)


def _clang(word: str) -> _Compiler | None:
    path = shutil.which(word)
    if path is None:
        return None
    # Debian keeps the asm/ headers there, where clang looks for its own machine but not for BPF.
    multiarch = Path("/usr/include") / f"{platform.machine()}-linux-gnu"
    installed = Path("/usr/include/linux/bpf.h").exists()
    headers = (multiarch,) if installed else _wheel_headers()
    return _Compiler((path,), (path, "--version"), "bpfel", headers)


def _ziglang() -> _Compiler | None:
    wheel = _wheel()
    if wheel is None:
        return None
    zig = str(wheel / "zig")
    # zig demands an operating system in the target; BPF has none.
    return _Compiler((zig, "cc"), (zig, "version"), "bpfel-freestanding", _wheel_headers())


def _wheel() -> Path | None:
    spec = importlib.util.find_spec(ZIGLANG)
    # The wheel is found without importing it.
    return Path(spec.origin).parent if spec and spec.origin else None


def _wheel_headers() -> tuple[Path, ...]:
    return tuple(wheel_include() / name for name in _WHEEL_FOLDERS) if _wheel() else ()


def _flags(compiler: _Compiler, cpu: str) -> list[str]:
    # No unwind tables: they would be sections that no loader reads. The folder of compilation goes
    # into the debug information, and would make the bytes depend on it. Kernel headers come last
    # (-idirafter), behind those of --include.
    return [
        *("-target", compiler.target, "-O2", "-g", f"-mcpu={cpu}"),
        *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fdebug-compilation-dir=."),
        *("-isystem", str(OUR_HEADERS)),
        *(word for folder in compiler.headers for word in ("-idirafter", str(folder))),
    ]


def _prefix_maps(source: Path, include: Sequence[Path]) -> list[str]:
    """Return options that give folders the same names in debug information on every machine.

    If several fit a path, clang uses the last one.
    """
    names = {source: "."} | {folder: folder.name for folder in include if folder != source}
    names[OUR_HEADERS] = "bpfpin"
    wheel = _wheel()
    if wheel:
        names[wheel] = ZIGLANG
    return [f"-ffile-prefix-map={folder}={name}" for folder, name in names.items()]


def _as_argument(name: str) -> str:
    """Return *name* so that clang does not take it for an option or a file of options."""
    return f"./{name}" if name.startswith(("-", "@")) else name


def _scratch(target: Path) -> tempfile.TemporaryDirectory[str]:
    """Create a folder beside the object, from which the finished object is renamed into place."""
    try:
        return tempfile.TemporaryDirectory(prefix=".compile-", dir=target.parent)
    except OSError as error:
        raise ObjectFileError(
            f"the object cannot be written: {error.strerror}", path=str(target)
        ) from error


def _run(command: list[str], folder: Path, scratch: str) -> subprocess.CompletedProcess[str]:
    """Run a compiler; the cache of zig is in the scratch folder and removed with it."""
    cache = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | cache,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _refusal(words: str, source: Path) -> ObjectFileError:
    missing = _NO_HEADER.search(words)
    hints = [_header_hint(missing[1], source)] if missing else []
    if source.suffix != ".c":
        hints.append(f"the compiler knows C by the end of the name: rename it to {source.name}.c")
    # Of a file that is not taken for C, clang says of each of our options that it is not used.
    told = [line for line in words.splitlines() if "argument unused during" not in line]
    return ObjectFileError(
        "\n".join(["does not compile:", *told]), path=str(source), hint="; ".join(hints)
    )


def _header_hint(header: str, source: Path) -> str:
    """Return how to get a header that the compiler did not find."""
    if header == "vmlinux.h":
        line = shell_line("bpfpin compile --vmlinux", source)
        return f"vmlinux.h has the types of the running kernel: {line}"
    own = "a directory that has it is added with --include DIR"
    if header.startswith(_KERNEL_HEADERS):
        if Path("/usr/include/linux/bpf.h").exists() or _wheel():
            return f"the installed kernel headers do not have {header}; {own}"
        wheel = "pip install 'bpfpin[compile]'"
        return f"the kernel's headers come with: apt install linux-libc-dev, or {wheel}"
    if header.startswith(_LIBBPF_HEADERS):
        ours = ", ".join(sorted(path.name for path in (OUR_HEADERS / "bpf").iterdir()))
        return f"bpfpin comes with bpf/ {ours}; other headers of libbpf: apt install libbpf-dev"
    if _C_HEADERS.fullmatch(header) and not Path("/usr/include/stdlib.h").exists():
        return f"the headers of the C library come with: apt install libc6-dev; {own}"
    return own


def _version_line(compiler: _Compiler, output: str) -> str:
    first = output.strip().splitlines()[0]
    return f"{ZIGLANG} {first}" if compiler.program[1:] else first
