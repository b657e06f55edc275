"""How the package is cut: modules, imports, folders, classes, and facts said in several files."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from measures.row import Finding, Row, percent, row
from measures.source import INIT, Source

# The members that stand for a hook of ours; program types of tracing, for example, are none.
HOOK_MEMBERS = {
    "Hook": re.compile(r"[A-Z]"),
    "AttachType": re.compile(r"XDP|TCX_|NETKIT_|CGROUP_"),
    "ProgramType": re.compile(r"XDP|SCHED_|CGROUP_|SOCK_OPS"),
}
# The words of hooks, as edges of the graph and manifests have them.
HOOK_WORD = re.compile(r"xdp|tcx?-(in|e)gress|netkit-(primary|peer)|cgroup-[a-z0-9-]+")


def modules(source: Source) -> Iterator[Row]:
    """Count the modules that are not `__init__`."""
    files = (each.at(1, name) for name, each in source.modules.items() if not each.is_init)
    yield row("modules", "modules without __init__", files, 270)


def importers(source: Source) -> Iterator[Row]:
    """Count the modules that exactly one other module imports.

    Late imports, imports for types and the table of public names count. The tables of verbs, which
    name modules in strings, make a row of their own: a verb is imported by its table alone.
    """
    static: dict[str, set[str]] = defaultdict(set)
    for name, targets in source.imports.items():
        for target in {*targets, *(source.tables[INIT] if name == INIT else ())} - {name}:
            static[target].add(name)
    dynamic = {name: set(names) for name, names in static.items()}
    for name, targets_named in source.tables.items():
        for target in targets_named - {name}:
            dynamic.setdefault(target, set()).add(name)
    kinds = (
        ("one-importer", "modules with exactly one importer", static, 50),
        ("one-importer-tables", "  the same, tables of verbs are importers", dynamic, None),
    )
    for name, title, by, target_number in kinds:
        findings = [
            source.modules[module].at(1, f"only {next(iter(users))} imports it")
            for module, users in by.items()
            if len(users) == 1 and not source.modules[module].is_init
        ]
        yield row(name, title, findings, target_number)


def import_lines(source: Source) -> Iterator[Row]:
    """Return the share of the lines of import statements, of all lines with the blank ones."""
    whole = spanned = 0
    findings = []
    for module in source.modules.values():
        lines = [
            node.end_lineno - node.lineno + 1
            for node in module.nodes
            if isinstance(node, ast.Import | ast.ImportFrom) and node.end_lineno
        ]
        whole += len(module.text.splitlines())
        spanned += sum(lines)
        findings.append(module.at(1, f"{sum(lines)} lines of imports"))
    share = percent(spanned, whole)
    yield row("import-lines", "import lines", findings, 7, figure=share, unit=" %")


def folder_of(module: str) -> str:
    """Return the folder of a module; a module beside the layers is a layer itself."""
    return module.rpartition(".")[0] or module


def cycles(edges: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Return pairs that point at each other, and then a cycle that holds no such pair, if any."""
    graph = {name: set(targets) - {name} for name, targets in edges.items()}
    pairs = {
        (low, high)
        for low, targets in graph.items()
        for high in targets
        if low < high and low in graph.get(high, ())
    }
    rest = {
        name: {each for each in targets if (min(name, each), max(name, each)) not in pairs}
        for name, targets in graph.items()
    }
    try:
        TopologicalSorter(rest).prepare()
    except CycleError as error:
        return [*sorted(pairs), tuple(error.args[1])]
    return sorted(pairs)


def layer_of(folder: str) -> str:
    """Return the layer that a folder or module is in."""
    return folder.partition(".")[0]


def is_nested(low: str, high: str) -> bool:
    """Whether one of two folders is inside the other one."""
    return f"{high}.".startswith(f"{low}.") or f"{low}.".startswith(f"{high}.")


def folder_cycles(source: Source) -> Iterator[Row]:
    """Count pairs of folders whose modules import each other, and longer cycles of folders.

    Inside a layer: folders beside each other in one row, a folder and one inside of it in the next.
    Last the layers themselves. A module beside the layers is one itself; the package's own
    `__init__` is none, as it has the public names of all of them.
    """
    imports = [
        (folder_of(name), folder_of(target), source.modules[name].at(line, f"{name} -> {target}"))
        for name, targets in source.imports.items()
        for target, line in targets.items()
        if INIT not in (name, target)
    ]
    inside = [each for each in imports if layer_of(each[0]) == layer_of(each[1])]
    beside = [each for each in inside if not is_nested(each[0], each[1])]
    nested = [each for each in inside if is_nested(each[0], each[1])]
    layers = [(layer_of(low), layer_of(high), finding) for low, high, finding in imports]
    kinds = (
        ("folder-cycles", "cycles of folders beside each other in a layer", beside),
        ("folder-cycles-inner", "cycles of a folder and one inside of it", nested),
        ("folder-cycles-layers", "cycles of layers", layers),
    )
    for name, title, edges in kinds:
        graph: dict[str, set[str]] = defaultdict(set)
        for low, high, _ in edges:
            graph[low].add(high)
        loops = cycles(graph)
        findings = [
            finding._replace(text=f"{' <-> '.join(cycle)}: {finding.text}")
            for cycle in loops
            for low, high, finding in edges
            if low != high and low in cycle and high in cycle
        ]
        yield row(name, title, findings, 0, figure=len(loops))


def class_names(source: Source) -> Iterator[Row]:
    """Count the names that classes of several modules have, private ones too, and those classes."""
    homes: dict[str, list[Finding]] = defaultdict(list)
    for module in source.modules.values():
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module.at(node.lineno, node.name))
    shared = {
        name: classes
        for name, classes in homes.items()
        if len({finding.file for finding in classes}) > 1
    }
    findings = [finding for classes in shared.values() for finding in classes]
    title = "class names with more than one meaning"
    yield row("class-names", title, findings, 0, figure=len(shared))
    yield row("class-names-classes", "  classes of those names", findings)


def is_member(node: ast.AST, members: Mapping[str, re.Pattern[str]]) -> bool:
    """Whether *node* is `Enum.MEMBER`, of an enum and with a name as *members* has them."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in members
        and node.attr.isupper()
        and members[node.value.id].match(node.attr) is not None
    )


def files_of(findings: Iterable[Finding]) -> int:
    """Return how many files the findings are in."""
    return len({finding.file for finding in findings})


def map_type_facts(source: Source) -> Iterator[Row]:
    """Count the files that name a member of MapType."""
    of_map_types = {"MapType": re.compile("[A-Z]")}
    findings = [
        module.at(node.lineno, ast.unparse(node))
        for module in source.written
        for node in module.nodes
        if isinstance(node, ast.Attribute) and is_member(node, of_map_types)
    ]
    title = "files that state facts about single map types"
    yield row("map-type-facts", title, findings, 12, figure=files_of(findings))


def hook_branches(source: Source) -> Iterator[Row]:
    """Count the files that branch on a kind of hook.

    That is a comparison with, or a dict, set, tuple or list of, members of Hook, or of the program
    and attach types of hooks of ours; a `match` on them; a comparison with the word of a hook; the
    question `is_cgroup`.
    """
    findings = [
        module.at(node.lineno, ast.unparse(node).partition("\n")[0][:80])
        for module in source.written
        for node in module.nodes
        if isinstance(node, ast.expr | ast.pattern) and branches_on_hook(node)
    ]
    title = "files that branch on a kind of hook"
    yield row("hook-branches", title, findings, 6, figure=files_of(findings))


def branches_on_hook(node: ast.expr | ast.pattern) -> bool:
    """Whether *node* decides by the kind of a hook, or is a table of kinds of hooks."""
    parts: list[ast.expr]
    match node:
        case ast.Attribute(attr="is_cgroup"):
            return True
        case ast.Compare(left, _, comparators):
            parts = [left, *comparators]
            if any(map(is_hook_word, parts)):
                return True
        case ast.Dict(keys):
            parts = [key for key in keys if key is not None]
        case ast.Set(elements) | ast.Tuple(elements) | ast.List(elements):
            parts = elements
        case ast.MatchValue(value):
            parts = [value]
        case _:
            return False
    return any(is_member(part, HOOK_MEMBERS) for part in with_values(parts))


def is_hook_word(node: ast.expr) -> bool:
    """Whether *node* is the word of a hook: `"xdp"`."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return False
    return HOOK_WORD.fullmatch(node.value) is not None


def with_values(parts: Iterable[ast.expr]) -> Iterator[ast.expr]:
    """Yield the expressions, and beside `Hook.XDP.value` also `Hook.XDP`."""
    for part in parts:
        yield part
        if isinstance(part, ast.Attribute):
            yield part.value
