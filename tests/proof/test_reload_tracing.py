"""Reloads of programs at hooks whose links cannot change their program: each event counts once."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bpfpin.attach.uprobe_multi import kernel_has_links
from bpfpin.hooks import Hook
from bpfpin.objects.maps.map import Map
from support.cli import run_cli_ok
from support.kernel_needs import need_hook, need_kernel_functions
from support.objects import compiled, compiled_with_headers
from support.user_program import looping, probed
from support.wait import HANG_S, wait_until

if TYPE_CHECKING:
    from proof.conftest import Table

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("only_caller")]

ON_OUTPUT, ON_ROUTE = 1, 5  # of tests/objects/network.bpf.c
ON_CALL, ON_RAW = 0, 2  # of tests/objects/tracing.bpf.c
ENTRY, RETURN = 0, 1  # of tests/objects/attach/functions.bpf.c
ON_NUMBER, BEYOND = 0, 6  # of tests/objects/attach/gates.bpf.c
FAULTS = 1  # of tests/objects/attach/perf_events.bpf.c
SCHED_GETPARAM = {"x86_64": 143, "aarch64": 121}  # asm/unistd.h
# As fast as it can, until it is terminated; then the number of calls.
CALLER = """
import os, signal
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
call, made = os.sched_getparam, 0
print("started", flush=True)
while not stop:
    for _ in range(1000):
        call(0)
    made += 1000
print(made)
"""


# Nobody reads the packets: what the receiver has no room for is dropped, after it was counted.
SENDER = """
import signal, socket, sys
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("", 0))
address = (sys.argv[1], receiver.getsockname()[1])
made = 0
print("started", flush=True)
while not stop:
    for _ in range(1000):
        receiver.sendto(b"packet", address)
    made += 1000
print(made)
"""
ROUTE = "10.78.0.0/24"


@pytest.fixture(scope="module")
def tracing_table(table: Table) -> Table:
    """A row for each kind of hook."""
    table.begin(
        "Reloads under events",
        ("hook", "reloads", "events/s", "events", "counted", "lost or doubled"),
    )
    return table


@contextmanager
def caller(program: str = CALLER, *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def route() -> Iterator[None]:
    """A route to a neighbour that drops all packets."""
    for words in (
        "link add proof0 type veth peer proof1",
        "addr add 10.78.1.1/32 dev proof0",
        "link set proof0 up",
        "link set proof1 up",
        f"route add {ROUTE} dev proof0",
        "neigh add 10.78.0.1 lladdr 02:00:00:00:00:01 dev proof0 nud permanent",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", "proof0"], check=True)


@dataclass(frozen=True)
class Case:
    """A program at a hook; *version* makes its object, and an event adds *per_call* to *counter*.

    *events* is the process that has them; its program is `{probed}` in the *word*.
    """

    word: str
    version: Callable[[int], Path]
    counter: int
    per_call: int = 1
    events: Callable[[], AbstractContextManager[subprocess.Popen[str]]] = caller
    place: Callable[[], AbstractContextManager[None]] = nullcontext


def at_tracepoint(number: int) -> Path:
    call = f"SCHED_GETPARAM={SCHED_GETPARAM[platform.machine()]}"
    return compiled("tracing", defines=(f"VERSION={number}", call))


def in_network(number: int) -> Path:
    return compiled("network", defines=(f"VERSION={number}",))


def at_function(number: int) -> Path:
    return compiled_with_headers("attach/functions", defines=(f"VERSION={number}",))


def at_user_function(number: int) -> Path:
    return compiled_with_headers("attach/user_functions", defines=(f"VERSION={number}",))


def at_perf_event(number: int) -> Path:
    return compiled_with_headers("attach/perf_events", defines=(f"VERSION={number}",))


CALLS, PAGE_FAULTS = partial(looping, "calls"), partial(looping, "faults")
FUNCTION = "{probed}:probed_sum"
SYSTEM_CALL = f"__{'x64' if platform.machine() == 'x86_64' else 'arm64'}_sys_sched_getparam"
CASES = {
    "tracepoint": Case(
        "anywhere:tracepoint=syscalls/sys_enter_sched_getparam", at_tracepoint, ON_CALL
    ),
    "raw-tracepoint": Case("on_pid:raw-tracepoint=sys_enter", at_tracepoint, ON_RAW),
    "tp-btf": Case("on_tp_btf:tp-btf=sys_enter", at_function, ENTRY),
    "kprobe": Case(f"on_kprobe:kprobe={SYSTEM_CALL}", at_function, ENTRY),
    "kretprobe": Case(f"on_kretprobe:kretprobe={SYSTEM_CALL}", at_function, RETURN),
    "ksyscall": Case("on_ksyscall:ksyscall=sched_getparam", at_function, ENTRY),
    "kprobe-multi": Case(f"on_multi:kprobe-multi={SYSTEM_CALL}", at_function, ENTRY),
    "kretprobe-multi": Case(f"on_return_multi:kretprobe-multi={SYSTEM_CALL}", at_function, RETURN),
    "kprobe-session": Case(f"on_session:kprobe-session={SYSTEM_CALL}", at_function, ENTRY, 2),
    "fentry": Case(f"on_fentry:fentry={SYSTEM_CALL}", at_function, ENTRY),
    "fexit": Case(f"on_fexit:fexit={SYSTEM_CALL}", at_function, RETURN),
    "fmod-ret": Case("on_fmod_ret:fmod-ret=security_task_getscheduler", at_function, ENTRY),
    "lsm": Case("on_lsm:lsm=task_getscheduler", at_function, ENTRY),
    "uprobe": Case(f"on_entry:uprobe={FUNCTION}", at_user_function, ENTRY, events=CALLS),
    "uretprobe": Case(f"on_return:uretprobe={FUNCTION}", at_user_function, RETURN, events=CALLS),
    "uprobe-multi": Case(f"on_many:uprobe-multi={FUNCTION}", at_user_function, ENTRY, events=CALLS),
    "uretprobe-multi": Case(
        f"on_many_returns:uretprobe-multi={FUNCTION}", at_user_function, RETURN, events=CALLS
    ),
    "netfilter": Case(
        "on_output:netfilter=ipv4:output",
        in_network,
        ON_OUTPUT,
        events=partial(caller, SENDER, "127.0.0.1"),
    ),
    "lwt-xmit": Case(
        f"on_route:lwt-xmit={ROUTE}",
        in_network,
        ON_ROUTE,
        events=partial(caller, SENDER, "10.78.0.1"),
        place=route,
    ),
    "perf-event": Case(
        "on_fault:perf-event=page-faults,period=1", at_perf_event, FAULTS, events=PAGE_FAULTS
    ),
}
OF_PROGRAMS = ("uprobe", "uretprobe", "uprobe-multi", "uretprobe-multi", "perf-event")
ANYWHERE = ("tracepoint", "raw-tracepoint", "tp-btf", "netfilter", "lwt-xmit", *OF_PROGRAMS)


@pytest.mark.parametrize("hook", CASES)
def test_each_event_is_seen_by_one_program(
    bpffs: Path, tracing_table: Table, hook: str, *, is_full: bool
) -> None:
    with CASES[hook].place():
        reload_under_events(bpffs, tracing_table, hook, is_full=is_full)


def reload_under_events(bpffs: Path, tracing_table: Table, hook: str, *, is_full: bool) -> None:
    if hook not in ANYWHERE:
        need_kernel_functions(hook)
    if hook == "netfilter":
        need_hook(Hook.NETFILTER)
    case = CASES[hook]
    if (
        hook.endswith("probe-multi")
        and hook in OF_PROGRAMS
        and not kernel_has_links(Hook.UPROBE_MULTI)
    ):
        pytest.skip("the kernel has no links at many functions of a program")
    word = case.word.format(probed=probed()) if hook in OF_PROGRAMS else case.word
    reloads = 20 if is_full else 4
    sources = [case.version(number) for number in (1, 2)]

    def counted() -> int:
        with Map.from_pin(bpffs / "seen" / "seen") as seen:
            return int(seen[case.counter])

    def load(source: Path) -> str:
        words = ("--name", "seen", "--pin-root", bpffs, "--prog", word, "-o", "json")
        return str(run_cli_ok("load", source, *words).json["result"])

    load(sources[0])
    start = time.monotonic()
    with case.events() as process:
        results = []
        for source in itertools.islice(itertools.cycle(reversed(sources)), reloads):
            before = counted()
            results.append(load(source))
            wait_until(lambda: counted() > before)  # noqa: B023  (it returns before the next round)
        process.terminate()
        made, _ = process.communicate(timeout=HANG_S)
    seconds = time.monotonic() - start
    with suppress(AssertionError):
        wait_until(lambda: counted() == int(made) * case.per_call)
    wrong = int(made) * case.per_call - counted()
    rate = f"{int(made) / seconds:,.0f}"
    tracing_table.row((hook, reloads, rate, f"{int(made):,}", f"{counted():,}", wrong))

    assert results == ["reloaded"] * reloads
    assert wrong == 0


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
    reloads = 20 if is_full else 4
    sources = [
        compiled_with_headers("attach/gates", defines=(f"VERSION={number}", "NUMBERED"))
        for number in (1, 2)
    ]

    def counted(counter: int) -> int:
        with Map.from_pin(bpffs / "seen" / "seen") as seen:
            return int(seen[counter])

    def load(source: Path) -> str:
        words = ("--name", "seen", "--pin-root", bpffs, "--prog", word, "-o", "json")
        return str(run_cli_ok("load", source, *words).json["result"])

    load(sources[0])
    start = time.monotonic()
    with CALLS() as process:
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
