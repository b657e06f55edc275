"""What must hold of any bytes: an error of ours, or a spec that can be used in every pure way."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

from bpfpin import insn
from bpfpin.apps.check.convert import btf_definitions
from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.c_source import c_name, c_type
from bpfpin.btf.compare import differences
from bpfpin.btf.layout import align_of
from bpfpin.btf.types import Enum, Enumerator, Int, Member, Pointer, Struct
from bpfpin.btf.write import BtfBuilder, subset
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import LimitError, ObjectFileError, UsageError
from bpfpin.externs import ExternKind
from bpfpin.fixup import calls, externs
from bpfpin.fixup import calls as maps
from bpfpin.fixup.core import relocate
from bpfpin.fixup.core_find import CoreTarget
from bpfpin.objects.maps.create import estimate_bytes
from bpfpin.objfile.reader import read_object
from bpfpin.spec import MapSpec, ObjectSpec

OURS = (ObjectFileError, LimitError, UsageError)
_WALKED = 64  # values longer than so many KiB are not read: that takes as long as they are
_MANY = 200
_Result = TypeVar("_Result")


def target() -> CoreTarget:
    """Return a small kernel, whose types have the names that the seeds ask for."""
    builder = BtfBuilder()
    fields = ("first", "second", "pid", "x", "inner", "bits", "flags", "data")
    for kind in (
        Int("unsigned int", 4, 32),
        Pointer(3),
        Struct("s", 32, tuple(Member(name, 1, 32 * at) for at, name in enumerate(fields))),
        Struct("task_struct", 32, (Member("pid", 1, 64), Member("", 3, 0))),
        Enum("e", 4, False, (Enumerator("A", 3), Enumerator("B", 4))),
        Struct("s___other", 8, (Member("x", 1, 32),)),
    ):
        builder.add(kind)
    table = Btf.parse(builder.build())
    return CoreTarget(lambda: table)


TARGET = target()


def examine(data: bytes) -> bool:
    """Return whether *data* was read; every exception but ours comes through."""
    try:
        spec = read_object(data)
    except OURS:
        return False
    use(spec)
    return True


def use(spec: ObjectSpec) -> None:
    """Do with *spec* what loading and checking do without a kernel."""
    _use_variables(spec)
    for each in spec.maps.values():
        _use_map(each)
    _use_programs(spec)
    if spec.btf is not None:
        _use_types(spec.btf)
    btf_definitions(spec)


def _use_variables(spec: ObjectSpec) -> None:
    for variable in islice(spec.variables.values(), _MANY):
        if variable.size >> 10 < _WALKED:
            _refused_or(variable.__getattribute__, "value")
        assert isinstance(variable.type_name, str)


def _use_map(spec: MapSpec) -> None:
    estimate_bytes(spec)
    for ref, size, is_key in (
        (spec.key, spec.key_size, True),
        (spec.value, spec.value_size, False),
    ):
        if ref is None:
            continue
        c_type(ref)
        c_name(ref)
        assert not _refused_or(differences, ref, ref)
        made = _refused_or(functools.partial(codec, is_key=is_key), ref, size)
        if made is not None and size >> 10 < _WALKED:
            _use_codec(made, bytes(size))
    if spec.inner is not None:
        _use_map(spec.inner)


def _use_codec(made: Codec, data: bytes) -> None:
    value = made.decode(data)
    with contextlib.suppress(ValueError, TypeError):  # two members of one name, and of two types
        assert made.decode(made.encode(value)) == value


def _use_programs(spec: ObjectSpec) -> None:
    done = _refused_or(relocate, spec, TARGET)
    for resolution in done.resolutions if done else ():
        assert resolution.question
        assert resolution.place
    fitted = externs.fill(done.spec if done else spec, _answers(spec), {})
    descriptors = {name: 100 + number for number, name in enumerate(fitted.maps)}
    for program in fitted.programs.values():
        linked = _refused_or(calls.link, program)
        if linked is not None:
            code = maps.fill_maps(linked.instructions, linked.references, descriptors)
            assert len(insn.encode(code)) == 8 * len(code)


def _answers(spec: ObjectSpec) -> list[externs.Answer]:
    """Return what a kernel that has everything would say."""
    return [
        externs.Answer(each, contents=bytes(each.size))
        if each.kind is ExternKind.KCONFIG
        else externs.Answer(each, number=1 << 40)
        for each in externs.used_externs(spec)
    ]


def _use_types(btf: Btf) -> None:
    assert len(Btf.parse(btf.to_bytes())) == len(btf)
    refs = [btf.ref(type_id) for type_id in islice(btf.ids(), _MANY)]
    for ref in refs:
        c_type(ref)
        align_of(btf, ref.id)
    _use_subset(refs)


def _use_subset(refs: Iterable[TypeRef]) -> None:
    data, ids = subset(list(refs))
    assert len(Btf.parse(data)) > max(ids, default=0)


def _refused_or(work: Callable[..., _Result], *arguments: object) -> _Result | None:
    try:
        return work(*arguments)
    except OURS:
        return None
