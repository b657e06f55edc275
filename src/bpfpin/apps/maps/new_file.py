"""A file that is there as a whole or not at all, written where nobody else can lead us astray.

As root one writes into /tmp, too, where others make names: a symbolic link of theirs must not say
which file is overwritten. So the path is walked first, its directory is opened once, and the file
is made beside (O_EXCL) and renamed, all below that descriptor.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, TypeVar

from bpfpin.errors import ObjectNotFoundError, UnsafePathError, UsageError
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.refusal import refusal

PRIVATE: Final = 0o600
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LINKS_MAX: Final = 40  # as many as the kernel follows
_STREAMS: Final = (stat.S_ISCHR, stat.S_ISFIFO, stat.S_ISSOCK)


T = TypeVar("T")


@contextmanager
def new_file(path: Path, *, mode: int = PRIVATE) -> Iterator[IO[bytes]]:
    """Yield a file that is called *path* at the end of `with`; an error leaves no trace.

    It is written beside, made durable (fsync) and renamed, over a file that is there already. Its
    mode is *mode*, less the umask.

    Raises `UsageError` where something is that is no file, `ObjectNotFoundError` without the
    directory, `UnsafePathError` for a symbolic link of another user or in a directory that others
    may write, and what writing is refused with, with the path.
    """
    whole = resolved(path.absolute().parent) / path.name
    _require_replaceable(whole)
    with _directory(whole.parent) as directory:
        name = f".{whole.name[:200]}.{secrets.token_hex(6)}"
        fd = _do(
            path,
            lambda: os.open(
                name,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                mode,
                dir_fd=directory.fileno(),
            ),
        )
        try:
            with os.fdopen(fd, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            places = {"src_dir_fd": directory.fileno(), "dst_dir_fd": directory.fileno()}
            _do(path, lambda: os.rename(name, whole.name, **places))  # noqa: PTH104  (by descriptor)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory.fileno())
            raise
        os.fsync(directory.fileno())


def write_text(path: Path, text: str) -> None:
    """Write *text* into a new file as `new_file` does, or to a terminal, a pipe or /dev/null."""
    if _is_stream(path):
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
        return
    with new_file(resolved(path), mode=0o666) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def resolved(path: Path) -> Path:
    """Return *path* without symbolic links; `UnsafePathError` if somebody else could set one.

    Those are links in a directory that others may write, unless it is sticky and the link is ours
    or root's (what the kernel's `fs.protected_symlinks` allows), and links of other users anywhere.
    """
    whole, left = Path("/"), list(path.absolute().parts[1:])
    for _ in range(_LINKS_MAX):
        while left:
            part = left.pop(0)
            if part == "..":
                whole = whole.parent
                continue
            whole /= part
            try:
                status = whole.lstat()
            except OSError:
                return whole.joinpath(*left)  # what is missing is told by who opens it
            if stat.S_ISLNK(status.st_mode):
                break
        else:
            return whole
        _require_safe_link(whole, status)
        target = Path(os.readlink(whole))  # noqa: PTH115
        left = [*(target.parts[1:] if target.is_absolute() else target.parts), *left]
        whole = Path("/") if target.is_absolute() else whole.parent
    raise UnsafePathError(f"{path}: more than {_LINKS_MAX} symbolic links", path=str(path))


def _require_safe_link(link: Path, status: os.stat_result) -> None:
    directory = link.parent.stat()
    is_ours = status.st_uid in (0, os.geteuid())
    is_open = bool(directory.st_mode & _OTHERS_WRITE)
    if is_ours and (not is_open or directory.st_mode & stat.S_ISVTX):
        return
    why = f"it belongs to uid {status.st_uid}" if not is_ours else f"others may write {link.parent}"
    raise UnsafePathError(
        f"{link} is a symbolic link that is not followed: {why}",
        path=str(link),
        hint="name the file itself, or one in a directory that only you may write",
    )


def _is_stream(path: Path) -> bool:
    """Whether there is something that is written to and never replaced."""
    name = path.absolute()
    if name.parent in (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")):
        with suppress(OSError):  # /dev/stdout, >(…) of a shell: links that only we have
            return not stat.S_ISBLK(name.stat().st_mode)
    with suppress(OSError):
        status = resolved(path).lstat()
        return status.st_uid in (0, os.geteuid()) and any(kind(status.st_mode) for kind in _STREAMS)
    return False


def _require_replaceable(path: Path) -> None:
    """Refuse what a rename would destroy."""
    if not path.parent.is_dir():
        raise ObjectNotFoundError("no such directory", path=str(path.parent))
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} is there and no regular file", hint="give another name")


def _directory(path: Path) -> Descriptor:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return Descriptor(_do(path, lambda: os.open(path, flags)))


def _do(path: Path, call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise refusal("open", error.errno or 0, target=str(path)) from None
