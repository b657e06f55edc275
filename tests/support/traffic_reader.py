"""A process that opens and reads a pinned map again and again until SIGTERM.

    traffic_reader.py PIN

Writes a line when the first read succeeded, and at the end how often it read and how often it could
not, with the first error.
"""

from __future__ import annotations

import signal
import sys

from bpfpin.errors import BpfError
from bpfpin.objects.maps.map import Map


def main() -> None:
    """Read until somebody says that it is enough."""
    path = sys.argv[1]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    reads, errors = 0, list[str]()
    while not stopped:
        try:
            with Map.from_pin(path) as counters:
                counters.to_dict()
        except BpfError as error:
            errors.append(str(error))
        reads += 1
        if reads == 1:
            _say("started")
    _say(f"{reads} {len(errors)} {errors[0] if errors else ''}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
