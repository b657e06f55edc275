"""Measure how the source of bpfpin reads, and print a table of figures and targets.

Usage: measure_house.py [--root DIR] [--list MEASURE] [--run] [--check]

All measures but those of `--run` read the syntax trees of a checkout and import nothing of it, so
that an older commit can be measured as well. `--run` needs root and works in namespaces of its own.
Each function that measures says in its docstring what it counts; the table's row names it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from measures import public, structure, words
from measures.row import Row
from measures.run import print_lab_rows, run_rows
from measures.source import Source

HERE = Path(__file__).parents[1]
STATIC = (
    structure.modules,
    structure.importers,
    structure.import_lines,
    structure.folder_cycles,
    structure.class_names,
    structure.map_type_facts,
    structure.hook_branches,
    words.vague_names,
    words.phrases,
    words.comment_lines,
    public.public_parameters,
    public.public_types,
)


def static_rows(root: Path) -> list[Row]:
    """Return the rows that need no root."""
    source = Source(root)
    return [each for measure in STATIC for each in measure(source)]


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table of text; sub-rows are indented."""
    head = ("measure", "today", "target", "met", "--list")
    lines = [head, *((*each.cells(), each.name) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=HERE, help="the checkout to measure")
    parser.add_argument("--list", metavar="MEASURE", help="print the places behind a row")
    parser.add_argument("--run", action="store_true", help="also what needs root and a lab")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is not met")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print the table, or the places behind one row of it; return the exit status."""
    options = arguments(argv)
    root = options.root.resolve()
    if options.inside:
        print_lab_rows(root)
        return 0
    rows = static_rows(root) + (run_rows(root) if options.run else [])
    if options.list:
        by_name = {each.name: each for each in rows}
        if options.list not in by_name:
            sys.exit(f"no measure {options.list!r}; there are: {' '.join(by_name)}")
        for file, line, text in by_name[options.list].findings:
            print(f"{file}:{line}: {text}")
    else:
        print(table(rows))
    return int(options.check and any(each.is_met is False for each in rows))


if __name__ == "__main__":
    sys.exit(main())
