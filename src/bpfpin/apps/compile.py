"""From C to a BPF object, with the clang that is installed or else the one in the `ziglang` wheel.

Sources that include <bpf/bpf_helpers.h> compile without libbpf's headers: ours come first, also
where libbpf's are installed, so that every machine has the same and the older map dialect stays.
The kernel's headers are those in /usr/include; ziglang brings its own, and lends them to a clang
that has none.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bpfpin.errors import BpfError, ObjectFileError, ObjectNotFoundError, UsageError
from bpfpin.map.snapshot_file import resolved

OUR_HEADERS = Path(__file__).parents[1] / "builtin" / "include"
ZIGLANG = "ziglang"
# Half of the old sources define this structure themselves, half take it from bpf_helpers.h.
OWN_MAP_DEF = "redefinition of 'bpf_map_def'"
INSTALL_HINT = "apt install clang, or pip install 'bpfpin[compile]'"
HINTS = {
    "file not found": (
        "the kernel's headers come with: apt install linux-libc-dev, or pip install "
        "'bpfpin[compile]'; a folder of your own is added with --include"
    ),
}

# BPF is its own architecture: its programs need some asm/ folder, and any little-endian one does.
_WHEEL_FOLDERS = ("any-linux-any", "x86-linux-any", "x86_64-linux-musl", "generic-musl")


@dataclass(frozen=True, slots=True)
class CompileResult:
    """A finished object: where it is, what compiled it, and what the compiler had to say."""

    object_path: Path
    compiler: str
    warnings: str


@dataclass(frozen=True, slots=True)
class _Compiler:
    """How one compiler is called for BPF."""

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
) -> CompileResult:
    """Compile the C file *source* to a BPF object, by default beside it (`x.bpf.c` -> `x.bpf.o`).

    *include* are folders searched first, *defines* macros (`NAME` or `NAME=VALUE`), *cpu* the BPF
    instruction set (`v1` to `v4`), *compiler* a clang by name or path, or `ziglang`. The same
    source gives the same bytes in every folder. A failed compile leaves an older object alone.

    Raises ObjectNotFoundError (no such source or folder), ObjectFileError (the compiler's words),
    BpfError (no compiler). In C: `clang -target bpfel -O2 -g -c x.bpf.c -o x.bpf.o`.
    """
    source = Path(source).absolute()
    target = Path(object_path).absolute() if object_path else source.with_suffix(".o")
    _check_paths(source, target)
    target = resolved(target.parent) / target.name
    chosen = _find_compiler(compiler)
    folders = [Path(folder).absolute() for folder in include]
    command = [*chosen.program, *_flags(chosen, cpu), *_places(source.parent, folders)]
    command += [f"-I{folder}" for folder in folders] + [f"-D{define}" for define in defines]
    with _scratch(target) as scratch:
        made = Path(scratch) / "object.o"
        command += ["-c", _as_argument(source.name), "-o", str(made)]
        run = _run(command, source.parent, scratch)
        if OWN_MAP_DEF in run.stderr:
            run = _run([*command, "-DBPF_NO_MAP_DEF"], source.parent, scratch)
        if run.returncode:
            raise _refusal(run.stderr, source)
        made.replace(target)
        version = _run(list(chosen.version), source.parent, scratch).stdout
    return CompileResult(target, _version_line(chosen, version), run.stderr)


def wheel_include() -> Path:
    """Return the folder of headers in the `ziglang` wheel; BpfError if it is not installed."""
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
    multiarch = Path("/usr/include") / f"{platform.machine()}-linux-gnu"
    installed = Path("/usr/include/linux/bpf.h").exists()
    headers = (multiarch,) if installed else _wheel_headers()
    return _Compiler((path,), (path, "--version"), "bpfel", headers)


def _ziglang() -> _Compiler | None:
    wheel = _wheel()
    if wheel is None:
        return None
    zig = str(wheel / "zig")
    return _Compiler((zig, "cc"), (zig, "version"), "bpfel-freestanding", _wheel_headers())


def _wheel() -> Path | None:
    spec = importlib.util.find_spec(ZIGLANG)
    return Path(spec.origin).parent if spec and spec.origin else None


def _wheel_headers() -> tuple[Path, ...]:
    return tuple(wheel_include() / name for name in _WHEEL_FOLDERS) if _wheel() else ()


def _flags(compiler: _Compiler, cpu: str) -> list[str]:
    return [
        *("-target", compiler.target, "-O2", "-g", f"-mcpu={cpu}"),
        *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fdebug-compilation-dir=."),
        *("-isystem", str(OUR_HEADERS)),
        *(word for folder in compiler.headers for word in ("-idirafter", str(folder))),
    ]


def _places(source: Path, include: Sequence[Path]) -> list[str]:
    """Name folders the same on every machine; of several that fit the last one counts."""
    names = {source: "."} | {folder: folder.name for folder in include if folder != source}
    names[OUR_HEADERS] = "bpfpin"
    wheel = _wheel()
    if wheel:
        names[wheel] = ZIGLANG
    return [f"-ffile-prefix-map={folder}={name}" for folder, name in names.items()]


def _as_argument(name: str) -> str:
    """Keep a file's name from being read as an option or as a file of options."""
    return f"./{name}" if name.startswith(("-", "@")) else name


def _scratch(target: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder beside the object, so that the finished object can be renamed into place."""
    try:
        return tempfile.TemporaryDirectory(prefix=".compile-", dir=target.parent)
    except OSError as error:
        raise ObjectFileError(
            f"the object cannot be written: {error.strerror}", path=str(target)
        ) from error


def _run(command: list[str], folder: Path, scratch: str) -> subprocess.CompletedProcess[str]:
    """Run a compiler; zig keeps a cache, which goes away with the scratch folder."""
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
    hints = [hint for telling, hint in HINTS.items() if telling in words]
    return ObjectFileError(
        f"does not compile:\n{words.rstrip()}", path=str(source), hint="; ".join(hints)
    )


def _version_line(compiler: _Compiler, output: str) -> str:
    first = output.strip().splitlines()[0]
    return f"{ZIGLANG} {first}" if compiler.program[1:] else first
