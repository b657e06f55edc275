"""Run tests of this checkout in other kernels under qemu, and write docs/kernels.md.

Usage: run_guests.py [--level smoke|full] [--resume] [--jobs N] [--folder DIR] [--write] [--update]
                     [KERNEL...]
       run_guests.py --run 'WORDS' [KERNEL...]

The level `full` boots each kernel several times. `--resume` runs those boots again that have no
result of this commit yet, after a run that was interrupted.

`--run` runs another command of pytest instead, such as `tests/kernel/test_map.py -x`, and shows its
output.

Needs root: the guests see the root file system of this machine. Exits with 1 if a test failed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from guests import levels, machine, report
from guests.image import Boot, unpacked
from guests.kernels import AMD64, KERNELS, Kernel
from guests.machine import Guest, Result, run
from guests.packages import output_of
from guests.report import KernelRun
from guests.roots import CHECKOUT, Root, compile_tests, root_for

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mksquashfs": "squashfs-tools",
    "cpio": "cpio",
    "depmod": "kmod",
    "setpriv": "util-linux",
    "zstd": "zstd",
    "xz": "xz-utils",
}
ARM64_TOOLS = {"qemu-system-aarch64": "qemu-system-arm"}
RESULT = "result.json"  # how a boot ended, and what it was of
TABLE = CHECKOUT / "docs" / "kernels.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the level in each kernel, and return the exit code."""
    options = _arguments(argv)
    kernels = [KERNELS[name] for name in dict.fromkeys(options.kernels)]
    _check(kernels)
    signal.signal(signal.SIGTERM, _terminated)
    folder = options.folder.resolve()
    try:
        with _only_run_in(folder):
            return _run(kernels, folder, options)
    except KeyboardInterrupt:
        print("interrupted; no guest is left", file=sys.stderr)
        return 130


def _run(kernels: Sequence[Kernel], folder: Path, options: argparse.Namespace) -> int:
    # One after the other: two kernels may be of the same suite, whose lists they share.
    boots = [unpacked(kernel, folder, is_updated=options.update) for kernel in kernels]
    compile_tests()
    roots = {
        architecture: root_for(architecture, folder)
        for architecture in sorted({kernel.architecture for kernel in kernels})
    }
    if options.run:
        words = shlex.split(options.run)
        return max(
            run_words(boot, roots[boot.kernel.architecture], words, folder) for boot in boots
        )
    results = []
    with ThreadPoolExecutor(max_workers=options.jobs) as threads:
        runs = [
            threads.submit(run_level, boot, roots[boot.kernel.architecture], folder, options)
            for boot in boots
        ]
        try:
            for ended in as_completed(runs):
                results.append(ended.result())
                print(results[-1].line(), flush=True)
                if options.write:
                    report.keep(results[-1])
        except BaseException:
            # Leaving the pool waits for its threads.
            machine.stop()
            threads.shutdown(cancel_futures=True)
            raise
    if options.write:
        report.write(TABLE, report.kept().values())
    return 0 if all(result.is_good for result in results) else 1


def run_level(boot: Boot, root: Root, folder: Path, options: argparse.Namespace) -> KernelRun:
    """Boot a kernel, run the tests of the level in it, and return what they said."""
    start = time.monotonic()
    kernel, level = boot.kernel, options.level
    guest = Guest(boot, root.path, root.copies)
    results = []
    for number, tests in enumerate(levels.boots(kernel, level, CHECKOUT), start=1):
        words = levels.command(kernel, level, root.python, tests)
        out = folder / "out" / f"{kernel.name}-{level}-{number}"
        run_of = {"commit": _commit(), "release": boot.release, "words": words}
        result = _resumed(out, run_of) if options.resume else None
        if result is None:
            result = run(guest, words, CHECKOUT, out)
            ended = {"exit": result.exit, "seconds": result.seconds, "cpu": result.cpu_seconds}
            (out / RESULT).write_text(json.dumps(run_of | ended))
        results.append(result)
    made = report.read(kernel, boot.release, level, results)
    return replace(made, host_seconds=round(time.monotonic() - start))


def _resumed(out: Path, run_of: Mapping[str, Any]) -> Result | None:
    """Return how a boot ended in an earlier run, if that was of this commit."""
    if not run_of["commit"] or not (out / RESULT).exists():
        return None
    kept = json.loads((out / RESULT).read_text())
    if any(kept[name] != value for name, value in run_of.items()):
        return None
    return Result(kept["exit"], kept["seconds"], out, kept["cpu"])


def _commit() -> str:
    """Return the commit of the checkout; empty if a file differs from it."""
    git = ["git", "-C", str(CHECKOUT)]
    is_changed = output_of([*git, "status", "--porcelain"])
    return "" if is_changed else output_of([*git, "rev-parse", "HEAD"]).strip()


def run_words(boot: Boot, root: Root, words: Sequence[str], folder: Path) -> int:
    """Run pytest with *words* in a kernel, show what it wrote, and return its exit code."""
    guest = Guest(boot, root.path, root.copies)
    command = levels.pytest(boot.kernel, root.python, words)
    result = run(guest, command, CHECKOUT, folder / "out" / "run")
    output = result.folder / "output"
    print(output.read_text(errors="replace") if output.exists() else "")
    return result.exit


@contextmanager
def _only_run_in(folder: Path) -> Iterator[None]:
    """Hold the folder for this run: runs share its downloads, copies and results."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SystemExit(
                f"process {lock.read()} uses {folder}: wait for it, or take another --folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def _check(kernels: Sequence[Kernel]) -> None:
    if os.geteuid():
        raise SystemExit("guests see the files of this machine, so this needs root: use sudo")
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise SystemExit("guests are made of packages of Debian, so this needs a Debian machine")
    tools = dict(TOOLS)
    if any(kernel.architecture != AMD64 for kernel in kernels):
        tools |= ARM64_TOOLS
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"guests need other packages: apt install {' '.join(missing)}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kernels", nargs="*", default=["6.12", "newest"], metavar="KERNEL")
    parser.add_argument("--level", choices=levels.LEVELS, default="smoke")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="guests at a time")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "build" / "guests")
    parser.add_argument("--run", metavar="WORDS", help="words for pytest, instead of a level")
    parser.add_argument("--resume", action="store_true", help="keep boots of this commit")
    parser.add_argument("--update", action="store_true", help="ask Debian for newer kernels")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(CHECKOUT)}")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.kernels if name not in KERNELS]:
        parser.error(f"unknown kernel: {', '.join(unknown)} (known: {', '.join(KERNELS)})")
    if options.jobs < 1:
        parser.error("--jobs: give 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
