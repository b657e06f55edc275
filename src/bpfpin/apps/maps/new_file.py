"""A file that is there as a whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bpfpin.errors import ObjectNotFoundError, UsageError


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file (0600) that is called *path* at the end of `with`; an error leaves no trace.

    It is written beside, made durable (fsync) and renamed, over a file that is there already.
    `UsageError` where something is that is no file, `ObjectNotFoundError` without the directory.
    """
    _require_replaceable(path)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(file.name).unlink()
            raise
    _sync_directory(path.parent)


def _require_replaceable(path: Path) -> None:
    """Refuse what a rename would destroy: `/dev/stdout` is a symbolic link."""
    if not path.parent.is_dir():
        raise ObjectNotFoundError("no such directory", path=str(path.parent))
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} is there and no regular file", hint="give another name")


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
