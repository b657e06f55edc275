"""What a verb costs before it does anything: CPU and wall time beside `python -c pass`.

Made for it in mount and network namespaces of its own: a device with a loaded set, and ten pinned
maps. The commands run by turns; printed are medians. The CPU of a command is what the kernel
counted for it and for the processes that it waited for. The ratio to `python -c pass` travels
between machines, the milliseconds do not. A peer, `bpftool map show`, is measured beside them where
it is installed. Needs root. Exits 1 if a target is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BPFFS = Path("/sys/fs/bpf")
DEVICE = "startup0"
OBJECT = "builtin:xdp_stats"
MAPS = 10
ROUNDS = 15
BARE = "python -c pass"
PEER = "bpftool map show"
# How many times the CPU of `python -c pass` a command may take.
TARGETS = {"bpfpin map list": 9.0, "bpfpin load, unchanged": 14.0}
INSIDE = "BPFPIN_BENCH_INSIDE"
RUN = Path("/run")  # in the namespaces: a file system of their own, which ends with them
MESSAGES = RUN / "messages"


@dataclass(frozen=True)
class Cost:
    """What one run of a command takes."""

    cpu_s: float
    wall_s: float


def measure_verbs(rounds: int = ROUNDS) -> dict[str, Cost]:
    """Return the medians of what each command costs, by its name; `python -c pass` is the first.

    The commands run in namespaces of a process started for it; the caller's stay as they are.

    Args:
        rounds: How often each command runs.

    Returns:
        The names are those of the printed table. `bpftool map show` is missing without bpftool.

    Raises:
        PermissionError: The caller is not root.
        subprocess.CalledProcessError: A command failed; standard error says which, and why.
    """
    if os.geteuid():
        raise PermissionError("namespaces, devices and pins need root")
    own = ["unshare", "--mount", "--net", "--propagation", "private"]
    done = subprocess.run(
        [*own, sys.executable, __file__, str(rounds)],
        env={**os.environ, INSIDE: "1", "BPFPIN_PRIVATE_MOUNT": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {name: Cost(*numbers) for name, numbers in json.loads(done.stdout).items()}


def measure_inside(rounds: int) -> dict[str, Cost]:
    """Make the host in the namespaces of this process and measure the commands by turns."""
    make_host()
    runs = commands()
    for command in runs.values():
        cost(command)  # bytecode is written, files are in the kernel's memory
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, command in runs.items():
            costs[name].append(cost(command))
    return {
        name: Cost(
            statistics.median(one.cpu_s for one in measured),
            statistics.median(one.wall_s for one in measured),
        )
        for name, measured in costs.items()
    }


def make_host() -> None:
    """Mount a bpffs, make a device, load an object there, and pin maps until there are ten."""
    subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(RUN)], check=True)
    # Bytecode is up to date and nothing of it is left in a checkout, whatever the caller exports.
    os.environ.update(PYTHONPYCACHEPREFIX=str(RUN / "bytecode"), PYTHONDONTWRITEBYTECODE="")
    subprocess.run(["ip", "link", "add", DEVICE, "type", "veth"], check=True)
    subprocess.run([bpfpin(), *load()], check=True, capture_output=True)
    for number in range(MAPS - pinned_maps()):
        make_map(BPFFS / "others" / f"map_{number}")
    assert pinned_maps() == MAPS


def pinned_maps() -> int:
    """Return how many maps have pins here."""
    command = [bpfpin(), "map", "list", "-o", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return sum(1 for one in json.loads(done.stdout)["maps"] if one["pins"])


def make_map(path: Path) -> None:
    """Pin a small map at *path*."""
    from bpfpin import Map, MapSpec, MapType  # noqa: PLC0415 - who imports measure_verbs() needs it not

    path.parent.mkdir(exist_ok=True)
    with Map.create(MapSpec(path.name, MapType.ARRAY, 4, 8, 4)) as made:
        made.pin(path)


def bpfpin() -> str:
    """Return the path of the command."""
    return str(Path(sys.executable).parent / "bpfpin")


def load() -> list[str]:
    """Return the words that load the set, or find it unchanged."""
    return ["load", OBJECT, "--dev", DEVICE]


def commands() -> dict[str, list[str]]:
    """Return what is measured, by name."""
    ours = {
        "bpfpin --version": ["--version"],
        "bpfpin map list": ["map", "list"],
        "bpfpin map dump": ["map", "dump", str(BPFFS / DEVICE / "xdp_stats_map")],
        "bpfpin status": ["status"],
        "bpfpin load, unchanged": load(),
    }
    bpftool = shutil.which("bpftool")
    return {
        BARE: [sys.executable, "-c", "pass"],
        "import bpfpin": [sys.executable, "-c", "import bpfpin"],
        **{name: [bpfpin(), *words] for name, words in ours.items()},
        **({PEER: [bpftool, "map", "show"]} if bpftool else {}),
    }


def cost(command: list[str]) -> Cost:
    """Run *command* and return what it took."""
    started = time.perf_counter()
    # Not subprocess.run(): it does not tell what one child used.
    streams = [
        *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)),
        (os.POSIX_SPAWN_OPEN, 2, str(MESSAGES), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    child = os.posix_spawn(command[0], command, os.environ, file_actions=streams)
    _, status, used = os.wait4(child, 0)
    wall_s = time.perf_counter() - started
    if exit_code := os.waitstatus_to_exitcode(status):
        sys.exit(f"exit status {exit_code} of {' '.join(command)}: {MESSAGES.read_text()}")
    return Cost(used.ru_utime + used.ru_stime, wall_s)


def main() -> int:
    """Measure, print the table, and return the exit status."""
    if os.environ.get(INSIDE) == "1":
        costs = measure_inside(int(sys.argv[1]))
        print(json.dumps({name: [one.cpu_s, one.wall_s] for name, one in costs.items()}))
        return 0
    costs = measure_verbs()
    bare = costs[BARE]
    print(f"medians of {ROUNDS} runs        CPU                    wall")
    is_met = True
    for name, one in costs.items():
        ratio = one.cpu_s / bare.cpu_s
        target = TARGETS.get(name)
        is_met &= target is None or ratio <= target
        words = f"  target {target:g} x: {'met' if ratio <= target else 'MISSED'}" if target else ""
        print(
            f"{name:24} {one.cpu_s * 1e3:7.1f} ms {ratio:6.2f} x  "
            f"{one.wall_s * 1e3:7.1f} ms {one.wall_s / bare.wall_s:6.2f} x{words}"
        )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
