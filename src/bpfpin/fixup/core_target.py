"""The types that local ones are looked for in: the kernel's, then those of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.names import essential_name
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_compatible import is_one_kind


def _none() -> tuple[Btf, ...]:
    return ()


@dataclass(frozen=True)
class CoreTarget:
    """Where types come from; neither is called before a relocation needs it.

    *modules* are asked only for what *kernel* does not have.
    """

    kernel: Callable[[], Btf]
    modules: Callable[[], Iterable[Btf]] = _none

    def candidates(self, local: TypeRef) -> list[TypeRef]:
        """Return the types of the local one's kind and name, flavours of either aside."""
        if not local.name:
            raise ObjectFileError(
                f"type {local.id} has no name to look for in the kernel", section=".BTF.ext"
            )
        found = _candidates(self.kernel(), local)
        if found:
            return found
        return [each for btf in self.modules() for each in _candidates(btf, local)]


def _candidates(btf: Btf, local: TypeRef) -> list[TypeRef]:
    kind = local.type
    named = btf.flavours(essential_name(local.name))
    return [btf.ref(type_id) for type_id in named if is_one_kind(kind, btf[type_id])]
