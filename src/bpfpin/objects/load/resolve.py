"""What an object takes from the running kernel: looked up, and filled in for the time of a load.

What does the work is imported when an object has externs; the others need none of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bpfpin.btf.btf import Btf
from bpfpin.errors import (
    Argument,
    Fix,
    NotSupportedError,
    ObjectFileError,
    Placeholder,
    VerifierError,
)
from bpfpin.objects import verifier
from bpfpin.objects.kernel import btf as kernel_btf
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.spec import ObjectSpec

if TYPE_CHECKING:
    from bpfpin.fixup.core import Resolution
    from bpfpin.fixup.core_find import CoreTarget
    from bpfpin.fixup.externs import Answer, ModuleTypes


@dataclass(frozen=True)
class Filled:
    """An object that needs nothing more of the kernel than to be loaded, and what it asked for.

    *module_fds* are the BTF of modules that its calls count from 1.
    """

    spec: ObjectSpec
    answers: tuple[Answer, ...] = ()
    module_fds: tuple[int, ...] = field(default=(), repr=False)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Put into a refusal which extern is absent, if a call of it was reached."""
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

        helper = verifier.unknown_helper(log)
        number = None if helper is None else poisoned_number(helper)
        names = [*self.spec.externs]
        return None if number is None or number >= len(names) else names[number]


def with_config(spec: ObjectSpec, source: Mapping[str, str] | str | Path) -> ObjectSpec:
    """Return a copy that takes texts by name, or those in a file, for the kernel's configuration.

    `ObjectNotFoundError` if there is no such file, `UsageError` if it is too large or damaged.
    """
    from bpfpin.objects.load.symbols import as_config  # noqa: PLC0415 - see above

    return replace(spec, kernel_config=as_config(source))


def resolve(spec: ObjectSpec) -> tuple[Answer, ...]:
    """Return what the running kernel has for each extern that the programs of *spec* use.

    Nothing is raised for what it lacks: an answer carries its error, and `text` for people.
    """
    if not spec.externs:
        return ()
    from bpfpin.fixup.externs import used_externs  # noqa: PLC0415 - see above
    from bpfpin.fixup.externs_find import ExternSources, answers  # noqa: PLC0415
    from bpfpin.objects.load import symbols  # noqa: PLC0415 - see above

    config = partial(symbols.running_values, given=spec.kernel_config)
    sources = ExternSources(config, symbols.addresses, symbols.types)
    return answers(used_externs(spec), sources)


@contextlib.contextmanager
def filled(spec: ObjectSpec) -> Iterator[Filled]:
    """Fill the externs of *spec* from the running kernel; what it holds ends with `with`.

    `NotSupportedError` for what the kernel lacks or has in another form, `ObjectFileError` for a
    variable of `.kconfig` that its value does not fit; the hint names further ones.
    """
    if not spec.externs:
        yield Filled(spec)
        return
    from bpfpin.fixup.externs import fill  # noqa: PLC0415 - see above

    found = resolve(spec)
    _raise_first(spec, found)
    with contextlib.ExitStack() as handles:
        modules = _open_modules(found, handles)
        fds = tuple(each.fd for each in modules.values())
        yield Filled(fill(spec, found, modules), found, fds)


def _open_modules(
    answers: Sequence[Answer], handles: contextlib.ExitStack
) -> Mapping[str, ModuleTypes]:
    from bpfpin.fixup.externs import ModuleTypes  # noqa: PLC0415 - see above
    from bpfpin.objects.load import symbols  # noqa: PLC0415

    names = dict.fromkeys(each.module for each in answers if each.module)
    opened: list[BtfHandle] = [handles.enter_context(symbols.open_module(name)) for name in names]
    return {
        name: ModuleTypes(handle.fd, position)
        for position, (name, handle) in enumerate(zip(names, opened, strict=True), start=1)
    }


def _raise_first(spec: ObjectSpec, answers: Sequence[Answer]) -> None:
    failed = [each for each in answers if each.error is not None]
    if not failed:
        return
    error = failed[0].error
    assert error is not None
    if isinstance(error, ObjectFileError):
        error.path = error.path or spec.path
    if len(failed) > 1:
        others = ", ".join(each.extern.name for each in failed[1:])
        error.fix = error.fix.joined(f"It lacks, too: {others}.", separator="\n")
    raise error


# CO-RE in the running kernel: its types for the relocations, and their names in refusals.
#
# What does the work is imported when an object has relocations; the others need none of it.


def fitted(spec: ObjectSpec) -> tuple[ObjectSpec, tuple[Resolution, ...]]:
    """Return *spec* fitted to its `kernel_btf`, or else to the running kernel and its modules.

    What each relocation came to is the second part. `ObjectFileError` as `fixup.core.relocate`;
    `NotSupportedError` if types are asked for and the kernel does not show its own.
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

    if given is not None:
        return CoreTarget(_always(given))
    return CoreTarget(_running_kernel, kernel_btf.module_btfs)


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
    """Put into a refusal which relocation it is about, if a poisoned instruction was reached."""
    try:
        yield
    except VerifierError as error:
        found = _reached(error.log, resolutions) if resolutions else None
        if found is not None:
            error.telling_line = f"{_reason(found)} ({error.telling_line})"
        raise


def _reached(log: str, resolutions: tuple[Resolution, ...]) -> Resolution | None:
    from bpfpin.fixup.core_patch import poisoned_number  # noqa: PLC0415 - see above

    helper = verifier.unknown_helper(log)
    number = None if helper is None else poisoned_number(helper)
    return None if number is None or number >= len(resolutions) else resolutions[number]


def _reason(found: Resolution) -> str:
    lack = "is not in the kernel" if found.value is None else "is of a type of other size there"
    return f"CO-RE: {found.place} asks for {found.question}, which {lack}"
