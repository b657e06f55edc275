"""What to do about an error: a sentence in which arguments of the call are data.

Python callers read `take_over=True`, and the command words the same argument as its option,
`--take-over`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from bpfpin.records import dataclass


class Placeholder(str):
    """A value that the caller fills in, such as NAME; written without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shell_line(command: str, *operands: object, **options: object) -> str:
    """Return a line to type into a shell: a command with values that may be any text.

    Everything that a message tells the user to type, and that holds a name or a path, is made here.

    Args:
        command: The words that are the same every time, such as `bpfpin unload --keep-maps`.
        operands: What follows the options, quoted, except a `Placeholder`. They begin with `--` if
            the command would take one of them for an option.
        options: Values of options by name: `dev="eth0"` is `--dev eth0`.
    """
    words = [command]
    for name, value in options.items():
        word = _quoted(value)
        # An option that may also be given without a value would not take the next word.
        words.append(f"--{name.replace('_', '-')}{'=' if word.startswith('-') else ' '}{word}")
    if any(str(operand).startswith("-") for operand in operands):
        words.append("--")
    return " ".join([*words, *map(_quoted, operands)])


def _quoted(value: object) -> str:
    import shlex  # noqa: PLC0415 - only for a line that is shown

    text = str(value)
    # A shell expands `~` only at the beginning of a word, and names of ours in bpffs end with it.
    is_plain = text.startswith("/") and shlex.quote(bare := text.replace("~", "")) == bare
    return text if is_plain or isinstance(value, Placeholder) else shlex.quote(text)


@dataclass(frozen=True, slots=True)
class Argument:
    """A keyword argument that solves a problem, such as `take_over=True`.

    The command has an option for it: a flag for True, one option for each element of a list,
    `KEY=VALUE` for each item of a mapping, and for a record an option for each of its fields.

    Attributes:
        name: The name of the keyword argument.
        value: The value to pass; True for a flag, None to name the argument alone.
    """

    name: str
    value: object = True

    def __str__(self) -> str:
        if self.value is None:
            return self.name
        value = self.value.value if isinstance(self.value, Enum) else self.value
        return f"{self.name}={value!r}"


@dataclass(frozen=True, slots=True)
class Fix:
    """What to do about an error: a sentence of *parts*, texts and arguments of the call."""

    parts: tuple[str | Argument, ...]

    @classmethod
    def of(cls, *parts: str | Argument) -> Fix:
        """Return a fix of *parts*, texts and arguments, which are joined without spaces."""
        return cls(parts)

    def text(self, word: Callable[[Argument], str] = str, *, between: str = ", ") -> str:
        """Return the sentence.

        *word* writes an argument, by default as in Python, *between* separates adjacent ones.
        """
        text, before = "", None
        for part in self.parts:
            if isinstance(part, Argument):
                text += between if isinstance(before, Argument) else ""
            text += part if isinstance(part, str) else word(part)
            before = part
        return text

    def joined(self, *parts: str | Argument, separator: str = "") -> Fix:
        """Return this fix and *parts*, with *separator* between them if both have words."""
        is_divided = separator and self.text() and Fix(parts).text()
        return Fix((*self.parts, *([separator] if is_divided else []), *parts))
