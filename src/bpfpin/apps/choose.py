"""Which programs of an object go to which hook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bpfpin.errors import UsageError, WrongHookError
from bpfpin.spec import Hook, ObjectSpec, ProgramSpec
from bpfpin.uapi import AttachType, MapType, ProgramType

# What each hook that can be attached runs.
PROGRAM_TYPES = {Hook.XDP: ProgramType.XDP}
OPTIONAL = "?"  # libbpf's: a program in such a section is loaded only when it is named


@dataclass(frozen=True)
class Choice:
    """One program and the hook it goes to."""

    program: ProgramSpec
    hook: Hook


def choose(
    spec: ObjectSpec, *, words: Sequence[str] = (), hook: Hook | None = None
) -> list[Choice]:
    """Return what is to be attached where, one program a hook.

    *words* are `NAME` or `NAME:HOOK`; without them every program goes where its section says.
    *hook* is for programs that nothing else gives one. Raises `UsageError` with the lines to type
    where that is not one answer, `WrongHookError` for a hook that the program cannot run at.
    """
    if not spec.programs:
        raise UsageError(f"{_path(spec)} has no program, only maps")
    chosen = _named(spec, words, hook) if words else _by_section(spec, hook)
    for choice in chosen:
        _require_attachable(choice)
    _require_one_a_hook(chosen)
    return chosen


def programs_to_load(spec: ObjectSpec, chosen: Iterable[Choice]) -> list[str]:
    """Return the programs that *chosen* need: themselves, and what their tail calls may reach."""
    names = [choice.program.name for choice in chosen]
    arrays = [held for held in spec.maps.values() if held.type is MapType.PROG_ARRAY]
    tail_calls = [program for array in arrays for _, program in array.initial]
    return list(dict.fromkeys([*names, *tail_calls]))


def _named(spec: ObjectSpec, words: Sequence[str], hook: Hook | None) -> list[Choice]:
    return [_word(spec, word, hook) for word in dict.fromkeys(words)]


def _word(spec: ObjectSpec, word: str, hook: Hook | None) -> Choice:
    name, colon, place = word.partition(":")
    if name not in spec.programs:
        raise UsageError(
            f"{_path(spec)} has no program {name!r}; it has: {', '.join(spec.programs)}"
        )
    program = spec.programs[name]
    wanted = parse_hook(place) if colon else hook or program.hook
    if wanted is None:
        raise _no_hook([program])
    return Choice(program, wanted)


def _by_section(spec: ObjectSpec, hook: Hook | None) -> list[Choice]:
    programs = [one for one in spec.programs.values() if not one.section.startswith(OPTIONAL)]
    placed = [Choice(one, one.hook) for one in programs if one.hook]
    if hook is not None:
        at_hook = [choice for choice in placed if choice.hook is hook]
        free = [one for one in programs if one.hook is None]
        return at_hook or [Choice(one, hook) for one in free or programs]
    if not placed:
        raise _no_hook(spec.programs.values())
    return placed


def parse_hook(word: str) -> Hook:
    """Return the hook that is typed *word*; `UsageError` lists them."""
    try:
        return Hook(word)
    except ValueError:
        there = ", ".join(hook.value for hook in Hook)
        raise UsageError(f"there is no hook {word!r}; there are: {there}") from None


def _require_attachable(choice: Choice) -> None:
    program, hook = choice.program, choice.hook
    if program.type is ProgramType.UNSPEC:
        raise UsageError(
            f"section {program.section!r} does not say what type program {program.name} is of",
            hint="say it: --type xdp",
        )
    if hook not in PROGRAM_TYPES:
        there = ", ".join(known.value for known in PROGRAM_TYPES)
        raise WrongHookError(
            f"program {program.name} goes to {hook.value}, where bpfpin cannot attach yet;"
            f" it can at: {there}",
            hint="choose another program of the object: --prog NAME",
        )
    is_elsewhere = program.expected_attach_type not in (None, AttachType.XDP)  # xdp/devmap
    if program.type is not PROGRAM_TYPES[hook] or is_elsewhere:
        raise WrongHookError(
            f"program {program.name} is of type {_type_name(program)} (section"
            f" {program.section!r}) and cannot run at {hook.value}",
            hint=f"choose another program of the object: --prog NAME:{hook.value}",
        )


def _require_one_a_hook(chosen: Sequence[Choice]) -> None:
    for hook in dict.fromkeys(choice.hook for choice in chosen):
        names = [choice.program.name for choice in chosen if choice.hook is hook]
        if len(names) > 1:
            raise UsageError(
                f"{len(names)} programs would go to {hook.value}, which runs one:"
                f" {', '.join(names)}",
                hint="choose one:\n" + "\n".join(f"  --prog {name}" for name in names),
            )


def _no_hook(programs: Iterable[ProgramSpec]) -> UsageError:
    listed = [f"{one.name} (section {one.section!r})" for one in programs]
    lines = [f"  --prog {one.name}:HOOK" for one in programs]
    return UsageError(
        f"no section says where a program goes: {', '.join(listed)}",
        hint="say it (--hook xdp, for one):\n" + "\n".join(lines),
    )


def _type_name(program: ProgramSpec) -> str:
    return program.type.name.lower()


def _path(spec: ObjectSpec) -> str:
    return spec.path or "the object"
