"""Build the BPF programs that bpfpin ships: every src/bpfpin/builtin/*.bpf.c to its *.bpf.o.

The compiler is the pinned `ziglang` wheel, and builtin/COMPILER records its version. The objects do
not depend on the folder in which they are built. With --check, the script builds them in a
temporary folder and compares them with the committed files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bpfpin.apps.compile import compile_source

BUILTIN = Path(__file__).parents[1] / "src" / "bpfpin" / "builtin"


def build(destination: Path) -> None:
    """Write all objects and COMPILER to the folder *destination*."""
    compilers = set()
    for source in sorted(BUILTIN.glob("*.bpf.c")):
        target = destination / source.with_suffix(".o").name
        result = compile_source(source, target, compiler="ziglang")
        if result.warnings:
            sys.exit(f"{source.name} compiles with warnings:\n{result.warnings}")
        compilers.add(result.compiler)
    (destination / "COMPILER").write_text("\n".join(compilers) + "\n")


def differences(built: Path) -> list[str]:
    """Return the names of files that differ, including committed objects without a source."""
    committed = {path.name for path in [*BUILTIN.glob("*.bpf.o"), BUILTIN / "COMPILER"]}
    names = committed | {path.name for path in built.iterdir()}
    return sorted(name for name in names if _bytes(BUILTIN / name) != _bytes(built / name))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> int:
    """Build the objects, or with --check compare them."""
    if "--check" not in sys.argv[1:]:
        build(BUILTIN)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        stale = differences(Path(folder))
    if stale:
        print(f"not what the sources give: {', '.join(stale)}", file=sys.stderr)
        print("run: python scripts/build_builtin.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
