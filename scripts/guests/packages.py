"""Packages of other suites and architectures, downloaded and unpacked into a folder.

apt works with a configuration, lists and sources of its own there, so those of the machine stay as
they are. The archive is the one that the machine's own sources name.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def output_of(command: Sequence[str | Path], **environment: str) -> str:
    """Run a command and return what it prints; its own error messages are shown."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment
    )
    return result.stdout


class Suite:
    """One suite of Debian for one architecture, with its lists in *folder*."""

    def __init__(self, name: str, architecture: str, folder: Path) -> None:
        self.name = name
        self.architecture = architecture
        self._folder = folder / f"{name}-{architecture}"

    def find(self, pattern: str) -> list[str]:
        """Return the names of the packages that match a regular expression, the newest last."""
        lines = self._apt("apt-cache", "search", "--names-only", pattern).splitlines()
        return sorted((line.split()[0] for line in lines), key=_version)

    def unpack(self, packages: Iterable[str], target: Path) -> None:
        """Download packages and unpack them into *target*, without running their scripts."""
        debs = self._folder / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "sbin"):  # as a Debian is installed: links into /usr
            (target / "usr" / name).mkdir(parents=True, exist_ok=True)
            if not (target / name).is_symlink():
                (target / name).symlink_to(f"usr/{name}")
        for package in packages:
            if not list(debs.glob(f"{package}_*.deb")):
                self._apt("apt-get", "download", "-qq", f"{package}:{self.architecture}", cwd=debs)
            (deb,) = debs.glob(f"{package}_*.deb")
            _unpack(deb, target)

    def dependencies(self, package: str) -> list[str]:
        """Return the names of the packages that a package depends on directly."""
        lines = self._apt("apt-cache", "depends", f"{package}:{self.architecture}").splitlines()
        found = [re.match(r" +(?:Pre)?-?Depends: ([^ :]+)", line) for line in lines]
        return [match[1] for match in found if match]

    def with_dependencies(self, packages: Iterable[str]) -> list[str]:
        """Return packages and all that they need, as on a machine where nothing is installed."""
        wanted = [f"{package}:{self.architecture}" for package in packages]
        lines = self._apt(
            "apt-get", "install", "--simulate", "--no-install-recommends", *wanted
        ).splitlines()
        return [line.split()[1].partition(":")[0] for line in lines if line.startswith("Inst ")]

    def _apt(self, *words: str, cwd: Path | None = None) -> str:
        command = ["env", f"--chdir={cwd or self._folder}", *words]
        return output_of(command, APT_CONFIG=str(self._configuration))

    @cached_property
    def _configuration(self) -> Path:
        """Write the configuration and fetch the lists; once for each folder."""
        path = self._folder / "apt.conf"
        if path.exists():
            return path
        for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "parts"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        (self._folder / "etc/sources.list").write_text(
            f"deb [signed-by={KEYRING}] {_archive()} {self.name} main\n"
        )
        text = f"""
            Dir::State "{self._folder}/state";
            Dir::State::status "{self._folder}/status";
            Dir::Cache "{self._folder}/cache";
            Dir::Etc "{self._folder}/etc";
            Dir::Etc::sourceparts "{self._folder}/parts";
            Dir::Etc::preferencesparts "{self._folder}/parts";
            APT::Architecture "{self.architecture}";
            APT::Architectures {{ "{self.architecture}"; }};
            APT::Sandbox::User "root";
            Acquire::Languages "none";
        """
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        output_of(["apt-get", "update", "-qq"], APT_CONFIG=str(draft))
        return draft.replace(path)  # only now: an interrupted update is begun again


def _unpack(deb: Path, target: Path) -> None:
    # `dpkg -x` replaces a link by the folder of that name in the package.
    with subprocess.Popen(["dpkg", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as files:
        tar = ["tar", "-x", "-C", str(target), "--keep-directory-symlink"]
        subprocess.run(tar, stdin=files.stdout, check=True)
    if files.returncode:
        raise SystemExit(f"dpkg cannot read {deb}")


def _archive() -> str:
    """Return the address of the Debian archive from which this machine installs its packages."""
    options = ["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    lines = output_of(["apt-get", "indextargets", *options]).splitlines()
    archives = [line.split()[1] for line in lines if line.startswith("Debian ")]
    if not archives:
        raise SystemExit("apt knows no archive of Debian: run `apt-get update` first")
    return archives[0]


def _version(package: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts 6.12.9 before 6.12.10."""
    parts = itertools.chain.from_iterable(re.findall(r"(\D*)(\d*)", package))
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
