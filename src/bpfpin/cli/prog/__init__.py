"""`bpfpin prog`: the table of its verbs."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "prog",
    # Places, not commands: the modules of the other verbs are not imported.
    {
        "list": Verb("bpfpin.cli.prog.listing", "List all programs, where they run, their pins."),
        "show": Verb("bpfpin.cli.prog.show", "Show one program: figures, functions, maps, users."),
    },
    help=("Look at and run any program, named by a path, SET/PROGRAM, id:N or name:NAME."),
)
