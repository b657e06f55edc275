"""`bpfpin prog show`: all facts about one program."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.output import Output
from bpfpin.cli.prog.listing import age, to_json
from bpfpin.host.named import type_word
from bpfpin.host.program_details import ProgramDetails, show_program


@bpfpin_command("show")
@click.argument("program", metavar="PROG")
def command(context: Context, *, program: str) -> None:
    """Show what the kernel reports about PROG: a path, SET/PROGRAM, id:N or name:NAME.

    Sizes and memory are in bytes. The users of the program are the places that run it, program
    arrays, pins, and processes that have it or one of its links open.
    """
    details = show_program(program, pin_root=context.pin_root)
    context.out.show(Report(_document(details), lambda out: _write(out, details)))


def _write(out: Output, details: ProgramDetails) -> None:
    for name, text in _facts(details):
        out.text(f"{name:<12} {text}")


def _document(details: ProgramDetails) -> dict[str, object]:
    info = details.row.info
    return {
        **to_json(details.row),
        "full_name": details.full_name,
        "user": details.user or None,
        "gpl_compatible": info.is_gpl_compatible,
        "verified_instructions": info.verified_instructions,
        "xlated_bytes": info.xlated_size,
        "jited_bytes": info.jited_size,
        "recursion_misses": info.recursion_misses,
        "btf_id": info.btf_id or None,
        "has_lines": details.has_lines,
        "target": details.target or None,
        "maps": [
            {"id": bpf_map.id, "name": bpf_map.name, "type": type_word(bpf_map.type)}
            for bpf_map in details.maps
        ],
        "program_arrays": list(details.arrays),
        "functions": [
            {
                "name": function.name,
                "first_instruction": function.code.first,
                "jited_bytes": function.code.jited_size,
                "tag": function.code.tag,
            }
            for function in details.functions
        ],
        "notes": list(details.notes),
    }


def _facts(details: ProgramDetails) -> Iterator[tuple[str, object]]:
    row, info = details.row, details.row.info
    yield "id", info.id
    yield "name", details.full_name or "-"
    yield "type", row.type_name
    if details.target:
        yield "target", details.target
    yield "tag", info.tag
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(row.loaded_at))
    user = f"{details.user} (uid {info.uid})" if details.user else f"uid {info.uid}"
    yield "loaded", f"{when}, {age(row.age_s)} ago, by {user}"
    yield "verified", f"{info.verified_instructions} instructions processed by the verifier"
    jited = f"{info.jited_size} bytes" if info.jited_size else "no, it is interpreted"
    yield "xlated", f"{info.xlated_size} bytes, {info.xlated_size // 8} instructions"
    yield "jited", jited
    yield "memory", f"{row.memory_bytes} bytes"
    lines = "with lines of C" if details.has_lines else "without lines of C"
    yield "btf", f"id {info.btf_id}, {lines}" if info.btf_id else "-"
    yield "license", "GPL-compatible" if info.is_gpl_compatible else "not GPL-compatible"
    if info.run_count:
        average = f"{row.average_ns or 0:.0f} ns each"
        yield "runs", f"{info.run_count} while statistics were on, {average}"
    yield from _functions(details)
    for bpf_map in details.maps:
        yield "map", f"{bpf_map.id} {bpf_map.name} ({type_word(bpf_map.type)})"
    yield from _users(details)
    for note in details.notes:
        yield "note", note


def _functions(details: ProgramDetails) -> Iterator[tuple[str, object]]:
    # The only function is the program itself, which has been described.
    if len(details.functions) > 1:
        for function in details.functions:
            size = f", {function.code.jited_size} bytes of machine code"
            yield (
                "function",
                f"{function.name or '-'} at instruction {function.code.first}"
                + (size if function.code.jited_size else ""),
            )


def _users(details: ProgramDetails) -> Iterator[tuple[str, object]]:
    row = details.row
    for attachment in row.attachments:
        link = f" (link {attachment.link})" if attachment.link else ", without a link"
        yield "attached", f"{attachment}{link}"
    for map_id in details.arrays:
        yield "user", f"program array {map_id}, for tail calls"
    # A line each: names in bpffs may have spaces in them.
    for path in row.pins:
        yield "pin", path
    for path in row.link_pins:
        yield "link pin", path
    for name in row.sets:
        yield "set", name
    for process in row.processes or ():
        yield "user", f"process {process.pid} ({process.name})"
