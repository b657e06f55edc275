"""`bpfpin map`: any map on the host."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "map",
    {
        "list": Verb("bpfpin.cli.map.listing", "All maps, their pins and who uses them."),
        "show": Verb("bpfpin.cli.map.show", "One map: types, sizes, flags, users."),
        "get": Verb("bpfpin.cli.map.entry:get_command", "The value under one key."),
        "set": Verb("bpfpin.cli.map.entry:set_command", "Write the value under one key."),
        "delete": Verb("bpfpin.cli.map.entry:delete_command", "Delete entries."),
        "pin": Verb("bpfpin.cli.map.pin:pin_command", "Give a map one more name in bpffs."),
        "unpin": Verb("bpfpin.cli.map.pin:unpin_command", "Take a name of a map from bpffs."),
        "save": Verb("bpfpin.cli.map.save:save_command", "Write all entries into a file."),
        "restore": Verb(
            "bpfpin.cli.map.save:restore_command", "Write the entries of such a file into a map."
        ),
        "dump": Verb("bpfpin.cli.map.dump", "All entries, or those that meet conditions."),
        "watch": Verb("bpfpin.cli.map.watch", "Entries that come, change and go."),
        "events": Verb("bpfpin.cli.map.events", "The events that programs send, as they come."),
        "push": Verb(
            "bpfpin.cli.map.push:push_command", "One more value in a queue, stack or the like."
        ),
        "pop": Verb("bpfpin.cli.map.push:pop_command", "The next values of a queue or a stack."),
    },
    help="Read and change any map: named by path, id:N or name:NAME, typed by its BTF.",
)
