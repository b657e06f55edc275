"""`bpfpin btf dump`: types as a C header."""

from __future__ import annotations

import click

from bpfpin.apps.c_types import types_in_c
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report


@bpfpin_command("dump")
@click.argument("source", metavar="[SOURCE]", default="vmlinux")
def command(context: Context, *, source: str) -> None:
    """Print the types of SOURCE as C, by default those of the running kernel.

    SOURCE is a loaded kernel module, an object file, a file of raw BTF, or a map: its path, id:N or
    name:NAME. The header of a module has what it needs of the kernel's types, that of a map the
    types of its keys and values. Structures have the size and the offsets that the BTF says.
    """
    types = types_in_c(source, pin_root=context.pin_root)
    data = {"source": types.source, "c": types.text}
    context.out.show(Report(data, lambda out: out.piece(types.text)))
