"""Exceptions come back whole from pickle and copy; what owns a descriptor refuses both."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import os
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bpfpin
from bpfpin import errors
from bpfpin.errors import BpfError, Difference, Portable
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.migration.refusal import Remedy, RuleChoice
from bpfpin.migration.request import Rule
from bpfpin.syscall.errno_table import TABLE, syscall_error
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.uapi import Cmd

CODE_RUN_ON_IMPORT = {"bpfpin.__main__"}
# By annotation, what a constructor is given; each differs from the default.
VALUES: dict[str, Any] = {
    "str": "some text",
    "str | Fix": Fix.of("choose one: ", Argument("name", Placeholder("NAME"))),
    "int": 28,
    "int | None": 0x40,
    "Sequence[str]": ("CAP_BPF", "CAP_PERFMON"),
    "Sequence[Difference]": (Difference("flows", "value_size", "8", "16"),),
    "Sequence[Remedy]": (Remedy(Argument("rules", {"packets": RuleChoice(Rule)})),),
    "type[ValueError] | type[TypeError]": TypeError,
}
COPIES: list[Callable[[Any], Any]] = [
    *(lambda each, level=level: pickle.loads(pickle.dumps(each, level)) for level in range(6)),
    copy.copy,
    copy.deepcopy,
]


def modules() -> Iterator[Any]:
    """Import every module of the package."""
    for found in pkgutil.walk_packages(bpfpin.__path__, "bpfpin."):
        if found.name not in CODE_RUN_ON_IMPORT:
            yield importlib.import_module(found.name)


def classes(of: type | None = None) -> list[type]:
    """Return every class that the package defines, or those below *of*."""
    found = {
        each
        for module in modules()
        for _, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__.startswith("bpfpin.")
        and (of is None or issubclass(each, of))
        and not getattr(each, "_is_protocol", False)
    }
    return sorted(found, key=lambda each: (each.__module__, each.__qualname__))


def exceptions() -> list[type[BaseException]]:
    """Return the exceptions of the package that can leave the module that raises them."""
    found = classes(BaseException)
    return [each for each in found if each is not Portable and not each.__name__.startswith("_")]


def made(kind: type[BaseException]) -> BaseException:
    """Return one with every argument given and every attribute changed."""
    given: list[Any] = []
    named: dict[str, Any] = {}
    takes = dict(inspect.signature(kind.__init__).parameters)
    for name, parameter in list(takes.items())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= {"hint": "look"} if name == "known" else {}
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = VALUES[parameter.annotation]
        else:
            given.append(VALUES[parameter.annotation])
    error = kind(*given, **named)
    for name, value in list(vars(error).items()):
        if value == "":
            setattr(error, name, f"set later: {name}")
    error.found_later = [Difference("a", "b", "c", "d")]  # type: ignore[attr-defined]
    error.add_note("a note")
    return error


def everything(error: BaseException) -> dict[str, Any]:
    """Return all that an exception says."""
    fields = {name: getattr(error, name, None) for name in ("errno", "strerror", "filename")}
    return {**vars(error), **fields, "args": error.args, "str": str(error), "class": type(error)}


@pytest.mark.parametrize("kind", exceptions(), ids=lambda kind: kind.__name__)
def test_every_exception_comes_back_whole(kind: type[BaseException]) -> None:
    error = made(kind)

    for duplicate in COPIES:
        back = duplicate(error)
        assert back is not error
        assert everything(back) == everything(error)


def test_the_tree_has_no_exception_that_python_would_rebuild() -> None:
    assert len(exceptions()) > 35
    others = [kind.__name__ for kind in exceptions() if not issubclass(kind, Portable)]
    assert others == ["Terminated"]  # as bare as KeyboardInterrupt
    drawn = [kind for kind in exceptions() if kind.__module__ == errors.__name__]
    assert all(issubclass(kind, BpfError) or kind is Portable for kind in drawn)


def test_what_the_kernel_refused_comes_back_with_errno_and_command() -> None:
    for command, errno in TABLE:
        error = syscall_error(command or Cmd.MAP_CREATE, errno, target="map flows")
        back = pickle.loads(pickle.dumps(error))

        assert everything(back) == everything(error)


POOL = """
import multiprocessing
from bpfpin.errors import LimitError, VerifierError

def refuse(_):
    error = VerifierError("program p is refused", log="0: R1=ctx()", telling_line="boom")
    error.registers, error.cause, error.line = {"R1": "ctx()"}, "null-check", 7
    raise error

def limit(_):
    raise LimitError("too large", limit=4, asked=5, hint="--max-map-memory 5")

with multiprocessing.get_context("fork").Pool(1) as pool:
    for raising in (refuse, limit):
        try:
            pool.apply_async(raising, (0,)).get(timeout=600)
        except (VerifierError, LimitError) as error:
            print(type(error).__name__, error.hint, sorted(vars(error).items()), error.args)
"""


def test_a_pool_of_processes_hands_exceptions_over() -> None:
    command = [sys.executable, "-c", POOL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    refused, limited = done.stdout.splitlines()
    assert refused.startswith("VerifierError")
    for part in ("('log', '0: R1=ctx()')", "('cause', 'null-check')", "{'R1': 'ctx()'}"):
        assert part in refused
    assert limited.startswith("LimitError --max-map-memory 5 [('asked', 5), ")


def test_a_missing_pin_or_object_has_the_errno_of_a_missing_file() -> None:
    missing: list[FileNotFoundError] = [
        errors.PinNotFoundError("nothing there"),
        errors.ObjectNotFoundError("no file"),
    ]
    for error in missing:
        assert (error.errno, error.strerror) == (2, os.strerror(2))


def test_whatever_closes_a_descriptor_is_a_closing() -> None:
    # A reader of files holds a file of Python, which copies share, and no number of a descriptor.
    closing = [
        each
        for each in classes()
        if "close" in vars(each) and each is not Closing and ".objfile." not in each.__module__
    ]

    assert len(closing) > 25
    assert [each for each in closing if not issubclass(each, Closing)] == []


@pytest.mark.parametrize("kind", classes(Closing), ids=lambda kind: kind.__name__)
def test_no_class_that_owns_something_is_copied(kind: type[Closing]) -> None:
    handle = kind.__new__(kind)

    for duplicate in COPIES:
        with pytest.raises(TypeError, match=f"cannot copy or pickle '{kind.__name__}'"):
            duplicate(handle)


def test_a_record_that_holds_a_descriptor_is_not_taken_apart() -> None:
    @dataclasses.dataclass
    class Holder:
        owner: Descriptor

    with Descriptor(os.open(os.devnull, os.O_RDONLY)) as owner:
        holder = Holder(owner)
        with pytest.raises(TypeError, match="cannot copy or pickle 'Descriptor'"):
            dataclasses.asdict(holder)
        with pytest.raises(TypeError, match="cannot copy or pickle 'Descriptor'"):
            copy.deepcopy(holder)

        assert os.fstat(owner.fileno())
