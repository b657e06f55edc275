"""Global variables that a load gives their first values."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from bpfpin.codecs.variable import VariableSpec, key_of
from bpfpin.errors import BpfError, UsageError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.pins.plan import Decision, MapPlan
from bpfpin.records import dataclass
from bpfpin.spec import ObjectSpec

_HASH_DIGITS = 16  # the manifest has little room, and a collision would serve nobody

_CONSTANTS = ":constants"  # among names of sections: no map has this name


@dataclass(frozen=True)
class Settings:
    """Variables that were set, each with its first value, and a hash of them for each section.

    *words* are the values of all variables and constants that were set, by name, as `--set` takes
    them whatever the type: `hex:0a00`, `7`.
    """

    variables: tuple[VariableSpec, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def in_section(self, section: str) -> list[VariableSpec]:
        """Return the variables of one section."""
        return [variable for variable in self.variables if variable.section == section]


def with_variables(spec: ObjectSpec, given: Mapping[str, Any]) -> tuple[ObjectSpec, Settings]:
    """Return *spec* with the variables and constants of *given* set, and the settings.

    Text is parsed as on the command line. `UsageError` for a variable that the object
    lacks, and for a value that does not fit.
    """
    names = []
    constants = {}
    for name, value in given.items():
        # A constant is replaced in the instructions, not in a section, so it has neither size nor
        # type.
        if name in spec.constants and name not in spec.variables:
            constants[name] = number = _number(name, value)
            spec = spec.with_constant(name, number)
            continue
        key = _key(spec, name)
        # A variable can be named with and without its section; `key` is the same for both.
        if key in names:
            raise UsageError(f"variable {key} is set twice: {name}={value}")
        names.append(key)
        spec = _with_variable(spec, key, value)
    variables = tuple(spec.variables[key] for key in names)
    hashes = {**_hashes(variables), **_hash_of(constants)}
    words = {key: f"hex:{spec.variables[key].contents.hex()}" for key in names}
    words |= {name: str(number) for name, number in constants.items()}
    return spec, Settings(variables, hashes, words)


def check_kept(settings: Settings, maps: Iterable[MapPlan], before: Mapping[str, str]) -> None:
    """Raise `UsageError` if variables are set of a map that keeps its values.

    *before* are the hashes of the load that made the map: the same settings may be given again.
    """
    for plan in maps:
        wanted_hash = settings.hashes.get(plan.name)
        # New maps take the values that were set as their contents.
        if wanted_hash is None or plan.decision not in (Decision.KEPT, Decision.SHARED):
            continue
        # The hash of an own map tells what it was made with. Of a shared map nobody knows that.
        if plan.decision is Decision.SHARED or before.get(plan.name) != wanted_hash:
            raise _kept(plan, settings.in_section(plan.name))


def _number(name: str, value: Any) -> int:
    """Return the number of constant *name*; `UsageError` if it is not an integer of 64 bits."""
    try:
        number = int(value, 0) if isinstance(value, str) else operator.index(value)
    except (ValueError, TypeError):
        number = None
    if number is None or not -(1 << 63) <= number < 1 << 64:
        raise UsageError(
            f"constant {name}: {value!r} is not an integer of 64 bits",
            hint=Fix.of(Argument("variables", {name: Placeholder("NUMBER")})),
        )
    return number


def _hash_of(constants: Mapping[str, int]) -> dict[str, str]:
    if not constants:
        return {}
    text = " ".join(f"{name}={number}" for name, number in sorted(constants.items()))
    return {_CONSTANTS: hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]}


def _key(spec: ObjectSpec, name: str) -> str:
    try:
        return key_of(spec.variables, name)
    except LookupError as error:
        constants = f"; constants: {', '.join(spec.constants)}" if spec.constants else ""
        raise UsageError(f"the object has {error.args[0]}{constants}") from None


def _with_variable(spec: ObjectSpec, key: str, value: Any) -> ObjectSpec:
    variable = spec.variables[key]
    try:
        if isinstance(value, str):
            value = _parsed(value, variable, key)
        return spec.with_variable(key, value)
    except BpfError:
        raise
    except (ValueError, TypeError) as error:
        hint = f"it is {variable.type_name or f'{variable.size} bytes'} in {variable.section}"
        raise UsageError(str(error), hint=hint) from None


def _parsed(text: str, variable: VariableSpec, key: str) -> Any:
    from bpfpin.map.form import InputForm  # noqa: PLC0415 - few loads set a variable
    from bpfpin.map.parse import parse_value  # noqa: PLC0415

    return parse_value(text, InputForm(variable.codec, variable.type, f"variable {key}:"))


def _hashes(variables: Iterable[VariableSpec]) -> dict[str, str]:
    """Return a hash for each section: of the offsets, sizes and bytes that were set."""
    digests: dict[str, Any] = {}
    # By place, so that the order of the options does not make another load of it.
    for variable in sorted(variables, key=lambda variable: variable.offset):
        digest = digests.setdefault(variable.section, hashlib.sha256())
        digest.update(f"{variable.offset}+{variable.size}:".encode() + variable.contents)
    return {section: digest.hexdigest()[:_HASH_DIGITS] for section, digest in digests.items()}


def _kept(plan: MapPlan, variables: Sequence[VariableSpec]) -> UsageError:
    names = ", ".join(variable.name for variable in variables)
    is_own = plan.decision is not Decision.SHARED
    anew = ("\n      to start anew: ", Argument("fresh", [plan.name])) if is_own else ()
    return UsageError(
        f"{names} cannot be set: map {plan.name} (id {plan.map_id}) exists and keeps its values",
        hint=Fix.of(
            f"to change the running one: bpfpin map set id:{plan.map_id} 0"
            f" {variables[0].name}=VALUE",
            *anew,
        ),
    )
