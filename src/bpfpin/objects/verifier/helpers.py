"""Names of the kernel's helpers, and the Linux that brought them."""

from __future__ import annotations

from bpfpin.uapi import FuncId

# The first helper of each release (include/uapi/linux/bpf.h at its tag). After 211 none came.
_FIRST_OF = (
    (210, "6.2"),
    (208, "6.1"),
    (204, "6.0"),
    (194, "5.19"),
    (186, "5.18"),
    (180, "5.17"),
    (176, "5.16"),
)
_KNOWN = frozenset(int(each) for each in FuncId)


def name_of_helper(number: int) -> str:
    """Return the name as C has it, `bpf_loop`; `unknown` where we do not know it either."""
    return f"bpf_{FuncId(number).name}" if number in _KNOWN else "unknown"


def release_of_helper(number: int) -> str:
    """Return the first Linux with the helper, "" for older than 5.16 and for unknown ones."""
    if number not in _KNOWN:
        return ""
    return next((release for first, release in _FIRST_OF if number >= first), "")
