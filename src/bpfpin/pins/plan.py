"""What a load will do with a pin set: decided by looking, before anything is changed.

The same plan is printed by a dry run and followed by a real one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from bpfpin.errors import Difference, IncompatibleMapError, PinKindError
from bpfpin.objects import compat
from bpfpin.objects.link import Attachment
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins.manifest import Held, HookRecord
from bpfpin.pins.pinset import PinSet
from bpfpin.spec import Dialect, MapSpec, ObjectSpec
from bpfpin.syscall.fd import Closing

ALL: Final = "all"  # of --fresh
CONSTANTS: Final = (".rodata", ".kconfig")  # each generation makes its own


class Decision(Enum):
    """What becomes of a map."""

    CREATED = "created"
    KEPT = "kept"
    SHARED = "shared"
    FRESH = "fresh"
    MIGRATED = "migrated"
    REMOVED = "removed"


class HookAction(Enum):
    """What becomes of a hook."""

    ATTACH = "attach"
    UPDATE = "update"
    DETACH = "detach"


@dataclass(frozen=True, slots=True)
class MapPlan:
    """What becomes of one map, and why; *map_id* is that of the map that is there already."""

    name: str
    decision: Decision
    map_id: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class HookPlan(Closing):
    """What becomes of one hook; *link* is the name of its pin.

    To be updated is *attachment*, which runs *previous* now; *is_taken* if that is somebody else's.
    Both are open while the plan is. *before* is what the live set remembers of it, *mode* the XDP
    mode of what is attached there.
    """

    action: HookAction
    hook: str
    link: str
    program: str = ""
    attachment: Attachment | None = None
    previous: Program | None = None
    previous_id: int | None = None
    link_id: int | None = None
    mode: str = ""
    held: Held = Held.LINK
    before: HookRecord | None = None
    is_taken: bool = False

    def close(self) -> None:
        """Let go of what it holds."""
        for opened in (self.attachment, self.previous):
            if opened is not None:
                opened.close()


@dataclass(frozen=True)
class Plan(Closing):
    """All that a load will do to the set *live*; *given* are the maps that are used, not made.

    It owns what it looked at: `close` lets go of it. *is_unchanged*: there is nothing to be done.
    """

    live: PinSet | None
    generation: int
    maps: tuple[MapPlan, ...]
    hooks: tuple[HookPlan, ...]
    given: Mapping[str, Map] = field(default_factory=dict)
    is_unchanged: bool = False

    def close(self) -> None:
        """Close the maps, programs and links that the plan holds."""
        for held in self.given.values():
            held.close()
        for hook in self.hooks:
            hook.close()


def plan_maps(
    spec: ObjectSpec,
    live: PinSet | None,
    *,
    shared: Mapping[str, tuple[Map, str]],
    fresh: Collection[str] = (),
) -> tuple[tuple[MapPlan, ...], dict[str, Map]]:
    """Decide on every map, and return those that are used again, opened; the caller closes them.

    *shared* are maps from outside of the set with where they came from, and belong to the caller
    until this returns; *fresh* names maps that start empty, `all` is every one. The differences of
    all maps that do not fit are in one `IncompatibleMapError`.
    """
    with ExitStack() as undo:
        sources = _Sources(live, shared, fresh, undo)
        decided = [sources.decide(each) for each in spec.maps.values()]
        _require_fit([difference for _, _, found in decided for difference in found])
        given = {plan.name: held for plan, held, _ in decided if held is not None}
        undo.pop_all()
    gone = [
        MapPlan(name, Decision.REMOVED, _id_at(path), "the object has it no longer")
        for name, path in (live.maps.items() if live else ())
        if name not in spec.maps
    ]
    return (*(plan for plan, _, _ in decided), *gone), given


def is_constant(name: str) -> bool:
    """Whether a map holds what the object file says and nothing else."""
    return name.startswith(CONSTANTS)


_Decided = tuple[MapPlan, Map | None, list[Difference]]


@dataclass(frozen=True)
class _Sources:
    """Where maps may come from; what is opened is closed by *undo*."""

    live: PinSet | None
    shared: Mapping[str, tuple[Map, str]]
    fresh: Collection[str]
    undo: ExitStack

    def decide(self, spec: MapSpec) -> _Decided:
        name, live = spec.name, self.live
        if name in self.shared:
            return self._share(spec)
        if is_constant(name):
            return _make(spec, "constants belong to their program")
        if live is None or name not in live.maps:
            return _make(spec, "it is new" if live else "")
        if ALL in self.fresh or name in self.fresh:
            return MapPlan(name, Decision.FRESH, None, "it starts empty, as asked"), None, []
        if spec.initial:
            return _make(spec, "the object itself says what is in it")
        held = self.undo.enter_context(_kept_map(live.maps[name], name))
        return _use(spec, held, Decision.KEPT, _kept_reason(spec))

    def _share(self, spec: MapSpec) -> _Decided:
        held, source = self.shared[spec.name]
        pinned = self.live.maps.get(spec.name) if self.live else None
        is_kept = pinned is not None and _id_at(pinned) == held.id
        decision = Decision.KEPT if is_kept else Decision.SHARED
        return _use(spec, held, decision, f"it is the map of {source}")


def _id_at(path: Path) -> int | None:
    """Return the id of the map that is pinned there, None if that is something else."""
    with suppress(PinKindError), Map.from_pin(path) as held:
        return held.id
    return None


def _use(spec: MapSpec, held: Map, decision: Decision, reason: str) -> _Decided:
    plan = MapPlan(spec.name, decision, held.id, reason)
    return plan, held, compat.differences(spec, held)


def _make(spec: MapSpec, reason: str) -> _Decided:
    return MapPlan(spec.name, Decision.CREATED, None, reason), None, []


def _kept_map(path: Path, name: str) -> Map:
    try:
        return Map.from_pin(path)
    except PinKindError as error:
        error.hint = (
            f"bpfpin did not put it there; to make the map anew in its place: --fresh {name}"
        )
        raise


def _kept_reason(spec: MapSpec) -> str:
    if spec.dialect is Dialect.DATA:
        return "its variables are the same and go on with their values"
    return "its definition is the same"


def _require_fit(found: list[Difference]) -> None:
    if found:
        maps = ", ".join(dict.fromkeys(each.map for each in found))
        raise IncompatibleMapError(
            f"not the map that the object asks for: {maps}", differences=found
        )
