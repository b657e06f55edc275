"""`bpfpin link read`: run an iterator, and print the text or the records that it writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import RECORDS, Report, value_text
from bpfpin.cli.output import Output
from bpfpin.host.links import read_link


@bpfpin_command("read", outputs=RECORDS)
@click.argument("link", metavar="LINK")
@click.option(
    "--type", "type_", metavar="TYPE", help="BTF type of a record, such as 'struct record'."
)
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="The type as a format of Python's struct module, such as QII.",
)
def command(context: Context, *, link: str, type_: str | None, form: str | None) -> None:
    """Run the iterator of LINK once, and print the text that it writes.

    LINK is a path, SET/PROG or id:N. With --type or --format the program's output is read as
    records; TYPE is a type in the BTF of the program. The pin of an iterator can also be read as a
    file: cat /sys/fs/bpf/SET/links~/iter~PROG.
    """
    with read_link(link, pin_root=context.pin_root) as iterator:
        if not (type_ or form):
            text = iterator.read()
            context.out.show(
                Report(
                    {"text": text},
                    lambda out: _write_text(out, text),
                    records=lambda: ({"line": line} for line in text.splitlines()),
                )
            )
            return
        records = iterator.records(type_, value_format=form)
        context.out.show(
            Report(
                lambda: {"records": list(records)},
                lambda out: _write_records(out, records),
                records=lambda: ({"record": record} for record in records),
            )
        )


def _write_text(out: Output, text: str) -> None:
    if text:
        out.text(text.removesuffix("\n"))
    else:
        out.say("the iterator wrote nothing")


def _write_records(out: Output, records: Iterable[Any]) -> None:
    for record in records:
        if isinstance(record, Mapping):
            out.text(" ".join(f"{name}={value_text(value)}" for name, value in record.items()))
        else:
            out.text(value_text(record))
