"""`bpfpin prog`: the table of its verbs."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "prog",
    # Places, not commands: the modules of the other verbs are not imported.
    {
        "list": Verb("bpfpin.cli.prog.listing", "List all programs, where they run, their pins."),
        "show": Verb("bpfpin.cli.prog.show", "Show one program: figures, functions, maps, users."),
        "dump": Verb("bpfpin.cli.prog.dump", "Print the instructions or machine code of one."),
        "run": Verb("bpfpin.cli.prog.run", "Run one on test packets, and show its answer."),
        "stats": Verb("bpfpin.cli.prog.stats", "Show how often programs run, and how long."),
        "top": Verb("bpfpin.cli.prog.top", "Show what takes the most time, in a live table."),
        "log": Verb("bpfpin.cli.prog.log", "Print what programs write."),
    },
    help=("Look at, run and measure any program, named by a path, SET/PROGRAM, id:N or name:NAME."),
)
