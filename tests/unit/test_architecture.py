"""The layers of the house: who may import whom, and how large a room may be.

The table is the architecture; a new module finds its layer by the folder it is in.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import bpfpin

ROOT = Path(bpfpin.__file__).parent
REPOSITORY = Path(__file__).parents[2]
NAMED_MODULE = re.compile(r"`(?:src/bpfpin/)?([a-z_]+(?:/[a-z_]+)+)(?:\.py)?`")
NAMED_WORD = re.compile(r"`([a-z_]+)(?:\.py)?`")
MAX_MODULE_LINES = 650
MAX_FUNCTION_LINES = 70

BASE = {"uapi", "uapi_helpers", "errors", "hints", "records", "deprecated", "choices"}
TRAITS = {"hook_traits", "hooks", "map_traits", "program_traits"}
PURE = BASE | TRAITS | {"insn", "btf", "codecs", "externs", "spec"}
OBJECTS = PURE | {"fixup", "syscall"}
HOST = OBJECTS | {"objects", "pins", "attach", "version"}
LAYERS: dict[str, set[str]] = {
    "records": set(),
    "deprecated": set(),
    "uapi": set(),
    "uapi_helpers": set(),
    "hints": {"records"},
    "errors": {"uapi", "records", "hints"},
    "choices": {"errors", "uapi"},
    "hook_traits": BASE,
    "hooks": BASE | {"hook_traits"},
    "map_traits": BASE,
    "program_traits": BASE,
    "insn": BASE,
    "btf": BASE,
    "codecs": BASE | {"btf"},
    "externs": BASE | {"btf"},
    "spec": PURE - {"spec"},
    "assembler": BASE | {"insn", "spec"},
    "fixup": PURE,
    "syscall": BASE | {"map_traits", "program_traits"},
    "objfile": PURE,
    "objects": OBJECTS | {"assembler"},
    "analysis": OBJECTS | {"objects"},
    "migration": OBJECTS | {"assembler", "objects", "analysis"},
    "pins": OBJECTS | {"objects", "migration", "version"},
    "attach": PURE - {"externs"} | {"syscall", "objects", "objfile", "assembler"},
    "loading": PURE | {"syscall", "fixup", "objects", "objfile", "attach"},
    "host": HOST | {"analysis"},
    "map": HOST | {"host", "migration"},
    "sets": HOST | {"loading", "host", "map", "migration", "analysis", "objfile", "builtin"},
    "apps": HOST
    | {"assembler", "loading", "migration", "host", "map", "sets", "objfile", "builtin"},
    "cli": BASE | {"spec", "hooks", "version", "migration", "host", "map", "sets", "apps"},
    "builtin": set(),
    "version": set(),
    "__main__": {"cli"},
}
# The package itself: the public names, each from the layer that has it.
LAYERS["__init__"] = set(LAYERS) - {"cli", "__main__"}

# Packages of others, and the places that may import them.
GUESTS: dict[str, str] = {
    "pyroute2": "attach.netlink",
    "rich": "cli",
    "click": "cli",
}
GENERATED = {"uapi", "uapi_helpers"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax trees of all modules by name, `bpfpin.` left out."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Return *tree* and all that is below it."""
    return tuple(ast.walk(tree))


def imports(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Yield module and name of each import, those inside of functions too."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of ours that are imported, `bpfpin.` left out."""
    for module, name in imports(tree):
        if module.partition(".")[0] != "bpfpin":
            continue
        inner = module.removeprefix("bpfpin").removeprefix(".")
        full = ".".join(part for part in (inner, name) if part)
        yield full if is_module(full) else inner or "__init__"


def is_module(name: str) -> bool:
    return name in modules() or f"{name}.__init__" in modules()


def layer(module: str) -> str:
    """Return the layer of *module*: the longest row of the table that its name begins with."""
    return next((name for name in parents(module) if name in LAYERS), module)


def parents(module: str) -> Iterator[str]:
    """Yield the name of *module*, then those of the packages that it is in, the inner first."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def strays(table: Mapping[str, set[str]], trees: Mapping[str, ast.Module]) -> list[str]:
    """Return the imports that *table* does not allow."""
    return [
        f"{module} imports {imported}"
        for module, tree in trees.items()
        for imported in sorted(set(own_imports(tree)))
        if layer(imported) not in {layer(module), *table[layer(module)]}
    ]


def folder(module: str) -> str:
    """Return the folder of *module*, "" for the package itself; a package stands in itself."""
    return module.removesuffix(".__init__") if is_package(module) else module.rpartition(".")[0]


def is_package(module: str) -> bool:
    return module.endswith("__init__") or f"{module}.__init__" in modules()


def folder_graph(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return for each folder of *trees* the other folders that its modules import from."""
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        here = folder(module)
        there = {folder(imported) for imported in own_imports(tree)}
        graph.setdefault(here, set()).update(there - {here, ""})
    graph.pop("", None)
    return graph


def imported_at_start(tree: ast.Module) -> Iterable[ast.stmt]:
    """Return what runs when the module is imported; not what only type checkers read."""
    return [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.If)]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its signature and its docstring."""
    first = function.body[1:2] if ast.get_docstring(function) else function.body[:1]
    return (function.end_lineno or 0) - first[0].lineno + 1 if first else 0


def test_every_module_belongs_to_a_layer() -> None:
    assert [name for name in modules() if layer(name) not in LAYERS] == []


def test_imports_go_downwards_only() -> None:
    assert strays(LAYERS, modules()) == []


def test_an_import_upwards_would_be_found() -> None:
    trees = {
        "objfile.reader": ast.parse("def read():\n    from bpfpin.syscall.bpf import map_create"),
        "pins.plan": ast.parse("import bpfpin.attach.xdp"),
        "cli.load": ast.parse("from bpfpin import errors, objects"),
        "objects.link": ast.parse("from bpfpin.loading import attachments"),
    }

    assert strays(LAYERS, trees) == [
        "objfile.reader imports syscall.bpf",
        "pins.plan imports attach.xdp",
        "cli.load imports objects",
        "objects.link imports loading.attachments",
    ]


def test_the_layers_have_no_cycle() -> None:
    assert set(TopologicalSorter(LAYERS).static_order()) == set(LAYERS)


def test_no_folders_import_each_other() -> None:
    try:
        TopologicalSorter(folder_graph(modules())).prepare()
    except CycleError as error:
        pytest.fail(f"folders in a circle: {' -> '.join(error.args[1])}")


def test_folders_in_a_circle_would_be_found() -> None:
    trees = {
        "sets.find": ast.parse("from bpfpin.sets.load.deploy import deploy"),
        "sets.load.deploy": ast.parse("def deploy():\n    from bpfpin.sets.find import find_set"),
    }

    with pytest.raises(CycleError):
        TopologicalSorter(folder_graph(trees)).prepare()


def test_no_modules_import_each_other() -> None:
    graph = {
        name: {
            imported if imported in modules() else f"{imported}.__init__"
            for node in imported_at_start(tree)
            for imported in own_imports(node)
        }
        for name, tree in modules().items()
    }

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_imports_are_absolute() -> None:
    relative = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in nodes(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]

    assert relative == []


@pytest.mark.parametrize(("package", "place"), GUESTS.items())
def test_a_package_of_others_is_imported_in_its_place_only(package: str, place: str) -> None:
    elsewhere = [
        name
        for name, tree in modules().items()
        if not f"{name}.".startswith(f"{place}.")
        and any(module.partition(".")[0] == package for module, _ in imports(tree))
    ]

    assert elsewhere == []


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_no_module_is_too_long() -> None:
    lengths = {
        name: len((ROOT / (name.replace(".", "/") + ".py")).read_text().splitlines())
        for name in modules().keys() - GENERATED
    }

    assert {name: size for name, size in lengths.items() if size > MAX_MODULE_LINES} == {}


def test_no_function_is_too_long() -> None:
    long = {
        f"{name}.{function.name}": size
        for name, tree in modules().items()
        for function in functions(tree)
        if (size := body_lines(function)) > MAX_FUNCTION_LINES
    }

    assert long == {}


def named_folders(section: str) -> set[str]:
    """Return the folders of the package that *section* names, alone or in the path of a module."""
    paths = [Path(name) for name in NAMED_MODULE.findall(section)]
    paths += [Path(name) for name in NAMED_WORD.findall(section)]
    places = {str(place) for path in paths for place in (path, *path.parents)}
    return {place for place in places if (ROOT / place).is_dir()} | {"."}


def unknown_words(page: str) -> list[str]:
    """Return the words in backticks that name neither a module of a named folder nor a function.

    A module is named by one word if it is at the top of the package, or if its folder is named in
    the same section.
    """
    called = {function.name for tree in modules().values() for function in functions(tree)}
    unknown = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        known = {
            path.stem for name in named_folders(section) for path in (ROOT / name).iterdir()
        } | called
        words = set(NAMED_WORD.findall(section))
        unknown += sorted(word for word in words - known if not keyword.iskeyword(word))
    return unknown


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_words_that_a_page_names_are_modules_or_functions(page: str) -> None:
    assert unknown_words((REPOSITORY / page).read_text()) == []


def test_a_word_for_no_module_would_be_found() -> None:
    page = "`hooks`\n## Graph\n`host/collect`, `processes`, `gone`\n## Maps\n`kernel_values`\n"

    assert unknown_words(page) == ["gone", "kernel_values"]


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_modules_that_a_page_names_exist(page: str) -> None:
    folders = {path.name for path in ROOT.rglob("*") if path.is_dir()}
    named = set(NAMED_MODULE.findall((REPOSITORY / page).read_text()))
    places = {name for name in named if name.split("/")[0] in folders}

    assert places
    assert {
        place
        for place in places
        if not (ROOT / place).is_dir() and not (ROOT / f"{place}.py").is_file()
    } == set()
