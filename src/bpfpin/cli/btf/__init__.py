"""`bpfpin btf`: the table of its verbs."""

from __future__ import annotations

from bpfpin.cli.group import Group, Verb

command = Group(
    "btf",
    {"dump": Verb("bpfpin.cli.btf.dump", "Print types as a C header, such as vmlinux.h.")},
    help="Show the types (BTF) of the kernel, its modules, object files and maps.",
)
