"""Resolves what an object needs of the running kernel: externs, and types for CO-RE.

The modules that do the work are imported late, only for objects that have externs or relocations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bpfpin.btf.btf import Btf
from bpfpin.errors import NotSupportedError, ObjectFileError, VerifierError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.objects.kernel import btf as kernel_btf
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.verifier.attempt import unknown_helper
from bpfpin.records import dataclass
from bpfpin.spec import ObjectSpec

if TYPE_CHECKING:
    from bpfpin.fixup.core import Resolution
    from bpfpin.fixup.core_find import CoreTarget
    from bpfpin.fixup.externs import Answer, ModuleTypes


@dataclass(frozen=True)
class Filled:
    """An object with its externs filled in, and the *answers* that were filled in.

    *module_fds* are the BTF descriptors of the kernel modules that its calls refer to, by position
    from 1.
    """

    spec: ObjectSpec
    answers: tuple[Answer, ...] = ()
    module_fds: tuple[int, ...] = field(default=(), repr=False)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Add the name of an absent extern to a `VerifierError` that a call of it caused."""
        try:
            yield
        except VerifierError as error:
            name = self._reached(error.log) if self.answers else None
            if name is not None:
                error.telling_line = (
                    f"{name} is called, which this kernel does not have ({error.telling_line})"
                )
            raise

    def _reached(self, log: str) -> str | None:
        from bpfpin.fixup.externs import poisoned_number  # noqa: PLC0415 - see above

        # An absent weak extern is called by a helper number of our own, so that code behind a guard
        # still loads. If the verifier reaches the call, its log has that number.
        helper = unknown_helper(log)
        number = None if helper is None else poisoned_number(helper)
        names = [*self.spec.externs]
        return None if number is None or number >= len(names) else names[number]


def with_config(spec: ObjectSpec, source: Mapping[str, str] | str | Path) -> ObjectSpec:
    """Return a copy of *spec* with a kernel configuration by name, or from a file.

    Raises `ObjectNotFoundError` if the file does not exist, and `UsageError` if it is too large or
    damaged.
    """
    from bpfpin.loading.symbols import as_config  # noqa: PLC0415 - see above

    return replace(spec, kernel_config=as_config(source))


def resolve(spec: ObjectSpec) -> tuple[Answer, ...]:
    """Return what the running kernel has for each extern that the programs of *spec* use.

    A missing extern raises nothing: its answer carries the error, and `text` for people.
    """
    if not spec.externs:
        return ()
    from bpfpin.fixup.externs import used_externs  # noqa: PLC0415 - see above
    from bpfpin.fixup.externs_find import ExternSources, answers  # noqa: PLC0415
    from bpfpin.loading import symbols  # noqa: PLC0415 - see above
    from bpfpin.objects.kernel import kallsyms  # noqa: PLC0415 - see above

    config = partial(symbols.running_values, given=spec.kernel_config)
    sources = ExternSources(config, kallsyms.addresses, symbols.types)
    answered = answers(used_externs(spec), sources)
    if spec.kernel_config is None:
        return tuple(_unconfigured(answer) for answer in answered)
    return answered


def _unconfigured(answer: Answer) -> Answer:
    """Return *answer*; the error of a value says so if this host has no configuration at all."""
    from bpfpin.loading import symbols  # noqa: PLC0415 - see above

    is_missing = isinstance(answer.error, NotSupportedError) and answer.extern.name.startswith(
        "CONFIG_"
    )
    if not is_missing or symbols.running_text():
        return answer
    files = ", ".join(map(str, symbols.config_files()))
    error = NotSupportedError(
        f"the object asks for {answer.extern.name}, and the configuration of this kernel is in"
        f" none of {files}",
        feature="configuration of the kernel",
        hint=answer.error.hint if answer.error else "",
    )
    return replace(answer, error=error)


@contextlib.contextmanager
def filled(spec: ObjectSpec) -> Iterator[Filled]:
    """Fill the externs of *spec* from the running kernel; descriptors are open for the block.

    Raises `NotSupportedError` for an extern that the kernel lacks or has with another type, and
    `ObjectFileError` for a variable of `.kconfig` that its value does not fit. The hint names
    further ones.
    """
    if not spec.externs:
        yield Filled(spec)
        return
    from bpfpin.fixup.externs import fill  # noqa: PLC0415 - see above

    # Everything is looked up before the first error, whose hint names all that is missing.
    resolved = resolve(spec)
    _raise_first(spec, resolved)
    with contextlib.ExitStack() as handles:
        modules = _open_modules(resolved, handles)
        fds = tuple(module.fd for module in modules.values())
        # The programs hold references to the BTF of the modules once they are loaded.
        yield Filled(fill(spec, resolved, modules), resolved, fds)


def _open_modules(
    answers: Sequence[Answer], handles: contextlib.ExitStack
) -> Mapping[str, ModuleTypes]:
    from bpfpin.fixup.externs import ModuleTypes  # noqa: PLC0415 - see above
    from bpfpin.loading import symbols  # noqa: PLC0415

    names = dict.fromkeys(answer.module for answer in answers if answer.module)
    opened: list[BtfHandle] = [handles.enter_context(symbols.open_module(name)) for name in names]
    return {
        name: ModuleTypes(handle.fd, position)
        # From 1: position 0 of `fd_array` stands for vmlinux.
        for position, (name, handle) in enumerate(zip(names, opened, strict=True), start=1)
    }


def _raise_first(spec: ObjectSpec, answers: Sequence[Answer]) -> None:
    failed = [answer for answer in answers if answer.error is not None]
    if not failed:
        return
    error = failed[0].error
    assert error is not None
    if isinstance(error, ObjectFileError):
        error.path = error.path or spec.path
    if len(failed) > 1:
        others = ", ".join(answer.extern.name for answer in failed[1:])
        error.fix = error.fix.joined(f"It lacks, too: {others}.", separator="\n")
    raise error


def fitted(spec: ObjectSpec) -> tuple[ObjectSpec, tuple[Resolution, ...]]:
    """Apply the CO-RE relocations of *spec*; return it, and the result of each relocation.

    The types are those of its `kernel_btf`, or of the running kernel and its modules. Raises
    `ObjectFileError` as `fixup.core.relocate` does, and `NotSupportedError` if the kernel does not
    provide its BTF.
    """
    if not spec.has_relocations:
        return spec, ()
    from bpfpin.fixup.core import relocate  # noqa: PLC0415 - 5 ms, see above

    try:
        done = relocate(spec, _target(spec.kernel_btf))
    except ObjectFileError as error:
        error.path = error.path or spec.path
        raise
    return done.spec, done.resolutions


def _target(given: Btf | None) -> CoreTarget:
    from bpfpin.fixup.core_find import CoreTarget  # noqa: PLC0415 - see above

    # Types from a file are complete: those of the running kernel's modules do not belong to them.
    if given is not None:
        return CoreTarget(_always(given))
    # Functions that read types when they are needed: of modules only if vmlinux lacks one.
    return CoreTarget(_running_kernel, lambda: (btf for _, btf in kernel_btf.module_btfs()))


def _always(btf: Btf) -> Callable[[], Btf]:
    return lambda: btf


def _running_kernel() -> Btf:
    try:
        return kernel_btf.vmlinux_btf()
    except FileNotFoundError:
        raise NotSupportedError(
            f"the object is fitted to the kernel's types, and there is no {kernel_btf.VMLINUX}",
            feature="BTF of the kernel (CONFIG_DEBUG_INFO_BTF)",
            hint=Fix.of(
                "give the types of this kernel in a file: ",
                Argument("kernel_btf", Placeholder("FILE")),
            ),
        ) from None


@contextlib.contextmanager
def naming(resolutions: tuple[Resolution, ...]) -> Iterator[None]:
    """Add the relocation to a `VerifierError` that its poisoned instruction caused."""
    try:
        yield
    except VerifierError as error:
        resolution = _reached(error.log, resolutions) if resolutions else None
        if resolution is not None:
            error.telling_line = f"{_reason(resolution)} ({error.telling_line})"
        raise


def _reached(log: str, resolutions: tuple[Resolution, ...]) -> Resolution | None:
    from bpfpin.fixup.core_patch import poisoned_number  # noqa: PLC0415 - see above

    helper = unknown_helper(log)
    number = None if helper is None else poisoned_number(helper)
    return None if number is None or number >= len(resolutions) else resolutions[number]


def _reason(found: Resolution) -> str:
    lack = "is not in the kernel" if found.value is None else "is of a type of other size there"
    return f"CO-RE: {found.place} asks for {found.question}, which {lack}"
