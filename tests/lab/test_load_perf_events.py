"""`load` of programs at perf events: by CPU or process, with a stub and a link for each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfpin import attach_perf_event
from bpfpin import load as load_object
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.syscall.cpu import ONLINE, list_cpus
from support.here import Here
from support.objects import compiled_with_headers
from support.user_program import looping
from support.wait import wait_until

EVENTS, FAULTS, CPUS, COOKIE = range(4)


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


def source(step: int = 1) -> Path:
    return compiled_with_headers("attach/perf_events", defines=(f"STEP={step}",))


def load(here: Here, *words: object, step: int = 1) -> dict[str, object]:
    document: dict[str, object] = here.ok("load", source(step), "--name", "seen", *words)
    return document


def counted(here: Here, kind: int) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def online() -> list[int]:
    return list_cpus(ONLINE.read_text())


def test_each_cpu_has_a_link_that_stays_over_reloads(here: Here) -> None:
    word = "--prog=on_event:perf-event=cpu-clock,freq=199"
    document = load(here, word)
    mask = sum(1 << cpu for cpu in online())
    wait_until(lambda: counted(here, CPUS) == mask)
    before = here.ok("status")["sets"][0]
    again, reloaded = load(here, word), load(here, word, step=1000)
    base = counted(here, EVENTS)
    wait_until(lambda: counted(here, EVENTS) >= base + 1000)
    after = here.ok("status")["sets"][0]
    links = [link for link in here.ok("link", "list")["links"] if link["set"] == "seen"]
    nodes = {node["name"] for node in here.ok("graph")["nodes"]}

    assert (again["result"], reloaded["result"]) == ("unchanged", "reloaded")
    assert before["state"] == after["state"] == "ok"
    assert [hook["link"] for hook in before["hooks"]] == [hook["link"] for hook in after["hooks"]]
    assert {(hook["device"], hook["held"]) for hook in after["hooks"]} == {
        (f"perf event cpu-clock,freq=199,cpu={cpu}", "stub") for cpu in online()
    }
    assert len(links) == len(online())
    assert {link["hook"] for link in links} == {"perf-event"}
    # Before Linux 6.6 the kernel does not say which event a link has.
    assert {link["where"] for link in links} in ({"cpu-clock"}, {""})
    assert "on_event" in nodes
    assert len(document["programs"]) == len(online())  # type: ignore[arg-type]

    here.ok("unload", "seen")
    assert not here.set.exists()


def test_events_of_one_process_are_counted_over_a_reload(here: Here) -> None:
    with looping("faults") as process:
        word = f"--prog=on_fault:perf-event=page-faults,period=1,pid={process.pid}"
        load(here, word)
        wait_until(lambda: counted(here, FAULTS) > 100)
        (hook,) = here.ok("status")["sets"][0]["hooks"]
        load(here, word, step=1000)
        wait_until(lambda: counted(here, FAULTS) > 100_000)
        link = here.ok("link", "show", f"id:{hook['link']}")
        process.terminate()
        made = int(process.communicate()[0])

    assert hook["device"] == f"perf event {word.partition('=')[2].partition('=')[2]}"
    assert hook["held"] == "stub"
    # Before Linux 6.6 the kernel does not say which event a link has.
    assert "page-faults" in str(link) or "'where': ''" in str(link)
    assert made > 100


def test_the_library_attaches_on_all_cpus_or_on_one() -> None:
    made = read_object(source())
    with load_object(made) as loaded:
        program, seen = loaded.programs["on_event"], loaded.maps["seen"]
        links = attach_perf_event(program, "cpu-clock", period=1_000_000, cookie=5)
        wait_until(lambda: bool(seen[EVENTS]))
        cookie = seen[COOKIE]
        for link in links:
            link.close()
        first, *more = attach_perf_event(program, "page-faults", period=1, pid=os.getpid())
        with first:
            pass
        with (
            load_object(made) as others,
            others.attach(targets={"on_event": "software:cpu-clock,freq=99"}) as attached,
        ):
            on_cpus = attached["on_event"]

        assert len(links) == len(on_cpus) == len(online())
        assert more == []
        assert cookie == 5


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        ("", (2, "on_event:perf-event=cpu-clock,freq=99")),
        ("=cpu-clock", (2, "freq=N")),
        ("=cpu-clock,freq=9,period=9", (2, "freq=N")),
        ("=cpu-clock,often", (2, "'often'")),
        ("=cpu-clok,freq=99", (4, "cpu-clock")),
        ("=software:99999,freq=9,cpu=0", (8, "no such event")),
        ("=nothing:1,freq=9", (4, "there are: hardware")),
        ("=cpu-clock,freq=99,pid=4194305", (4, "no such process")),
        ("=cpu-clock,freq=99,cpu=4000", (4, "there is no CPU 4000")),
        ("=cpu-clock,freq=99999999,cpu=0", (1, "the most is freq=")),
    ],
)
def test_a_wrong_event_is_refused(here: Here, target: str, refused: tuple[int, str]) -> None:
    exit_code, words = refused
    word = f"on_event:perf-event{target}"
    result = here.refused(exit_code, "load", source(), "--name", "seen", "--prog", word)

    assert words in result.stderr
