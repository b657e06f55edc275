"""Real objects: the sources of tests/objects, compiled when a test asks for one.

What was compiled is kept in `build/test-objects` by what it was made of, so that only the first run
of the tests pays for it. Only the owner of the checkout writes there.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from bpfpin.apps.compile import OUR_HEADERS, wheel_include

SOURCES = Path(__file__).parent.parent / "objects"
NAMES = tuple(sorted(path.name.removesuffix(".bpf.c") for path in SOURCES.glob("*.bpf.c")))
COMPILERS = ("zig", "clang")
KEPT = SOURCES.parents[1] / "build" / "test-objects"
# A guest has the compilers of this machine or none, and is slow: it takes what was compiled here.
IS_GUEST = bool(os.environ.get("BPFPIN_GUEST"))

_COMMANDS = {
    "zig": [
        *(sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding", "-mcpu=v3"),
        *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    ],
    "clang": ["clang", "-target", "bpfel"],
    "gcc": ["bpf-gcc"],
}
SYSTEM_HEADERS = (Path("/usr/include/bpf/bpf_helpers.h"), Path("/usr/include/linux/bpf.h"))
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
    return _compile(name, compiler, has_debug=has_debug, defines=defines)


def _compile(
    name: str,
    compiler: str,
    *,
    has_debug: bool,
    defines: tuple[str, ...],
    extra: tuple[str, ...] = (),
    headers: Callable[[], tuple[str, ...]] = tuple,
) -> Path:
    command = _COMMANDS[compiler][0]
    if shutil.which(command) is None and not IS_GUEST:
        pytest.skip(f"needs {command}: apt install {_PACKAGES[command]}")
    source = SOURCES / f"{name}.bpf.c"
    options = ["-O2", _debug_option(compiler, has_debug=has_debug), *(f"-D{it}" for it in defines)]
    made_of = _hash(compiler, *options, *extra, source.read_bytes(), _headers())[:16]
    version = f"-{made_of}" if defines or extra else ""
    stem = f"{name.replace('/', '-')}-{compiler}{version}{'' if has_debug else '-plain'}"
    target = _folder() / f"{stem}.bpf.o"
    if kept := _kept(made_of, compiler):
        return Path(shutil.copyfile(kept, target))
    if IS_GUEST and not _is_installed(compiler):
        pytest.skip(f"{stem} was not compiled on the host of this guest")
    words = [*_COMMANDS[compiler], *options, *headers(), *extra, "-c", str(source)]
    caches = {"ZIG_LOCAL_CACHE_DIR": str(_folder()), "ZIG_GLOBAL_CACHE_DIR": str(_folder())}
    result = subprocess.run(
        [*words, "-o", str(target)],
        env=os.environ | caches,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    _keep(target, KEPT / f"{made_of}-{_compiler_state(compiler)}.o")
    return target


def _is_installed(compiler: str) -> bool:
    if compiler == "zig":
        return find_spec("ziglang") is not None
    return shutil.which(_COMMANDS[compiler][0]) is not None


def _hash(*parts: str | bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()


def _kept(made_of: str, compiler: str) -> Path | None:
    """Return the object that was compiled before; outside of a guest, by the compiler as it is."""
    state = "*" if IS_GUEST else _compiler_state(compiler)
    return next(KEPT.glob(f"{made_of}-{state}.o"), None)


@functools.cache
def _headers() -> bytes:
    ours = [*SOURCES.rglob("*.h"), *OUR_HEADERS.rglob("*.h")]
    return b"".join(path.read_bytes() for path in sorted(ours))


@functools.cache
def _compiler_state(compiler: str) -> str:
    """Return a name for a compiler and the distribution's headers as they are."""
    texts: list[str] = []
    # If they are replaced they have another time of change.
    command = _COMMANDS[compiler][0]
    for path in (Path(shutil.which(command) or ""), wheel_include(), *SYSTEM_HEADERS):
        if path.exists():
            state = path.stat()
            texts.append(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}")
    return _hash(*texts)[:16]


def _keep(target: Path, kept: Path) -> None:
    if SOURCES.stat().st_uid != os.geteuid():
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=KEPT, delete=False) as copy:
        copy.write(target.read_bytes())
    Path(copy.name).replace(kept)


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
    return _compile(
        f"cases/{name}",
        compiler,
        has_debug=has_debug,
        defines=defines,
        extra=options,
        headers=_case_headers,
    )


@functools.cache
def compiled_with_headers(name: str, *, defines: tuple[str, ...] = ()) -> Path:
    """Return the object made of tests/objects/NAME.bpf.c, which includes the headers of users.

    The machine whose registers <bpf/bpf_tracing.h> reads is this one.
    """
    return _compile(
        name,
        "zig",
        has_debug=True,
        defines=(f"__TARGET_ARCH_{_machine()}", *defines),
        headers=_case_headers,
    )


def _machine() -> str:
    return {"x86_64": "x86", "aarch64": "arm64"}[platform.machine()]


@functools.cache
def compiled_example(name: str) -> Path:
    """Return the object made of examples/NAME.bpf.c, which may include <vmlinux.h>."""
    return _compile(
        f"../../examples/{name}",
        "zig",
        has_debug=True,
        defines=(f"__TARGET_ARCH_{_machine()}",),
        headers=_example_headers,
    )


def _example_headers() -> tuple[str, ...]:
    from support.tracing import vmlinux_folder  # noqa: PLC0415 - which imports this module

    return (*_case_headers(), "-I", str(vmlinux_folder()))


def _case_headers() -> tuple[str, ...]:
    """Return the options for the headers of cases, which a guest without the wheel lacks."""
    wheel = wheel_include()
    return (
        *("-isystem", str(OUR_HEADERS), "-DBPF_NO_MAP_DEF"),
        *("-idirafter", str(wheel / "x86-linux-any"), "-idirafter", str(wheel / "any-linux-any")),
    )


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="bpfpin-objects-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
