"""`bpfpin map`: any map on the host."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "map",
    {
        "list": Verb("bpfpin.cli.map.listing", "All maps and where they are pinned."),
        "show": Verb("bpfpin.cli.map.show", "One map: types, sizes, flags, pins."),
        "get": Verb("bpfpin.cli.map.get", "The value under one key."),
        "set": Verb("bpfpin.cli.map.set", "Write the value under one key."),
        "dump": Verb("bpfpin.cli.map.dump", "All entries."),
    },
    help="Read and change any map: named by path, id:N or name:NAME, typed by its BTF.",
)
