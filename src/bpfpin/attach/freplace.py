"""Extensions (freplace): programs that take the place of a function of another program."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bpfpin.attach.order import require_type
from bpfpin.attach.registry import (
    AttachOptions,
    HookCode,
    HookHolder,
    HookTarget,
    NewAttachment,
)
from bpfpin.btf.names import kernel_name
from bpfpin.btf.types import Function
from bpfpin.choices import similar_of_many
from bpfpin.errors import (
    BpfError,
    HookBusyError,
    IdNotFoundError,
    NotSupportedError,
    TargetNotFoundError,
    UsageError,
)
from bpfpin.hooks import Hook, XdpMode
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.kernel.info import LinkInfo, link_ids, programs
from bpfpin.objects.link import Link, create_link
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import LinkDetails, TracingLink
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, LinkType, ProgramType


def attach_freplace(program: Program, target: Program | None = None, function: str = "") -> Link:
    """Put *program* in the place of a function of another program; closing the link puts it back.

    A pin keeps it in place. The types of both functions must be the same.

    Args:
        program: A program of type EXT.
        target: The program whose function is replaced. Default: the one it was loaded for
            (`bpfpin.load(spec, targets={NAME: program})`).
        function: The name of the function in *target*; needed with it.

    Returns:
        The link.

    Raises:
        TargetNotFoundError: *target* has no such function.
        HookBusyError: Another program replaces the function already.
        UsageError: Only one of *target* and *function* is given.
        NotSupportedError: *target* was loaded without BTF, or the kernel has no extensions.
        WrongHookError: The program is of another type.
        PermissionDeniedError: CAP_BPF, CAP_NET_ADMIN or CAP_PERFMON is missing.

    Kernel: BPF_RAW_TRACEPOINT_OPEN without a name (Linux 5.6); with a *target* BPF_LINK_CREATE with
        its function (Linux 5.10).
    """
    require_type(program, Hook.FREPLACE)
    if (target is None) != (not function):
        raise UsageError("a function is named together with the program that has it")
    name = f"program {program.name}"
    if target is None:
        return Link(Descriptor(bpf.raw_tracepoint_open(program.fd, target=f"{name} at its target")))
    type_id = _function_id(target, function)
    details = LinkDetails(tracing=TracingLink(target_btf_id=type_id))
    place = _place(target, function)
    try:
        # The attach type says nothing here, and must be 0 (bpf_tracing_link_attach()).
        return Link(create_link(program, target.fd, AttachType(0), details, place=place))
    except HookBusyError:
        raise _busy(target, function, type_id) from None


def _place(target: Program, function: str) -> str:
    return f"function {function} of program {target.name} (id {target.id})"


def _function_id(target: Program, function: str) -> int:
    """Return the id of the function in the types of a program."""
    info = target.info
    if not info.btf_id:
        raise NotSupportedError(
            f"program {info.name} (id {info.id}) was loaded without BTF, so no function of it can"
            " be replaced",
            feature="BTF of the replaced program",
        )
    with BtfHandle.from_id(info.btf_id) as handle:
        type_id = handle.btf.find(function, Function)
        if type_id is not None:
            return type_id
        known = [kind.name for kind in handle.btf.types() if isinstance(kind, Function)]
    near = similar_of_many(function, known) or known[:5]
    raise TargetNotFoundError(
        f"program {info.name} (id {info.id}) has no function {function!r}",
        hint=f"near it: {', '.join(near)}",
    )


def _holder(target_id: int, type_id: int) -> LinkInfo | None:
    """Return the link that replaces a function already, None if there is none in sight."""
    with suppress(BpfError):  # ids are for CAP_SYS_ADMIN
        for link_id in link_ids():
            with suppress(IdNotFoundError), Link.from_id(link_id) as link:
                info = link.info
                wanted = (LinkType.TRACING, target_id, type_id)
                if (info.type, info.target_id, info.target_btf_id) != wanted:
                    continue
                # A program of fentry or fexit may be at the same function.
                with Program.from_id(info.program_id) as program:
                    if program.type == ProgramType.EXT:
                        return info
    return None


def _busy(target: Program, function: str, type_id: int) -> HookBusyError:
    held = _holder(target.id, type_id)
    holder = str(_Holder(held.program_id, held.id)) if held else "another program"
    return HookBusyError(
        f"{_place(target, function)} is replaced already, by {holder}",
        holder=holder,
        # bpf_trampoline_link_prog() takes one extension, and no program array takes extensions.
        hint="the kernel cannot change an extension in place; end that one first (of a set:"
        " bpfpin unload SET --keep-maps), then load: in between the function itself runs",
    )


def open_target(text: str) -> tuple[Program, str]:
    """Open the program that a target names, and return it with the name of the function.

    Targets are `id:N:FUNCTION`, `name:PROGRAM:FUNCTION` and `PIN:FUNCTION`. The caller closes the
    program.
    """
    which, colon, function = text.rpartition(":")
    if not colon or not which or not function:
        raise UsageError(
            f"{text!r} does not say which program has the function: it is id:N:FUNCTION,"
            " name:PROGRAM:FUNCTION, or the path of a pin and :FUNCTION",
            hint="see the programs: bpfpin prog list",
        )
    kind, colon, value = which.partition(":")
    if kind == "id" and colon:
        if not value.isdecimal():
            raise UsageError(f"{value!r} is not the id of a program")
        return Program.from_id(int(value)), function
    if kind == "name" and colon:
        return Program.from_id(_id_of(value)), function
    return Program.from_pin(Path(which)), function


def _id_of(name: str) -> int:
    known = {info.id: info.name for info in programs()}
    ids = [number for number, each in known.items() if each == kernel_name(name)]
    if not ids:
        near = similar_of_many(kernel_name(name), set(known.values()))
        raise TargetNotFoundError(
            f"no program on this host is called {name!r}",
            hint=f"near it: {', '.join(near)}" if near else "see them: bpfpin prog list",
        )
    if len(ids) > 1:
        raise UsageError(
            f"{len(ids)} programs are called {name!r}: {', '.join(f'id:{one}' for one in ids)}",
            hint="name one by its id",
        )
    return ids[0]


@dataclass(frozen=True, slots=True)
class _Holder:
    """The extension that replaces a function."""

    program_id: int
    link_id: int | None
    is_link_known: bool = True
    mode: XdpMode = XdpMode.AUTO

    def __str__(self) -> str:
        return f"program id {self.program_id}, link id {self.link_id}"


class FreplaceCode(HookCode):
    """The code of extensions."""

    def program_target(self, target: HookTarget) -> tuple[Program, str]:
        """Open the program whose function is replaced."""
        return open_target(target.name)

    def attach(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> NewAttachment:
        """Attach by a link."""
        replaced, function = open_target(target.name)
        with replaced:
            return NewAttachment(hook, attach_freplace(program, replaced, function))

    def holder(self, target: HookTarget) -> HookHolder | None:
        """Return the extension that replaces the function."""
        replaced, function = open_target(target.name)
        with replaced:
            held = _holder(replaced.id, _function_id(replaced, function))
        return _Holder(held.program_id, held.id) if held else None

    def foresee(
        self, program: Program, hook: Hook, target: HookTarget, options: AttachOptions
    ) -> str:
        """Look whether another program replaces the function."""
        replaced, function = open_target(target.name)
        with replaced:
            type_id = _function_id(replaced, function)
            if _holder(replaced.id, type_id):
                raise _busy(replaced, function, type_id)
        return ""


CODE = FreplaceCode()
