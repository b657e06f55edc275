"""The attach targets of tracing, LSM and extension programs, looked up in BTF.

BPF_PROG_LOAD takes the target as the id of a type in the BTF of the kernel, a module or a program.
The names follow bpf_check_attach_target() of kernel/bpf/verifier.c: a tracepoint has a typedef
`btf_trace_NAME`, an LSM hook a function `bpf_lsm_NAME`, an iterator a function `bpf_iter_NAME`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import BtfType, Function, Modifier
from bpfpin.choices import similar_of_many
from bpfpin.errors import IdNotFoundError, NotSupportedError, TargetNotFoundError, UsageError
from bpfpin.objects.kernel.btf import VMLINUX, BtfHandle, vmlinux_btf
from bpfpin.objects.kernel.info import btf_info, program_info
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec
from bpfpin.syscall import bpf
from bpfpin.uapi import AttachType, ProgramType


@dataclass(frozen=True, slots=True)
class AttachTarget:
    """Type *btf_id* of vmlinux, or of the module's BTF or the program open at *fd*.

    *member* is the position of a struct_ops program among the members of its structure.
    """

    btf_id: int
    fd: int = 0
    member: int | None = None


@dataclass(frozen=True, slots=True)
class _Form:
    """How targets of an attach type are named in BTF, and what messages call them (*word*)."""

    prefix: str
    kind: type[BtfType]
    word: str


_FUNCTION = _Form("", Function, "function")
_FORMS: dict[AttachType, _Form] = {
    # This typedef has the prototype of the tracepoint, which the verifier takes the types from.
    AttachType.TRACE_RAW_TP: _Form("btf_trace_", Modifier, "tracepoint"),
    AttachType.TRACE_FENTRY: _FUNCTION,
    AttachType.TRACE_FEXIT: _FUNCTION,
    AttachType.TRACE_FSESSION: _FUNCTION,
    AttachType.MODIFY_RETURN: _FUNCTION,
    AttachType.LSM_MAC: _Form("bpf_lsm_", Function, "LSM hook"),
    AttachType.LSM_CGROUP: _Form("bpf_lsm_", Function, "LSM hook"),
    AttachType.TRACE_ITER: _Form("bpf_iter_", Function, "iterator"),
}
_OF_PROGRAMS = frozenset({AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT})


@contextlib.contextmanager
def found(spec: ProgramSpec, program_fd: int | None = None) -> Iterator[AttachTarget | None]:
    """Look up the attach target of *spec* for the block; None for types that need none.

    With *program_fd* the target is a function of that program, else one of the kernel or of a
    module (`MODULE:FUNCTION`, or the first module that has it). Raises `UsageError` if the program
    names no target, `TargetNotFoundError` if
    this kernel does not have it, and `NotSupportedError` if it has no BTF.
    """
    if spec.type is ProgramType.EXT:
        yield _of_program(spec, program_fd, "an extension replaces a function of a loaded program")
        return
    if spec.type is ProgramType.STRUCT_OPS:
        raise UsageError(
            f"program {spec.name} is not in a table: no variable in section .struct_ops or"
            " .struct_ops.link points to it"
        )
    form = _FORMS.get(spec.expected_attach_type) if spec.expected_attach_type else None
    if form is None:
        yield None
    elif program_fd is not None and spec.expected_attach_type in _OF_PROGRAMS:
        yield _of_program(spec, program_fd, "")
    else:
        yield from _of_kernel(spec, form)


def _of_program(spec: ProgramSpec, program_fd: int | None, why: str) -> AttachTarget:
    if program_fd is None:
        raise UsageError(
            f"program {spec.name} needs a target: {why}",
            hint=f"give the program: load(spec, targets={{{spec.name!r}: program}})",
        )
    wanted = _name(spec, "function")
    btf_id = program_info(program_fd).btf_id
    # The target is named by a type id, so a program that was loaded without BTF has no targets.
    if not btf_id:
        raise UsageError(f"the target of program {spec.name} was loaded without BTF")
    with BtfHandle.from_id(btf_id) as handle:
        type_id = handle.btf.find(wanted, Function)
        near = _similar(handle.btf, _FUNCTION, wanted) if type_id is None else []
    if type_id is None:
        raise TargetNotFoundError(
            f"the target of program {spec.name} has no function {wanted!r}",
            hint=f"near it: {', '.join(near)}" if near else "",
        )
    return AttachTarget(type_id, program_fd)


def _of_kernel(spec: ProgramSpec, form: _Form) -> Iterator[AttachTarget]:
    module, _, name = _name(spec, form.word).rpartition(":")
    # vmlinux first: most targets are there, and no module need be opened for them.
    type_id = None if module else _vmlinux(spec).find(form.prefix + name, form.kind)
    if type_id is not None:
        yield AttachTarget(type_id)
        return
    for handle in _modules(module):
        type_id = handle.btf.find(form.prefix + name, form.kind)
        if type_id is not None:
            # Yielded, not returned: the descriptor of the module's BTF must be open until the
            # program is loaded (`attach_btf_obj_fd`).
            yield AttachTarget(type_id, handle.fd)
            return
    where = f"module {module}" if module else "this kernel"
    near = [] if module else _similar(_vmlinux(spec), form, name)
    raise TargetNotFoundError(
        f"program {spec.name} attaches to {form.word} {name!r}, which {where} does not have",
        hint=f"near it: {', '.join(near)}" if near else f"it may be inlined; see {VMLINUX.parent}",
    )


def _similar(btf: Btf, form: _Form, name: str) -> list[str]:
    """Return a few targets of a form whose names are like *name*."""
    prefix = form.prefix.encode()
    texts = [text for text in btf.strings.split(b"\0") if text.startswith(prefix)]
    names = [text.removeprefix(prefix).decode(errors="replace") for text in texts]
    near = similar_of_many(name, names)
    # The strings are also names of members and parameters.
    return [each for each in near if btf.find(form.prefix + each, form.kind)]


def _vmlinux(spec: ProgramSpec) -> Btf:
    try:
        return vmlinux_btf()
    except FileNotFoundError:
        raise NotSupportedError(
            f"program {spec.name} attaches to a type of the kernel, and there is no {VMLINUX}",
            feature="BTF of the kernel (CONFIG_DEBUG_INFO_BTF)",
        ) from None


def _modules(wanted: str) -> Iterator[BtfHandle]:
    """Yield the open BTF of every kernel module, or of the module called *wanted*."""
    # By id, not by /sys/kernel/btf: BPF_PROG_LOAD takes a descriptor of the module's BTF.
    btf_id = bpf.btf_get_next_id(0)
    while btf_id is not None:
        with contextlib.suppress(IdNotFoundError), BtfHandle.from_id(btf_id) as handle:
            info = btf_info(handle.fd)
            if info.is_kernel and info.name != VMLINUX.name and wanted in ("", info.name):
                yield handle
        btf_id = bpf.btf_get_next_id(btf_id)


def _name(spec: ProgramSpec, word: str) -> str:
    if spec.attach_to:
        # What comes after a comma is for the link: `task,pid=42`.
        return spec.attach_to.partition(",")[0]
    raise UsageError(
        f"section {spec.section!r} of program {spec.name} names no {word} to attach to",
        hint=f"say it: load(spec, attach_to={{{spec.name!r}: NAME}})",
    )
