"""What commands of a checkout do and cost: files executed, CPU time. Needs root."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from measures.row import Finding, Row, row
from measures.source import PACKAGE

SCRIPT = Path(__file__).parents[1] / "measure_house.py"
RUNNER = """
import json, os, sys, threading
log, root, *words = sys.argv[1:]
executed = set()
def note(frame, event, argument):
    # Bodies of modules and classes are no functions: their code has no fast locals.
    if event == "call" and frame.f_code.co_flags & 1:
        executed.add(frame.f_code.co_filename)
sys.argv = ["bpfpin", *words]
threading.setprofile(note)
sys.setprofile(note)
try:
    from bpfpin.cli.main import main
    status = main()
finally:
    sys.setprofile(None)
    imported = {getattr(each, "__file__", None) for each in list(sys.modules.values())}
    paths = {kind: sorted(path for path in files if path and path.startswith(root))
             for kind, files in (("executed", executed), ("imported", imported))}
    with open(log, "w") as stream:
        json.dump(paths, stream)
sys.exit(status)
"""
COUNTING_SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct count {
	__u64 packets;
#ifdef WIDER
	__u64 bytes;
#endif
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");
SEC("xdp")
int count(struct xdp_md *context)
{
	__u32 key = context->rx_queue_index;
	struct count *count = bpf_map_lookup_elem(&counts, &key);

	if (count)
		__sync_fetch_and_add(&count->packets, 1);
	return XDP_PASS;
}
char _license[] SEC("license") = "GPL";
"""
DEVICE = "lab0"
MAPS_ON_HOST = 10
ROUNDS = 15
TRACED = {"load": 95, "map dump": 38, "migrate": 130}  # targets


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which the package of *root* is imported, and nothing written."""
    added = {"PYTHONPATH": str(root / "src"), "BPFPIN_PRIVATE_MOUNT": "1"}
    return {**os.environ, **added, "PYTHONDONTWRITEBYTECODE": "1"}


class Lab:
    """A device with an XDP program in namespaces of this process, for commands of a checkout."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory
        for path, kind in (("/sys/fs/bpf", "bpf"), ("/run", "tmpfs")):
            subprocess.run(["mount", "-t", kind, kind, path], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.objects = [self._compile("before"), self._compile("after", "-D", "WIDER")]
        self.run("lab", "up", DEVICE)

    def _compile(self, name: str, *options: str) -> str:
        source = self.directory / "count.bpf.c"
        source.write_text(COUNTING_SOURCE)
        self.run("compile", source, self.directory / f"{name}.o", *options)
        return str(self.directory / f"{name}.o")

    def command(self, *words: object) -> list[str]:
        """Return a command line of bpfpin."""
        return [sys.executable, "-P", "-m", PACKAGE, *map(str, words)]

    def run(self, *words: object) -> str:
        """Run a command of bpfpin and return what it printed."""
        return output_of(self.command(*words), self.root)


def output_of(command: list[str], root: Path) -> str:
    """Run a command with the package of *root* and return what it printed."""
    answer = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment(root)
    )
    if answer.returncode:
        sys.exit(f"{' '.join(command[-4:])} failed:\n{answer.stderr}")
    return answer.stdout


def traced(root: Path, *words: object) -> dict[str, list[str]]:
    """Run a command of *root*'s, and return the files of it that it executed, and imported.

    The files are relative to *root*. One is executed if a function of it was called, be it while
    modules are imported. Processes that the command starts are not followed.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "trace.json"
        package = str(root / "src" / PACKAGE)
        output_of([sys.executable, "-P", "-c", RUNNER, str(log), package, *map(str, words)], root)
        paths: dict[str, list[str]] = json.loads(log.read_text())
    return {
        kind: [str(Path(each).relative_to(root)) for each in files] for kind, files in paths.items()
    }


def cpu_seconds(command: list[str], env: Mapping[str, str] | None = None) -> float:
    """Return the CPU time of a command and the processes that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def executed_files(lab: Lab) -> Iterator[Row]:
    """Count the files whose functions a load, a dump of its map and a migration call.

    Files that are imported, whether or not executed, have rows of their own.
    """
    before, after = lab.objects
    words = {
        "load": ("load", before, "--dev", DEVICE),
        "map dump": ("map", "dump", f"/sys/fs/bpf/{DEVICE}/counts"),
        "migrate": ("load", after, "--dev", DEVICE, "--migrate"),
    }
    for verb, line in words.items():
        if verb != "load":
            lab.run("map", "set", f"/sys/fs/bpf/{DEVICE}/counts", 0, "packets=1")
        for kind, paths in traced(lab.root, *line).items():
            findings = [Finding(path, 1, kind) for path in paths]
            is_counted = kind == "executed"
            title = f"files executed by {verb}" if is_counted else f"  imported by {verb}"
            name = f"{kind}-{verb.replace(' ', '-')}"
            yield row(name, title, findings, TRACED[verb] if is_counted else None)


def map_list_cpu(lab: Lab) -> Iterator[Row]:
    """Return the CPU time of `map list` on a host with ten maps, in that of `python -c pass`.

    Both processes as a whole, medians of runs by turns; bytecode is there for both.
    """
    while (number := len(json.loads(lab.run("map", "list", "-o", "json"))["maps"])) < MAPS_ON_HOST:
        name = f"more{number}"
        lab.run("lab", "up", name)
        lab.run("load", "builtin:xdp_stats", "--dev", name)
    lines = {"bare": [sys.executable, "-c", "pass"], "list": lab.command("map", "list")}
    # The first run may write bytecode; the others are to find it.
    ready = {**environment(lab.root), "PYTHONPYCACHEPREFIX": str(lab.directory)}
    ready.pop("PYTHONDONTWRITEBYTECODE")
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS + 1):
        for kind, line in lines.items():
            times[kind].append(cpu_seconds(line, ready))
    ratio = statistics.median(times["list"][1:]) / statistics.median(times["bare"][1:])
    title = "CPU of map list, in python -c pass"
    yield row("map-list-cpu", title, (), 9, figure=round(ratio, 1), unit=" x")
    yield row("map-list-maps", "  maps on that host", (), figure=number)


def check_cpu(root: Path) -> Iterator[Row]:
    """Return the CPU seconds of `make check`, with warm caches of mypy and ruff.

    A check that fails has no figure; a line on stderr says so.
    """
    venv = root / ".venv"
    if not venv.exists():
        venv = SCRIPT.parents[1] / ".venv"
    # The packages are as they are: `-o` keeps make from asking pip.
    command = ["make", "-C", str(root), f"VENV={venv}", "-o", f"{venv}/.installed-development"]
    for tool in ("ruff check .", "mypy"):
        first, *more = tool.split()
        subprocess.run(
            [str(venv / "bin" / first), *more], cwd=root, capture_output=True, check=False
        )
    spent = None
    try:
        spent = round(cpu_seconds([*command, "check"], environment(root)), 1)
    except subprocess.CalledProcessError as error:
        print(f"make check failed with exit status {error.returncode}", file=sys.stderr)
    yield Row("check-cpu", "CPU seconds of make check", spent, 60)


def run_rows(root: Path) -> list[Row]:
    """Return the rows of `--run`: what needs the house's own tests, and a lab."""
    if os.geteuid() != 0:
        sys.exit("--run needs root: it loads programs in namespaces of its own")
    rows = list(check_cpu(root))
    own = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, str(SCRIPT)]
    inside = [*own, "--root", str(root), "--inside"]
    answer = subprocess.run(inside, check=False, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        sys.exit("the commands in the lab could not be measured")
    for fields in json.loads(answer.stdout):
        fields["findings"] = tuple(Finding(*each) for each in fields["findings"])
        rows.append(Row(**fields))
    return rows


def print_lab_rows(root: Path) -> None:
    """Print the rows that need a lab as JSON; this process has namespaces of its own."""
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(root, Path(directory))
        rows = [*executed_files(lab), *map_list_cpu(lab)]
    print(json.dumps([vars(each) for each in rows]))
