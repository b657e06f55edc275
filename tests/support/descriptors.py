"""A process that can open no more file descriptors (EMFILE): what is there must not seem gone."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def none_left() -> Iterator[None]:
    """Use up the file descriptors of this process for the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    with ExitStack() as undo:
        # Every number below the limit is in use.
        while (fd := os.open("/", os.O_PATH)) <= used:
            undo.callback(os.close, fd)
        undo.callback(os.close, fd)
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, before[1]))
        yield
