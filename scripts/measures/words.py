"""How the package reads: names of variables, phrases, and comments."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator

from measures.row import Finding, Row, percent, row
from measures.source import Module, Source

VAGUE = frozenset({"found", "held", "one", "each", "told", "there", "said"})
BE_OR_DO = (
    "is|are|was|were|has|have|had|becomes?|became|may|must|can|cannot|could|would|will|does|do|did"
)
# Phrases by class; what `plain` matches does not count.
PHRASES = {
    "what is/has/becomes": re.compile(rf"\bwhat\s+(?:{BE_OR_DO})\b", re.I),
    "is no X": re.compile(
        r"(?P<plain>\bthere\s+(?:is|are)\s+no\b)|\b(?:is|are)\s+no\s+(?!longer)\w", re.I
    ),
    "who": re.compile(r"\bwho(?:m|ever)?\b", re.I),
    "told": re.compile(r"\btold\b", re.I),
}
# Plain English; shown, but not added up.
PLAIN_PHRASES = {"there is no X": re.compile(r"\bthere\s+(?:is|are)\s+no\s+\w", re.I)}
PRAGMA = re.compile(r"#\s*(noqa|type:|fmt:|mypy:|ruff:|pragma)")

LAYOUT_TOKENS = {
    tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.COMMENT,
}  # fmt: skip


def vague_names(source: Source) -> Iterator[Row]:
    """Return the share of vague names among the names that are bound.

    Variables are bound by assignments, loops, `with`, comprehensions, `except` and `match`; a
    variable that is bound twice counts twice. Parameters make a row of their own.
    """
    variables: list[Finding] = []
    parameters: list[Finding] = []
    totals = [0, 0]
    for module in source.written:
        for node in module.nodes:
            name, kind = bound_name(node)
            if name:
                totals[kind] += 1
                if name in VAGUE:
                    finding = module.at(getattr(node, "lineno", 1), name)
                    (variables, parameters)[kind].append(finding)
    kinds = (
        ("vague", "vague variables", variables),
        ("vague-parameters", "vague parameters", parameters),
    )
    for (row_name, title, findings), total in zip(kinds, totals, strict=True):
        share = percent(len(findings), total)
        yield row(row_name, title, findings, 1.5, figure=share, unit=" %")


def bound_name(node: ast.AST) -> tuple[str | None, int]:
    """Return the name that *node* binds, if any, and whether it is a parameter (1) or not (0)."""
    match node:
        case ast.Name(name, ast.Store()):
            return name, 0
        case ast.ExceptHandler(_, name) | ast.MatchAs(_, name) | ast.MatchStar(name):
            return name, 0
        case ast.arg(name):
            return name, 1
    return None, 0


def texts(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string and of each block of comments."""
    for node in module.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    block: list[str] = []
    first = 0
    for comment in comments(module):
        line, column = comment.start
        is_alone = not comment.line[:column].strip()
        if not (block and is_alone and line == first + len(block)):
            if block:
                yield first, "\n".join(block)
            block, first = [], line
        block.append(comment.string.lstrip("# "))
    if block:
        yield first, "\n".join(block)


def comments(module: Module) -> Iterator[tokenize.TokenInfo]:
    """Yield the comments that people read; directives to tools are left out."""
    for token in module.tokens:
        if token.type == tokenize.COMMENT and not PRAGMA.match(token.string):
            yield token


def phrases(source: Source) -> Iterator[Row]:
    """Count riddling phrases in docstrings, comments and other strings, class by class."""
    by_class: dict[str, list[Finding]] = {name: [] for name in (*PHRASES, *PLAIN_PHRASES)}
    for module in source.written:
        for line, text in texts(module):
            for name, pattern in (PHRASES | PLAIN_PHRASES).items():
                for match in pattern.finditer(text):
                    if match.lastgroup != "plain":
                        place = line + text.count("\n", 0, match.start())
                        around = text[max(0, match.start() - 24) : match.end() + 24]
                        by_class[name].append(module.at(place, " ".join(around.split())))
    counted = [finding for name in PHRASES for finding in by_class[name]]
    yield row("phrases", "riddling phrases in source text", counted, 40)
    for name, findings in by_class.items():
        slug = f"phrases-{name.partition('/')[0].replace(' ', '-').lower()}"
        more = "" if name in PHRASES else " (not counted)"
        yield row(slug, f"  {name}{more}", findings)


def comment_lines(source: Source) -> Iterator[Row]:
    """Return the comments for a line of code.

    A comment is a whole line or the end of one; directives to tools (`noqa`) are none. Lines of
    code have a token on them; blank lines, comments and docstrings have none.
    """
    findings: list[Finding] = []
    number_of_lines = 0
    for module in source.written:
        code: set[int] = set()
        for token in module.tokens:
            if token.type not in LAYOUT_TOKENS:
                code.update(range(token.start[0], token.end[0] + 1))
        for node in module.nodes:
            if (docstring := docstring_of(node)) is not None:
                code -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
        number_of_lines += len(code)
        findings += [module.at(each.start[0], each.string) for each in comments(module)]
    share = percent(len(findings), number_of_lines)
    title = "comment lines per line of code"
    yield row("comments", title, findings, 6, figure=share, unit=" %", is_floor=True)


def docstring_of(node: ast.AST) -> ast.Constant | None:
    """Return the docstring of a module, class or function as a node."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr):
        value = node.body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value
    return None
