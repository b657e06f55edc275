"""Descriptors with one owner, closed on exec and by `with`."""

from __future__ import annotations

import os
import warnings
from types import TracebackType
from typing import NoReturn, Self

CLOSED = -1


class Closing:
    """Ends at the end of `with`, by its `close`.

    It cannot be copied or pickled, as files cannot: a copy would hold the same descriptor number,
    and would close another file's once the first of the two is closed.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # copy, deepcopy, pickle, multiprocessing and dataclasses.asdict all come here.
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__!r} objects: each owns what it closes;"
            " open it again (Map.from_pin, from_id), or fork"
        )

    def close(self) -> None:
        """Let go of what is held; again does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Descriptor(Closing):
    """Owns the file descriptor *fd* until it is closed or released.

    Dropping an open one closes it and warns with `ResourceWarning`; the descriptor does not
    survive exec.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # first: a number that is no descriptor is not owned
        self._fd = fd

    def fileno(self) -> int:
        """Return the number; `ValueError` after `close` or `release`, as files do."""
        if self._fd == CLOSED:
            raise ValueError("the descriptor is closed")
        return self._fd

    @property
    def is_closed(self) -> bool:
        """Whether it no longer owns anything."""
        return self._fd == CLOSED

    def duplicate(self) -> Descriptor:
        """Return a new owner of a copy (fcntl F_DUPFD_CLOEXEC)."""
        return Descriptor(os.dup(self.fileno()))

    def release(self) -> int:
        """Return the number and leave closing it to the caller."""
        fd = self.fileno()
        self._fd = CLOSED
        return fd

    def close(self) -> None:
        """Close it; again does nothing."""
        if self._fd != CLOSED:
            os.close(self.release())

    def __del__(self) -> None:
        if getattr(self, "_fd", CLOSED) == CLOSED:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.close()

    def __repr__(self) -> str:
        return "<Descriptor closed>" if self.is_closed else f"<Descriptor {self._fd}>"
