"""The lines of the keys of a TOML text, for error messages: `tomllib` does not report them.

The text has been parsed by `tomllib` before, so that it is valid. Only table headers and the keys
at the start of a line are looked for; what is within a value has the line of its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

KeyPath = tuple[str | int, ...]
"""The keys and indexes that lead to a value: `("set", 0, "maps", "flows")`."""

_CLOSED_BY = {"[": "]", "{": "}"}
_QUOTES = ("'", '"')


def lines_of(text: str) -> Mapping[KeyPath, int]:
    """Return the line, counted from 1, of each table and key of a valid TOML text."""
    return dict(_Scanner(text).statements())


def line_at(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Return the line of *path*, or of the innermost table around it that has one; 1 for none."""
    for length in range(len(path), 0, -1):
        if line := lines.get(path[:length]):
            return line
    return 1


class _Scanner:
    """Walks over the statements of a text: table headers, and keys with their values."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._table: KeyPath = ()
        self._counts: dict[KeyPath, int] = {}  # the tables of each array of tables

    def statements(self) -> Iterator[tuple[KeyPath, int]]:
        while self._skip_blank():
            line = self._line
            if self._text.startswith("[[", self._at):
                self._at += 2
                self._table = self._of_next_element(self._keys())
                self._skip_line()
            elif self._text[self._at] == "[":
                self._at += 1
                self._table = self._resolved(self._keys())
                self._skip_line()
            else:
                path = (*self._table, *self._keys())
                self._skip_value()
                yield from ((path[:length], line) for length in self._new_parts(path))
                continue
            yield self._table, line

    def _new_parts(self, path: KeyPath) -> Iterator[int]:
        """Yield the lengths of the paths that a dotted key begins: `a.b = 1` has `a` and `a.b`."""
        yield from range(len(path), len(self._table), -1)

    def _of_next_element(self, keys: list[str]) -> KeyPath:
        array = (*self._resolved(keys[:-1]), keys[-1])
        self._counts[array] = self._counts.get(array, 0) + 1
        return (*array, self._counts[array] - 1)

    def _resolved(self, keys: list[str]) -> KeyPath:
        """Return the path of a table; a name of an array of tables means its last element."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            if count := self._counts.get(path):
                path = (*path, count - 1)
        return path

    def _skip_blank(self) -> bool:
        """Go to the next statement; False at the end of the text."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                self._skip_line()
            elif self._text[self._at].isspace():
                self._step()
            else:
                return True
        return False

    def _skip_line(self) -> None:
        while self._at < len(self._text) and self._text[self._at] != "\n":
            self._at += 1

    def _step(self) -> None:
        self._line += self._text[self._at] == "\n"
        self._at += 1

    def _keys(self) -> list[str]:
        """Read a key, dotted or not, up to the `=` or the `]` behind it."""
        keys: list[str] = []
        bare = ""
        while (character := self._text[self._at]) not in "=]":
            if character in _QUOTES:
                keys.append(self._quoted())
            elif character == "." or character.isspace():
                keys += [bare] if bare else []
                bare = ""
                self._at += 1
            else:
                bare += character
                self._at += 1
        self._at += 1
        return [*keys, bare] if bare else keys

    def _quoted(self) -> str:
        """Read a quoted key; escapes other than of a quote stay as they are written."""
        start = self._at
        self._skip_string()
        quote = self._text[start]
        key = self._text[start + 1 : self._at - 1]
        return key.replace('\\"', '"').replace("\\\\", "\\") if quote == '"' else key

    def _skip_value(self) -> None:
        """Go behind the value, which ends with its line unless a bracket or a string is open."""
        closers: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "\n" and not closers:
                return
            if character in _QUOTES:
                self._skip_string()
            elif character == "#":
                self._skip_line()
            else:
                if character in _CLOSED_BY:
                    closers.append(_CLOSED_BY[character])
                elif closers and character == closers[-1]:
                    closers.pop()
                self._step()

    def _skip_string(self) -> None:
        quote = self._text[self._at]
        triple = quote * 3
        end = triple if self._text.startswith(triple, self._at) else quote
        self._at += len(end)
        while self._at < len(self._text) and not self._text.startswith(end, self._at):
            if quote == '"' and self._text[self._at] == "\\":
                self._step()
            self._step()
        self._at += len(end)
        # Up to two quotes may stand before the three that end a text of several lines.
        while len(end) == 3 and self._text.startswith(quote, self._at):
            self._at += 1
