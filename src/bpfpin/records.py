"""Frozen dataclasses that are cheap to define: a command defines about a hundred when it starts.

`dataclasses.dataclass(frozen=True)` compiles six methods for each class, which took a third of the
time of `bpfpin map list`. Here only `__init__` is compiled, and only once an object is made: most
classes that a command defines have none. All classes share the other methods.
Type checkers see the decorator of the standard library, and so do classes that are not frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        cls: type | None = None,
        /,
        *,
        frozen: bool = False,
        slots: bool = False,
        kw_only: bool = False,
    ) -> Any:
        """Define a dataclass as `dataclasses.dataclass` does, with the same behaviour.

        Args:
            cls: The class to decorate.
            frozen: Refuse assignments to its fields; else the standard library makes the class.
            slots: Give it `__slots__`, as far as the standard library does.
            kw_only: Take its fields as keywords only.
        """
        if not frozen:
            decorate = dataclasses.dataclass(slots=slots, kw_only=kw_only)
        else:

            def decorate(cls: type) -> type:
                return _frozen(cls, slots=slots, kw_only=kw_only)

        return decorate if cls is None else decorate(cls)


def _frozen(cls: type, *, slots: bool, kw_only: bool) -> type:
    # Without inherited names: a method that the class itself defines stays, as with the standard
    # library.
    own = vars(cls)
    has_hash = own.get("__hash__") is not None  # None is what Python sets beside an __eq__
    if not cls.__doc__:
        cls.__doc__ = cls.__name__  # else the standard library writes one, from a slow signature
    # With slots this is a new class, so the methods below must be set on it, not on `cls`.
    made: Any = dataclasses.dataclass(
        init=False, repr=False, eq=False, slots=slots, kw_only=kw_only
    )(cls)
    fields = dataclasses.fields(made)
    methods: dict[str, Any] = {"__init__": None, "__repr__": _repr, "__eq__": _eq}
    if slots:  # the default would set the slots with __setattr__, which refuses
        methods |= {"__getstate__": _getstate, "__setstate__": _setstate}
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method or _Init(made, fields))
    if not has_hash:
        made.__hash__ = _hash
    made.__setattr__, made.__delattr__ = _refuse_setting, _refuse_deleting
    made.__compared__ = staticmethod(_values(field for field in fields if field.compare))
    return made  # type: ignore[no-any-return]


def _values(fields: Any) -> Callable[[object], tuple[object, ...]]:
    """Return what gets the values of *fields* as a tuple."""
    names = [field.name for field in fields]
    if len(names) > 1:
        return attrgetter(*names)
    if names:
        getter = attrgetter(names[0])
        return lambda value: (getter(value),)
    return lambda _: ()


class _Init:
    """The `__init__` of a class, compiled and put into the class when it is first looked up."""

    def __init__(self, cls: type, fields: tuple[dataclasses.Field[Any], ...]) -> None:
        self._cls = cls
        self._fields = fields

    def __get__(self, instance: object, owner: type) -> Any:
        compiled: Any = _init(self._cls, self._fields)
        self._cls.__init__ = compiled  # type: ignore[misc]
        return compiled.__get__(instance, owner)


def _init(cls: type, fields: tuple[dataclasses.Field[Any], ...]) -> Callable[..., None]:
    """Compile the `__init__` of a class."""
    missing = dataclasses.MISSING
    # The text below consists of names of fields, which are identifiers of our own source. Defaults
    # are passed by the scope, so that no value is written as text. `object.__setattr__` gets around
    # the refusal of the class.
    scope: dict[str, Any] = {"_set": object.__setattr__, "_missing": missing}
    parameters: dict[bool, list[str]] = {False: [], True: []}
    body: list[str] = []
    for field in fields:
        name, value = field.name, field.name
        default = ""
        if field.default_factory is not missing:
            scope[f"_new_{name}"] = field.default_factory
            value = f"_new_{name}()"
            if field.init:
                default, value = "=_missing", f"{value} if {name} is _missing else {name}"
        elif field.default is not missing:
            scope[f"_default_{name}"] = field.default
            default = f"=_default_{name}"
            if not field.init:
                value = f"_default_{name}"
        elif not field.init:
            continue
        if field.init:
            parameters[bool(field.kw_only)].append(f"{name}{default}")
        body.append(f"_set(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    words = ["self", *parameters[False], *(["*", *parameters[True]] if parameters[True] else [])]
    lines = "\n  ".join(body or ["pass"])
    exec(f"def __init__({', '.join(words)}):\n  {lines}", scope)
    made: Callable[..., None] = scope["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    annotations = {field.name: field.type for field in fields if field.init}
    made.__annotations__ = {**annotations, "return": None}
    return made


@recursive_repr("...")
def _repr(self: Any) -> str:
    shown = [field.name for field in dataclasses.fields(self) if field.repr]
    named = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
    return f"{type(self).__qualname__}({named})"


def _eq(self: Any, other: Any) -> Any:
    # Like the standard library: an instance of a subclass is never equal.
    if type(other) is not type(self):
        return NotImplemented
    return bool(self.__compared__(self) == self.__compared__(other))


def _hash(self: Any) -> int:
    return hash(self.__compared__(self))


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _refuse_setting(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
