"""`python -m bpfpin`: the same command as `bpfpin`."""

from __future__ import annotations

import sys

from bpfpin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
