"""Reloads of programs at every hook of a set: each event counts once."""

from __future__ import annotations

import itertools
import platform
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bpfpin.attach.uprobe_multi import kernel_has_links
from bpfpin.hooks import Hook, TargetKind
from bpfpin.objects.kernel.btf import has_enumerator
from bpfpin.objects.maps.map import Map
from bpfpin.uapi import ProgramType
from proof.test_reload_traffic import HOOKS as UNDER_TRAFFIC
from support import event_makers
from support.cli import CliResult, run_cli_ok
from support.event_makers import making
from support.here import run_here
from support.hooks import new_cgroup
from support.kernel_needs import need_hook, need_kernel_functions, need_struct_ops_links
from support.links import link
from support.objects import compiled, compiled_with_headers
from support.user_program import looping, probed
from support.wait import HANG_S, wait_until

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = pytest.mark.lab

ON_CALL, ON_RAW = 0, 2  # of tests/objects/tracing.bpf.c
ENTRY, RETURN = 0, 1  # of tests/objects/attach/functions.bpf.c
ON_NUMBER, BEYOND = 0, 6  # of tests/objects/attach/gates.bpf.c
FAULTS = 1  # of tests/objects/attach/perf_events.bpf.c
STARTED = 1  # of tests/objects/congestion.bpf.c
SCHED_GETPARAM = {"x86_64": 143, "aarch64": 121}  # asm/unistd.h
KERNEL_FUNCTIONS = (
    TargetKind.FUNCTION,
    TargetKind.FUNCTIONS,
    TargetKind.SYSTEM_CALL,
    TargetKind.LSM_HOOK,
)
NOT_RELOADED = {
    Hook.FREPLACE: "a set with an extension is not reloaded: it is refused with what to type",
}
NATIVE_AND_GENERIC = (Hook.XDP,)  # of test_reload_traffic.py


@pytest.fixture(scope="module")
def tracing_table(table: Table) -> Table:
    """A row for each hook."""
    table.begin(
        "Reloads under events",
        ("hook", "reloads", "events/s", "events", "counted", "lost or doubled"),
    )
    return table


@dataclass(frozen=True)
class Place:
    """Where the programs of a case are attached: words of `load`, and its cgroup if it has one."""

    words: tuple[object, ...] = ()
    cgroup: Path | None = None


@dataclass(frozen=True)
class Seen:
    """A program: its *word* for `--prog`, and how much an event adds to the counter at *key*.

    The program of the process that has the events is `{probed}` in the word.
    """

    word: str
    key: int
    per_event: int = 1


Events = Callable[[Path, Place], AbstractContextManager["subprocess.Popen[str]"]]


@dataclass(frozen=True)
class Case:
    """Programs of one set that see the same events.

    *version* makes their object; *events* has a process make events, by the directory of the set
    and the place. The counters are in the map *counters*, in its *member* if it has structures.
    """

    programs: Mapping[Hook, Seen]
    version: Callable[[int], Path]
    events: Events
    place: Callable[[Path], AbstractContextManager[Place]] = field(
        default=lambda _: nullcontext(Place())
    )
    counters: str = "seen"
    member: str = ""

    def counted(self, pins: Path, hook: Hook) -> int:
        """Return the counter of a program."""
        with Map.from_pin(pins / self.counters) as counters:
            value = counters[self.programs[hook].key]
        return int(value[self.member] if self.member else value)


def by(event: str, *words: object) -> Events:
    """Return events of a process that is told nothing of the set."""
    return lambda pins, place: making(event, *words)


def at_tracepoint(number: int) -> Path:
    call = f"SCHED_GETPARAM={SCHED_GETPARAM[platform.machine()]}"
    return compiled("tracing", defines=(f"VERSION={number}", call))


def at_any(number: int) -> Path:
    """Return the object that has a program for most hooks, each called as its hook."""
    keys = (f"AT_{hook.name}={key}" for key, hook in enumerate(Hook))
    return compiled_with_headers("attach/reloads", defines=(f"VERSION={number}", *keys))


def of_source(name: str) -> Callable[[int], Path]:
    return lambda number: compiled_with_headers(name, defines=(f"VERSION={number}",))


def at_algorithm(number: int) -> Path:
    return compiled("congestion", defines=(f"VERSION={number}",))


def own(hook: Hook, target: str = "", per_event: int = 1) -> Seen:
    """Return the program of that hook in the object of `at_any`."""
    word = f"{hook.name.lower()}:{hook.value}"
    return Seen(f"{word}={target}" if target else word, tuple(Hook).index(hook), per_event)


@contextmanager
def in_cgroup(folder: Path) -> Iterator[Place]:
    with new_cgroup(folder / "cgroup2") as cgroup:
        yield Place(("--cgroup", cgroup), cgroup)


def ip(*lines: str) -> None:
    for line in lines:
        subprocess.run(["ip", *line.split()], check=True)


def setting(path: str, value: int) -> None:
    Path("/proc/sys/net", path).write_text(str(value))


ROUTE = "10.79.0.0/24"
# With one queue the kernel needs no hash of a packet, for which it would dissect it once more.
ONE_QUEUE = ("numtxqueues", "1", "numrxqueues", "1")


@contextmanager
def forwarding(folder: Path) -> Iterator[Place]:
    """What proof1 sends comes in by proof0, and goes on by a route to proof2 and proof3."""
    pairs = (("proof1", "proof0"), ("proof2", "proof3"))
    with veth_pair(*pairs[0]), veth_pair(*pairs[1]):
        ip(
            "link set proof0 address 02:00:00:00:00:01",
            "addr add 10.78.1.1/32 dev proof0",
            f"route add {ROUTE} dev proof2",
            "neigh add 10.79.0.1 lladdr 02:00:00:00:00:02 dev proof2 nud permanent",
        )
        setting("ipv4/conf/all/rp_filter", 0)
        setting("ipv4/conf/proof0/rp_filter", 0)
        setting("ipv4/ip_forward", 1)
        try:
            yield Place(("--dev", "proof1"))
        finally:
            setting("ipv4/ip_forward", 0)


@contextmanager
def veth_pair(name: str, peer: str) -> Iterator[None]:
    """Two devices that send nothing by themselves."""
    words = ["ip", "link", "add", name, *ONE_QUEUE, "type", "veth", "peer", "name", peer]
    subprocess.run([*words, *ONE_QUEUE], check=True)
    try:
        for device in (name, peer):
            setting(f"ipv6/conf/{device}/disable_ipv6", 1)
            ip(f"link set {device} up")
        yield
    finally:
        ip(f"link del {name}")


@contextmanager
def netkit_pair(folder: Path) -> Iterator[Place]:
    with link("proof0", "netkit"):
        peer = Path("/sys/class/net/proof0/iflink").read_text().strip()
        ip(f"link set {socket.if_indextoname(int(peer))} name proof1")
        for device in ("proof0", "proof1"):
            setting(f"ipv6/conf/{device}/disable_ipv6", 1)
            ip(f"link set {device} up")
        yield Place(("--dev", "proof0"))


FUNCTION = "{probed}:probed_sum"
SYSTEM_CALL = f"__{'x64' if platform.machine() == 'x86_64' else 'arm64'}_sys_sched_getparam"
# What an event has more than once: a socket each over IPv4 and IPv6, and one to a closed port.
SEVERAL = {
    Hook.CGROUP_INET_INGRESS: 2,
    Hook.CGROUP_INET_EGRESS: 2,
    Hook.CGROUP_INET_SOCK_CREATE: 3,
    Hook.CGROUP_INET_SOCK_RELEASE: 3,
    Hook.CGROUP_INET4_CONNECT: 2,
}
CGROUPS = {
    hook: own(hook, per_event=SEVERAL.get(hook, 1))
    for hook in Hook
    if hook.is_cgroup and ProgramType.LSM not in hook.traits.program_types
}
at_function = of_source("attach/functions")
at_user_function = of_source("attach/user_functions")
SYSTEM_CALLS = by(event_makers.SYSTEM_CALL)


def function_calls(pins: Path, place: Place) -> AbstractContextManager[subprocess.Popen[str]]:
    return looping("calls")


def page_faults(pins: Path, place: Place) -> AbstractContextManager[subprocess.Popen[str]]:
    return looping("faults")


# The programs see these events of all processes, so those of other tests, too.
OF_ALL_PROCESSES = (SYSTEM_CALLS, page_faults)


def messages(*ends: str) -> Events:
    """Return events of a connection of which those ends are in the map of sockets."""
    return lambda pins, place: making(event_makers.MESSAGES, pins / "sockets", *ends)


def readings(pins: Path, place: Place) -> AbstractContextManager[subprocess.Popen[str]]:
    return making(event_makers.READER, next((pins / "links~").glob("iter~*")))


def of_cgroup(event: str) -> Events:
    return lambda pins, place: making(event, place.cgroup)


# By the hooks that they are about.
CASES = {
    "tracepoint, raw-tracepoint": Case(
        {
            Hook.TRACEPOINT: Seen("anywhere:tracepoint=syscalls/sys_enter_sched_getparam", ON_CALL),
            Hook.RAW_TRACEPOINT: Seen("on_pid:raw-tracepoint=sys_enter", ON_RAW),
        },
        at_tracepoint,
        SYSTEM_CALLS,
    ),
    "tp-btf": Case(
        {Hook.TP_BTF: Seen("on_tp_btf:tp-btf=sys_enter", ENTRY)}, at_function, SYSTEM_CALLS
    ),
    "kprobe, kretprobe": Case(
        {
            Hook.KPROBE: Seen(f"on_kprobe:kprobe={SYSTEM_CALL}", ENTRY),
            Hook.KRETPROBE: Seen(f"on_kretprobe:kretprobe={SYSTEM_CALL}", RETURN),
        },
        at_function,
        SYSTEM_CALLS,
    ),
    "ksyscall, kretsyscall": Case(
        {
            Hook.KSYSCALL: Seen("on_ksyscall:ksyscall=sched_getparam", ENTRY),
            Hook.KRETSYSCALL: Seen("on_kretsyscall:kretsyscall=sched_getparam", RETURN),
        },
        at_function,
        SYSTEM_CALLS,
    ),
    "kprobe-multi, kretprobe-multi": Case(
        {
            Hook.KPROBE_MULTI: Seen(f"on_multi:kprobe-multi={SYSTEM_CALL}", ENTRY),
            Hook.KRETPROBE_MULTI: Seen(f"on_return_multi:kretprobe-multi={SYSTEM_CALL}", RETURN),
        },
        at_function,
        SYSTEM_CALLS,
    ),
    "kprobe-session": Case(
        {Hook.KPROBE_SESSION: Seen(f"on_session:kprobe-session={SYSTEM_CALL}", ENTRY, 2)},
        at_function,
        SYSTEM_CALLS,
    ),
    "fentry, fexit": Case(
        {
            Hook.FENTRY: Seen(f"on_fentry:fentry={SYSTEM_CALL}", ENTRY),
            Hook.FEXIT: Seen(f"on_fexit:fexit={SYSTEM_CALL}", RETURN),
        },
        at_function,
        SYSTEM_CALLS,
    ),
    "fmod-ret": Case(
        {Hook.FMOD_RET: Seen("on_fmod_ret:fmod-ret=security_task_getscheduler", ENTRY)},
        at_function,
        SYSTEM_CALLS,
    ),
    "lsm": Case({Hook.LSM: Seen("on_lsm:lsm=task_getscheduler", ENTRY)}, at_function, SYSTEM_CALLS),
    "lsm-cgroup": Case(
        {Hook.LSM_CGROUP: Seen("on_lsm_cgroup:lsm-cgroup", ENTRY)},
        at_function,
        of_cgroup(event_makers.BINDS_IN_CGROUP),
        in_cgroup,
    ),
    "uprobe, uretprobe": Case(
        {
            Hook.UPROBE: Seen(f"on_entry:uprobe={FUNCTION}", ENTRY),
            Hook.URETPROBE: Seen(f"on_return:uretprobe={FUNCTION}", RETURN),
        },
        at_user_function,
        function_calls,
    ),
    "uprobe-multi, uretprobe-multi": Case(
        {
            Hook.UPROBE_MULTI: Seen(f"on_many:uprobe-multi={FUNCTION}", ENTRY),
            Hook.URETPROBE_MULTI: Seen(f"on_many_returns:uretprobe-multi={FUNCTION}", RETURN),
        },
        at_user_function,
        function_calls,
    ),
    "uprobe-session": Case(
        {Hook.UPROBE_SESSION: Seen(f"on_session:uprobe-session={FUNCTION}", ENTRY, 2)},
        at_user_function,
        function_calls,
    ),
    "usdt": Case(
        {Hook.USDT: Seen("on_probe:usdt={probed}:probed:called", 0)},
        of_source("attach/usdt"),
        function_calls,
        member="count",
    ),
    "perf-event": Case(
        {Hook.PERF_EVENT: Seen("on_fault:perf-event=page-faults,period=1", FAULTS)},
        of_source("attach/perf_events"),
        page_faults,
    ),
    "forwarded packets": Case(
        {
            Hook.TCX_EGRESS: own(Hook.TCX_EGRESS),
            Hook.TC_EGRESS: own(Hook.TC_EGRESS),
            Hook.FLOW_DISSECTOR: own(Hook.FLOW_DISSECTOR),
            Hook.NETFILTER: own(Hook.NETFILTER, "ipv4:forward"),
            Hook.LWT_IN: own(Hook.LWT_IN, ROUTE),
            Hook.LWT_OUT: own(Hook.LWT_OUT, ROUTE),
            Hook.LWT_XMIT: own(Hook.LWT_XMIT, ROUTE),
        },
        at_any,
        by(event_makers.FORWARDED, "proof1", "proof3"),
        forwarding,
    ),
    "netkit": Case(
        {hook: own(hook) for hook in (Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER)},
        at_any,
        by(event_makers.TWO_ENDS, "proof0", "proof1"),
        netkit_pair,
    ),
    "cgroup, sk-lookup": Case(
        # A datagram over IPv4 and IPv6 is for a socket to be found, and the asked connection.
        {**CGROUPS, Hook.SK_LOOKUP: own(Hook.SK_LOOKUP, per_event=3)},
        at_any,
        of_cgroup(event_makers.IN_CGROUP),
        in_cgroup,
    ),
    "sockmap with a parser": Case(
        {
            Hook.SK_SKB_STREAM_PARSER: own(Hook.SK_SKB_STREAM_PARSER),
            Hook.SK_SKB_STREAM_VERDICT: own(Hook.SK_SKB_STREAM_VERDICT),
        },
        at_any,
        messages("far"),
    ),
    "sockmap": Case(
        {
            Hook.SK_SKB_VERDICT: own(Hook.SK_SKB_VERDICT),
            Hook.SK_MSG_VERDICT: own(Hook.SK_MSG_VERDICT),
        },
        at_any,
        messages("near", "far"),
    ),
    "struct-ops": Case(
        {Hook.STRUCT_OPS: Seen("", STARTED)},
        at_algorithm,
        by(event_makers.CONGESTION),
        counters="asked",
    ),
    "iter": Case({Hook.ITER: own(Hook.ITER, "task,pid=1")}, at_any, readings),
}


def test_each_hook_of_the_registry_has_a_row() -> None:
    """Or a reason why it has none."""
    rows = {hook for case in CASES.values() for hook in case.programs}
    traffic = {*NATIVE_AND_GENERIC, *map(Hook, UNDER_TRAFFIC)}

    assert rows | traffic | NOT_RELOADED.keys() == set(Hook)
    assert not (rows | traffic) & NOT_RELOADED.keys()


def lacking(hook: Hook) -> str:
    """Return why this kernel cannot have events at a hook, "" if it can."""
    try:
        traits = hook.traits
        if traits.target in KERNEL_FUNCTIONS or ProgramType.LSM in traits.program_types:
            need_kernel_functions(hook)
        if traits.code == "struct_ops":
            need_struct_ops_links()
        need_hook(hook)
    except pytest.skip.Exception as reason:
        return str(reason)
    if traits.code == "uprobe_multi" and not kernel_has_links(Hook.UPROBE_MULTI):
        return "this kernel has no links at many functions of a program"
    if traits.code == "sockmap" and not has_enumerator("bpf_link_type", "BPF_LINK_TYPE_SOCKMAP"):
        # Sockets keep the program that they were added to the map with.
        return "this kernel has no links for maps of sockets"
    return ""


@dataclass(frozen=True)
class Proof:
    """Where sets and results go, and whether all of it is asked for."""

    root: Path
    table: Table
    is_full: bool


@pytest.fixture
def proof(bpffs: Path, tracing_table: Table, *, is_full: bool) -> Proof:
    """A pin root of its own."""
    return Proof(bpffs, tracing_table, is_full)


@pytest.mark.parametrize("name", CASES)
def test_each_event_is_seen_by_one_program(
    proof: Proof, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    case = CASES[name]
    reasons = {hook: reason for hook in case.programs if (reason := lacking(hook))}
    rows = [hook for hook in case.programs if hook not in reasons]
    for hook, reason in reasons.items():
        proof.table.row((hook.value, 0, "", "", "", reason))
    if not rows:
        pytest.skip("; ".join(dict.fromkeys(reasons.values())))
    if case.events in OF_ALL_PROCESSES:
        request.getfixturevalue("only_caller")
    with case.place(tmp_path) as place:
        reload_under_events(case, rows, place, proof)


def run_here_ok(*words: object) -> CliResult:
    result = run_here(*words)
    assert result.exit_code == 0, result.stderr
    return result


def reload_under_events(case: Case, rows: list[Hook], place: Place, proof: Proof) -> None:
    pins, reloads = proof.root / "seen", 20 if proof.is_full else 2
    # As a user types it; without a process for each in the short form.
    run = run_cli_ok if proof.is_full else run_here_ok
    words = [case.programs[hook].word for hook in rows if case.programs[hook].word]
    if any("{probed}" in word for word in words):
        words = [word.format(probed=probed()) for word in words]
    chosen = [part for word in words for part in ("--prog", word)]
    sources = [case.version(number) for number in (1, 2)]

    def counted() -> dict[Hook, int]:
        return {hook: case.counted(pins, hook) for hook in rows}

    def load(source: Path) -> str:
        where = ("--name", "seen", "--pin-root", proof.root, *place.words)
        return str(run("load", source, *where, *chosen, "-o", "json").json["result"])

    load(sources[0])
    start = time.monotonic()
    with case.events(pins, place) as process:
        results = []
        for source in itertools.islice(itertools.cycle(reversed(sources)), reloads):
            before = counted()
            results.append(load(source))
            # What counts now is the new program: this returns before the next round.
            wait_until(lambda: all(count > before[hook] for hook, count in counted().items()))  # noqa: B023
        process.terminate()
        printed, _ = process.communicate(timeout=HANG_S)
    seconds = time.monotonic() - start
    made = int(printed)
    due = {hook: made * case.programs[hook].per_event for hook in rows}
    with suppress(AssertionError):
        wait_until(lambda: counted() == due)
    at_end = counted()
    for hook in rows:
        wrong = due[hook] - at_end[hook]
        figures = (f"{made / seconds:,.0f}", f"{due[hook]:,}", f"{at_end[hook]:,}")
        proof.table.row((hook.value, reloads, *figures, wrong))
    run("unload", "seen", "--pin-root", proof.root)

    assert results == ["reloaded"] * reloads
    assert at_end == due


@pytest.fixture(scope="module")
def gates_table(table: Table) -> Table:
    """A row for each hook whose programs have gates."""
    table.begin(
        "Reloads of programs with gates under events",
        ("hook", "reloads", "events/s", "events", "lost", "doubled"),
    )
    return table


@pytest.mark.parametrize(("hook", "name"), [("uprobe", "on_number"), ("uretprobe", "on_result")])
def test_of_two_programs_with_gates_one_sees_an_event_unless_it_is_between_them(
    bpffs: Path, gates_table: Table, hook: str, name: str, *, is_full: bool
) -> None:
    """The process has one thread, so at most one event is in progress at each switch."""
    word = f"{name}:{hook}={probed()}:probed_sum"
    reloads, run = (20, run_cli_ok) if is_full else (2, run_here_ok)
    sources = [
        compiled_with_headers("attach/gates", defines=(f"VERSION={number}", "NUMBERED"))
        for number in (1, 2)
    ]

    def counted(counter: int) -> int:
        with Map.from_pin(bpffs / "seen" / "seen") as seen:
            return int(seen[counter])

    def load(source: Path) -> str:
        words = ("--name", "seen", "--pin-root", bpffs, "--prog", word, "-o", "json")
        return str(run("load", source, *words).json["result"])

    load(sources[0])
    start = time.monotonic()
    with looping("calls") as process:
        results = []
        for source in itertools.islice(itertools.cycle(reversed(sources)), reloads):
            before = counted(ON_NUMBER)
            results.append(load(source))
            wait_until(lambda: counted(ON_NUMBER) > before)  # noqa: B023  (as above)
        process.terminate()
        text, _ = process.communicate(timeout=HANG_S)
    seconds, made = time.monotonic() - start, int(text)
    with Map.from_pin(bpffs / "seen" / "numbers") as numbers:
        words = itertools.chain.from_iterable(
            int(number).to_bytes(8, "little") for number in numbers.values()
        )
        times = Counter(itertools.islice(words, made))
    lost, doubled = times[0], times[2]
    gates_table.row((hook, reloads, f"{made / seconds:,.0f}", f"{made:,}", lost, doubled))

    assert results == ["reloaded"] * reloads
    assert counted(BEYOND) == 0, "more events than the map has numbers for"
    assert set(times) <= {0, 1, 2}
    assert lost + doubled <= reloads
