"""`bpfpin lab`: the throw-away test environment."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

VERBS = {
    "up": Verb("bpfpin.cli.lab_up", "Make a lab."),
    "down": Verb("bpfpin.cli.lab_down", "Delete a lab."),
    "list": Verb("bpfpin.cli.lab_list", "List the labs that are up."),
    "exec": Verb("bpfpin.cli.lab_exec", "Run a command in a lab's namespace."),
}

command = Group(
    "lab",
    VERBS,
    help="A namespace, a pair of devices into it and addresses: a place to try programs on.",
)
