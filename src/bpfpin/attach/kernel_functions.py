"""The functions of the running kernel and its modules: names, and which can be traced."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from bpfpin.attach.tracepoints import TRACEFS
from bpfpin.choices import similar_of_many
from bpfpin.errors import NotSupportedError, PermissionDeniedError, TargetNotFoundError
from bpfpin.objects.kernel.kallsyms import (
    KALLSYMS,
    functions,
    has_syscall_wrapper,
    syscall_prefix,
)

_WILDCARDS: Final = {"*": ".*", "?": "."}


def require_function(name: str, *, module: str = "") -> None:
    """Raise `TargetNotFoundError` unless the kernel has a function *name*, with similar names.

    A kernel that does not list its symbols is asked when the program is attached.
    """
    there = [known for _, known, place in functions() if not module or place == module]
    if there and name not in there:
        raise no_function(name, there, module=module)


def no_function(name: str, there: Collection[str], *, module: str = "") -> TargetNotFoundError:
    """Return the error for a function that is not among those *there*."""
    near = similar_of_many(name, there)
    where = f"module {module}" if module else "this kernel"
    return TargetNotFoundError(
        f"{where} has no function {name!r} to trace",
        hint=f"near it: {', '.join(near)}" if near else f"see {KALLSYMS}; it may be inlined",
    )


def function_names() -> list[str]:
    """Return the names of all functions of the kernel and its modules; none if they are hidden."""
    return [name for _, name, _ in functions()]


def function_of_system_call(name: str) -> str:
    """Return the function that the kernel calls for a system call: `__x64_sys_openat`.

    Raises `TargetNotFoundError` if it has none of that name.
    """
    # As libbpf does (bpf_program__attach_ksyscall()): without wrappers the function has the
    # arguments of the system call.
    prefix = syscall_prefix() if has_syscall_wrapper() else "__se_sys_"
    there = function_names()
    function = f"{prefix}{name}"
    if there and function not in there:
        calls = [each.removeprefix(prefix) for each in there if each.startswith(prefix)]
        near = similar_of_many(name, calls)
        raise TargetNotFoundError(
            f"this kernel has no system call {name!r}",
            hint=f"near it: {', '.join(near)}" if near else f"see {KALLSYMS}: {prefix}NAME",
        )
    return function


def matching_functions(pattern: str) -> dict[int, str]:
    """Return the functions that can be traced and match *pattern*, by their addresses.

    `*` stands for any characters, `?` for one. Raises `TargetNotFoundError` if none matches,
    `NotSupportedError` if the kernel cannot trace functions, and `PermissionDeniedError` if it
    hides addresses.
    """
    expression = re.compile("".join(_WILDCARDS.get(one) or re.escape(one) for one in pattern))
    names: list[str] = []
    matches = {}
    for address, name in _traceable():
        names.append(name)
        if expression.fullmatch(name):
            matches[address] = name
    if not matches:
        near = similar_of_many(re.sub(r"[*?]+", "", pattern), names)
        raise TargetNotFoundError(
            f"no function of this kernel matches {pattern!r}",
            hint=f"near it: {', '.join(near)}" if near else f"see {_list_file()}",
        )
    if 0 in matches:
        raise PermissionDeniedError(
            "the kernel does not show the addresses of its functions",
            missing=("CAP_SYSLOG",),
            hint="as root, with kernel.kptr_restrict below 2 (sysctl)",
        )
    return matches


def _list_file() -> Path:
    """Return the file with the functions that can be traced."""
    for folder in TRACEFS:
        if (path := folder / "available_filter_functions").exists():
            return path
    raise NotSupportedError(
        "the kernel does not list the functions that can be traced:"
        f" there is no {TRACEFS[0] / 'available_filter_functions'}",
        feature="tracing of functions (CONFIG_DYNAMIC_FTRACE, and tracefs)",
        hint=f"mount -t tracefs tracefs {TRACEFS[0]}",
    )


def _traceable() -> Iterator[tuple[int, str]]:
    """Yield the address and the name of each function that ftrace can trace."""
    listed = _list_file()
    with_addresses = listed.with_name("available_filter_functions_addrs")  # Linux 6.5
    if with_addresses.exists():
        for line in _lines(with_addresses):
            address, name, *_ = line.split()
            yield int(address, 16), name
        return
    counts: dict[str, int] = {}
    for line in _lines(listed):
        name = line.split()[0]
        counts[name] = counts.get(name, 0) + 1
    found: dict[str, set[int]] = {}
    for place, name, _ in functions():
        if name in counts:
            found.setdefault(name, set()).add(place)
    for name, addresses in found.items():
        # Several functions of one name, not all of which can be traced: which ones is not known.
        if len(addresses) == counts[name]:
            yield from ((address, name) for address in sorted(addresses))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except PermissionError as error:
        # Of tracing_open_generic() if the kernel is locked down (kernel_lockdown(7)).
        raise PermissionDeniedError(
            f"{path} cannot be read: {error.strerror}",
            command="open",
            errno=error.errno or 0,
            target=str(path),
            hint="No capability is missing if you are root: a policy of this host forbids it, such"
            " as lockdown (cat /sys/kernel/security/lockdown).",
        ) from None
