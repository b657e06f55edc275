"""Run tests of this checkout in other kernels under qemu, and write docs/kernels.md.

Usage: run_guests.py [--level smoke|full] [--jobs N] [--folder DIR] [--write] [KERNEL...]
       run_guests.py --run 'WORDS' [KERNEL...]

`--run` runs another command of pytest instead, such as `tests/kernel/test_map.py -x`, and shows its
output.

Needs root: the guests see the root file system of this machine. Exits with 1 if a test failed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from guests import levels, report
from guests.image import unpacked
from guests.kernels import AMD64, KERNELS, Kernel
from guests.machine import Guest, run
from guests.roots import CHECKOUT, Root, root_for

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mksquashfs": "squashfs-tools",
    "cpio": "cpio",
    "depmod": "kmod",
    "zstd": "zstd",
    "xz": "xz-utils",
}
ARM64_TOOLS = {"qemu-system-aarch64": "qemu-system-arm"}
TABLE = CHECKOUT / "docs" / "kernels.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the level in each kernel, and return the exit code."""
    options = _arguments(argv)
    kernels = [KERNELS[name] for name in options.kernels]
    _check(kernels)
    folder = options.folder.resolve()
    roots = {each: root_for(each, folder) for each in sorted({it.architecture for it in kernels})}
    if options.run:
        return max(
            run_words(kernel, roots[kernel.architecture], shlex.split(options.run), folder)
            for kernel in kernels
        )
    with ThreadPoolExecutor(max_workers=options.jobs) as threads:
        runs = [
            threads.submit(run_level, kernel, roots[kernel.architecture], options.level, folder)
            for kernel in kernels
        ]
        results = [each.result() for each in runs]
    if options.write:
        report.write(TABLE, report.kept().values())
    return 0 if all(result.is_good for result in results) else 1


def run_level(kernel: Kernel, root: Root, level: str, folder: Path) -> report.KernelRun:
    """Boot a kernel, run the tests of the level in it, and keep what they said."""
    start = time.monotonic()
    boot = unpacked(kernel, folder)
    guest = Guest(boot, root.path, root.copies)
    words = levels.command(kernel, level, root.python)
    result = run(guest, words, CHECKOUT, folder / "out" / f"{kernel.name}-{level}")
    made = report.read(kernel, boot.release, level, result)
    made = replace(made, host_seconds=round(time.monotonic() - start))
    report.keep(made)
    print(made.line(), flush=True)
    return made


def run_words(kernel: Kernel, root: Root, words: Sequence[str], folder: Path) -> int:
    """Run pytest with *words* in a kernel, show what it wrote, and return its exit code."""
    guest = Guest(unpacked(kernel, folder), root.path, root.copies)
    result = run(guest, levels.pytest(kernel, root.python, words), CHECKOUT, folder / "out" / "run")
    output = result.folder / "output"
    print(output.read_text(errors="replace") if output.exists() else "")
    return result.exit


def _check(kernels: Sequence[Kernel]) -> None:
    if os.geteuid():
        raise SystemExit("guests see the files of this machine: run this as root")
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
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(CHECKOUT)}")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.kernels if name not in KERNELS]:
        parser.error(f"no kernel {', '.join(unknown)}; there are: {', '.join(KERNELS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
