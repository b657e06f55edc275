"""Write the table of docs/hooks.md: what can be done at each hook, by the rows of the registry.

The table says which sections go to a hook, which function of the library attaches there, what holds
a program, what a reload does, and which tests show it. All but the tests is read from the registry.
With --check, the script compares the result with the committed page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import bpfpin
from bpfpin.hooks import HeldBy, Hook, TargetKind
from bpfpin.objfile.elf.section import ROWS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hooks.md"
MOST_NAMES: Final = 6  # of hooks in a row; of more the first two stand for all

BEGIN: Final = "<!-- Written by scripts/gen_hooks.py: make generate -->"
END: Final = "<!-- The end of what it writes -->"


class Tests(NamedTuple):
    """The tests of the hooks of one file of `attach/`; *file* if they are all in one."""

    file: str
    names: tuple[str, ...]

    def cell(self) -> str:
        """Return the names of the tests, with their file."""
        return f"`{self.file}`: {', '.join(f'`{name}`' for name in self.names)}"


_NETWORK = "tests/lab/test_load_network.py"
_TRACING = "tests/lab/test_load_tracing.py"
_FUNCTIONS = "tests/guests/test_kernel_functions.py"
_FUNCTION = Tests(_FUNCTIONS, ("test_a_program_counts_each_call_over_a_reload",))
# By the hook's word where the tests of its file are others, else by the file of its code.
TESTS: Final[dict[str, Tests]] = {
    "xdp": Tests(
        "tests/lab/test_reload.py", ("test_another_object_goes_on_where_the_first_one_counted",)
    ),
    "tcx": Tests(
        "tests/lab/test_load_tc.py", ("test_a_program_counts_at_each_hook_through_a_reload",)
    ),
    "clsact": Tests(
        "tests/lab/test_load_tc.py", ("test_a_program_counts_at_each_hook_through_a_reload",)
    ),
    "netkit": Tests(
        "tests/guests/test_netkit.py", ("test_the_command_loads_reloads_shows_and_unloads",)
    ),
    "cgroup": Tests(
        "tests/lab/test_load_cgroup.py", ("test_both_directions_count_through_a_reload",)
    ),
    "lsm-cgroup": Tests(
        _FUNCTIONS, ("test_a_program_of_a_cgroup_runs_for_its_processes_and_is_updated_in_place",)
    ),
    "network_namespace": Tests(_TRACING, ("test_programs_go_where_their_sections_say",)),
    "netfilter": Tests(_NETWORK, ("test_netfilter_counts_through_a_reload_and_leaves_nothing",)),
    "sockmap": Tests(
        _NETWORK, ("test_a_map_of_sockets_runs_the_program_of_a_reload_for_the_sockets_in_it",)
    ),
    "lwt": Tests(
        _NETWORK, ("test_a_route_runs_its_programs_through_reloads_and_is_as_before_after_unload",)
    ),
    "tracepoints": Tests(
        _TRACING, ("test_a_reload_replaces_the_program_of_a_stub_and_keeps_its_link",)
    ),
    "raw_tracepoints": Tests(
        _TRACING, ("test_a_reload_replaces_the_program_of_a_stub_and_keeps_its_link",)
    ),
    "uprobes": Tests(
        "tests/lab/test_load_uprobes.py", ("test_calls_and_returns_are_counted_over_a_reload",)
    ),
    "uprobe_multi": Tests(
        "tests/lab/test_load_uprobes.py",
        ("test_one_link_has_many_functions_and_keeps_them_over_a_reload",),
    ),
    "struct_ops": Tests(
        "tests/lab/test_load_struct_ops.py",
        ("test_a_table_is_registered_replaced_shown_and_unloaded",),
    ),
    "usdt": Tests(
        "tests/lab/test_load_usdt.py", ("test_all_places_of_a_probe_count_once_over_a_reload",)
    ),
    "perf_events": Tests(
        "tests/lab/test_load_perf_events.py",
        ("test_events_of_one_process_are_counted_over_a_reload",),
    ),
    "iterators": Tests(
        "tests/lab/test_iterators.py",
        ("test_a_set_is_read_reloaded_in_place_recovered_and_unloaded",),
    ),
    "kprobe": _FUNCTION,
    "kprobe_multi": _FUNCTION,
    "trace": _FUNCTION,
    "freplace": Tests(_FUNCTIONS, ("test_an_extension_replaces_a_function_of_a_program",)),
}
COLUMNS: Final = (
    "hook",
    "target",
    "load: sections",
    "attach",
    "held by, pin",
    "reload without a gap",
    "recovery",
    "status and graph",
    "tested",
)
_HELD: Final = {
    HeldBy.LINK: "a link",
    HeldBy.FILTER: "a filter of classic tc, without a pin",
    HeldBy.ROUTE: "the route, without a pin",
    HeldBy.MAP: "the map, without a pin",
    HeldBy.NETLINK: "the device, without a pin",
}


def tests_of(hook: Hook) -> Tests:
    """Return the tests of a hook; `KeyError` for one that no test is named for."""
    return TESTS.get(hook.value) or TESTS[hook.traits.code]


def sections_of(hook: Hook) -> list[str]:
    """Return the sections that go to a hook without an option, as libbpf writes them."""
    return [
        f"{name}/…" if row.takes_rest else name
        for name, row in ROWS.items()
        if row.kind.hook is hook
    ]


def load_cell(hooks: list[Hook]) -> str:
    """Return the sections of a row of the table, or what names the hook instead."""
    sections = [name for hook in hooks for name in sections_of(hook)]
    if not sections:
        example = hooks[0].traits.example
        return f"none: `--prog NAME:{hooks[0].value}{'=TARGET' if example else ''}`"
    needs_target = hooks[0].traits.target.is_named and not any(
        name.endswith("/…") for name in sections
    )
    return some(sections) + (" and a target" if needs_target else "")


def attach_cell(hook: Hook) -> str:
    """Return the public functions that attach at a hook."""
    names = vars(bpfpin)["_HOMES"][f"attach.{hook.traits.code}"].split()
    functions = [name for name in names if name.startswith("attach_")]
    # Several hooks share a file: `kretprobe` is attached by `attach_kprobe`.
    own = f"attach_{hook.value.replace('kret', 'k').replace('-', '_')}"
    functions = [own] if own in functions else functions
    return ", ".join(f"`{name}()`" for name in functions)


def held_cell(hooks: list[Hook]) -> str:
    """Return what holds a program there, since which Linux, and its pin."""
    since = sorted({hook.traits.since for hook in hooks}, key=_version)
    versions = since[0] if len(since) == 1 else f"{since[0]} to {since[-1]}"
    return f"{_HELD[hooks[0].traits.held_by]} (Linux {versions})"


def reload_cell(hook: Hook) -> str:
    """Return how a reload changes the program."""
    traits = hook.traits
    if not traits.held_by.has_link:
        return "yes: replaced where it is"
    if traits.updates_in_place:
        return "yes: in place"
    return "yes: by a stub" if traits.needs_stub else "no: refused with what to type"


def status_cell(hook: Hook) -> str:
    """Return how `status` names the place, and what the graph has of it."""
    kind = hook.traits.target
    node = kind in (TargetKind.DEVICE, TargetKind.CGROUP)
    shown = f"{kind.value} {kind.placeholder or 'NAME'}" if kind.is_named or node else kind.value
    return f"`{shown}`; {'the node of it' if node else 'the program'}"


def some(names: Iterable[str]) -> str:
    """Return names of a row; of many the first two."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in (names if len(names) <= MOST_NAMES else names[:2]))
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - 2} more"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def rows() -> list[tuple[str, ...]]:
    """Return the rows of the table; hooks that differ in their names alone share one."""
    groups: dict[tuple[str, ...], list[Hook]] = {}
    for hook in Hook:
        recovery = (
            "the pin of its link" if hook.traits.held_by.has_link else "the manifest of the set"
        )
        same = (
            hook.traits.code,
            hook.traits.target.value,
            attach_cell(hook),
            reload_cell(hook),
            recovery,
            status_cell(hook),
            tests_of(hook).cell(),
        )
        groups.setdefault(same, []).append(hook)
    return [
        (
            some(hook.value for hook in hooks),
            target,
            load_cell(hooks),
            attach,
            held_cell(hooks),
            change,
            recovery,
            status,
            tested,
        )
        for (_, target, attach, change, recovery, status, tested), hooks in groups.items()
    ]


def table() -> str:
    """Return the table."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def generate(page: str) -> str:
    """Return *page* with the table as the registry gives it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin
    assert end
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> int:
    """Write the table, or with --check compare it."""
    page = PAGE.read_text()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(generate(page))
        return 0
    if page != generate(page):
        print(f"{PAGE.name} is not what the registry gives", file=sys.stderr)
        print("run: python scripts/gen_hooks.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
