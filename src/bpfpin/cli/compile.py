"""`bpfpin compile`: C to a BPF object."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.apps.compile import compile_source
from bpfpin.cli.context import Context, bpfpin_command

FILE = click.Path(path_type=Path)


@bpfpin_command("compile")
@click.argument("source", metavar="SRC", type=FILE)
@click.argument("object_path", metavar="[OBJ]", required=False, type=FILE)
@click.option("-I", "--include", metavar="DIR", type=FILE, multiple=True, help="Headers of yours.")
@click.option("-D", "--define", metavar="NAME[=VALUE]", multiple=True, help="Define a macro.")
@click.option(
    "--cpu",
    type=click.Choice(["v1", "v2", "v3", "v4"]),
    default="v3",
    show_default=True,
    help="The BPF instruction set; v4 needs Linux 6.6 and clang 18.",
)
@click.option("--compiler", metavar="CLANG", help="A clang by name or path, or ziglang.")
def command(
    context: Context,
    *,
    source: Path,
    object_path: Path | None,
    include: tuple[Path, ...],
    define: tuple[str, ...],
    cpu: str,
    compiler: str | None,
) -> None:
    """Compile the C file SRC to the BPF object OBJ, by default beside it (x.bpf.c: x.bpf.o).

    <bpf/bpf_helpers.h> and <bpf/bpf_endian.h> come with bpfpin. The compiler is the installed
    clang, or else the one of `pip install 'bpfpin[compile]'`.
    """
    result = compile_source(
        source, object_path, include=include, defines=define, cpu=cpu, compiler=compiler
    )
    if result.warnings:
        context.out.say(result.warnings.rstrip())
    if context.out.is_json:
        context.out.document(
            {
                "object": result.object_path,
                "compiler": result.compiler,
                "warnings": result.warnings,
            }
        )
        return
    made = result.object_path
    context.out.say(f"compiled {made} with {result.compiler}; next: bpfpin check {made}")
