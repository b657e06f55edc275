"""File descriptors with one owner, closed by `with` and on exec."""

from __future__ import annotations

import os
import warnings
from types import TracebackType
from typing import NoReturn, Self

CLOSED = -1


class Closing:
    """A base for objects that `with` closes.

    They cannot be copied or pickled, like files: a copy would have the same descriptor number, and
    after the first of the two was closed, the second would close the file that got the number next.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # copy, deepcopy, pickle, multiprocessing and dataclasses.asdict all call this method.
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__!r} objects: each owns what it closes;"
            " open it again (Map.from_pin, from_id), or fork"
        )

    def close(self) -> None:
        """Release the resources. Calling it again does nothing."""
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
    """The owner of the file descriptor *fd* until `close` or `release`.

    If an open one is garbage-collected, it is closed with a `ResourceWarning`. The descriptor is
    closed on exec.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # first: fails for a number that is not a descriptor
        self._fd = fd

    def fileno(self) -> int:
        """Return the number; `ValueError` after `close` or `release`, as with files."""
        if self._fd == CLOSED:
            raise ValueError("the descriptor is closed")
        return self._fd

    @property
    def is_closed(self) -> bool:
        """Whether it no longer owns a descriptor."""
        return self._fd == CLOSED

    def duplicate(self) -> Descriptor:
        """Return the owner of a duplicate, which is closed on exec as well."""
        return Descriptor(os.dup(self.fileno()))

    def release(self) -> int:
        """Return the number; the caller closes it."""
        fd = self.fileno()
        self._fd = CLOSED
        return fd

    def close(self) -> None:
        """Close the descriptor. Calling it again does nothing."""
        if self._fd != CLOSED:
            # Forgotten before it is closed: close(2) frees the number even if it fails, and the
            # next file may get it. A second attempt would close that file.
            os.close(self.release())

    def __del__(self) -> None:
        # There is no `_fd` if `__init__` refused the number.
        if getattr(self, "_fd", CLOSED) == CLOSED:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.close()

    def __repr__(self) -> str:
        return "<Descriptor closed>" if self.is_closed else f"<Descriptor {self._fd}>"
