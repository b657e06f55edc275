"""`bpfpin map`: the table of its verbs."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "map",
    # Places, not commands: the modules of the other verbs are not imported.
    {
        "list": Verb("bpfpin.cli.map.listing", "List all maps, their pins and users."),
        "show": Verb("bpfpin.cli.map.show", "Show one map: types, sizes, flags, users."),
        "get": Verb("bpfpin.cli.map.entry:get_command", "Print the value under one key."),
        "set": Verb("bpfpin.cli.map.entry:set_command", "Write the value under one key."),
        "delete": Verb("bpfpin.cli.map.entry:delete_command", "Delete entries."),
        "pin": Verb("bpfpin.cli.map.pin:pin_command", "Pin a map at one more path."),
        "unpin": Verb("bpfpin.cli.map.pin:unpin_command", "Remove a pin of a map."),
        "save": Verb("bpfpin.cli.map.save:save_command", "Write all entries to a file."),
        "restore": Verb(
            "bpfpin.cli.map.save:restore_command", "Write the entries of such a file to a map."
        ),
        "dump": Verb("bpfpin.cli.map.dump", "Print all entries, or those that match."),
        "watch": Verb("bpfpin.cli.map.watch", "Print changes of the entries."),
        "events": Verb("bpfpin.cli.map.events", "Print the events that programs send."),
        "push": Verb(
            "bpfpin.cli.map.entry:push_command", "Push a value to a queue, a stack or the like."
        ),
        "pop": Verb(
            "bpfpin.cli.map.entry:pop_command", "Take the next values from a queue or a stack."
        ),
    },
    help="Read and change any map, named by path, id:N or name:NAME; its BTF tells the types.",
)
