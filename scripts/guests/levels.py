"""What runs in a guest, and which tests show which capability of a kernel.

A row of the table in docs/kernels.md is a capability. Its tests are the level `smoke`; the level
`full` runs all tests for the kernel and for labs as well, but for those that are the same in every
kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guests.kernels import AMD64, Kernel

FULL: Final = ("tests/guests", "tests/kernel", "tests/lab")
# Their subjects are words and forms: documents, options, JSON, values as they are written. They
# would take a third of the time of the level `full`.
SAME_EVERYWHERE: Final = frozenset(
    f"tests/lab/test_{name}.py"
    for name in (
        *("bad_input", "check_report", "cli_action", "cli_check", "cli_map", "cli_map_change"),
        *("cli_map_dump", "cli_map_events", "cli_map_list", "cli_map_pin", "cli_map_queue"),
        *("cli_map_snapshot", "cli_map_watch", "cli_verifier_log", "demo", "docs"),
        *("enumerations", "evil_names", "hints_typed", "json", "map_key_holes"),
        *("map_strict_json", "map_written_forms", "old_dialects"),
    )
)
# Unit tests of what reads objects, encodes values, makes system calls and makes instructions.
LOWER_LAYERS: Final = tuple(
    f"tests/unit/{name}"
    for name in (*("btf", "codecs", "fixup", "objfile", "syscall"), "migration", "test_insn.py")
)
_DEVICES: Final = "tests/guests/test_devices.py"
_FUNCTIONS: Final = "tests/guests/test_kernel_functions.py"
_ITERATORS: Final = "tests/lab/test_iterators.py"
_KINDS: Final = "tests/guests/test_kinds.py"
_CGROUP2: Final = "tests/guests/test_cgroup2.py"
_TRACING: Final = "tests/lab/test_load_tracing.py"
_NETWORK: Final = "tests/lab/test_load_network.py"
_REALTIME: Final = "tests/guests/test_realtime.py"
CAPABILITIES: Final = {
    "all that doctor checks": (
        "tests/guests/test_smoke.py::test_the_doctor_finds_nothing_missing",
    ),
    "the whole demo": ("tests/lab/test_demo.py::test_the_demo_tells_its_story_and_leaves_nothing",),
    "load, count, unload": ("tests/lab/test_load.py::test_load_counts_and_unload_leaves_nothing",),
    "reload under traffic": ("tests/guests/test_smoke.py::test_a_reload_loses_no_packet",),
    "migration under traffic": (
        "tests/guests/test_smoke.py::test_a_migration_loses_no_count",
        f"{_REALTIME}::test_a_migration_of_atomic_counters_loses_nothing_under_traffic",
    ),
    "XDP in native mode": (
        "tests/lab/test_xdp.py::test_auto_takes_native_mode_where_the_driver_has_it",
    ),
    "tcx": ("tests/kernel/test_tcx.py::test_updates_under_traffic_lose_no_packet",),
    "classic tc": ("tests/kernel/test_clsact.py::test_updates_under_traffic_lose_no_packet",),
    "cgroups": ("tests/lab/test_load_cgroup.py::test_both_directions_count_through_a_reload",),
    **{
        f"XDP on {kind}": (f"{_DEVICES}::test_xdp_counts_through_a_reload[{kind}]",)
        for kind in ("bond", "bridge", "vlan", "dummy", "wireguard")
    },
    "virtio-net in native mode": (f"{_DEVICES}::test_virtio_net_runs_xdp_in_native_mode",),
    "netkit": (
        "tests/guests/test_netkit.py::test_the_command_loads_reloads_shows_and_unloads",
        "tests/guests/test_netkit.py::test_the_peer_sends_to_the_primary_device_for_programs",
    ),
    "beside libxdp's dispatcher": (
        "tests/guests/test_dispatcher.py::test_programs_of_a_dispatcher_are_told_by_name_and_taken_over",
    ),
    "fentry, kprobe, LSM, freplace: loading": (
        f"{_KINDS}::test_a_program_is_loaded_for_a_function_of_the_kernel",
        f"{_KINDS}::test_a_kprobe_program_is_loaded",
        f"{_KINDS}::test_an_extension_is_loaded_for_a_function_of_a_program",
    ),
    "functions of the kernel: count through a reload": tuple(
        f"{_FUNCTIONS}::test_a_program_counts_each_call_over_a_reload[{hook}]"
        for hook in ("kprobe", "ksyscall", "kprobe-multi", "tp-btf", "fentry", "fexit", "fmod-ret")
    ),
    "sleepable programs take turns by a gate": (
        f"{_FUNCTIONS}::test_a_sleepable_program_has_a_gate_and_takes_its_turn_beside_the_old_one",
    ),
    "kprobe-session": (
        f"{_FUNCTIONS}::test_a_program_counts_each_call_over_a_reload[kprobe-session]",
    ),
    "LSM and LSM of cgroups": (
        f"{_FUNCTIONS}::test_a_program_counts_each_call_over_a_reload[lsm]",
        f"{_FUNCTIONS}::test_a_program_of_a_cgroup_runs_for_its_processes_and_is_updated_in_place",
    ),
    "freplace": (f"{_FUNCTIONS}::test_an_extension_replaces_a_function_of_a_program",),
    "tracepoints and raw tracepoints": (
        f"{_TRACING}::test_a_reload_replaces_the_program_of_a_stub_and_keeps_its_link",
        f"{_TRACING}::test_unload_detaches_and_leaves_nothing",
    ),
    "functions of user programs": (
        "tests/lab/test_load_uprobes.py::test_calls_and_returns_are_counted_over_a_reload",
    ),
    "many functions by one link, and sessions": (
        "tests/lab/test_load_uprobes.py::"
        "test_one_link_has_many_functions_and_keeps_them_over_a_reload",
        "tests/lab/test_load_uprobes.py::test_a_session_sees_entry_and_return",
    ),
    "USDT": ("tests/lab/test_load_usdt.py::test_all_places_of_a_probe_count_once_over_a_reload",),
    "perf events": (
        "tests/lab/test_load_perf_events.py::test_each_cpu_has_a_link_that_stays_over_reloads",
    ),
    "lookup of sockets": (f"{_TRACING}::test_a_lookup_is_of_the_network_namespace_that_is_named",),
    "netfilter": (f"{_NETWORK}::test_netfilter_counts_through_a_reload_and_leaves_nothing",),
    "maps of sockets": (
        f"{_NETWORK}::test_a_map_of_sockets_runs_the_program_of_a_reload_for_the_sockets_in_it",
    ),
    "routes": (
        f"{_NETWORK}::test_a_route_runs_its_programs_through_reloads_and_is_as_before_after_unload",
    ),
    "flow dissector": (
        f"{_NETWORK}::test_a_namespace_has_one_flow_dissector_which_is_named_and_taken_over",
    ),
    "struct_ops": (
        "tests/lab/test_load_struct_ops.py::test_a_table_is_registered_replaced_shown_and_unloaded",
    ),
    "iterators": (
        f"{_ITERATORS}::test_text_of_tasks_all_or_of_a_process_or_a_thread",
        f"{_ITERATORS}::test_records_of_a_map_by_name_and_by_format",
        f"{_ITERATORS}::test_a_set_is_read_reloaded_in_place_recovered_and_unloaded",
        f"{_ITERATORS}::test_an_iterator_over_a_map_of_the_set_follows_the_map",
    ),
    "all that sections of the examples name is attached": (
        "tests/kernel/test_attach_corpus.py::test_all_programs_of_the_examples_are_attached",
    ),
    "types and functions of modules": (
        f"{_KINDS}::test_a_program_is_loaded_for_a_function_of_a_module",
        f"{_KINDS}::test_a_program_is_fitted_to_a_structure_of_a_module",
        f"{_KINDS}::test_a_program_calls_functions_of_a_module",
    ),
    "exactness of migrations (PREEMPT_RT or not)": (
        f"{_REALTIME}::test_a_plain_addition_is_exact_on_kernels_without_preempt_rt_only",
        f"{_REALTIME}::test_a_migration_of_atomic_counters_loses_nothing_under_traffic",
    ),
    "cgroup2 alone, or mounted elsewhere": (
        f"{_CGROUP2}::test_a_host_with_version_2_alone",
        f"{_CGROUP2}::test_a_host_that_mounts_cgroups_elsewhere",
        f"{_CGROUP2}::test_the_line_that_mounts_cgroups_works_when_it_is_typed",
    ),
}

SMOKE: Final = "smoke"
LEVELS: Final = (SMOKE, "full")
# A boot of the level `full` runs so many files: a guest that dies takes no more than these along.
FILES_A_BOOT: Final = 20
RESULTS: Final = "/mnt/guest/junit.xml"
REFUSED: Final = ("tests/guests/test_refused.py",)


def tests_of(kernel: Kernel, level: str) -> list[str]:
    """Return what pytest is asked to run in a kernel."""
    if not kernel.is_supported:
        return [*REFUSED]
    lower = LOWER_LAYERS if kernel.architecture != AMD64 else ()
    return [*lower, *(_smoke() if level == SMOKE else FULL)]


def _smoke() -> list[str]:
    """Return the tests of all capabilities, each once."""
    return list(dict.fromkeys(test for tests in CAPABILITIES.values() for test in tests))


def boots(kernel: Kernel, level: str, checkout: Path) -> list[list[str]]:
    """Return what pytest is asked to run in each boot of a kernel."""
    tests = tests_of(kernel, level)
    if level == SMOKE or not kernel.is_supported:
        return [tests]
    folders = [checkout / folder for folder in tests if (checkout / folder).is_dir()]
    files = [path for folder in folders for path in sorted(folder.rglob("test_*.py"))]
    names = [str(path.relative_to(checkout)) for path in files]
    others = [test for test in tests if checkout / test not in folders]
    others += [each for each in _smoke() if each.partition("::")[0] in SAME_EVERYWHERE]
    every = [*others, *(name for name in names if name not in SAME_EVERYWHERE)]
    return [every[start : start + FILES_A_BOOT] for start in range(0, len(every), FILES_A_BOOT)]


def command(kernel: Kernel, level: str, python: Sequence[str], tests: Sequence[str]) -> list[str]:
    """Return the command that runs *tests*, which are of a level, in a guest."""
    options = [f"--junitxml={RESULTS}"]
    if level == SMOKE:
        # Files read by bpftool and by bpfpin have the same bytes on every machine.
        options += ["-m", "not slow", "--ignore-glob=*oracle.py"]
    return pytest(kernel, python, [*options, *tests])


def pytest(kernel: Kernel, python: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the command that runs pytest with *words* in a guest."""
    environment = {
        "BPFPIN_GUEST": kernel.name,
        "BPFPIN_KERNEL_TESTS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    # A test that takes longer shows where it is; start.sh ends one that takes twice as long.
    options = ["-v", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=300"]
    return ["env", *settings, *python, "-m", "pytest", *options, *words]
