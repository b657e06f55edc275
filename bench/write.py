"""Compare writing a million entries with C and libbpf.

Needs root, gcc and libbpf-dev. Prints the minimum time of some rounds and the ratio to C; both
sides write the same entries into the same full map. Exits 1 if a target is missed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from support.peers import MILLION, Work, arrays, bcc_told, beside, compiled, in_c, numbers


def main() -> int:
    """Measure and return the exit status."""
    bcc_told()
    keys, values = arrays(MILLION)
    entries = dict(zip(keys, values, strict=True))
    title = "1,000,000 u32->u64"
    with tempfile.TemporaryDirectory() as directory, numbers(MILLION) as held:
        peer = compiled("write", Path(directory))
        return beside(
            lambda: in_c(peer, held.id, MILLION),
            Work(title, "from arrays", lambda: held.update_arrays(keys, values), promised=1.1),
            Work(title, "from a dict", lambda: held.update_batch(entries), promised=1.3),
            Work(title, "from pairs", lambda: held.update_batch(entries.items())),
        )


if __name__ == "__main__":
    sys.exit(main())
