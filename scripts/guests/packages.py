"""Packages of other suites and architectures, downloaded and unpacked into a folder.

apt works with a configuration, lists and sources of its own there, so those of the machine stay as
they are. The archive is the one that the machine's own sources name.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def output_of(command: Sequence[str | Path], **environment: str) -> str:
    """Run a command and return what it prints; its own error messages are shown.

    If it fails, `SystemExit` names the command.
    """
    result = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | environment
    )
    if result.returncode:
        words = " ".join(map(str, command))
        raise SystemExit(f"exit code {result.returncode} of: {words}")
    return result.stdout


class Suite:
    """One suite of Debian for one architecture, with its lists in *folder*.

    The lists are fetched once; *is_updated* fetches them again.
    """

    def __init__(
        self, name: str, architecture: str, folder: Path, *, is_updated: bool = False
    ) -> None:
        self.name = name
        self.architecture = architecture
        self._folder = folder.resolve() / f"{name}-{architecture}"
        self._configuration = self._folder / "apt.conf"
        text = self._text()
        # A copied or moved folder has the configuration of another path.
        is_known = self._configuration.exists() and self._configuration.read_text() == text
        if is_updated or not is_known:
            self._update(text)

    def find(self, pattern: str) -> list[str]:
        """Return the names of the packages that match a regular expression, the newest last."""
        lines = self._apt("apt-cache", "search", "--names-only", pattern).splitlines()
        return sorted((line.split()[0] for line in lines), key=version_key)

    def unpack(self, packages: Iterable[str], target: Path) -> None:
        """Download packages and unpack them into *target*, without running their scripts.

        A package that was downloaded whole is not downloaded again until all are unpacked.
        """
        debs = self._folder / "debs"
        target.mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "sbin"):  # as a Debian is installed: links into /usr
            (target / "usr" / name).mkdir(parents=True, exist_ok=True)
            if not (target / name).is_symlink():
                (target / name).symlink_to(f"usr/{name}")
        for package in packages:
            _unpack(self._downloaded(package, debs), target)
        shutil.rmtree(debs, ignore_errors=True)

    def dependencies(self, package: str) -> list[str]:
        """Return the names of the packages that a package depends on directly.

        Not those in `<>`, which the archive does not have: another package provides them, or none.
        """
        lines = self._apt("apt-cache", "depends", f"{package}:{self.architecture}").splitlines()
        matches = [re.match(r" +(?:Pre)?-?Depends: ([^ :<]+)", line) for line in lines]
        return [match[1] for match in matches if match]

    def with_dependencies(self, packages: Iterable[str]) -> list[str]:
        """Return packages and all that they need, as on a machine where nothing is installed."""
        wanted = [f"{package}:{self.architecture}" for package in packages]
        lines = self._apt(
            "apt-get", "install", "--simulate", "--no-install-recommends", *wanted
        ).splitlines()
        return [line.split()[1].partition(":")[0] for line in lines if line.startswith("Inst ")]

    def _downloaded(self, package: str, debs: Path) -> Path:
        if not list(debs.glob(f"{package}_*.deb")):
            # Downloaded aside: a download that was cut leaves a file of the final name.
            draft = debs / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                self._apt("apt-get", "download", "-qq", f"{package}:{self.architecture}", cwd=draft)
            except SystemExit as error:
                hint = "if the archive has a newer version now, run this again with --update"
                raise SystemExit(f"{error}\n{hint}") from None
            for path in draft.iterdir():
                path.replace(debs / path.name)
        (deb,) = debs.glob(f"{package}_*.deb")
        return deb

    def _apt(self, *words: str, cwd: Path | None = None) -> str:
        command = ["env", f"--chdir={cwd or self._folder}", *words]
        return output_of(command, APT_CONFIG=str(self._configuration))

    def _text(self) -> str:
        folder = self._folder
        return f"""
            Dir::State "{folder}/state";
            Dir::State::status "{folder}/status";
            Dir::Cache "{folder}/cache";
            Dir::Etc "{folder}/etc";
            Dir::Etc::sourceparts "{folder}/parts";
            Dir::Etc::preferencesparts "{folder}/parts";
            APT::Architecture "{self.architecture}";
            APT::Architectures {{ "{self.architecture}"; }};
            APT::Sandbox::User "root";
            Acquire::Languages "none";
            Acquire::Retries "3";
        """

    def _update(self, text: str) -> None:
        """Write the configuration and fetch the lists."""
        if not KEYRING.exists():
            raise SystemExit(f"no {KEYRING}: apt install debian-archive-keyring")
        shutil.rmtree(self._folder, ignore_errors=True)
        for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "parts"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "status").touch()
        (self._folder / "etc/sources.list").write_text(
            f"deb [signed-by={KEYRING}] {_archive()} {self.name} main\n"
        )
        draft = self._configuration.with_suffix(".draft")
        draft.write_text(text)
        output_of(["apt-get", "update", "-qq"], APT_CONFIG=str(draft))
        draft.replace(self._configuration)  # only now: an interrupted update is begun again


def version_key(package: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts 6.12.9 before 6.12.10."""
    parts = itertools.chain.from_iterable(re.findall(r"(\D*)(\d*)", package))
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _unpack(deb: Path, target: Path) -> None:
    # `dpkg -x` replaces a link by the folder of that name in the package.
    with subprocess.Popen(["dpkg", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as files:
        tar = ["tar", "-x", "-C", str(target), "--keep-directory-symlink"]
        result = subprocess.run(tar, stdin=files.stdout, check=False)
    if files.returncode or result.returncode:
        deb.unlink()
        raise SystemExit(f"{deb.name} cannot be unpacked; it was removed, so run this again")


def _archive() -> str:
    """Return the address of the Debian archive from which this machine installs its packages."""
    options = ["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    lines = output_of(["apt-get", "indextargets", *options]).splitlines()
    archives = [line.split()[1] for line in lines if line.startswith("Debian ")]
    if not archives:
        raise SystemExit(
            "apt of this machine knows no archive of Debian: guests need a Debian host,"
            " after `apt-get update`"
        )
    return archives[0]
