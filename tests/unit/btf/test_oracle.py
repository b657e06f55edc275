"""Our reader of BTF and bpftool see the same types in every object that we compile."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    BtfType,
    DataSection,
    DeclTag,
    Enum,
    Float,
    Forward,
    Function,
    FunctionPrototype,
    Int,
    Linkage,
    Modifier,
    Pointer,
    Struct,
    Union,
    Var,
)
from support.btf_tables import section_of
from support.objects import COMPILERS, NAMES, compiled
from support.tools import need

ANONYMOUS = "(anon)"


def shown(kind: BtfType) -> tuple[Any, ...]:
    """Return a type as bpftool shows it: its kind, its name, then what belongs to the kind."""
    name = kind.name or ANONYMOUS
    match kind:
        case Int():
            return "INT", name, kind.size, kind.bit_offset, kind.bits, kind.encoding.name
        case Pointer():
            return "PTR", name, kind.type_id
        case Array():
            return "ARRAY", name, kind.element_id, kind.index_id, kind.length
        case Struct() | Union():
            members = [
                (member.name or ANONYMOUS, member.type_id, member.bit_offset, member.bitfield_size)
                for member in kind.members
            ]
            return type(kind).__name__.upper(), name, kind.size, members
        case Enum():
            return "ENUM64" if kind.is_wide else "ENUM", name, kind.size, list(kind.values)
        case _:
            return shown_reference(kind, name)


def shown_reference(kind: BtfType, name: str) -> tuple[Any, ...]:
    match kind:
        case Forward():
            return "FWD", name, "union" if kind.is_union else "struct"
        case Modifier():
            return kind.kind.name, name, kind.type_id
        case Function() | Var():
            word = "FUNC" if isinstance(kind, Function) else "VAR"
            return word, name, kind.type_id, Linkage(kind.linkage).name.lower()
        case FunctionPrototype():
            parameters = [(entry.name or ANONYMOUS, entry.type_id) for entry in kind.parameters]
            return "FUNC_PROTO", name, kind.return_id, parameters
        case DataSection():
            return "DATASEC", name, kind.size, list(kind.variables)
        case DeclTag():
            return "DECL_TAG", name, kind.type_id, kind.component
        case Float():
            return "FLOAT", name, kind.size
        case _:
            pytest.fail(f"bpftool shows no {kind}")


ENCODINGS = {"(none)": "NONE"}
FIELDS = {
    "INT": ("size", "bits_offset", "nr_bits"),
    "PTR": ("type_id",),
    "ARRAY": ("type_id", "index_type_id", "nr_elems"),
    "FWD": ("fwd_kind",),
    "FUNC": ("type_id", "linkage"),
    "VAR": ("type_id", "linkage"),
    "DECL_TAG": ("type_id", "component_idx"),
    "FLOAT": ("size",),
    **dict.fromkeys(("TYPEDEF", "VOLATILE", "CONST", "RESTRICT", "TYPE_TAG"), ("type_id",)),
    **dict.fromkeys(("STRUCT", "UNION", "ENUM", "ENUM64", "DATASEC"), ("size",)),
    "FUNC_PROTO": ("ret_type_id",),
}
PARTS = {
    "STRUCT": ("members", ("name", "type_id", "bits_offset", "bitfield_size")),
    "UNION": ("members", ("name", "type_id", "bits_offset", "bitfield_size")),
    "ENUM": ("values", ("name", "val")),
    "ENUM64": ("values", ("name", "val")),
    "FUNC_PROTO": ("params", ("name", "type_id")),
    "DATASEC": ("vars", ("type_id", "offset", "size")),
}


def said(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return what bpftool says of a type, in the order of `shown`."""
    kind = record["kind"]
    fields_read = [kind, record["name"], *(record[field] for field in FIELDS[kind])]
    if kind == "INT":
        fields_read.append(ENCODINGS.get(record["encoding"], record["encoding"]))
    if kind in PARTS:
        part, fields = PARTS[kind]
        fields_read.append(
            [tuple(entry.get(field, 0) for field in fields) for entry in record[part]]
        )
    return tuple(fields_read)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_types_are_those_that_bpftool_shows(name: str, compiler: str) -> None:
    need("bpftool")
    path = compiled(name, compiler)
    command = ["bpftool", "--json", "btf", "dump", "file", str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    expected = [said(record) for record in json.loads(done.stdout)["types"]]
    read = Btf.parse(section_of(path, ".BTF"))

    assert [shown(read[type_id]) for type_id in read.ids()[1:]] == expected
