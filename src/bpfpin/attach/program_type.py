"""Whether a program is of the type that a hook runs."""

from __future__ import annotations

from bpfpin.errors import WrongHookError
from bpfpin.objects.program import Program
from bpfpin.spec import Hook
from bpfpin.uapi import ProgramType


def require_type(program: Program, wanted: ProgramType, hook: Hook) -> None:
    """Raise `WrongHookError` unless *program* is of the type that *hook* runs."""
    there = program.type
    if there == wanted:
        return
    kind = getattr(there, "name", str(there)).lower()
    raise WrongHookError(
        f"program {program.name!r} is of type {kind}, and {hook.value} runs {wanted.name.lower()}"
    )


def require_hook(hook: Hook, known: frozenset[Hook], what: str) -> None:
    """Raise `WrongHookError` if *hook* is none of those that *what* has."""
    if hook not in known:
        there = ", ".join(one.value for one in Hook if one in known)
        raise WrongHookError(f"{what} has no hook {hook.value}; it has: {there}")
