"""Objects damaged in twenty thousand ways are read or refused, at once and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
CASES = int(os.environ.get("FUZZ_CASES", "20000"))
SLOWEST_MS = 1000
PEAK_MIB = 256


@pytest.mark.slow
def test_damaged_objects_are_read_or_refused() -> None:
    """The child has 256 MiB; a failure names its case: `python -m fuzz.run --only NUMBER`."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.run", "--cases", str(CASES)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)

    assert outcome["failures"] == []
    assert outcome["cases"] == CASES
    assert CASES // 10 < outcome["read"] < CASES * 9 // 10
    assert outcome["slowest_ms"] < SLOWEST_MS, outcome["slowest"]
    assert outcome["peak_mib"] < PEAK_MIB
