"""Damage that follows what the reader's branches do, by atheris, for FUZZ_SECONDS seconds.

`python -m fuzz.guided` in the folder of the tests; an exception that is not ours ends it, and
atheris leaves the bytes in a file `crash-…` in the current folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("needs atheris: pip install 'bpfpin[fuzz]'")

with atheris.instrument_imports(include=["bpfpin"]):
    from fuzz.examine import examine

from fuzz.seeds import seeds

_SECONDS = int(os.environ.get("FUZZ_SECONDS", "3600"))
_LIMITS = ("-timeout=5", "-rss_limit_mb=1024", "-max_len=32768", "-print_final_stats=1")


def main() -> None:
    """Run atheris on the seeds; it ends the process."""
    with tempfile.TemporaryDirectory(prefix="bpfpin-fuzz-") as folder:
        for name, data in seeds().items():
            (Path(folder) / name).write_bytes(data)
        options = [sys.argv[0], f"-max_total_time={_SECONDS}", *_LIMITS, *sys.argv[1:], folder]
        atheris.Setup(options, examine_one)
        atheris.Fuzz()


def examine_one(data: bytes) -> None:
    """Let every exception through but ours."""
    examine(data)


if __name__ == "__main__":
    main()
