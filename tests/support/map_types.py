"""What the tests of every type of map share: which types a test exercises, and their maps."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bpfpin.btf.types import Enum
from bpfpin.insn import Instruction, load_imm64
from bpfpin.objects.kernel.btf import vmlinux_btf
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, MapSpec, ProgramSpec, Reference, ReferenceKind
from bpfpin.uapi import MapType, ProgramType

Test = TypeVar("Test", bound=Callable[..., object])

SOURCES = Path(__file__).parent.parent / "kernel"
ARRAYS = {MapType.ARRAY, MapType.PERCPU_ARRAY}
LRU = {MapType.LRU_HASH, MapType.LRU_PERCPU_HASH}
HASHES = {MapType.HASH, MapType.PERCPU_HASH} | LRU
RECORD = {"rx_packets": 3, "rx_bytes": 180}


def of(*_kinds: MapType) -> Callable[[Test], Test]:
    """Say that a test exercises these types."""
    return lambda test: test


def each(*kinds: MapType) -> pytest.MarkDecorator:
    """Run a test, which takes `kind`, once for each of these types."""
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name.lower())


def exercised() -> set[MapType]:
    """Return the types that `of` and `each` stand for in the sources of the tests."""
    return {
        MapType[argument.attr]
        for path in SOURCES.glob("test_every_map_type*.py")
        for call in _calls(path)
        for argument in call.args
        if isinstance(argument, ast.Attribute)
    }


def _calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        for decorator in getattr(node, "decorator_list", ()):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in {"of", "each"}:
                yield decorator


def spec(kind: MapType, key_size: int, value_size: int, **more: Any) -> MapSpec:
    """Describe a map of four entries."""
    fields: dict[str, Any] = {"max_entries": 4, **more}
    return MapSpec("made", kind, key_size, value_size, **fields)


def is_listed(kind: MapType) -> bool:
    """Return whether this kernel's own list of map types has *kind*."""
    kernel = vmlinux_btf()
    listed = kernel[kernel.find("bpf_map_type") or 0]
    assert isinstance(listed, Enum)
    names = {value.name for value in listed.values}
    assert "BPF_MAP_TYPE_HASH" in names
    return f"BPF_MAP_TYPE_{kind.name}" in names


def unreadable(held: Map) -> str:
    """Return the pattern of what is said when a map cannot be read."""
    kind = held.type.name.lower() if isinstance(held.type, MapType) else ""
    article = "an" if kind == "xskmap" else "a"
    text = f"map made (id {held.id}) is {article} {kind}: user space cannot read its entries"
    return f"^{re.escape(text)}$"


def with_map(kind: ProgramType, held: Map, *code: Instruction, register: int = 1) -> Program:
    """Load a program that first puts *held* into a register, then runs *code*."""
    whole = (*load_imm64(register, 0), *code)
    function = FunctionSpec("made", "test", whole, (Reference(0, ReferenceKind.MAP, "held"),))
    made = ProgramSpec("made", kind, "test", (function,), license="GPL")
    return Program.load(made, maps={"held": held})
