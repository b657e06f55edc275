"""`loaded.attach()`: all programs of an object at the hooks that their sections name."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfpin.attach.clsact import ClsactFilter
from bpfpin.errors import HookBusyError, TargetNotFoundError, UsageError, WrongHookError
from bpfpin.hooks import Hook
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.kernel.info import links
from bpfpin.objects.link import Link
from support.hooks import new_cgroup, without_tcx
from support.objects import compiled
from support.wait import wait_until

pytestmark = pytest.mark.usefixtures("only_caller")

ON_CALL, ON_OTHER, ON_RAW, ON_LOOKUP = range(4)
AT_TC, AT_EGRESS = 0, 2
CALLS = 20
PARAM = "syscalls/sys_enter_sched_getparam"
INTERVAL = "syscalls/sys_enter_sched_rr_get_interval"


def call(function: Callable[[int], object] = os.sched_getparam) -> None:
    for _ in range(CALLS):
        function(0)


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """The programs of tests/objects/tracing: four with a hook, one that names no tracepoint."""
    names = ("on_call", "on_other", "on_raw", "on_lookup", "anywhere")
    with load(compiled("tracing"), programs=names) as made:
        yield made


def own_links(loaded: Loaded) -> list[int]:
    """Return the links of the programs, of all links of the host."""
    ids = {program.id for program in loaded.programs.values()}
    return [link.id for link in links() if link.program_id in ids]


def counts(loaded: Loaded) -> list[int]:
    return [int(count) for count in loaded.maps["seen"].values()]


def test_the_programs_of_a_file_run_until_the_block_ends() -> None:
    with load(compiled("tracing")) as loaded:
        with loaded.attach() as attached:
            call()
            call(os.sched_rr_get_interval)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                socket.create_connection(listener.getsockname()).close()
            kinds = {(name, *map(type, links)) for name, links in attached.items()}
        during = counts(loaded)
        call()
        call(os.sched_rr_get_interval)

        assert kinds == {(name, Link) for name in ("on_call", "on_other", "on_raw", "on_lookup")}
        assert (during[ON_CALL], during[ON_OTHER], during[ON_LOOKUP]) == (CALLS, CALLS, 1)
        assert during[ON_RAW] >= 2 * CALLS
        assert counts(loaded) == during


def test_links_outlive_the_programs_and_pins_outlive_the_links(bpffs: Path) -> None:
    with load(compiled("tracing")) as loaded:
        attached = loaded.attach(["on_call", "on_other"])
        seen = loaded.maps["seen"].id
    with attached, type(loaded.maps["seen"]).from_id(seen) as counter:
        call()
        (link,) = attached["on_call"]
        assert isinstance(link, Link)
        link.pin(bpffs / "kept")
        attached.close()
        call()
        call(os.sched_rr_get_interval)

        assert (counter[ON_CALL], counter[ON_OTHER]) == (2 * CALLS, 0)


def test_programs_that_name_no_target_are_listed_and_nothing_is_attached(loaded: Loaded) -> None:
    with pytest.raises(UsageError) as refused:
        loaded.attach()

    assert "anywhere (section '?tracepoint') goes to tracepoint" in str(refused.value)
    assert refused.value.hint == (
        "for example: targets={'anywhere': 'syscalls/sys_enter_openat'}; or attach the others:"
        " programs=['on_call', 'on_other', 'on_raw', 'on_lookup']"
    )
    assert own_links(loaded) == []


def test_the_caller_names_targets(loaded: Loaded) -> None:
    targets = {"anywhere": [PARAM, INTERVAL], "on_other": PARAM}
    with loaded.attach(["anywhere", "on_other"], targets=targets) as attached:
        call()
        call(os.sched_rr_get_interval)

        assert {name: len(links) for name, links in attached.items()} == {
            "anywhere": 2,
            "on_other": 1,
        }
    assert counts(loaded)[: ON_OTHER + 1] == [2 * CALLS, CALLS]


def test_a_failure_detaches_what_was_attached_before(loaded: Loaded) -> None:
    with loaded.attach(["on_call"]):
        assert len(own_links(loaded)) == 1
    with pytest.raises(TargetNotFoundError, match="sys_enter_sched_getpara"):
        loaded.attach(targets={"anywhere": "syscalls/sys_enter_sched_getpara"})

    wait_until(lambda: own_links(loaded) == [])
    call()
    assert counts(loaded)[ON_CALL] == 0


def test_wrong_words_are_refused(loaded: Loaded) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"programs": ["on_cal"]}, "no program 'on_cal' is loaded"),
        ({"programs": []}, "no program to attach"),
        ({"programs": ["on_call"], "targets": {"anywhere": PARAM}}, "not among the programs"),
        ({"programs": ["on_call"], "device": "lo"}, "no program goes to a device"),
        ({"programs": ["on_lookup"], "targets": {"on_lookup": "lo"}}, "takes no target"),
        ({"programs": ["on_call"], "hooks": {"on_call": "tracepint"}}, "no hook 'tracepint'"),
    ]
    for words, message in wrong:
        with pytest.raises(UsageError, match=message):
            loaded.attach(**words)  # type: ignore[arg-type]
    with pytest.raises(WrongHookError):
        loaded.attach(["on_call"], hooks={"on_call": "xdp"}, device="lo")


@pytest.fixture
def device() -> Iterator[str]:
    subprocess.run(["ip", "link", "add", "whole0", "type", "veth", "peer", "whole1"], check=True)
    subprocess.run(["ip", "link", "set", "whole0", "up"], check=True)
    subprocess.run(["ip", "link", "set", "whole1", "up"], check=True)
    yield "whole0"
    subprocess.run(["ip", "link", "del", "whole0"], check=False, capture_output=True)


def test_programs_of_a_device_and_of_a_cgroup_beside_each_other(
    device: str, tmp_path: Path
) -> None:
    """The program of classic tc has no link: its filter goes with the rest."""
    words = {"programs": ["count_tc", "count_egress"], "hooks": {"count_tc": Hook.TC_EGRESS}}
    with load(compiled("hooks")) as loaded, new_cgroup(tmp_path / "cgroups") as folder:
        with pytest.raises(UsageError) as refused:
            loaded.attach(["count_tc", "count_egress"])
        with loaded.attach(**words, device=device, cgroup=folder) as attached:  # type: ignore[arg-type]
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind((device, 0))
                sender.send(bytes(64))
            counted = loaded.maps["counts"][AT_TC]
            (place,) = attached["count_tc"]
        after = subprocess.run(
            ["tc", "qdisc", "show", "dev", device], check=True, capture_output=True, text=True
        ).stdout

    assert "count_tc (section 'tc'): the section says no hook" in str(refused.value)
    assert refused.value.hint == (
        "for example: device='DEV', cgroup='PATH', hooks={'count_tc': 'tcx-ingress'}"
    )
    assert isinstance(place, ClsactFilter)
    assert counted >= 1
    assert "clsact" not in after


def test_a_hook_that_runs_one_program_refuses_a_second(device: str) -> None:
    with load("builtin:xdp_pass") as loaded, load("builtin:xdp_stats") as other:
        with loaded.attach(device="lo") as attached:
            # Loopback has no native mode: what attach_xdp() notes is not lost.
            assert [note.partition(":")[0] for note in attached.notes] == ["xdp_pass"]
        with loaded.attach(device=device), pytest.raises(HookBusyError):
            other.attach(device=device)
        other.attach(device=device).close()


def test_classic_tc_takes_what_tcx_cannot(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_tcx(monkeypatch)
    with load(compiled("hooks"), programs=["count_tc"]) as loaded:
        with loaded.attach(hooks={"count_tc": "tcx-egress"}, device=device) as attached:
            (place,) = attached["count_tc"]
            running = place.program_id()

        assert isinstance(place, ClsactFilter)
        assert (place.hook, running) == (Hook.TC_EGRESS, loaded.programs["count_tc"].id)
        assert attached.notes == ("count_tc: this kernel has no tcx: count_tc is at tc-egress",)
        assert place.program_id() == 0
