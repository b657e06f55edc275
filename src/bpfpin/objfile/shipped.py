"""The objects that come with bpfpin, named `builtin:NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bpfpin.errors import ObjectNotFoundError

PREFIX: Final = "builtin:"
_FOLDER = Path(__file__).parents[1] / "builtin"
_SUFFIX = ".bpf.o"


def builtins() -> list[str]:
    """Return the names of the objects that come with bpfpin, as they are typed."""
    return sorted(PREFIX + path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def builtin_path(name: str) -> Path:
    """Return where the object `builtin:NAME` is; `ObjectNotFoundError` if there is none."""
    if name not in builtins():
        raise ObjectNotFoundError(f"there is no {name}; there are: {', '.join(builtins())}")
    return _FOLDER / (name.removeprefix(PREFIX) + _SUFFIX)
