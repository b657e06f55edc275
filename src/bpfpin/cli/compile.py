"""`bpfpin compile`: compile C to a BPF object."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.apps.compile import ARCHITECTURES, compile_source
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.hints import shell_line

FILE = click.Path(path_type=Path)


@bpfpin_command("compile")
@click.argument("source", metavar="SRC", type=FILE)
@click.argument("object_path", metavar="[OBJ]", required=False, type=FILE)
@click.option(
    "-I",
    "--include",
    metavar="DIR",
    type=FILE,
    multiple=True,
    help="Directory of header files; repeatable.",
)
@click.option(
    "-D", "--define", metavar="NAME[=VALUE]", multiple=True, help="Define a macro; repeatable."
)
@click.option(
    "--cpu",
    type=click.Choice(["v1", "v2", "v3", "v4"]),
    # v3 has 32-bit jumps, which are understood from Linux 5.1 on (Linux commit 092ed0968bb6
    # ("bpf: verifier support JMP32") (v5.1)).
    default="v3",
    show_default=True,
    help="BPF instruction set; v4 needs Linux 6.6 and clang 18.",
)
@click.option(
    "--vmlinux",
    is_flag=True,
    help="Offer the types of the running kernel as <vmlinux.h>; bpfpin btf dump prints them.",
)
@click.option(
    "--arch",
    type=click.Choice(sorted(ARCHITECTURES.values())),
    help="Machine whose registers <bpf/bpf_tracing.h> reads, by default this one.",
)
@click.option("--compiler", metavar="CLANG", help="clang by name or path, or ziglang.")
def command(
    context: Context,
    *,
    source: Path,
    object_path: Path | None,
    include: tuple[Path, ...],
    define: tuple[str, ...],
    cpu: str,
    vmlinux: bool,
    arch: str | None,
    compiler: str | None,
) -> None:
    """Compile the C file SRC to the BPF object OBJ, by default next to it (x.bpf.c: x.bpf.o).

    <bpf/bpf_helpers.h> and <bpf/bpf_endian.h> come with bpfpin. The compiler is the installed
    clang, or else the one of `pip install 'bpfpin[compile]'`.
    """
    result = compile_source(
        source,
        object_path,
        include=include,
        defines=define,
        cpu=cpu,
        compiler=compiler,
        vmlinux=vmlinux,
        arch=arch,
    )
    # Warnings of the compiler are for people; in JSON they are a member of the document.
    if result.warnings:
        context.out.say(result.warnings.rstrip())
    path, clang = result.object_path, result.compiler
    done = f"compiled {path} with {clang}; next: {shell_line('bpfpin check', path)}"
    data = {"object": path, "compiler": clang, "warnings": result.warnings}
    context.out.show(Report(data, lambda out: out.say(done)))
