"""Write src/bpfpin/uapi.py and uapi_helpers.py: the kernel's numbers under Python's names.

The input are the kernel's user headers in the pinned `ziglang` wheel, so the output is the same on
every machine. `FAMILIES` says which family of C names becomes which class. A Python name is the C
name without the family's prefix.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import keyword
import operator
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "bpfpin"
# Few commands name helper functions, and to make an enum of so many takes milliseconds.
APART = "FuncId"
HEADERS = ("bpf.h", "btf.h", "if_link.h")
SENTINEL = re.compile(r"__|MAX_|NR_|BTF_KIND_MAX$|BPF_COMMON_ATTRS$")

OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.LShift: operator.lshift,
    ast.BitOr: operator.or_,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}


@dataclass
class Header:
    """The definitions of several headers: macros by name, enums as lists of (name, value)."""

    text: str
    enums: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        joined = self.text.replace("\\\n", " ")
        self.text = re.sub(r"/\*.*?\*/", " ", joined, flags=re.DOTALL)
        bodies = re.findall(r"\benum\s*\w*\s*\{(.*?)\}", self.text, flags=re.DOTALL)
        self.enums = [dict(members(body)) for body in bodies]

    @cached_property
    def macros(self) -> dict[str, str]:
        """Object-like macros in the order of the text."""
        return dict(re.findall(r"^[ \t]*#define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$", self.text, re.M))

    @cached_property
    def expressions(self) -> dict[str, str]:
        """The C expression of each name; an enum wins over a macro of the same name."""
        merged = dict(self.macros)
        for enum in self.enums:
            merged |= enum
        found = re.findall(r"\bFN\((\w+), (\d+), ##ctx\)", self.text)
        return merged | {f"BPF_FUNC_{helper}": number for helper, number in found}

    def enum_with(self, member: str) -> dict[str, str]:
        """Return the enum that holds *member*."""
        for enum in self.enums:
            if member in enum:
                return enum
        sys.exit(f"gen_uapi: these headers have no {member}; they are too old")

    def value(self, name: str) -> int:
        """Return the value of a C name."""
        plain = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[UL]*\b", r"\1", self.expressions[name])
        return self._number(ast.parse(plain.strip(), mode="eval").body)

    def _number(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name):
                return self.value(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](self._number(left), self._number(right))
        raise ValueError(f"not a constant expression: {ast.unparse(node)}")


def members(body: str) -> Iterator[tuple[str, str]]:
    """Yield the members of an enum with their expressions; the default is the previous plus one."""
    following = "0"
    lines = [line for line in body.splitlines() if not line.lstrip().startswith("#")]
    for declaration in " ".join(lines).split(","):
        name, _, expression = (part.strip() for part in declaration.partition("="))
        if not re.fullmatch(r"\w+", name):
            continue
        yield name, expression or following
        following = f"{name} + 1"


# class · base · prefix to drop · source of the names · docstring
FAMILIES = """
Cmd                 IntEnum  BPF_            enum BPF_MAP_CREATE     Commands of bpf(2).
MapType             IntEnum  BPF_MAP_TYPE_   enum BPF_MAP_TYPE_HASH  Kinds of map.
ProgramType         IntEnum  BPF_PROG_TYPE_  enum BPF_PROG_TYPE_XDP  Kinds of program.
AttachType          IntEnum  BPF_            enum BPF_XDP            Places for programs to run at.
LinkType            IntEnum  BPF_LINK_TYPE_  enum BPF_LINK_TYPE_XDP  Kinds of link.
FuncId              IntEnum  BPF_FUNC_       all BPF_FUNC_           Helper functions by number.
XdpAction           IntEnum  -               enum XDP_PASS           Verdicts of an XDP program.
TcxAction           IntEnum  -               enum TCX_PASS           Verdicts of a tcx program.
CoreRelocationKind  IntEnum  BPF_CORE_       enum BPF_CORE_TYPE_SIZE  Questions to a target BTF.
BtfKind             IntEnum  BTF_KIND_       enum BTF_KIND_INT       Kinds of BTF type.
PseudoSource  IntEnum  BPF_PSEUDO_  names MAP_FD MAP_VALUE BTF_ID FUNC MAP_IDX MAP_IDX_VALUE  \
    Source registers of a 64-bit load whose immediate names an object.
PseudoCall          IntEnum  BPF_PSEUDO_     names CALL KFUNC_CALL   Source registers of a call.
UpdateFlag          IntFlag  BPF_F_|BPF_     enum BPF_NOEXIST        Reading and writing elements.
MapFlag             IntFlag  BPF_F_          enum BPF_F_NO_PREALLOC  Flags of BPF_MAP_CREATE.
ObjectFlag          IntFlag  BPF_F_          names RDONLY WRONLY PATH_FD  Opening and pinning.
ProgramFlag         IntFlag  BPF_F_          span STRICT_ALIGNMENT TEST_REG_INVARIANTS  \
    Flags of BPF_PROG_LOAD.
AttachFlag          IntFlag  BPF_F_          span ALLOW_OVERRIDE LINK  Attaching a program.
LinkUpdateFlag      IntFlag  BPF_F_          names REPLACE           Flags of BPF_LINK_UPDATE.
QueryFlag           IntFlag  BPF_F_QUERY_    names EFFECTIVE         Flags of BPF_PROG_QUERY.
XdpFlag             IntFlag  XDP_FLAGS_      span UPDATE_IF_NOEXIST REPLACE  Attaching XDP.
TestRunFlag   IntFlag  BPF_F_TEST_  names RUN_ON_CPU XDP_LIVE_FRAMES SKB_CHECKSUM_COMPLETE  \
    Flags of BPF_PROG_TEST_RUN.
StreamId            IntEnum  BPF_STREAM_     names STDOUT STDERR     Text streams of a program.
PerfEventType       IntEnum  BPF_PERF_EVENT_  enum BPF_PERF_EVENT_UPROBE  Kinds of perf event link.
"""

CONSTANTS = {
    "BPF_": "OBJ_NAME_LEN TAG_SIZE BUILD_ID_SIZE RINGBUF_BUSY_BIT RINGBUF_DISCARD_BIT"
    " RINGBUF_HDR_SZ",
    "": "BTF_MAGIC BTF_VERSION BTF_MAX_TYPE BTF_MAX_NAME_OFFSET BTF_MAX_VLEN XDP_PACKET_HEADROOM",
}
HEXADECIMAL = re.compile("_BIT$|^BTF_MA")


@dataclass(frozen=True)
class Family:
    """One class of the output; *source* says which C names it contains."""

    name: str
    base: str
    prefix: str
    source: str
    meaning: str

    def select(self, header: Header) -> list[str]:
        """Return the C names."""
        how, *words = self.source.split()
        if how == "enum":
            return list(header.enum_with(words[0]))
        if how == "all":
            return [name for name in header.expressions if name.startswith(words[0])]
        chosen = [self.prefix + word for word in words]
        if how == "names":
            return chosen
        ordered = list(header.macros)
        return ordered[ordered.index(chosen[0]) : ordered.index(chosen[1]) + 1]

    def member(self, c_name: str) -> str:
        """Return the Python name of a C name."""
        word = re.sub(f"^(?:{self.prefix})", "", c_name)
        return f"_{word}" if word[0].isdigit() or keyword.iskeyword(word) else word

    def values(self, header: Header) -> list[tuple[str, int]]:
        """Return the members; if two names have one value, the deprecated name comes last."""
        chosen = [name for name in self.select(header) if not SENTINEL.match(name)]
        pairs = [(self.member(name), header.value(name)) for name in chosen]
        return sorted(pairs, key=lambda pair: (pair[1], pair[0].endswith("_DEPRECATED")))


def families() -> list[Family]:
    """Parse the table, whose columns are separated by two spaces."""
    rows = FAMILIES.strip().splitlines()
    return [Family(*re.split(r"\s{2,}", row)) for row in rows]


def class_text(family: Family, header: Header) -> str:
    """Return the text of one class."""
    lines = [f"class {family.name}({family.base}):", f'    """{family.meaning}"""', ""]
    shape = "#x" if family.base == "IntFlag" else "d"
    lines += [f"    {name} = {value:{shape}}" for name, value in family.values(header)]
    return "\n".join(lines)


def constants_text(header: Header) -> str:
    """Return the text of the constants that belong to no family."""
    lines = []
    for prefix, words in CONSTANTS.items():
        for name in words.split():
            value = header.value(prefix + name)
            lines.append(
                f"{name} = {value:#x}" if HEXADECIMAL.search(name) else f"{name} = {value}"
            )
    return "\n".join(lines)


def origin(include: Path) -> str:
    """Return the kernel version of the headers, and where they come from."""
    text = (include / "linux" / "version.h").read_text()
    words = re.findall(r"#define LINUX_VERSION_(?:MAJOR|PATCHLEVEL|SUBLEVEL) (\d+)", text)
    wheel = importlib.metadata.version("ziglang")
    bearer = f"ziglang {wheel}" if include == wheel_headers() else str(include)
    return f"Linux {'.'.join(words)}, as in {bearer}"


def generate(include: Path) -> dict[Path, str]:
    """Return the whole text of each file."""
    header = Header("".join((include / "linux" / name).read_text() for name in HEADERS))
    files = ", ".join(f"linux/{name}" for name in HEADERS)
    rows = families()
    apart = [row for row in rows if row.name == APART]

    def text(title: str, enums: str, parts: list[str]) -> str:
        preface = (
            f'"""{title}\n\nGenerated by scripts/gen_uapi.py; do not edit.\n'
            f"From {files} of {origin(include)}.\n"
            f'"""\n\nfrom enum import {enums}'
        )
        return "\n\n".join([preface, *parts]) + "\n"

    classes = [class_text(row, header) for row in rows if row not in apart]
    limits = constants_text(header)
    return {
        PACKAGE / "uapi.py": text(
            "The kernel's enums, flags and limits.",
            "IntEnum, IntFlag",
            ["\n\n\n".join([limits, *classes])],
        ),
        PACKAGE / "uapi_helpers.py": text(
            "The kernel's helper functions by number.",
            "IntEnum",
            ["\n" + class_text(row, header) for row in apart],
        ),
    }


def wheel_headers() -> Path:
    """Find the kernel's headers in the installed `ziglang` wheel."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        sys.exit("gen_uapi: ziglang is not installed; pip install -e '.[dev]', or use --include")
    return Path(spec.origin).parent / "lib" / "libc" / "include" / "any-linux-any"


def main() -> int:
    """Write the files, or with --check compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the committed file differs")
    parser.add_argument("--include", type=Path, help="the folder that holds linux/bpf.h")
    options = parser.parse_args()
    texts = generate(options.include or wheel_headers())
    if not options.check:
        for path, text in texts.items():
            path.write_text(text)
        return 0
    differing = [
        path for path, text in texts.items() if not path.exists() or path.read_text() != text
    ]
    for path in differing:
        print(f"{path} differs from the headers; run: python scripts/gen_uapi.py", file=sys.stderr)
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
