"""Hooks of devices that run several programs in an order: tcx and netkit.

Both keep their programs in a `bpf_mprog` (kernel/bpf/mprog.c, Linux 6.6), which takes for a new
one a place before or after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from bpfpin.attach import interface as interfaces
from bpfpin.attach.query import is_known, tcx_programs
from bpfpin.errors import HookBusyError, IdNotFoundError, NotSupportedError, WrongHookError
from bpfpin.hooks import Hook, hooks_with_code
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import AttachFlag


def require_type(program: Program, hook: Hook) -> None:
    """Raise `WrongHookError` unless *program* is of a type that *hook* runs."""
    wanted = hook.traits.program_types
    if program.type in wanted:
        return
    kind = getattr(program.type, "name", str(program.type)).lower()
    words = " or ".join(program_type.name.lower() for program_type in wanted)
    raise WrongHookError(
        f"program {program.name!r} is of type {kind}, and {hook.value} runs {words}"
    )


def require_hook(hook: Hook, code: str, what: str) -> None:
    """Raise `WrongHookError` unless the code of *hook* is *code*, called *what* in the message."""
    if hook.traits.code != code:
        words = ", ".join(own.value for own in hooks_with_code(code))
        raise WrongHookError(f"{what} has no hook {hook.value}; it has: {words}")


@dataclass(frozen=True, slots=True)
class Order:
    """A position among the programs of a hook: `Order.first()`, `.last()`, `.before()`, `.after()`.

    It holds for the moment of attaching: programs that come later may go before it.

    Args:
        flags: BPF_F_BEFORE or BPF_F_AFTER, with BPF_F_ID and BPF_F_LINK.
        relative_id: The id of the program or link beside which it runs; 0 for all others.
    """

    flags: AttachFlag
    relative_id: int = 0

    @classmethod
    def first(cls) -> Self:
        """Return the position before all programs that are attached now."""
        return cls(AttachFlag.BEFORE)

    @classmethod
    def last(cls) -> Self:
        """Return the position after all programs that are attached now."""
        return cls(AttachFlag.AFTER)

    @classmethod
    def before(cls, anchor: Program | Link | int) -> Self:
        """Return the position just before another program.

        Args:
            anchor: A program or link that is attached at the hook, or the id of a program.
        """
        return cls._beside(AttachFlag.BEFORE, anchor)

    @classmethod
    def after(cls, anchor: Program | Link | int) -> Self:
        """Return the position just after another program.

        Args:
            anchor: A program or link that is attached at the hook, or the id of a program.
        """
        return cls._beside(AttachFlag.AFTER, anchor)

    @classmethod
    def _beside(cls, side: AttachFlag, anchor: Program | Link | int) -> Self:
        # By id: a descriptor could be closed and used again before the order is.
        if isinstance(anchor, Link):
            return cls(side | AttachFlag.ID | AttachFlag.LINK, anchor.id)
        return cls(side | AttachFlag.ID, anchor if isinstance(anchor, int) else anchor.id)

    def is_place_of(self, link_id: int, programs: Sequence[tuple[int, int]]) -> bool:
        """Whether a link has this position at its hook.

        Args:
            link_id: The id of the link.
            programs: The programs that the hook runs, in order: the id of each, and of its link.
        """
        links = [link for _, link in programs]
        if link_id not in links:
            return False
        place, is_before = links.index(link_id), bool(self.flags & AttachFlag.BEFORE)
        if not self.relative_id:
            return place == (0 if is_before else len(links) - 1)
        beside = place + (1 if is_before else -1)
        if not 0 <= beside < len(programs):
            return False
        program, link = programs[beside]
        return (link if self.flags & AttachFlag.LINK else program) == self.relative_id

    def __str__(self) -> str:
        side = "before" if self.flags & AttachFlag.BEFORE else "after"
        kind = "link" if self.flags & AttachFlag.LINK else "program"
        return f"{side} {kind} id {self.relative_id}" if self.relative_id else f"{side} all others"


def attach_in_order(
    program: Program, interface: str | int, hook: Hook, order: Order | None
) -> Link:
    """Attach a tc program to a hook of a device that runs several, last unless *order* says.

    Raises what `attach_tcx` does.
    """
    require_type(program, hook)
    ifindex = interfaces.ifindex(interface)
    wanted = order or Order.last()
    assert hook.attach_type is not None
    try:
        return Link.create(
            program, ifindex, hook.attach_type, flags=wanted.flags, relative=wanted.relative_id
        )
    # bpf_mprog_attach() of kernel/bpf/mprog.c says EEXIST if the hook runs the program already,
    # ERANGE if the hook is full, and ENOENT if the anchor is not attached.
    except HookBusyError as error:
        raise _busy(program, ifindex, hook, error) from None
    except IdNotFoundError:
        raise _no_anchor(ifindex, hook, wanted) from None
    except InvalidArgumentError as error:
        # A kernel without the hook answers with EINVAL: it does not know the attach type.
        if is_known(ifindex, hook):
            raise
        raise not_supported(hook, error) from None


def _busy(program: Program, ifindex: int, hook: Hook, error: HookBusyError) -> HookBusyError:
    """Say what runs the program there already; the kernel runs each program once at a hook."""
    place = f"{hook.value} of {interfaces.name_of(ifindex)}"
    programs = tcx_programs(ifindex, hook)
    same = [entry for entry in programs if entry.program_id == program.id]
    if not same:
        error.hint = f"{place} runs {len(programs)} programs"
        return error
    holder = f"program id {same[0].program_id}, {same[0].held}"
    return HookBusyError(f"{place} runs this program already: {holder}", holder=holder)


def _no_anchor(ifindex: int, hook: Hook, order: Order) -> IdNotFoundError:
    programs = [
        f"program id {entry.program_id} ({entry.held})" for entry in tcx_programs(ifindex, hook)
    ]
    kind = "link" if order.flags & AttachFlag.LINK else "program"
    side = "before" if order.flags & AttachFlag.BEFORE else "after"
    place = f"{hook.value} of {interfaces.name_of(ifindex)}"
    return IdNotFoundError(
        f"{kind} id {order.relative_id} is not attached at {place}, so nothing can go {side} it;"
        f" attached there: {', '.join(programs) or 'none'}"
    )


def not_supported(hook: Hook, error: InvalidArgumentError | None = None) -> NotSupportedError:
    """Return the exception for a kernel without *hook*; *error* is its answer, if it was asked."""
    return NotSupportedError(
        f"this kernel has no {hook.value}",
        feature=hook.value,
        since=hook.traits.since,
        command=error.command if error else "",
        errno=(error.errno or 0) if error else 0,
    )
