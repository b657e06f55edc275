"""`bpfpin map`: any map on the host."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "map",
    {
        "list": Verb("bpfpin.cli.map.listing", "All maps, their pins and who uses them."),
        "show": Verb("bpfpin.cli.map.show", "One map: types, sizes, flags, users."),
        "get": Verb("bpfpin.cli.map.get", "The value under one key."),
        "set": Verb("bpfpin.cli.map.set", "Write the value under one key."),
        "delete": Verb("bpfpin.cli.map.delete", "Delete entries."),
        "pin": Verb("bpfpin.cli.map.pin", "Give a map one more name in bpffs."),
        "unpin": Verb("bpfpin.cli.map.unpin", "Take a name of a map from bpffs."),
        "save": Verb("bpfpin.cli.map.save", "Write all entries into a file."),
        "restore": Verb("bpfpin.cli.map.restore", "Write the entries of such a file into a map."),
        "dump": Verb("bpfpin.cli.map.dump", "All entries, or those that meet conditions."),
        "watch": Verb("bpfpin.cli.map.watch", "Entries that come, change and go."),
        "events": Verb("bpfpin.cli.map.events", "The events that programs send, as they come."),
        "push": Verb("bpfpin.cli.map.push", "One more value in a queue, stack or the like."),
        "pop": Verb("bpfpin.cli.map.pop", "The next values of a queue or a stack."),
    },
    help="Read and change any map: named by path, id:N or name:NAME, typed by its BTF.",
)
