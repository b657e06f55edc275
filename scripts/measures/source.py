"""The package in a checkout as syntax trees: its modules, and who imports what."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from measures.row import Finding

PACKAGE = "bpfpin"
GENERATED = {"uapi", "uapi_helpers"}
INIT = "__init__"
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """One module of the package: its dotted name without the package's own, text and tree."""

    def __init__(self, name: str, path: Path, root: Path) -> None:
        self.name = name
        self.file = str(path.relative_to(root))
        self.text = path.read_text()
        self.tree = ast.parse(self.text)

    @property
    def is_init(self) -> bool:
        """Whether it is the `__init__` of a folder."""
        return self.name.rpartition(".")[2] == INIT

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of its tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """Its tokens, comments too."""
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    def at(self, line: int, text: str) -> Finding:
        """Return the finding *text* on a line of this module."""
        return Finding(self.file, line, text)


class Source:
    """The package below ROOT/src, and who imports what in it."""

    def __init__(self, root: Path) -> None:
        package = root / "src" / PACKAGE
        self.modules = {
            (name := ".".join(path.relative_to(package).with_suffix("").parts)): Module(
                name, path, root
            )
            for path in sorted(package.rglob("*.py"))
        }
        if not self.modules:
            sys.exit(f"no modules below {package}: give the root of a checkout")

    @property
    def written(self) -> list[Module]:
        """The modules that are written by hand."""
        return [module for name, module in self.modules.items() if name not in GENERATED]

    @cached_property
    def imports(self) -> dict[str, dict[str, int]]:
        """By module: the modules it imports anywhere, late and for types too, and on which line."""
        return {
            name: {
                target: node.lineno
                for node in module.nodes
                if isinstance(node, ast.Import | ast.ImportFrom)
                for target in self.targets(node)
            }
            for name, module in self.modules.items()
        }

    def targets(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        """Yield the modules of ours that a statement imports."""
        if isinstance(node, ast.Import):
            wanted = [(alias.name, "") for alias in node.names]
        else:
            wanted = [(node.module or "", alias.name) for alias in node.names]
        for module, name in wanted:
            if module.partition(".")[0] == PACKAGE:
                inner = module.removeprefix(PACKAGE).removeprefix(".")
                full = ".".join(filter(None, (inner, name)))
                target = self.module_named(full) or self.module_named(inner)
                if target:
                    yield target

    def module_named(self, name: str) -> str | None:
        """Return the module of that dotted name (without the package's), or None."""
        names = (name, f"{name}.{INIT}" if name else INIT)
        return next((each for each in names if each in self.modules), None)

    @cached_property
    def tables(self) -> dict[str, set[str]]:
        """By module: the modules that it names in strings, as the table of verbs does.

        In the package's own `__init__`, the names of the table of public names count, which leave
        the package's name out.
        """
        tables: dict[str, set[str]] = defaultdict(set)
        for name, module in self.modules.items():
            for node in module.nodes:
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                    is_ours = text.startswith(f"{PACKAGE}.") or name == INIT
                    target = text.removeprefix(f"{PACKAGE}.")
                    if is_ours and target in self.modules:
                        tables[name].add(target)
        return tables
