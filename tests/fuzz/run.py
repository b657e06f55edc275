"""Reads damaged objects one after the other and says what came of it, as JSON on one line.

`python -m fuzz.run --cases 20000` in the folder of the tests; `--only N` runs one case again, and
lets its exception through.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz.damage import Damager
from fuzz.examine import examine
from fuzz.seeds import seeds

MEMORY_BYTES = 256 << 20
_HANGS_AFTER_S = 20
_FAILURES_SHOWN = 10


@dataclass
class Outcome:
    """What came of the cases; *failures* are tracebacks, the first ten of them."""

    cases: int = 0
    read: int = 0
    failed: int = 0
    slowest_ms: float = 0
    slowest: str = ""
    seconds: float = 0
    peak_mib: int = 0
    failures: list[str] = field(default_factory=list)


def run(damager: Damager, first: int, cases: int) -> Outcome:
    """Run *cases* cases from number *first* on."""
    outcome = Outcome()
    for number in range(first, first + cases):
        name, data = damager.case(number)
        faulthandler.dump_traceback_later(_HANGS_AFTER_S, exit=True)
        start = time.process_time()
        try:
            outcome.read += examine(data)
        except Exception:  # whatever it is, it is what is looked for
            outcome.failed += 1
            if len(outcome.failures) < _FAILURES_SHOWN:
                outcome.failures.append(f"case {name}\n{traceback.format_exc()}")
        taken_ms = 1000 * (time.process_time() - start)
        if taken_ms > outcome.slowest_ms:
            outcome.slowest_ms, outcome.slowest = taken_ms, name
        outcome.cases += 1
    faulthandler.cancel_dump_traceback_later()
    outcome.seconds = round(time.process_time(), 1)
    outcome.peak_mib = peak_mib()
    return outcome


def peak_mib() -> int:
    """Return the most memory that this program had; getrusage counts who started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:"))


def main() -> int:
    """Run what the command line asks for; 1 if anything failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--key", default="0", help="another key gives other cases")
    parser.add_argument("--only", type=int)
    chosen = parser.parse_args()
    damager = Damager(seeds(), key=chosen.key)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    if chosen.only is not None:
        examine(damager.case(chosen.only)[1])
        return 0
    outcome = run(damager, chosen.first, chosen.cases)
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
