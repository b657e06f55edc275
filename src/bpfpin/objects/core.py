"""CO-RE in the running kernel: its types for the relocations, and their names in refusals.

What does the work is imported when an object has relocations; the others need none of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bpfpin.btf.btf import Btf
from bpfpin.errors import NotSupportedError, ObjectFileError, VerifierError
from bpfpin.objects import kernel_btf, verifier
from bpfpin.spec import ObjectSpec

if TYPE_CHECKING:
    from bpfpin.fixup.core_report import Resolution
    from bpfpin.fixup.core_target import CoreTarget


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
    from bpfpin.fixup.core_target import CoreTarget  # noqa: PLC0415 - see above

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
            hint="give the types of this kernel in a file: --btf FILE",
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
