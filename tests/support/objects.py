"""Real objects: the sources of tests/objects, compiled when a test asks for one."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bpfpin.apps.compile import OUR_HEADERS, wheel_include

SOURCES = Path(__file__).parent.parent / "objects"
NAMES = tuple(sorted(path.name.removesuffix(".bpf.c") for path in SOURCES.glob("*.bpf.c")))
COMPILERS = ("zig", "clang")

_COMMANDS = {
    "zig": [
        *(sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding", "-mcpu=v3"),
        *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    ],
    "clang": ["clang", "-target", "bpfel"],
    "gcc": ["bpf-gcc"],
}
_PACKAGES = {"clang": "clang", "bpf-gcc": "gcc-bpf"}


@functools.cache
def compiled(
    name: str, compiler: str = "zig", *, has_debug: bool = True, defines: tuple[str, ...] = ()
) -> Path:
    """Return the object made of tests/objects/NAME.bpf.c; once a session, removed at its end.

    *compiler* is `zig` (the wheel) or `clang` (the distribution's; the test is skipped without).
    *has_debug* off leaves out BTF and line information, as old objects do. *defines* are macros of
    the source, `NAME=TEXT`.
    """
    return _compile(name, compiler, has_debug=has_debug, defines=defines, extra=())


def _compile(
    name: str, compiler: str, *, has_debug: bool, defines: tuple[str, ...], extra: tuple[str, ...]
) -> Path:
    command = _COMMANDS[compiler][0]
    if shutil.which(command) is None:
        pytest.skip(f"needs {command}: apt install {_PACKAGES[command]}")
    version = f"-{abs(hash((defines, extra))):x}" if defines or extra else ""
    file_name = name.replace("/", "-")
    target = _folder() / f"{file_name}-{compiler}{version}{'' if has_debug else '-plain'}.bpf.o"
    options = [
        *("-O2", _debug_option(compiler, has_debug=has_debug)),
        *(f"-D{text}" for text in defines),
        *extra,
    ]
    source = SOURCES / f"{name}.bpf.c"
    caches = {"ZIG_LOCAL_CACHE_DIR": str(_folder()), "ZIG_GLOBAL_CACHE_DIR": str(_folder())}
    result = subprocess.run(
        [*_COMMANDS[compiler], *options, "-c", str(source), "-o", str(target)],
        env=os.environ | caches,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return target


def _debug_option(compiler: str, *, has_debug: bool) -> str:
    if not has_debug:
        return "-g0"
    return "-gbtf" if compiler == "gcc" else "-g"


@functools.cache
def compiled_case(
    name: str,
    compiler: str = "zig",
    *,
    has_debug: bool = True,
    defines: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> Path:
    """Return the object made of tests/objects/cases/NAME.bpf.c, which public projects write so.

    What is right for a case stands on top of its source. *options* are added at the end of the
    compiler's own, so that `-mcpu=v4` counts. *compiler* may be `gcc`, too (Debian's gcc-bpf).
    """
    wheel = wheel_include()
    headers = [
        *("-isystem", str(OUR_HEADERS), "-DBPF_NO_MAP_DEF"),
        *("-idirafter", str(wheel / "x86-linux-any"), "-idirafter", str(wheel / "any-linux-any")),
    ]
    return _compile(
        f"cases/{name}",
        compiler,
        has_debug=has_debug,
        defines=defines,
        extra=(*headers, *options),
    )


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="bpfpin-objects-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
