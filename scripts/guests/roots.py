"""The root file systems of guests: this machine's own, or one unpacked for another architecture."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

from guests.image import squash
from guests.kernels import AMD64
from guests.packages import Suite

CHECKOUT = Path(__file__).parents[2]
# What a test never reads, or what would hold a copy of itself.
LEFT_OUT = (
    *(".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"),
    *("build/guests", "dist"),
)
ARM64_SUITE = "bookworm"
ARM64_PACKAGES = (
    *("base-files", "bash", "dash", "coreutils", "findutils", "grep", "sed", "mount", "util-linux"),
    *("iproute2", "iputils-ping", "kmod", "procps", "python3", "libstdc++6", "strace"),
)
ARM64_PYTHON = "3.11"
# Wheels for arm64 are named after the oldest C library that they run with.
ARM64_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
ARM64_SITE = Path(f"/usr/local/lib/python{ARM64_PYTHON}/dist-packages")
# Tools of developers, which no test imports.
NOT_FOR_TESTS = ("mypy", "ruff", "ziglang")


@dataclass(frozen=True)
class Root:
    """A root file system, the folders that are copied over it, and its Python."""

    path: Path
    copies: dict[Path, Path]  # folder in the guest -> squashfs
    python: tuple[str, ...]


def root_for(architecture: str, folder: Path) -> Root:
    """Prepare the root of guests of an architecture; the checkout is copied anew each time."""
    images = folder / "copies"
    images.mkdir(parents=True, exist_ok=True)
    checkout = images / "checkout.squashfs"
    squash(CHECKOUT, checkout, without=LEFT_OUT)
    if architecture == AMD64:
        environment = Path(sys.prefix)
        busy = {environment: images / "environment.squashfs"}
        library = Path(sysconfig.get_path("stdlib"))
        busy[library] = images / "library.squashfs"
        for path, image in busy.items():
            squash(path, image)
        # In the order of the paths, so that a folder is mounted before one that is inside it.
        copies = dict(sorted({CHECKOUT: checkout, **busy}.items()))
        return Root(Path("/"), copies, (sys.executable,))
    path = folder / "roots" / architecture
    if not (path / "ready").exists():
        shutil.rmtree(path, ignore_errors=True)
        _unpack_root(architecture, folder, path)
        (path / "ready").touch()
    image = images / f"{architecture}.squashfs"
    squash(path / f"usr/lib/python{ARM64_PYTHON}", image)
    site = images / f"{architecture}-site.squashfs"
    squash(path / str(ARM64_SITE.relative_to("/")), site)
    copies = {Path(f"/usr/lib/python{ARM64_PYTHON}"): image, ARM64_SITE: site, CHECKOUT: checkout}
    paths = f"PYTHONPATH={CHECKOUT / 'src'}"
    return Root(path, dict(sorted(copies.items())), ("env", paths, f"python{ARM64_PYTHON}"))


def _unpack_root(architecture: str, folder: Path, path: Path) -> None:
    suite = Suite(ARM64_SUITE, architecture, folder / "apt")
    suite.unpack(suite.with_dependencies(ARM64_PACKAGES), path)
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc"):
        (path / name).mkdir(exist_ok=True)
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:\n")
    (path / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = [word for word in wanted if not word.startswith(NOT_FOR_TESTS)]
    platforms = [word for name in ARM64_PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    target = path / ARM64_SITE.relative_to("/")
    options = ["--only-binary=:all:", "--python-version", ARM64_PYTHON, "--target", str(target)]
    subprocess.run([*pip, *platforms, *options, *names], check=True)
