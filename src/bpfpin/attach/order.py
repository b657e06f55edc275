"""Hooks of devices that run several programs, and where among them a new one goes.

tcx and netkit: both keep their programs in a `bpf_mprog` (kernel/bpf/mprog.c, Linux 6.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from bpfpin.attach import interface as interfaces
from bpfpin.attach.query import is_known, tcx_programs
from bpfpin.errors import HookBusyError, IdNotFoundError, NotSupportedError, WrongHookError
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import AttachFlag, ProgramType

# Whether a program is of the type that a hook runs.


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


@dataclass(frozen=True, slots=True)
class Order:
    """Where among the programs of a hook a new one runs; made by the functions below."""

    flags: AttachFlag
    relative_id: int = 0

    @classmethod
    def first(cls) -> Self:
        """Before all programs that are there now."""
        return cls(AttachFlag.BEFORE)

    @classmethod
    def last(cls) -> Self:
        """After all programs that are there now."""
        return cls(AttachFlag.AFTER)

    @classmethod
    def before(cls, anchor: Program | Link | int) -> Self:
        """Just before *anchor*, which is attached there; a number is a program's id."""
        return cls._beside(AttachFlag.BEFORE, anchor)

    @classmethod
    def after(cls, anchor: Program | Link | int) -> Self:
        """Just after *anchor*, which is attached there; a number is a program's id."""
        return cls._beside(AttachFlag.AFTER, anchor)

    @classmethod
    def _beside(cls, side: AttachFlag, anchor: Program | Link | int) -> Self:
        # By id: a descriptor could be closed and used again before the order is.
        if isinstance(anchor, Link):
            return cls(side | AttachFlag.ID | AttachFlag.LINK, anchor.id)
        return cls(side | AttachFlag.ID, anchor if isinstance(anchor, int) else anchor.id)

    def __str__(self) -> str:
        side = "before" if self.flags & AttachFlag.BEFORE else "after"
        kind = "link" if self.flags & AttachFlag.LINK else "program"
        return f"{side} {kind} id {self.relative_id}" if self.relative_id else f"{side} all others"


def attach_in_order(
    program: Program, interface: str | int, hook: Hook, order: Order | None, *, since: str
) -> Link:
    """Attach a tc program to a hook of a device that runs several, last unless *order* says.

    Raises what `attach_tcx` tells; *since* is the first Linux with that hook.
    """
    require_type(program, ProgramType.SCHED_CLS, hook)
    ifindex = interfaces.ifindex(interface)
    wanted = order or Order.last()
    assert hook.attach_type is not None
    try:
        return Link.create(
            program, ifindex, hook.attach_type, flags=wanted.flags, relative=wanted.relative_id
        )
    except HookBusyError as error:
        raise _busy(program, ifindex, hook, error) from None
    except IdNotFoundError:
        raise _no_anchor(ifindex, hook, wanted) from None
    except InvalidArgumentError as error:
        # A kernel without the hook answers an attach type or flags that it does not know so.
        if is_known(ifindex, hook):
            raise
        raise _not_supported(hook, since, error) from None


def _busy(program: Program, ifindex: int, hook: Hook, error: HookBusyError) -> HookBusyError:
    """Say who has the program there already; the kernel runs each program once."""
    place = f"{hook.value} of {interfaces.name_of(ifindex)}"
    there = tcx_programs(ifindex, hook)
    same = [one for one in there if one.program_id == program.id]
    if not same:
        error.hint = f"{place} runs {len(there)} programs"
        return error
    holder = f"program id {same[0].program_id}, {same[0].held}"
    return HookBusyError(f"{place} runs this program already: {holder}", holder=holder)


def _no_anchor(ifindex: int, hook: Hook, order: Order) -> IdNotFoundError:
    there = [f"program id {one.program_id} ({one.held})" for one in tcx_programs(ifindex, hook)]
    place = f"{hook.value} of {interfaces.name_of(ifindex)}"
    return IdNotFoundError(
        f"nothing can go {order} at {place}, where that is not attached;"
        f" in their order there are: {', '.join(there) or 'none'}"
    )


def _not_supported(hook: Hook, since: str, error: InvalidArgumentError) -> NotSupportedError:
    return NotSupportedError(
        f"this kernel has no {hook.value}",
        feature=hook.value,
        since=since,
        command=error.command,
        errno=error.errno or 0,
    )
