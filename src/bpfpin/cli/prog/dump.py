"""`bpfpin prog dump`: the instructions or the machine code of a program."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.output import Output
from bpfpin.host.named import type_word
from bpfpin.host.program_dump import DumpedInstruction, ProgramDump, dump_jited, dump_xlated

FORMS = {"xlated": dump_xlated, "jited": dump_jited}


@bpfpin_command("dump")
@click.argument("form", metavar="xlated|jited", type=click.Choice(list(FORMS)))
@click.argument("program", metavar="PROG")
@click.option("--no-lines", is_flag=True, help="Leave out the lines of C.")
def command(context: Context, *, form: str, program: str, no_lines: bool) -> None:
    """Print the code of PROG: a path, SET/PROGRAM, id:N or name:NAME.

    xlated: its instructions as the verifier left them, with the names of maps, helpers and
    functions. jited: its machine code, disassembled by llvm-objdump or objdump. Lines of C begin
    with a semicolon. Needs CAP_SYSLOG or kernel.kptr_restrict=0.
    """
    dump = FORMS[form](program, pin_root=context.pin_root)
    for note in dump.notes:
        context.out.say(f"note: {note}")
    is_hexadecimal = form == "jited"
    context.out.show(
        Report(
            lambda: _document(form, dump),
            lambda out: _write(out, dump, has_lines=not no_lines, is_hexadecimal=is_hexadecimal),
        )
    )


def _document(form: str, dump: ProgramDump) -> dict[str, object]:
    info = dump.info
    program = {"id": info.id, "name": info.name, "type": type_word(info.type), "tag": info.tag}
    return {
        "form": form,
        "program": program,
        "instructions": [_to_json(instruction) for instruction in dump.instructions],
    }


def _to_json(instruction: DumpedInstruction) -> dict[str, object]:
    """Return an instruction; members that it does not have are left out."""
    members: dict[str, object] = {"at": instruction.at, "text": instruction.text}
    if instruction.code:
        members["code"] = instruction.code.hex()
    if instruction.function is not None:
        members["function"] = instruction.function
    if instruction.map_id:
        members["map_id"] = instruction.map_id
    if instruction.calls:
        members["calls"] = instruction.calls
    if line := instruction.line:
        members["line"] = {"file": line.file, "number": line.line, "text": line.text}
    return members


def _write(out: Output, dump: ProgramDump, *, has_lines: bool, is_hexadecimal: bool) -> None:
    lines: list[str] = []
    width = len(f"{max((entry.at for entry in dump.instructions), default=0)}")
    for entry in dump.instructions:
        if entry.function is not None:
            lines += [*([""] if lines else []), f"{entry.function or '(no name)'}:"]
        if has_lines and entry.line:
            place = f"{entry.line.file}:{entry.line.line}"
            lines.append(f"; {entry.line.text}  [{place}]")
        at = f"{entry.at:x}" if is_hexadecimal else f"{entry.at:{max(width, 4)}}"
        lines.append(f"{at}: {entry.text}")
    if lines:
        out.text("\n".join(lines))
