"""Iterators: made, read as text and as records, in a set, over reloads."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.iterators import IterLink, attach_iter
from bpfpin.errors import (
    NotSupportedError,
    PermissionDeniedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.uapi import LinkType
from support.crash import Fault, Injection, faulted, points
from support.here import Here, run_here
from support.hooks import new_cgroup
from support.objects import compiled
from support.tools import need
from support.wait import wait_until

KILLS = 4  # moments of a reload, spread over it
ALL = ("tasks", "elements", "cgroups")
SIZE = 300


@functools.cache
def available() -> tuple[str, ...]:
    """Return the iterators that this kernel takes; stock kernels take all from root."""
    names = []
    for name in ALL:
        try:
            load(compiled("iterators"), programs=[name]).close()
            names.append(name)
        except (PermissionDeniedError, NotSupportedError):
            if os.environ.get("BPFPIN_GUEST"):
                raise
    return tuple(names)


def need_iterator(name: str) -> None:
    if name not in available():
        pytest.skip(f"this kernel refuses the iterator of program {name}")


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """The iterators of tests/objects, those that the kernel takes."""
    with load(compiled("iterators"), programs=available()) as made:
        yield made


def numbers(text: str) -> set[tuple[int, ...]]:
    return {tuple(map(int, line.split()[1:])) for line in text.splitlines()}


def test_text_of_tasks_all_or_of_a_process_or_a_thread(loaded: Loaded) -> None:
    need_iterator("tasks")
    pid, waits = os.getpid(), threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    tasks = loaded.programs["tasks"]
    try:
        with (
            attach_iter(tasks) as everything,
            attach_iter(tasks, pid=pid) as process,
            attach_iter(tasks, tid=thread.native_id) as single,
        ):
            texts = [link.read() for link in (everything, process, single)]
            again = process.read()
    finally:
        waits.set()
        thread.join()
    threads = {(pid, pid), (pid, thread.native_id)}

    parent = os.getppid()
    assert numbers(texts[0]) >= {(parent, parent), *threads}
    assert threads <= numbers(texts[1]) == numbers(again)
    assert {number for number, _ in numbers(texts[1])} == {pid}
    assert numbers(texts[2]) == {(pid, thread.native_id)}


def test_records_of_a_map_by_name_and_by_format(loaded: Loaded) -> None:
    need_iterator("elements")
    counts = loaded.maps["counts"]
    counts.update_batch({key: key * key for key in range(SIZE)})
    with attach_iter(loaded.programs["elements"], map=counts) as link:
        records = list(link.records("struct record"))
        tuples = list(link.records(value_format="<I12sQ"))
        size = len(link.read_bytes())
        with pytest.raises(UsageError, match="no type 'struct recrd'") as unknown:
            link.records("struct recrd")
        with pytest.raises(UsageError, match="4 bytes after the last whole record"):
            list(link.records(value_format="<I12sQI"))

    assert records[7] == {"key": 7, "word": "first", "value": 49}
    assert [each["value"] for each in records] == [key * key for key in range(SIZE)]
    assert tuples[7] == (7, b"first".ljust(12, b"\0"), 49)
    assert size == SIZE * 24
    assert "struct record (24 bytes)" in unknown.value.hint


def test_cgroups_from_one_on(loaded: Loaded, tmp_path: Path) -> None:
    need_iterator("cgroups")
    with new_cgroup(tmp_path / "cgroups") as folder:
        below = folder / "below"
        below.mkdir()
        ids = [path.stat().st_ino for path in (folder, below)]
        with attach_iter(loaded.programs["cgroups"], cgroup=folder) as link:
            some = link.read()
        with attach_iter(loaded.programs["cgroups"]) as link:
            everything = link.read()
        below.rmdir()

    assert some.splitlines() == [f"first {number}" for number in ids]
    assert set(some.splitlines()) < set(everything.splitlines())


def test_wrong_parameters_are_refused_by_name(loaded: Loaded) -> None:
    need_iterator("tasks")
    tasks, counts = loaded.programs["tasks"], loaded.maps["counts"]
    with pytest.raises(UsageError, match="goes over task, which takes no map"):
        attach_iter(tasks, map=counts)
    with pytest.raises(UsageError, match="exclude each other"):
        attach_iter(tasks, pid=1, tid=1)
    with pytest.raises(TargetNotFoundError, match="no process or thread 2147483647"):
        attach_iter(tasks, pid=2147483647)
    with pytest.raises(UsageError, match="loaded for the iterator task, not cgroup"):
        loaded.attach(["tasks"], targets={"tasks": "cgroup"})
    if "elements" in loaded.programs:
        with pytest.raises(UsageError, match="none was named") as unnamed:
            attach_iter(loaded.programs["elements"])
        assert "bpf_map_elem,map=NAME" in unnamed.value.hint


def test_all_programs_of_an_object_and_a_pin_that_is_read_as_a_file(
    loaded: Loaded, bpffs: Path
) -> None:
    need_iterator("tasks")
    targets = {"elements": "bpf_map_elem,map=counts", "tasks": f"task,pid={os.getpid()}"}
    known = {name: target for name, target in targets.items() if name in loaded.programs}
    with loaded.attach(targets=known) as attached:
        (tasks,) = attached["tasks"]
        assert isinstance(tasks, IterLink)
        assert tasks.info.type == LinkType.ITER
        tasks.pin(bpffs / "tasks")
        by_cat = subprocess.run(
            ["cat", bpffs / "tasks"], capture_output=True, text=True, check=True
        )
        text = tasks.read()

    assert numbers(by_cat.stdout) == numbers(text) != set()
    with IterLink.from_pin(bpffs / "tasks") as link:
        assert link.read() == text


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    need_iterator("tasks")
    return Here(bpffs, "seen")


def version(word: str) -> Path:
    """Return the object whose lines and records begin with *word*."""
    return compiled("iterators", defines=(f'WORD="{word}"',))


def links(here: Here) -> dict[str, int]:
    (shown,) = here.ok("status")["sets"]
    assert shown["state"] == "ok"
    return {hook["program"]: hook["link"] for hook in shown["hooks"]}


def first_words(here: Here) -> set[str]:
    text = here.ok("link", "read", "seen/tasks")["text"]
    return {line.split()[0] for line in text.splitlines()}


def test_a_set_is_read_reloaded_in_place_recovered_and_unloaded(here: Here, tmp_path: Path) -> None:
    need("strace")
    target = f"task,pid={os.getpid()}"
    words = ["--name", "seen", f"--prog=tasks:iter={target}"]
    planned = here.ok("load", version("first"), *words, "--dry-run")
    here.ok("load", version("first"), *words)
    before, first = links(here), first_words(here)
    reloaded = here.ok("load", version("second"), *words)
    after, second = links(here), first_words(here)
    (hook,) = here.ok("status")["sets"][0]["hooks"]
    link = ("link", "read", "seen/iter~tasks", "--pin-root", here.root)
    lines = run_here(*link, "-o", "ndjson").json_lines
    shown = here.ok("link", "show", "seen/tasks")

    assert (planned["result"], reloaded["result"]) == ("planned", "reloaded")
    assert (first, second, before) == ({"first"}, {"second"}, after)
    assert hook["device"] == f"iterator {target}"
    assert {line["line"].split()[1] for line in lines} == {str(os.getpid())}
    assert shown["target"]["iterator"] == "task"
    assert "tasks" in {node["name"] for node in here.ok("graph")["nodes"]}
    refused = here.run("link", "read", "seen/nothing")
    assert (refused.exit_code, "seen has: iter~tasks" in refused.stderr) == (2, True)

    heals_after_kills(here, tmp_path, words)
    here.ok("unload", "seen")
    assert not here.set.exists()
    wait_until(lambda: own_iterators(here) == 0)


def own_iterators(here: Here) -> int:
    return len(here.ok("link", "list", "--type", "iter", "--program", "tasks")["links"])


def heals_after_kills(here: Here, folder: Path, words: list[str]) -> None:
    """Kill reloads at moments spread over them; the next command leaves one link each."""
    tail = [*words, "--pin-root", str(here.root)]
    moments = points(["load", str(version("third")), *tail], folder=folder)
    for number, point in enumerate(moments[:: max(1, len(moments) // KILLS)]):
        word = ("fourth", "third")[number % 2]
        line = ["load", str(version(word)), *tail]
        assert faulted(line, Injection(point, Fault.KILL), folder=folder).was_hit
        here.ok("load", version(word), *words)

        assert first_words(here) == {word}
        wait_until(lambda: own_iterators(here) == 1)


def test_an_iterator_over_a_map_of_the_set_follows_the_map(here: Here) -> None:
    need_iterator("elements")
    words = ("--name", "seen", "--prog=elements:iter=bpf_map_elem,map=counts")
    here.ok("load", version("first"), *words)
    with Map.from_pin(here.set / "counts") as counts:
        counts[1] = 10
    before = links(here)
    elements = here.ok("link", "read", "seen/elements", "--type", "struct record")["records"]
    text = run_here(
        *("link", "read", "seen/elements", "--type", "struct record"), "--pin-root", here.root
    ).stdout
    here.ok("load", version("second"), *words)
    kept = links(here)
    here.ok("load", version("second"), *words, "--fresh", "counts")
    emptied = here.ok("link", "read", "seen/elements", "--format", "<I12sQ")["records"]

    assert elements[1] == {"key": 1, "word": "first", "value": 10}
    assert text.splitlines()[1] == "key=1 word=first value=10"
    # In place where the map is kept; another map under that name needs a new link.
    assert before == kept != links(here)
    assert emptied[1] == [1, "hex:7365636f6e64000000000000", 0]
    here.ok("unload", "seen")


def test_wrong_targets_of_a_load(here: Here) -> None:
    source = compiled("iterators")
    wrong = [
        ("tasks:iter=taskk", 4, "near it: task"),
        ("tasks:iter=task,pid=2147483647", 4, "no process or thread"),
        ("tasks:iter=task,map=counts", 2, "takes no map"),
        ("tasks:iter=task,pid", 2, "such as task,pid=42"),
    ]
    if "elements" in available():
        wrong += [
            ("elements:iter=bpf_map_elem,map=count", 4, "has no map 'count'"),
            ("elements", 2, "map=NAME"),
        ]
    for word, exit_code, message in wrong:
        for option in ("--dry-run", "--replace"):
            refused = here.run("load", source, "--name", "seen", "--prog", word, option)

            assert (refused.exit_code, message in refused.stderr) == (exit_code, True), (
                refused.stderr
            )
            assert not here.set.exists()
    with links_of_another_type(here.root) as name:
        refused = here.run("link", "read", name)
    assert (refused.exit_code, "only iterators are read" in refused.stderr) == (2, True)


@contextlib.contextmanager
def links_of_another_type(root: Path) -> Iterator[Path]:
    with load(compiled("tracing")) as other, other.attach(["on_lookup"]) as attached:
        (link,) = attached["on_lookup"]
        assert isinstance(link, Link)
        link.pin(root / "other")
        yield root / "other"
        (root / "other").unlink()
