"""The string section of BTF, read by offset."""

from __future__ import annotations

from itertools import accumulate

from bpfpin.btf.decode import malformed
from bpfpin.uapi import BTF_MAX_NAME_OFFSET

_OVERLAPS = 4
_SMALL_BYTES = 1 << 16  # a section this small is read as a whole


class Strings(dict[int, str]):
    """The strings by offset, each decoded once; a table with a *base* goes on where that ends.

    A dict, so that a name that is known costs no call.
    """

    def __init__(self, data: bytes, base: Strings | None) -> None:
        super().__init__()
        self.data = data
        self.end: int = len(data) + (base.end if base is not None else 0)
        self._base = base
        self.first = base.end if base is not None else 0  # empty before it is read
        self._bytes_read = 0

    def __missing__(self, offset: int) -> str:
        if self._base is not None and offset < self.first:
            return self._base[offset]
        if not self and len(self.data) <= _SMALL_BYTES and self.data.isascii():
            self._read_all()
        text = self.get(offset)
        if text is None:
            text = self[offset] = self._read(offset)
        return text

    def _read_all(self) -> None:
        texts = self.data.decode("ascii").split("\0")[:-1]
        offsets = accumulate([len(text) + 1 for text in texts], initial=self.first)
        self.update(zip(offsets, texts, strict=False))  # the last offset is the end

    def _read(self, offset: int) -> str:
        start = offset - self.first
        if not 0 <= start < len(self.data):
            raise malformed(f"there is no string at {offset:#x} of {self.end:#x} bytes")
        end = self.data.index(0, start)  # the section ends with one
        # Strings may share tails; types that all name tails of one long string are a bomb.
        self._bytes_read += end - start
        if self._bytes_read > _OVERLAPS * len(self.data):
            raise malformed(f"the strings overlap too much, at {offset:#x}")
        return self.data[start:end].decode(errors="backslashreplace")


def check_strings(data: bytes, *, has_base: bool) -> None:
    """Raise `ObjectFileError` unless *data* starts and ends with a zero byte, and is not too large.

    The section of a table with a base may be empty, and starts with a string.
    """
    if has_base and not data:
        return
    if not data or data[-1] or (data[0] and not has_base):
        raise malformed("the string section does not start and end with a zero byte", offset=16)
    if len(data) - 1 > BTF_MAX_NAME_OFFSET:
        raise malformed(f"the string section takes {len(data)} bytes, too many", offset=20)
