"""`bpfpin map`: any map on the host."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "map",
    {
        "list": Verb("bpfpin.cli.map_list", "All maps and where they are pinned."),
        "show": Verb("bpfpin.cli.map_show", "One map: types, sizes, flags, pins."),
        "get": Verb("bpfpin.cli.map_get", "The value under one key."),
        "set": Verb("bpfpin.cli.map_set", "Write the value under one key."),
        "dump": Verb("bpfpin.cli.map_dump", "All entries."),
    },
    help="Read and change any map: named by path, id:N or name:NAME, typed by its BTF.",
)
