"""Answers to CO-RE relocations: the value in the object's types, and in the target's types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.names import essential_name
from bpfpin.btf.types import Enum
from bpfpin.errors import ObjectFileError
from bpfpin.fixup.core_access import (
    MemberIndex,
    indices_of,
    local_field,
    malformed_relocation,
    target_field,
)
from bpfpin.fixup.core_match import Comparison, is_one_kind
from bpfpin.fixup.core_values import (
    ENUMERATORS,
    EXISTENCE,
    FIELDS,
    Value,
    enumerator_value,
    field_value,
    type_value,
)
from bpfpin.records import dataclass
from bpfpin.uapi import CoreRelocationKind as Kind


def _none() -> tuple[Btf, ...]:
    return ()


@dataclass(frozen=True)
class CoreTarget:
    """The types of a kernel and of its modules, both read when a relocation needs them.

    *modules* are searched only for types that *kernel* does not have.
    """

    kernel: Callable[[], Btf]
    modules: Callable[[], Iterable[Btf]] = _none

    def candidates(self, local: TypeRef) -> list[TypeRef]:
        """Return the types with the kind and name of the local type, flavours ignored."""
        # Without a name every type of the kernel would be a candidate.
        if not local.name:
            raise ObjectFileError(
                f"type {local.id} has no name to look for in the kernel", section=".BTF.ext"
            )
        candidates = _candidates(self.kernel(), local)
        if candidates:
            return candidates
        return [ref for btf in self.modules() for ref in _candidates(btf, local)]


def _candidates(btf: Btf, local: TypeRef) -> list[TypeRef]:
    kind = local.type
    # The object's flavours (`task_struct___old`) are views of the same kernel type. The kernel's
    # own BTF may have names with `___`, too.
    named = btf.flavours(essential_name(local.name))
    return [btf.ref(type_id) for type_id in named if is_one_kind(kind, btf[type_id])]


class Found(NamedTuple):
    """The local value, the target's value (None: it has none), and the type that has it."""

    local: Value
    target: Value | None
    type: TypeRef | None = None


class _Answer(NamedTuple):
    value: Value
    bit_offset: int = 0


_Ask = Callable[[TypeRef], _Answer | None]


class Finder:
    """Answers the relocations of one object; answers are cached.

    If several types have the name of a local type, those that answered one relocation are the
    candidates for the next one, as in libbpf.
    """

    def __init__(self, btf: Btf, target: CoreTarget) -> None:
        self._btf = btf
        self._target = target
        self._members = MemberIndex()
        # By local type id; narrowed by each relocation.
        self._candidates: dict[int, list[TypeRef]] = {}
        self._comparisons: dict[Btf, Comparison] = {}
        self._found: dict[tuple[int, str, Kind], Found] = {}

    def find(self, type_id: int, access: str, kind: Kind) -> Found:
        """Return both values; `ObjectFileError` if the relocation is malformed or ambiguous."""
        key = type_id, access, kind
        if key not in self._found:
            self._found[key] = self._find(type_id, access, kind)
        return self._found[key]

    def _find(self, type_id: int, access: str, kind: Kind) -> Found:
        if kind in FIELDS:
            return self._field(type_id, access, kind)
        if kind in ENUMERATORS:
            return self._enumerator(type_id, access, kind)
        if access != "0":
            raise malformed_relocation(f"{access[:80]!r} is not the path of a whole type")
        if kind is Kind.TYPE_ID_LOCAL:
            # The id does not depend on the kernel. Linkers renumber types, so the instruction is
            # not checked.
            own = Value(type_id, is_sure=False)
            return Found(own, own)
        return self._type(type_id, kind)

    def _field(self, type_id: int, access: str, kind: Kind) -> Found:
        field, steps = local_field(self._btf, type_id, access)
        local = field_value(kind, field)

        def ask(ref: TypeRef) -> _Answer | None:
            target = target_field(self._btf, steps, ref, self._members)
            return _Answer(field_value(kind, target), target.bit_offset) if target else None

        return self._decide(type_id, kind, local, ask)

    def _type(self, type_id: int, kind: Kind) -> Found:
        def ask(ref: TypeRef) -> _Answer | None:
            comparison = self._comparison(ref.btf)
            compare = comparison.matches if kind is Kind.TYPE_MATCHES else comparison.fits
            return _Answer(type_value(kind, ref)) if compare(type_id, ref.id) else None

        return self._decide(type_id, kind, type_value(kind, self._btf.ref(type_id)), ask)

    def _enumerator(self, type_id: int, access: str, kind: Kind) -> Found:
        own_id = self._btf.strip(type_id)
        enum, path = self._btf[own_id], indices_of(access)
        if not isinstance(enum, Enum) or len(path) > 1 or path[0] >= len(enum.values):
            raise malformed_relocation(f"{access[:80]!r} is not an enumerator of type {type_id}")
        # Enumerators are found by name: their values differ between kernels.
        name = essential_name(enum.values[path[0]].name)

        def ask(ref: TypeRef) -> _Answer | None:
            enum_id = ref.btf.strip(ref.id)
            index = _enumerator_index(ref.btf, enum_id, name)
            if index is None:
                return None
            return _Answer(enumerator_value(kind, ref.btf, enum_id, index))

        local = enumerator_value(kind, self._btf, own_id, path[0])
        return self._decide(type_id, kind, local, ask)

    def _decide(self, type_id: int, kind: Kind, local: Value, ask: _Ask) -> Found:
        """Ask every candidate; all answers must be equal."""
        answers = [(ref, answer) for ref in self._named(type_id) if (answer := ask(ref))]
        if not answers:
            return Found(local, None if _needs_answer(kind) else Value(0))
        first, answer = answers[0]
        for ref, other in answers[1:]:
            # libbpf refuses to guess as well. The bit offset counts, too: equal loads may extract
            # other bits.
            if (other.value.number, other.bit_offset) != (answer.value.number, answer.bit_offset):
                raise _ambiguous((first, answer), (ref, other))
        self._candidates[type_id] = [ref for ref, _ in answers]
        return Found(local, answer.value, first)

    def _named(self, type_id: int) -> list[TypeRef]:
        if type_id not in self._candidates:
            self._candidates[type_id] = self._target.candidates(self._btf.ref(type_id))
        return self._candidates[type_id]

    def _comparison(self, target: Btf) -> Comparison:
        if target not in self._comparisons:
            self._comparisons[target] = Comparison(self._btf, target)
        return self._comparisons[target]


def _needs_answer(kind: Kind) -> bool:
    """Whether the instruction is wrong without a target; other kinds have the value 0 then."""
    return kind not in EXISTENCE and kind not in (Kind.TYPE_SIZE, Kind.TYPE_ID_TARGET)


def _enumerator_index(btf: Btf, type_id: int, name: str) -> int | None:
    enum = btf[type_id]
    if not isinstance(enum, Enum):
        return None
    matches = (
        number for number, (text, _) in enumerate(enum.values) if essential_name(text) == name
    )
    return next(matches, None)


def _ambiguous(first: tuple[TypeRef, _Answer], second: tuple[TypeRef, _Answer]) -> ObjectFileError:
    texts = [
        f"type {ref.id} ({ref.name}) says {answer.value.number}" for ref, answer in (first, second)
    ]
    return ObjectFileError(
        f"the kernel has several types of that name that answer differently: {' and '.join(texts)}",
        hint="use a member that only one of them has, or a flavour of the type",
    )
