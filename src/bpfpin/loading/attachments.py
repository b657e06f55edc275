"""Attaches the programs of a loaded object where their sections say: all of them or none.

The layer stands above `attach`: the code of each hook is found by its row
in the registry, so a new hook needs no line here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bpfpin.attach import interface
from bpfpin.attach.registry import AttachOptions, HookTarget, code_of
from bpfpin.choices import choice_of, similar
from bpfpin.errors import UsageError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.hooks import Hook, TargetKind, has_table
from bpfpin.map_traits import traits_of
from bpfpin.objects.link import HookAttachment, Link
from bpfpin.records import dataclass
from bpfpin.spec import ProgramSpec
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import ProgramType

if TYPE_CHECKING:
    from bpfpin.loading.collection import Loaded
    from bpfpin.objects.maps.map import Map
    from bpfpin.objects.programs.program import Program

Target = str | Path
# What runs programs that no hook does.
_WITHOUT_HOOK: Final = {
    ProgramType.SYSCALL: "test_run() runs it",
    ProgramType.SOCKET_FILTER: "attach_socket_filter() attaches it to a socket",
    ProgramType.SK_REUSEPORT: "attach_reuseport() attaches it to a socket",
}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one program goes."""

    program: str
    hook: Hook
    targets: list[HookTarget]


class Attachments(Closing, Mapping[str, tuple[Link | HookAttachment, ...]]):
    """The attached programs of an object: a mapping of program names to their links.

    A program has a link for each of its targets; some hooks take several for one, such as a perf
    event on each CPU. Where the kernel has no link it has what else holds it there, such as a
    `ClsactFilter` at a hook of classic tc.

    `close`, or the end of `with`, detaches them, the last one first, apart from links that were
    pinned meanwhile.

    Attributes:
        notes: Differences from the request, and facts worth knowing, in lines for people: how many
            functions a pattern matches, or that XDP runs in generic mode.
    """

    def __init__(
        self,
        links: Mapping[str, tuple[Link | HookAttachment, ...]],
        undo: ExitStack,
        notes: Iterable[str] = (),
    ) -> None:
        """Keep *links* of programs, and *undo*, which detaches them; *notes* are for people."""
        self._links = dict(links)
        self._undo = undo
        self.notes = tuple(notes)

    def __getitem__(self, program: str) -> tuple[Link | HookAttachment, ...]:
        return self._links[program]

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    def __repr__(self) -> str:
        return f"<Attachments of {', '.join(self._links)}>"

    def close(self) -> None:
        """Detach all programs, except where a pin holds the link. Closing twice does nothing."""
        self._undo.close()


@dataclass(frozen=True)
class Choices:
    """What the caller of `Loaded.attach` says about programs and their targets."""

    targets: Mapping[str, Target | Sequence[Target]]
    hooks: Mapping[str, Hook | str]
    device: str | int | None
    cgroup: str | Path | None
    maps: Mapping[str, Map]
    linked_tables: Mapping[str, tuple[str, ...]]

    def hook_of(self, spec: ProgramSpec) -> Hook | None:
        """Return the hook that the caller names for the program, else that of its section."""
        given = self.hooks.get(spec.name)
        return spec.hook if given is None else choice_of(Hook, given, what="hook")

    def targets_of(self, spec: ProgramSpec, hook: Hook) -> list[HookTarget]:
        """Return what the program is attached to; an empty list if that is not known."""
        kind, given = hook.traits.target, self._given(spec.name)
        if kind is TargetKind.DEVICE:
            if not given and self.device is not None:
                return [HookTarget(interface.ifindex(self.device))]
            return [HookTarget(interface.ifindex(device)) for device in given]
        if kind is TargetKind.CGROUP:
            cgroups = given or ([] if self.cgroup is None else [str(self.cgroup)])
            function = spec.attach_to if hook is spec.hook else ""
            return [HookTarget(cgroup=Path(cgroup), name=function) for cgroup in cgroups]
        if not kind.is_named:
            if given:
                raise UsageError(
                    f"program {spec.name} goes to {hook.value}, which takes no target,"
                    f" and {given[0]!r} was given"
                )
            return [HookTarget()]
        # The target of the section belongs to the hook of the section.
        of_section = [spec.attach_to] if hook is spec.hook and spec.attach_to else []
        if kind is TargetKind.TABLE:
            # The first program of a table stands for all: it is the table that is attached.
            tables = self.linked_tables.items()
            of_section = [table for table, programs in tables if programs[0] == spec.name]
        names = given or of_section
        if kind is TargetKind.MAP and not names:
            sockmaps = [name for name, each in self.maps.items() if traits_of(each.type).is_sockmap]
            names = sockmaps if len(sockmaps) == 1 else []
        if hook.traits.has_several_links:
            code = code_of(hook)
            names = [target for name in names for target in code.targets(hook, name)]
        return [HookTarget(name=name, maps=self.maps) for name in names]

    def _given(self, program: str) -> list[str]:
        given = self.targets.get(program, ())
        return [str(each) for each in ((given,) if isinstance(given, str | Path) else given)]


def attach_programs(
    loaded: Loaded, programs: Iterable[str] | None, choices: Choices
) -> Attachments:
    """Attach programs; `Loaded.attach` documents the parameters and errors."""
    names = _by_default(loaded) if programs is None else list(dict.fromkeys(programs))
    for name in (*names, *choices.targets, *choices.hooks):
        _require_program(loaded, name)
    _require_chosen(names, {**choices.targets, **choices.hooks})
    destinations = _destinations(loaded, names, choices)
    with ExitStack() as undo:
        attached = {
            each.program: [
                _attached(loaded.programs[each.program], each.hook, target, undo)
                for target in each.targets
            ]
            for each in destinations
        }
        links = {name: tuple(link for link, _ in pairs) for name, pairs in attached.items()}
        notes = [note for pairs in attached.values() for _, note in pairs if note]
        return Attachments(links, undo.pop_all(), notes)


def _by_default(loaded: Loaded) -> list[str]:
    """Return the programs that are attached unless some are named."""
    specs = loaded.program_specs
    tables = loaded.linked_tables.values()
    firsts = {programs[0] for programs in tables}
    own = [
        name
        for name, spec in specs.items()
        if (spec.hook or spec.type not in _WITHOUT_HOOK)
        and (spec.hook is None or not has_table(spec.hook.value) or name in firsts)
    ]
    # If programs only call each other, none of them is a better entry than the others.
    return [name for name in own if name not in loaded.tail_called] or own


def _require_program(loaded: Loaded, name: str) -> None:
    if name in loaded.programs:
        return
    near = similar(name, loaded.programs)
    raise UsageError(
        f"no program {name!r} is loaded; there are: {', '.join(loaded.programs) or 'none'}",
        hint=f"near it: {', '.join(near)}" if near else "",
    )


def _require_chosen(names: list[str], given: Iterable[str]) -> None:
    if not names:
        raise UsageError("there is no program to attach")
    left = [name for name in given if name not in names]
    if left:
        raise UsageError(
            f"a target or hook is given for {left[0]}, which is not among the programs to attach:"
            f" {', '.join(names)}"
        )


def _destinations(loaded: Loaded, names: list[str], choices: Choices) -> list[Destination]:
    """Return where the programs go; `UsageError` lists all for which that is not known."""
    destinations, problems = [], list[tuple[ProgramSpec, Hook | None]]()
    for name in names:
        spec = loaded.program_specs[name]
        hook = choices.hook_of(spec)
        targets = choices.targets_of(spec, hook) if hook else []
        if hook and targets:
            destinations.append(Destination(name, hook, targets))
        else:
            problems.append((spec, hook))
    if problems:
        raise UsageError(
            f"not known where to attach: {'; '.join(_problem(*each) for each in problems)}",
            hint=_fix(problems, [each.program for each in destinations]),
        )
    kinds = {each.hook.traits.target for each in destinations}
    for kind, given in (
        (TargetKind.DEVICE, choices.device),
        (TargetKind.CGROUP, choices.cgroup),
    ):
        if given is not None and kind not in kinds:
            raise UsageError(f"{kind.value}={given!r}, and no program goes to a {kind.value}")
    return destinations


def _problem(spec: ProgramSpec, hook: Hook | None) -> str:
    program = f"{spec.name} (section {spec.section!r})"
    if hook is not None:
        return f"{program} goes to {hook.value} of a {hook.traits.target.value}, and names none"
    why = _WITHOUT_HOOK.get(spec.type) or "the section says no hook"
    return f"{program}: {why}"


def _fix(problems: list[tuple[ProgramSpec, Hook | None]], others: list[str]) -> Fix:
    """Return the arguments that solve *problems*; *others* are the programs without one."""
    places: dict[str, Placeholder] = {}
    targets: dict[str, str] = {}
    hooks: dict[str, str] = {}
    for spec, section_hook in problems:
        runs_it = (hook for hook in Hook if spec.type in hook.traits.program_types)
        hook = section_hook or next(runs_it, None)
        if hook is None:  # no parameter helps: the others can be chosen
            continue
        kind = hook.traits.target
        if section_hook is None:
            hooks[spec.name] = hook.value
        if kind.is_named:
            targets[spec.name] = hook.traits.example
        elif kind.placeholder:
            places[kind.value] = Placeholder(f"'{kind.placeholder}'")
    said = [Argument(word, value) for word, value in places.items()]
    said += [
        Argument(word, value) for word, value in (("targets", targets), ("hooks", hooks)) if value
    ]
    fix = Fix.of("for example: ", *said) if said else Fix(())
    if not others:
        return fix
    return fix.joined("attach the others: ", Argument("programs", others), separator="; or ")


def _attached(
    program: Program, hook: Hook, target: HookTarget, undo: ExitStack
) -> tuple[Link | HookAttachment, str]:
    """Attach a program to one target, which *undo* detaches; return it with a note, maybe empty."""
    new = code_of(hook).attach(program, hook, target, AttachOptions())
    note = f"{program.name}: {new.note}" if new.note else ""
    if new.link is not None:
        undo.callback(new.link.close)
        return new.link, note
    # What no link holds stays until it is removed. It may be at another hook than was asked for:
    # classic tc, where the kernel has no tcx.
    code = code_of(new.hook)
    code.complete(program, new.hook, target, new)
    attachment = code.reopen(new.hook, target, new)
    undo.callback(attachment.detach)
    return attachment, note
