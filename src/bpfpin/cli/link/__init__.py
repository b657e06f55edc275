"""`bpfpin link`: the table of its verbs."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "link",
    {
        "list": Verb("bpfpin.cli.link.verbs:list_command", "List all links: program, place, pins."),
        "show": Verb("bpfpin.cli.link.verbs:show_command", "Show one link, and what holds it."),
        "read": Verb("bpfpin.cli.link.read:command", "Run an iterator and print what it writes."),
        "detach": Verb("bpfpin.cli.link.verbs:detach_command", "Detach the program of a link."),
    },
    help="Look at, read and detach any link, named by a path, SET/HOOK or id:N.",
)
