"""The public names: their signatures, what documents them, and the types they use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from measures.row import Finding, Row, percent, row
from measures.source import INIT, PACKAGE, Function, Module, Source

# Modules whose classes are public there, as the docstring of the package says.
PUBLIC_MODULES = {"btf.types"}


class Definition(NamedTuple):
    """A class, function or other statement at the top of a module."""

    module: Module
    node: ast.stmt


class Parameter(NamedTuple):
    """A parameter, with its type as it is written."""

    name: str
    line: int
    type: ast.expr | None


@dataclass(frozen=True)
class Signature:
    """A public function, method, property, or constructor: what it takes, and what it returns."""

    title: str
    module: Module
    line: int
    parameters: tuple[Parameter, ...]
    returns: ast.expr | None
    docstring: str


class PublicNames:
    """The names in `__all__` of the package, and the signatures behind them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root = source.modules[INIT]
        self.names = self._names()

    def _names(self) -> list[str]:
        """Return `__all__`, or if it is computed, what is imported and what the tables name."""
        for node in self.root.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                try:
                    return list(ast.literal_eval(node.value))
                except ValueError:
                    break
        imported = [
            name
            for name, node in self._scope(self.root).items()
            if isinstance(node, ast.ImportFrom) and not name.startswith("_")
        ]
        return sorted({*imported, *self._homes})

    @cached_property
    def _homes(self) -> dict[str, str]:
        """The module of each name in the dicts of the `__init__`, `{"apps.deploy": "deploy"}`."""
        homes: dict[str, str] = {}
        for node in self.root.nodes:
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant):
                        home = self.source.module_named(str(key.value).removeprefix(f"{PACKAGE}."))
                        words = [
                            each.value for each in ast.walk(value) if isinstance(each, ast.Constant)
                        ]
                        names = " ".join(map(str, words)).split()
                        homes |= {name: home for name in names if home}
        return homes

    def _scope(self, module: Module) -> dict[str, ast.stmt]:
        """Return the statements that define the names at the top of a module."""
        scope: dict[str, ast.stmt] = {}
        waiting = list(module.tree.body)
        while waiting:
            node = waiting.pop(0)
            match node:
                case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                    scope[name] = node
                case ast.Import(names) | ast.ImportFrom(_, names):
                    scope |= {alias.asname or alias.name: node for alias in names}
                case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                    scope[name] = node
                case ast.If() | ast.Try():
                    waiting[:0] = [*node.body, *node.orelse]
        return scope

    @cached_property
    def _scopes(self) -> dict[str, dict[str, ast.stmt]]:
        return {name: self._scope(module) for name, module in self.source.modules.items()}

    def find(self, module: Module, name: str) -> Definition | None:
        """Return what *name* is in a module, through imports; None for what is not ours."""
        node = self._scopes[module.name].get(name)
        if isinstance(node, ast.ImportFrom):
            home = self.source.module_named((node.module or "").removeprefix(PACKAGE).strip("."))
            if (node.module or "").partition(".")[0] != PACKAGE or home in (None, module.name):
                return None
            first = next(each.name for each in node.names if (each.asname or each.name) == name)
            return self.find(self.source.modules[home or INIT], first)
        if node is not None:
            return None if isinstance(node, ast.Import) else Definition(module, node)
        if module is self.root and name in self._homes:
            return self.find(self.source.modules[self._homes[name]], name)
        return None

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """The definition of each public name that has one."""
        pairs = ((name, self.find(self.root, name)) for name in self.names)
        return {name: definition for name, definition in pairs if definition}

    @cached_property
    def signatures(self) -> list[Signature]:
        """The signatures of all public names; what several classes inherit is one."""
        by_place: dict[tuple[str, int], Signature] = {}
        for definition in self.definitions.values():
            for signature in self._signatures(definition):
                by_place.setdefault((signature.module.name, signature.line), signature)
        return list(by_place.values())

    def _signatures(self, definition: Definition) -> Iterator[Signature]:
        module, node = definition
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield signature(module, node, node.name)
        if not isinstance(node, ast.ClassDef):
            return
        for member in node.body:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(member):
                documentation = ""
                if member.name == "__init__":
                    documentation = ast.get_docstring(node) or ""
                yield signature(module, member, f"{node.name}.{member.name}", documentation)
        if is_record(node):
            fields = tuple(
                Parameter(member.target.id, member.lineno, member.annotation)
                for member in node.body
                if isinstance(member, ast.AnnAssign)
                and isinstance(member.target, ast.Name)
                and is_field(member)
            )
            yield Signature(
                node.name, module, node.lineno, fields, None, ast.get_docstring(node) or ""
            )
        for base in node.bases:
            written = base.value if isinstance(base, ast.Subscript) else base
            found_base = self.find(module, ast.unparse(written))
            if found_base:
                yield from self._signatures(found_base)

    def classes(self, module: Module, annotation: ast.expr | None) -> Iterator[Definition]:
        """Yield the classes of ours in an annotation, also behind names of types."""
        for node in ast.walk(annotation) if annotation else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                try:
                    parsed = ast.parse(node.value, mode="eval").body
                except SyntaxError:  # the text of a Literal
                    continue
                yield from self.classes(module, parsed)
            elif isinstance(node, ast.Name) and (definition := self.find(module, node.id)):
                statement = definition.node
                if isinstance(statement, ast.ClassDef):
                    yield definition
                elif isinstance(statement, ast.Assign | ast.AnnAssign) and is_type(statement.value):
                    yield from self.classes(definition.module, statement.value)


def is_type(value: ast.expr | None) -> bool:
    """Whether an assigned value may be a type: a name, a union, a subscript."""
    return isinstance(value, ast.Name | ast.BinOp | ast.Subscript | ast.Attribute)


def is_public(function: Function) -> bool:
    """Whether a method is for users; overloads and setters repeat another one."""
    decorators = {ast.unparse(each).rpartition(".")[2] for each in function.decorator_list}
    is_named = function.name == "__init__" or not function.name.startswith("_")
    return is_named and not decorators & {"overload", "setter"}


def is_record(node: ast.ClassDef) -> bool:
    """Whether the fields of a class are the parameters of its constructor."""
    heads = [*node.decorator_list, *node.bases]
    names = {
        ast.unparse(each.func if isinstance(each, ast.Call) else each).rpartition(".")[2]
        for each in heads
    }
    return bool(names & {"dataclass", "NamedTuple"})


def is_field(member: ast.AnnAssign) -> bool:
    """Whether an annotated name in a record is a public parameter of its constructor."""
    name, written = ast.unparse(member.target), ast.unparse(member.annotation)
    value = ast.unparse(member.value) if member.value else ""
    is_parameter = "ClassVar" not in written and "init=False" not in value
    return is_parameter and not name.startswith("_")


def signature(module: Module, node: Function, title: str, more: str = "") -> Signature:
    """Return the signature of a function, without self, cls, and names with an underscore."""
    arguments = node.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += filter(None, (arguments.vararg, arguments.kwarg))
    parameters = tuple(
        Parameter(each.arg, each.lineno, each.annotation)
        for each in listed
        if each.arg not in ("self", "cls") and not each.arg.startswith("_")
    )
    docstring = f"{ast.get_docstring(node) or ''}\n{more}"
    return Signature(title, module, node.lineno, parameters, node.returns, docstring)


def public_parameters(source: Source) -> Iterator[Row]:
    """Return the share of public parameters whose name is a word of the docstring.

    These are of the functions, constructors (fields of records, too) and public methods behind
    `__all__`, inherited ones once. A constructor's are named in the docstring of its class.
    """
    public = PublicNames(source)
    total = 0
    missing = []
    for each in public.signatures:
        for parameter in each.parameters:
            total += 1
            if not re.search(rf"\b{re.escape(parameter.name)}\b", each.docstring):
                text = f"{each.title}({parameter.name})"
                missing.append(each.module.at(parameter.line, text))
    share = percent(total - len(missing), total)
    title = "public parameters named in their docstring"
    yield row("parameters", title, missing, 100, figure=share, unit=" %", is_floor=True)
    unknown = [public.root.at(1, name) for name in public.names if name not in public.definitions]
    yield row("parameters-unknown", "  public names without a definition found", unknown)


def public_types(source: Source) -> Iterator[Row]:
    """Count the classes of ours in public signatures that are not in `__all__`.

    Classes of `PUBLIC_MODULES` are public there.
    """
    public = PublicNames(source)
    known = {(each.module.name, each.node) for each in public.definitions.values()}
    users: dict[tuple[str, int, str], str] = {}
    for each in public.signatures:
        for annotation in (each.returns, *(parameter.type for parameter in each.parameters)):
            for module, node in public.classes(each.module, annotation):
                if module.name in PUBLIC_MODULES:
                    continue
                if isinstance(node, ast.ClassDef) and (module.name, node) not in known:
                    users.setdefault((module.file, node.lineno, node.name), each.title)
    findings = [
        Finding(file, line, f"{name}, in {user}") for (file, line, name), user in users.items()
    ]
    yield row("types", "types used in public signatures that are not public", findings, 0)
