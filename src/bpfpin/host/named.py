"""Opens the program or link that a word names: `id:N`, `name:NAME`, a path, or a short pin name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from bpfpin.btf.names import kernel_name
from bpfpin.choices import similar
from bpfpin.errors import BpfError, IdNotFoundError, PinNameError, UsageError
from bpfpin.objects.kernel.info import ID, NAME, ProgramInfo, programs
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names

Object = TypeVar("Object", Program, Link)

# In a set the pins of each kind are in a folder of their own.
_FOLDERS: Final = {Program: names.PROGRAMS, Link: names.LINKS}


def open_program(target: str, pin_root: Path) -> Program:
    """Open the program that *target* names; the caller closes it.

    Raises `UsageError` if the word names no program or several, `IdNotFoundError` or
    `PinNotFoundError` if the program does not exist, `PinKindError` for another kind of pin.
    """
    if target.startswith(NAME):
        return Program.from_id(_id_of_name(target.removeprefix(NAME)))
    return _open(Program, target, pin_root)


def open_link(target: str, pin_root: Path) -> Link:
    """Open the link that *target* names: `id:N`, a path, or a short pin name; as `open_program`."""
    return _open(Link, target, pin_root)


def _open(kind: type[Object], target: str, pin_root: Path) -> Object:
    if target.startswith(ID):
        return kind.from_id(_number(target, kind))
    path = _path_of(target, kind, pin_root)
    if path is None:
        hint = _in_the_set(target, kind, pin_root) or _hint(kind, target)
        raise UsageError(f"{target!r} is not a {kind.kind}", hint=hint)
    # Not resolved: `from_pin` refuses symbolic links, which others may have made in a bpffs.
    return kind.from_pin(path.absolute())


def _path_of(target: str, kind: type[Program | Link], pin_root: Path) -> Path | None:
    """Return the path of the pin; None if *target* is neither a path nor the name of a pin.

    `lab0/xdp_pass` is the program `xdp_pass` of the set `lab0`.
    """
    path = Path(target)
    if not target:
        return None
    for candidate in (path, pin_root / path, *_in_set(target, kind, pin_root)):
        if os.path.lexists(candidate):
            return candidate
    # The error then names the missing pin.
    return path if path.is_absolute() or target.startswith(("./", "../")) else None


def _in_set(target: str, kind: type[Program | Link], pin_root: Path) -> list[Path]:
    set_name, slash, name = target.rpartition("/")
    if not slash:
        return []
    folders = [pin_root / set_name / _FOLDERS[kind]]
    with suppress(PinNameError):  # a part that cannot be encoded names no pin of ours
        encoded = "@".join(names.encode(part) for part in set_name.split("@"))
        folders.append(pin_root / encoded / _FOLDERS[kind])
    paths = [folder / name for folder in folders]
    # The link of a hook with several programs is called after its program, too.
    of_program = [path for folder in folders for path in _links_of(folder, name)]
    return [*paths, *of_program] if kind is Link and len(set(of_program)) == 1 else paths


def _links_of(folder: Path, program: str) -> list[Path]:
    """Return the links `HOOK~PROGRAM` in the folder of a set."""
    with suppress(OSError):
        pins = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
        return [folder / pin for pin in pins if pin.split("~")[1:2] == [program]]
    return []


def _in_the_set(target: str, kind: type[Program | Link], pin_root: Path) -> str:
    """Return what the set of `SET/NAME` has; "" if there is no such set."""
    for path in _in_set(target, kind, pin_root):
        with suppress(OSError):
            pins = ", ".join(sorted(os.listdir(path.parent)))  # noqa: PTH208 - names, not paths
            return f"{target.rpartition('/')[0]} has: {pins}" if pins else ""
    return ""


def _hint(kind: type[Program | Link], target: str) -> str:
    noun = "prog" if kind is Program else "link"
    if target.isascii() and target.isdigit():
        return f"bpfpin {noun} show {ID}{target}"
    if kind is Program:
        # Without privileges names cannot be looked up.
        with suppress(BpfError):
            if any(info.name == kernel_name(target) for info in programs()):
                return f"bpfpin prog show {NAME}{target}"
    ways = "its path, SET/NAME, id:N or name:NAME" if kind is Program else "its path, SET/HOOK or"
    ways = ways if kind is Program else f"{ways} id:N"
    return f"name it by {ways}: bpfpin {noun} list"


def _number(target: str, kind: type[Program | Link]) -> int:
    text = target.removeprefix(ID)
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        noun = "prog" if kind is Program else "link"
        raise UsageError(f"{target!r} is not an id", hint=f"ids are numbers: bpfpin {noun} list")
    return int(text)


def _id_of_name(name: str) -> int:
    infos = list(programs())
    # Programs may be nameless: an empty word must not name all of them.
    matches = [info for info in infos if name and info.name == kernel_name(name)]
    if len(matches) == 1:
        return matches[0].id
    if matches:
        listed = ", ".join(map(_described, matches))
        raise UsageError(
            f"{len(matches)} programs are named {name!r}: {listed}",
            hint=f"take one by its id: {ID}{matches[-1].id}",
        )
    near = similar(name, {info.name for info in infos})
    hint = f"near it: {', '.join(near)}" if near else "bpfpin prog list"
    raise IdNotFoundError(f"no program is named {name!r}", hint=hint)


def _described(info: ProgramInfo) -> str:
    return f"{ID}{info.id} ({type_word(info.type)})"


def type_word(kind: int) -> str:
    """Return the kernel's word for a type of program or link, in lower case; else its number."""
    name = getattr(kind, "name", "")
    return name.lower() if name else str(int(kind))
