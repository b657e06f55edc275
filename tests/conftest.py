"""Fixtures and the rule for tests that need root and a live kernel.

Such tests run in private mount and network namespaces, entered once by the whole process. Without
root they are skipped with the reason; with BPFPIN_KERNEL_TESTS=1 that skip is a failure.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support import cli, isolation

if TYPE_CHECKING:
    from support.lab import TestLab

# A busy machine is slow, which is no fault of what is tested.
FULL = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("full", FULL)
settings.register_profile("quick", FULL, max_examples=20)
settings.load_profile("full")

TESTS = Path(__file__).parent
UNLOADED_MODE = 0o1700  # of the directory of an unloaded set
NEEDS_ROOT = {"kernel", "lab"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make check` ask for the same tests at a lower price."""
    text = "fewer examples of hypothesis, and commands that fork instead of starting Python"
    parser.addoption("--quick", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Choose how much is tried, and take Ctrl-C and SIGHUP as processes of a terminal do.

    A shell starts background jobs that ignore the one, and nohup(1) those that ignore the other.
    """
    # A guest is about 20 times slower than its host, where all is tried, and interpreters start.
    if config.getoption("quick") or os.environ.get("BPFPIN_GUEST"):
        settings.load_profile("quick")
        cli.forks = True
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in NEEDS_ROOT:
            item.add_marker(folder)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter private namespaces if a selected test needs them and we may."""
    # Modules and tests live until the end; the collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    selected = any(_needs_root(item) for item in session.items)
    if selected and os.geteuid() == 0 and not session.config.option.collectonly:
        isolation.isolate()


def _needs_root(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in NEEDS_ROOT)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root when we are not root; fail instead where root was promised."""
    if not _needs_root(item) or os.geteuid() == 0:
        return
    if os.environ.get("BPFPIN_KERNEL_TESTS") == "1":
        pytest.fail("BPFPIN_KERNEL_TESTS=1 promises root, but this process is not root")
    pytest.skip("needs root: run `make test`, which asks sudo")


def open_descriptors() -> dict[int, str]:
    """Return what each descriptor of this process is open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (no Path: its own descriptor would count)
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every test closes what it opens."""
    before = open_descriptors()
    yield
    if _left(before):
        gc.collect()  # a cycle that was dropped may still hold one

    assert _left(before) == {}


def _left(before: dict[int, str]) -> dict[int, str]:
    return {fd: what for fd, what in open_descriptors().items() if fd not in before}


@pytest.fixture(autouse=True)
def no_unloaded_directories(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove what an unload left of a set for pins of others: the next test looks at all sets.

    Only where the bpffs is one of this process's own.
    """
    yield
    root = Path("/sys/fs/bpf")
    if os.geteuid() or not _needs_root(request.node):
        return
    for directory in root.iterdir():
        if directory.is_dir() and stat.S_IMODE(directory.stat().st_mode) == UNLOADED_MODE:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A fresh bpffs of the test's own."""
    root = tmp_path / "bpf"
    root.mkdir()
    isolation.mount("bpf", root)
    yield root
    isolation.umount(root)


@pytest.fixture
def only_caller() -> Iterator[None]:
    """Wait until no other test makes the system calls that this one counts.

    Programs at tracepoints see the calls of all processes, so those of tests in parallel, too.
    """
    with (Path(tempfile.gettempdir()) / "bpfpin-tests-counted-calls").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def tcx() -> None:
    """Skip the test where the kernel has no tcx."""
    from support.kernel_needs import need_tcx  # noqa: PLC0415  (unit tests need no kernel)

    need_tcx()


@pytest.fixture
def lab() -> Iterator[TestLab]:
    """A namespace and a veth pair of the test's own; its device is in this namespace."""
    from support.lab import new_lab  # noqa: PLC0415  (unit tests need no lab)

    with new_lab() as made:
        yield made
