"""The root file systems of guests: this machine's own, or one unpacked for another architecture."""

from __future__ import annotations

import compileall
import os
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guests.image import squash
from guests.kernels import AMD64
from guests.packages import Suite, output_of

CHECKOUT = Path(__file__).parents[2]
# What a test never reads, or what would hold a copy of itself.
LEFT_OUT = (
    *(".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"),
    *("build/guests", "dist"),
)
# The Python of such a root is that of this machine, which compiles the bytecode for it.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
OTHER_PACKAGES = (
    *("base-files", "bash", "dash", "coreutils", "findutils", "grep", "sed", "mount", "util-linux"),
    *("iproute2", "iputils-ping", "kmod", "procps", "python3", "libstdc++6", "strace"),
    "bpftool",
)
# Wheels are named after the oldest C library that they run with.
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
SITE = Path(f"/usr/local/lib/python{PYTHON}/dist-packages")
# Tools of developers, which no test imports.
NOT_FOR_TESTS = ("mypy", "ruff", "ziglang")


# Compiles each object of the tests, unless it was compiled before.
COMPILE = """
import sys
from support.objects import NAMES, compiled
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor() as threads:
    list(threads.map(compiled, NAMES))
"""


@dataclass(frozen=True)
class Root:
    """A root file system, the folders that are copied over it, and its Python."""

    path: Path
    copies: dict[Path, Path]  # folder in the guest -> squashfs
    python: tuple[str, ...]


def compile_tests() -> None:
    """Compile the tests and their objects here: a guest is slow, or has no compiler.

    Objects of other compilers or options are those that `make test` left here.
    """
    paths = os.pathsep.join(str(CHECKOUT / name) for name in ("src", "tests"))
    output_of([sys.executable, "-c", COMPILE], PYTHONPATH=paths)
    # pytest has bytecode of its own, with the assertions rewritten.
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    output_of([*collect, str(CHECKOUT / "tests")], PYTHONDONTWRITEBYTECODE="")


def root_for(architecture: str, folder: Path) -> Root:
    """Prepare the root of guests of an architecture; the checkout is copied anew each time."""
    if sys.prefix == sys.base_prefix:
        raise SystemExit("run this with the Python of a virtual environment: make test-kernels")
    images = folder / "copies"
    images.mkdir(parents=True, exist_ok=True)
    _compile(CHECKOUT / "src", CHECKOUT / "tests")
    squash(CHECKOUT, images / "checkout.squashfs", without=LEFT_OUT)
    copies = {CHECKOUT: images / "checkout.squashfs"}
    if architecture == AMD64:
        return _own_root(images, copies)
    return _other_root(architecture, folder, images, copies)


def _own_root(images: Path, copies: dict[Path, Path]) -> Root:
    environment, library = Path(sys.prefix), Path(sysconfig.get_path("stdlib"))
    _compile(Path(sysconfig.get_path("purelib")))
    squash(environment, images / "environment.squashfs")
    # The packages of the interpreter itself are not those of the virtual environment.
    squash(library, images / "library.squashfs", without=("test", "idlelib", "site-packages"))
    copies |= {environment: images / "environment.squashfs", library: images / "library.squashfs"}
    # In the order of the paths, so that a folder is mounted before one that is inside it.
    return Root(Path("/"), dict(sorted(copies.items())), (sys.executable,))


def _other_root(architecture: str, folder: Path, images: Path, copies: dict[Path, Path]) -> Root:
    if PYTHON not in SUITES:
        known = " or ".join(SUITES)
        raise SystemExit(f"guests of another architecture need Python {known}, not {PYTHON}")
    path = folder / "roots" / f"{architecture}-{SUITES[PYTHON]}"
    library, site = Path(f"/usr/lib/python{PYTHON}"), SITE
    made_of = " ".join([*OTHER_PACKAGES, *_python_packages()])
    ready = path / "ready"
    if not ready.exists() or ready.read_text() != made_of:
        shutil.rmtree(path, ignore_errors=True)
        _unpack_root(architecture, folder, path)
        _compile(path / library.relative_to("/"), path / site.relative_to("/"), root=path)
        ready.write_text(made_of)
    for name in (library, site):
        copies[name] = images / f"{architecture}-{name.name}.squashfs"
        squash(path / name.relative_to("/"), copies[name])
    words = ("env", f"PYTHONPATH={CHECKOUT / 'src'}", f"python{PYTHON}")
    return Root(path, dict(sorted(copies.items())), words)


def _compile(*folders: Path, root: Path = Path("/")) -> None:
    """Compile Python files to bytecode, if the folder is ours; *root* is their `/` in the guest."""
    for folder in folders:
        if folder.stat().st_uid == os.geteuid():
            compileall.compile_dir(
                folder, quiet=2, workers=0, stripdir=str(root), prependdir="/", maxlevels=30
            )


def _unpack_root(architecture: str, folder: Path, path: Path) -> None:
    suite = Suite(SUITES[PYTHON], architecture, folder / "apt")
    suite.unpack(suite.with_dependencies(OTHER_PACKAGES), path)
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc"):
        (path / name).mkdir(exist_ok=True)
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:\n")
    (path / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-compile", "--only-binary=:all:", "--python-version", PYTHON]
    target = ["--target", str(path / SITE.relative_to("/"))]
    output_of([*pip, *platforms, *options, *target, *_python_packages()])


def _python_packages() -> list[str]:
    return python_packages(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"])


def python_packages(project: Mapping[str, Any]) -> list[str]:
    """Return the requirements of the tests, from the table `project` of pyproject.toml."""
    extras = project["optional-dependencies"]
    # `dev` names this project for its extra `numpy`; the checkout itself is not installed.
    wanted = [*project["dependencies"], *extras["numpy"], *extras["dev"]]
    return [word for word in wanted if not word.startswith((project["name"], *NOT_FOR_TESTS))]
