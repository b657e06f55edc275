"""`load` of programs at typed tracepoints, and at functions of the kernel where it has none.

The hooks themselves are tested in tests/guests/test_kernel_functions.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfpin.errors import IdNotFoundError, UsageError
from bpfpin.loading.collection import load
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from support.here import Here, run_here
from support.kernel_needs import KPROBES
from support.objects import compiled_with_headers
from support.wait import wait_until

pytestmark = pytest.mark.usefixtures("only_caller")

CALLS, STEP = 20, 1000
ENTRY = 0
WORDS = ("--name", "seen", "--prog", "on_tp_btf")


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


def version(step: int = 1) -> Path:
    return compiled_with_headers("attach/functions", defines=(f"STEP={step}",))


def calls() -> None:
    for _ in range(CALLS):
        os.sched_getparam(0)


def counted(here: Here) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[ENTRY])


def is_gone(program_id: int) -> bool:
    try:
        Program.from_id(program_id).close()
    except IdNotFoundError:
        return True
    return False


def test_a_program_at_a_typed_tracepoint_counts_over_a_reload(here: Here) -> None:
    loaded = here.ok("load", version(), *WORDS)
    calls()
    (before,) = here.ok("status", "seen")["sets"]
    shown = run_here("link", "show", f"id:{before['hooks'][0]['link']}", "-o", "json").json
    reloaded = here.ok("load", version(STEP), *WORDS)
    calls()
    (after,) = here.ok("status", "seen")["sets"]
    total = counted(here)
    here.ok("unload", "seen")

    assert total == CALLS * (1 + STEP)
    assert (before["state"], after["state"]) == ("ok", "ok")
    assert before["hooks"] == after["hooks"]
    assert before["hooks"][0]["device"] == "tracepoint sys_enter"
    assert before["hooks"][0]["held"] == "stub"
    assert (shown["hook"], shown["target"]) == ("tp-btf", {"tracepoint": "sys_enter"})
    for document in (loaded, reloaded):
        wait_until(lambda: is_gone(document["programs"][0]["id"]))  # noqa: B023  (it returns before the next one)


def test_without_a_stub_the_link_runs_the_program_itself(here: Here) -> None:
    here.ok("load", version(), *WORDS, "--no-stub")
    here.ok("load", version(STEP), *WORDS, "--no-stub")
    calls()
    (shown,) = here.ok("status", "seen")["sets"]

    assert shown["hooks"][0]["held"] == "link"
    assert counted(here) == CALLS * STEP


def test_the_library_attaches_to_what_the_program_was_loaded_for() -> None:
    with load(read_object(version()), programs=["on_tp_btf"]) as loaded:
        seen = loaded.maps["seen"]
        with loaded.attach():
            calls()
        counted_by_section = int(seen[ENTRY])
        with loaded.attach(targets={"on_tp_btf": "sys_enter"}):
            calls()
        with pytest.raises(UsageError, match="was loaded for sys_enter, and not for sched_switch"):
            loaded.attach(targets={"on_tp_btf": "sched_switch"})

        assert (counted_by_section, int(seen[ENTRY])) == (CALLS, 2 * CALLS)


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("word", "refused"),
    [
        ("on_tp_btf:tp-btf=sys_entr", (4, "near it: sys_enter")),
        ("anywhere", (2, "anywhere:kprobe=do_unlinkat")),
        ("at_entry", (2, "at_entry:fentry=do_unlinkat")),
        ("at_entry:fentry=do_nanoslep", (4, "near it: do_nanosleep")),
        ("on_lsm:lsm=file_opn", (4, "near it: file_open")),
        ("on_lsm_cgroup", (2, "--cgroup")),
        ("replacement", (2, "replacement:freplace=id:42:xdp_pass")),
        ("replacement:freplace=chosen", (2, "id:N:FUNCTION")),
        ("replacement:freplace=name:nobody_has_it:chosen", (4, "bpfpin prog list")),
        ("on_kprobe:fentry", (2, "cannot run at fentry")),
    ],
)
def test_a_wrong_target_is_refused_with_what_is_there(
    here: Here, word: str, refused: tuple[int, str], words: tuple[str, ...]
) -> None:
    exit_code, text = refused
    result = here.refused(exit_code, "load", version(), "--name", "seen", "--prog", word, *words)

    assert text in result.stderr


@pytest.mark.skipif(KPROBES.exists(), reason="this kernel has kprobes")
@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize("program", ["on_kprobe", "on_kretprobe", "on_ksyscall"])
def test_a_kernel_without_kprobes_is_named(
    here: Here, program: str, words: tuple[str, ...]
) -> None:
    result = here.refused(8, "load", version(), "--name", "seen", "--prog", program, *words)

    assert "CONFIG_KPROBE_EVENTS" in result.stderr
