"""Which programs of an object go to which hook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bpfpin.choices import similar
from bpfpin.errors import TargetNotFoundError, UsageError, WrongHookError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.hooks import Hook, TargetKind
from bpfpin.map_traits import traits_of
from bpfpin.objfile.reader import read_btf, read_object
from bpfpin.records import dataclass
from bpfpin.spec import ObjectSpec, ProgramSpec
from bpfpin.uapi import ProgramType

DEFAULT_SOURCE: Final = "builtin:xdp_stats"
DEFAULT_CGROUP_SOURCE: Final = "builtin:cgroup_stats"
Source = str | Path | bytes | ObjectSpec
# The kinds of target that a load was given (`--dev`, `--cgroup`).
TargetKinds = frozenset[TargetKind]
DEVICE: Final[TargetKinds] = frozenset({TargetKind.DEVICE})
_NEAR_MAX: Final = 5  # suggestions for a wrong word
_PART: Final = r"[a-z]+|[0-9]+"  # of the name of a hook: `cgroup`, `inet`, `4`, `connect`
OPTIONAL = "?"  # libbpf's: a program in such a section is loaded only when it is named


# Where objects come from: files, bytes, those shipped with bpfpin, or a spec made before.


def read_source(
    source: Source,
    *,
    program_type: Mapping[str, str] | str | None = None,
    kernel_btf: str | Path | None = None,
) -> ObjectSpec:
    """Return the description of an object: a path, its bytes, `builtin:NAME`, or one made before.

    *program_type* is the word for programs in sections with free names, or one by program;
    *kernel_btf* is a file with the types that CO-RE takes for the kernel's. Raises what
    `read_object` and `read_btf` do.
    """
    spec = source
    if not isinstance(spec, ObjectSpec):
        spec = read_object(spec, program_types=program_type)
    return replace(spec, kernel_btf=read_btf(kernel_btf)) if kernel_btf else spec


@dataclass(frozen=True)
class Choice:
    """One program and the hook it goes to; *target* is what it names as its target there."""

    program: ProgramSpec
    hook: Hook
    target: str = ""


def has_target(hook: Hook, targets: TargetKinds) -> bool:
    """Whether *targets* are enough for *hook*: its own is among them, or needs no name."""
    kind = hook.traits.target
    return kind in targets or not kind.placeholder


def choose(
    spec: ObjectSpec,
    *,
    words: Sequence[str] = (),
    hook: Hook | None = None,
    targets: TargetKinds = DEVICE,
) -> list[Choice]:
    """Return the programs to attach and their hooks, one program a hook unless more are named.

    *words* are `NAME`, `NAME:HOOK` or `NAME:HOOK=TARGET`; without them every program goes where its
    section says, as far as it has one of the *targets*. *hook* is for programs that nothing else
    gives one. Raises `UsageError` with the lines to type where that is not one answer,
    `WrongHookError` for a hook that the program cannot run at.
    """
    if not spec.programs:
        raise UsageError(f"{_path(spec)} has no program, only maps")
    if words:
        chosen = _once(_word(spec, word, hook) for word in words)
    else:
        chosen = _by_section(spec, hook, targets)
    chosen = _once(placed for choice in chosen for placed in _placed(spec, choice))
    if not chosen:
        raise UsageError(
            f"no program of {_path(spec)} is in a table that a link registers",
            hint="such a table is a variable in the section .struct_ops.link",
        )
    for choice in chosen:
        _require_attachable(choice, targets)
    _require_one_a_hook(chosen, has_words=bool(words))
    return [_for_hook(choice) for choice in chosen]


def read_for_hooks(
    source: Source,
    *,
    words: Sequence[str] = (),
    hook: Hook | None = None,
    program_type: str | None = None,
    kernel_btf: str | Path | None = None,
) -> ObjectSpec:
    """Read an object; what its sections do not say of a program, *program_type* or the hooks do."""
    spec = read_source(source, program_type=program_type, kernel_btf=kernel_btf)
    if program_type:
        return spec
    # The object is read twice: which programs have no type is only known after the first time, and
    # the type decides how sections are parsed.
    types = types_of_hooks(spec, words=words, hook=hook)
    if types and not isinstance(source, ObjectSpec):
        return read_source(source, program_type=types, kernel_btf=kernel_btf)
    for name, word in types.items():
        spec = spec.with_program(name, type=ProgramType[word.upper()])
    return spec


def types_of_hooks(
    spec: ObjectSpec, *, words: Sequence[str] = (), hook: Hook | None = None
) -> dict[str, str]:
    """Return the types, by program, that *words* and *hook* imply where no section says them.

    A program that goes to `xdp` is of type xdp. Programs that are reached by tail calls alone are
    of the type that all others have.
    """
    untyped = [
        program.name for program in spec.programs.values() if program.type is ProgramType.UNSPEC
    ]
    hooks = {name: hook for name in untyped if hook is not None}
    for word in words:
        name, colon, place = word.partition(":")
        if colon and name in untyped:
            hooks[name] = parse_hook(place.partition("=")[0])
    types = {name: _type_word(hook) for name, hook in hooks.items()}
    # A program can only tail-call programs of its own type (bpf_prog_map_compatible() of
    # kernel/bpf/core.c).
    if len(set(types.values())) == 1:
        only = next(iter(types.values()))
        types |= {name: only for name in spec.tail_called if name in untyped}
    return types


def check_options(chosen: Iterable[Choice], *, has_order: bool, has_mode: bool) -> None:
    """Raise `UsageError` for an order, or an XDP mode, where no hook of *chosen* has one."""
    hooks = [choice.hook for choice in chosen]
    words = ", ".join(hook.value for hook in hooks)
    if has_order and not any(hook.traits.has_order for hook in hooks):
        codes = dict.fromkeys(hook.traits.code for hook in Hook if hook.traits.has_order)
        raise UsageError(
            f"--order is for the programs of {' and '.join(codes)}, and these go to: {words}",
            hint=Fix.of("say another hook: ", Argument("hook", "tcx-ingress")),
        )
    if has_mode and not any(hook.traits.has_mode for hook in hooks):
        modal = ", ".join(hook.value for hook in Hook if hook.traits.has_mode)
        raise UsageError(
            f"--mode is for the programs of {modal}, and these go to: {words}",
            hint=Fix.of("leave out ", Argument("mode", None)),
        )


def passed_over(
    spec: ObjectSpec, chosen: Iterable[Choice], targets: TargetKinds
) -> list[ProgramSpec]:
    """Return the programs whose section names a hook that has none of the *targets*."""
    taken = {choice.program.name for choice in chosen}
    return [
        program
        for program in _candidates(spec)
        if program.hook and not has_target(program.hook, targets) and program.name not in taken
    ]


def programs_to_load(spec: ObjectSpec, chosen: Iterable[Choice]) -> list[str]:
    """Return the programs that *chosen* need: themselves, and what their tail calls may reach."""
    names = [
        name
        for choice in chosen
        # The kernel takes a table with all of its functions.
        for name in (choice.program.name, *spec.linked_tables.get(choice.target, ()))
    ]
    return list(dict.fromkeys([*names, *spec.tail_called]))


def _candidates(spec: ObjectSpec) -> list[ProgramSpec]:
    """Return the programs that may be meant when none is named."""
    required = [
        program for program in spec.programs.values() if not program.section.startswith(OPTIONAL)
    ]
    called = set(spec.tail_called)
    # If programs only call each other, none of them is a better entry than the others.
    return [program for program in required if program.name not in called] or required


def _once(choices: Iterable[Choice]) -> list[Choice]:
    """Leave out repeated choices, in the same words or in others."""
    once = {(choice.program.name, choice.hook, choice.target): choice for choice in choices}
    return list(once.values())


def _word(spec: ObjectSpec, word: str, hook: Hook | None) -> Choice:
    name, colon, place = word.partition(":")
    place, equals, target = place.partition("=")
    if name not in spec.programs:
        raise UsageError(
            f"{_path(spec)} has no program {name!r}; it has: {', '.join(spec.programs)}"
        )
    program = spec.programs[name]
    chosen_hook = parse_hook(place) if colon else hook or program.hook
    if chosen_hook is None:
        raise _no_hook([program])
    if equals and not (chosen_hook.traits.example and target):
        raise UsageError(
            f"{chosen_hook.value} takes no target"
            if target
            else f"{word!r} names no target after `=`",
            hint=Fix.of("say: ", Argument("programs", [_word_for(program, chosen_hook)])),
        )
    # The target of the section belongs to the hook of the section.
    of_section = program.attach_to if chosen_hook is program.hook else ""
    return Choice(program, chosen_hook, target or of_section)


def _placed(spec: ObjectSpec, choice: Choice) -> Iterator[Choice]:
    """Yield where a program goes whose map no section can name.

    A program of a map of sockets goes to the only such map, if it names none. Of a table of
    functions (struct_ops) the table is attached: its first program stands for all.
    """
    if choice.hook.traits.target is TargetKind.TABLE:
        yield from _tables(spec, choice)
        return
    if choice.hook.traits.target is TargetKind.MAP and not choice.target:
        maps = [name for name, each in spec.maps.items() if traits_of(each.type).is_sockmap]
        choice = replace(choice, target=maps[0]) if len(maps) == 1 else choice
    yield choice


def _tables(spec: ObjectSpec, choice: Choice) -> Iterator[Choice]:
    # The rest of a section `struct_ops/NAME` is not a target, but the program's own name.
    is_named = choice.target != choice.program.attach_to
    tables = spec.linked_tables
    if is_named and choice.target not in tables:
        raise TargetNotFoundError(
            f"{_path(spec)} has no table {choice.target!r} that a link registers",
            hint=f"it has: {', '.join(tables) or 'none'}",
        )
    for table, programs in tables.items():
        is_meant = choice.target == table if is_named else not spec.maps[table].is_optional
        if choice.program.name in programs and is_meant:
            yield Choice(spec.programs[programs[0]], choice.hook, table)


def _by_section(spec: ObjectSpec, hook: Hook | None, targets: TargetKinds) -> list[Choice]:
    programs = _candidates(spec)
    if not programs:
        raise _all_optional(spec)
    placed = [
        Choice(program, program.hook, program.attach_to) for program in programs if program.hook
    ]
    if hook is not None:
        at_hook = [choice for choice in placed if choice.hook is hook]
        free = [program for program in programs if program.hook is None]
        return at_hook or [Choice(program, hook) for program in free or programs]
    if not placed:
        raise _no_hook(programs)
    # None fits: they are returned all the same, and `_require_attachable` names the target that is
    # missing.
    return [choice for choice in placed if has_target(choice.hook, targets)] or placed


def parse_hook(word: str) -> Hook:
    """Return the hook that is typed *word*; `UsageError` lists them."""
    try:
        return Hook(word)
    except ValueError:
        near = _hooks_like(word)
        listed = ", ".join(near or [hook.value for hook in Hook])
        how = "near it" if near else "there are"
        raise UsageError(f"there is no hook {word!r}; {how}: {listed}") from None


def _hooks_like(word: str) -> list[str]:
    """Return the few hooks that are most like *word*, the best first."""
    values = [hook.value for hook in Hook]
    # Users often type the section or the kernel's name: cgroup/connect4, tcx_ingress. The hook has
    # the same parts, perhaps in another order.
    typed = re.sub(r"[^a-z0-9]+", "-", word.lower()).removeprefix("bpf-")
    parts = re.findall(_PART, typed)
    common = {
        value: sum(any(own.startswith(part) for own in re.findall(_PART, value)) for part in parts)
        for value in values
    }
    most = max(common.values())
    alike = [value for value, count in common.items() if count == most] if most else []
    best = similar(typed, alike, count=_NEAR_MAX, cutoff=0.0)
    return list(dict.fromkeys([*best, *similar(typed, values)]))[:_NEAR_MAX]


def _require_attachable(choice: Choice, targets: TargetKinds) -> None:
    program, hook = choice.program, choice.hook
    if program.type is ProgramType.UNSPEC:
        raise UsageError(
            f"section {program.section!r} does not say what type program {program.name} is of",
            hint=Fix.of("say it: ", Argument("program_type", _type_word(hook))),
        )
    if not _may_run(program, hook):
        raise WrongHookError(
            f"program {program.name} is of type {_type_name(program)} (section"
            f" {program.section!r}) and cannot run at {hook.value}",
            hint=Fix.of(
                "choose another program of the object: ",
                Argument("programs", [f"NAME:{hook.value}"]),
            ),
        )
    kind = hook.traits.target
    if hook.traits.example and not choice.target:
        what = kind.with_article if kind.is_named else f"{kind.with_article}, at a function"
        raise UsageError(
            f"program {program.name} (section {program.section!r}) goes to {what}, and none was"
            " named",
            hint=Fix.of("for example: ", Argument("programs", [_word_for(program, hook)])),
        )
    if not has_target(hook, targets):
        raise UsageError(
            f"program {program.name} goes to {hook.value} of {kind.with_article}, and none was"
            " named",
            hint=Fix.of(
                "name it: ",
                Argument(kind.value, Placeholder(kind.placeholder)),
                "; or choose other programs: ",
                Argument("programs", [Placeholder("NAME")]),
            ),
        )


def _may_run(program: ProgramSpec, hook: Hook) -> bool:
    """Whether a hook runs programs of that type, loaded for that attach type.

    A program in a section such as `xdp/devmap` is of type xdp, and runs elsewhere.
    """
    traits = hook.traits
    is_loaded_for_it = program.expected_attach_type in (None, traits.attach_type)
    return program.type in traits.program_types and (
        is_loaded_for_it or not traits.checks_attach_type
    )


def _word_for(program: ProgramSpec, hook: Hook) -> Placeholder:
    """Return an example of the word that names the program's hook, and its target if it has one."""
    example = hook.traits.example
    return Placeholder(f"{program.name}:{hook.value}{f'={example}' if example else ''}")


def _for_hook(choice: Choice) -> Choice:
    """Have the program loaded for its hook where the section does not say for which."""
    program, traits = choice.program, choice.hook.traits
    if choice.target != program.attach_to:
        program = program.with_changes(attach_to=choice.target)
    # The kernel compares it when the program is attached: bpf_prog_attach_check_attach_type() of
    # kernel/bpf/syscall.c.
    if program.expected_attach_type is None and traits.checks_attach_type:
        program = program.with_changes(expected_attach_type=traits.attach_type)
    return Choice(program, choice.hook, choice.target)


def _require_one_a_hook(chosen: Sequence[Choice], *, has_words: bool) -> None:
    for hook in dict.fromkeys(choice.hook for choice in chosen):
        if hook.traits.example:  # each program has said where it goes
            continue
        names = [choice.program.name for choice in chosen if choice.hook is hook]
        runs_one = hook.traits.runs_one
        # At hooks with an order all could run, but an object with several versions of a program is
        # as likely.
        if len(names) > 1 and (runs_one or not has_words):
            what = "which runs one" if runs_one else "and it was not said that all should"
            raise UsageError(
                f"{len(names)} programs would go to {hook.value}, {what}: {', '.join(names)}",
                hint=_one_of("choose:", names),
            )


def _all_optional(spec: ObjectSpec) -> UsageError:
    listed = [f"{program.name} (section {program.section!r})" for program in spec.programs.values()]
    return UsageError(
        f"all programs of {_path(spec)} are optional, and load only when they are named:"
        f" {', '.join(listed)}",
        hint=_one_of("choose:", spec.programs),
    )


def _one_of(words: str, programs: Iterable[str]) -> Fix:
    """Return the fix to choose one of *programs*, each on a line."""
    parts: list[str | Argument] = [words]
    for program in programs:
        parts += ["\n  ", Argument("programs", [program])]
    return Fix(tuple(parts))


def left_out(spec: ObjectSpec, loaded: Iterable[str]) -> list[str]:
    """Return the optional programs (section `?xdp`) that are not among those *loaded*."""
    names = set(loaded)
    return [
        program.name
        for program in spec.programs.values()
        if program.is_optional and program.name not in names
    ]


def _no_hook(programs: Iterable[ProgramSpec]) -> UsageError:
    programs = list(programs)
    listed = [f"{program.name} (section {program.section!r})" for program in programs]
    return UsageError(
        f"no section says where a program goes: {', '.join(listed)}",
        hint=_one_of(
            "say it:", [Placeholder(f"{program.name}:{_fitting(program)}") for program in programs]
        ),
    )


def _fitting(program: ProgramSpec) -> str:
    """Return the hooks that run programs of its type, as they are typed."""
    return "|".join(hook.value for hook in Hook if _may_run(program, hook)) or "HOOK"


def _type_name(program: ProgramSpec) -> str:
    return program.type.name.lower()


def _type_word(hook: Hook) -> str:
    """Return the type that a program is meant to be of which goes to *hook*."""
    return hook.traits.program_types[0].name.lower()


def _path(spec: ObjectSpec) -> str:
    return spec.path or "the object"
