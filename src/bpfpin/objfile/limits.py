"""How much of anything is read of an object, so that no file takes more than a second or 256 MiB.

Each is many times what the largest objects in use have. `ObjectLimitError` says which was passed.
"""

from __future__ import annotations

from bpfpin.errors import ObjectLimitError

MAX_FILE_BYTES = 32 << 20
MAX_MEMORY_BYTES = 64 << 20  # of all sections without bytes together
MAX_SYMBOLS = 100_000
MAX_NAME_BYTES = 1023
MAX_NAMES_BYTES = 8 << 20  # of one string table; symbols may share the tails of long names
MAX_RELOCATIONS = 1 << 18
MAX_FUNCTIONS = 1 << 14
MAX_INSTRUCTIONS = 1 << 19  # of all functions that are read
MAX_LINKED_INSTRUCTIONS = 1 << 22  # of all programs, each with its own copy of what it calls
MAX_BTF_BYTES = 4 << 20


def check_limit(asked: int, limit: int, what: str, *, section: str = "", symbol: str = "") -> None:
    """Raise `ObjectLimitError` if there are more than *limit* of *what*."""
    if asked > limit:
        message = f"{asked} {what}; at most {limit} are read"
        error = ObjectLimitError(message, limit=limit, asked=asked)
        error.section, error.symbol = section, symbol
        raise error
