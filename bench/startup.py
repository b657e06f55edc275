"""How much longer `bpfpin --version` takes than bare Python, run alternately in one session.

Target: at most 60 ms more. The ratio travels between machines, the milliseconds do not.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import bpfpin'": [sys.executable, "-c", "import bpfpin"],
    "bpfpin --version": [str(Path(sys.executable).parent / "bpfpin"), "--version"],
}


def seconds(command: list[str]) -> float:
    """Return how long one run of *command* takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run the commands in turn and print the medians."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    bare = statistics.median(times["python -c pass"])
    for name, measured in times.items():
        median = statistics.median(measured)
        more = (median - bare) * 1000
        print(f"{name:28} {median * 1000:7.1f} ms  {median / bare:5.2f} x  +{more:5.1f} ms")


if __name__ == "__main__":
    main()
