"""From the words of a verifier to a cause and a hint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bpfpin.objects.verifier.cause import Cause
from bpfpin.objects.verifier.table import TABLE


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause, and a hint of what to do ("" if we know of none)."""

    cause: Cause = Cause.UNKNOWN
    hint: str = ""


def diagnose(words: str, name_place: Callable[[int], str]) -> Diagnosis:
    """Return the first row of the table that *words* of a verifier fit.

    *name_place* tells what to call an instruction (`line 12`), for what began at another one.
    """
    for cause, pattern, hint in TABLE:
        found = pattern.search(words)
        if found:
            groups = {name: text or "" for name, text in found.groupdict().items()}
            if groups.get("insn"):
                groups["place"] = name_place(int(groups["insn"]))
            return Diagnosis(cause, hint(found) if callable(hint) else hint.format(**groups))
    return Diagnosis()
