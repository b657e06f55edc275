"""The verifier's log: a buffer that holds all of it, and the lines that tell why it refused.

The log is prose for people and changes with each kernel (Documentation/bpf/verifier.rst); what is
looked for here are the few marks that stayed: source lines start with `;`, instructions with their
number, and a line `processed N insns` ends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bpfpin.errors import SyscallError, VerifierError
from bpfpin.syscall.refusal import BufferTooSmallError

LOG_LEVEL = 1  # the instructions and states of the path that was refused
LOG_SIZE = 64 << 10
LOG_LIMIT = 16 << 20

_TELLING_LIMIT = 3
_TRAILER = re.compile(r"processed \d+ insns|verification time|stack depth|-- END|max_states")
_INSTRUCTION = re.compile(r"\d+: (\([0-9a-f]{2}\)|R\d)")
_STATE = re.compile(
    r"from \d+ to \d+:|(cur|old|caller|callee|frame\d*|last_idx|parent|mark_precise|regs=)\b.*[:=]"
    r"|Func#\d+ .* is safe for any args|Validating |returning from callee|to caller at"
)
_AFTER_JUMP = re.compile(r"\d+: \([0-9a-f]{2}\) .*? goto pc[+-]\d+ +(?=[a-z])")
_UNKNOWN_HELPER = re.compile(r"invalid func unknown#(\d{1,10})$", re.MULTILINE)
_BLOCK = re.compile(r"\s*(Reason|At|Suggestion)\b:?\s*(.*)")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one load with a log came to: a descriptor or the refusal, and the log.

    *true_size* is how many bytes all of the log would take, 0 where the kernel does not say.
    """

    fd: int | None
    error: SyscallError | None
    log: str
    true_size: int


def explain(attempt: Callable[[int], Attempt]) -> Attempt:
    """Load again with a log buffer that grows until all of the log fits, or 16 MiB are passed.

    *attempt* is given the size in bytes. Kernels from 6.4 tell the size that is needed
    (`log_true_size`); the ones before fill the buffer, which is then doubled and doubled.
    """
    size = LOG_SIZE
    while True:
        made = attempt(size)
        if not isinstance(made.error, BufferTooSmallError) or size >= LOG_LIMIT:
            return made
        needed = made.true_size or 2 * size
        size = min(max(needed, size + 1), LOG_LIMIT)


def refusal(error: SyscallError, log: str, *, program: str, path: str) -> VerifierError:
    """Return the error that says why *program* of the object at *path* was refused."""
    place = f" of {path}" if path else ""
    return VerifierError(
        f"the verifier refused program {program!r}{place}",
        log=log,
        telling_line=telling_line(log),
        source_line=source_line(log),
        errno=error.errno or 0,
        target=program,
    )


def is_before_instructions(log: str) -> bool:
    """Whether the refusal came before any instruction was looked at: of BTF, or of the shape."""
    return "processed 0 insns" in log


def unknown_helper(log: str) -> int | None:
    """Return the number of the helper that the kernel does not have, if that is the refusal."""
    found = _UNKNOWN_HELPER.search(log)
    return int(found[1]) if found else None


def telling_line(log: str) -> str:
    """Return the line of *log* that says why, "" if there is none.

    Newer kernels end with a block that has a `Reason`; older ones with up to three telling lines
    after the last instruction, joined here by a semicolon.
    """
    lines = log.splitlines()
    return _reason(lines) or _last_words(lines)


def source_line(log: str) -> str:
    """Return the line of C that the verifier stopped at, with the kernel's `@ FILE:LINE`.

    "" when the object carries no line information. The lines that newer kernels print for code
    without text of its own (line 0) are passed over.
    """
    for line in reversed(log.splitlines()):
        text = line.removeprefix(";").strip()
        if line.startswith(";") and text and not text.startswith("@ "):
            return text
    return ""


def _last_words(lines: list[str]) -> str:
    words: list[str] = []
    for line in reversed(lines):
        if not line.strip() or _TRAILER.match(line) or (not words and _STATE.match(line)):
            continue
        if _INSTRUCTION.match(line) or line.startswith(";") or _STATE.match(line):
            return _joined(words) or _behind_jump(line)
        words.insert(0, line.strip())
    return _joined(words)


def _joined(words: list[str]) -> str:
    return "; ".join(words[-_TELLING_LIMIT:])


def _behind_jump(line: str) -> str:
    """Return what was written on the line of a jump, as `infinite loop detected` is."""
    found = _AFTER_JUMP.match(line)
    return line[found.end() :].strip() if found else line.strip()


def _reason(lines: list[str]) -> str:
    """Return what stands behind the last `Reason`, on its line or on the next."""
    for number in range(len(lines) - 1, -1, -1):
        found = _BLOCK.fullmatch(lines[number])
        if found and found[1] == "Reason":
            following = lines[number + 1].strip() if number + 1 < len(lines) else ""
            return found[2] or following
    return ""
