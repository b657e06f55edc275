"""The gates of a load: which programs begin with one, and the maps that say which of them run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from bpfpin.attach.stubs import gate_note, refusal
from bpfpin.hooks import Hook
from bpfpin.objects.gate import give, make_gate, state_of, with_gate
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.manifest import GateNumbers
from bpfpin.pins.pinset import LoadedSet
from bpfpin.pins.plan import HookAction, HookPlan, Plan
from bpfpin.records import dataclass
from bpfpin.sets.place import hook_target
from bpfpin.sets.request import LoadRequest
from bpfpin.spec import ProgramSpec
from bpfpin.syscall.fd import Closing


@dataclass(frozen=True)
class Gate:
    """The gate of one program: its *map*, its numbers, and the *note* why it has one."""

    map: Map
    numbers: GateNumbers
    note: str


class Gates(Closing):
    """The gates of the programs of one load, by the names of the programs.

    Programs at hooks whose links cannot change their program have one if no stub may call them
    (`attach.stubs.refusal`). A program that is attached at several hooks has one for all of them:
    the same map decides.
    """

    def __init__(self, request: LoadRequest, plan: Plan) -> None:
        self._request = request
        self._live = plan.live
        self._opened = ExitStack()
        self._gates: dict[str, Gate] = {}
        hooks: dict[str, list[HookPlan]] = {}
        for hook in plan.hooks:
            if hook.action is not HookAction.DETACH:
                hooks.setdefault(hook.program, []).append(hook)
        self._hooks = {name: at for name, at in hooks.items() if self._may_have_one(name, at)}

    @property
    def by_program(self) -> Mapping[str, Gate]:
        """The gates of the programs that `changed` was asked for."""
        return self._gates

    def changed(self, spec: ProgramSpec) -> ProgramSpec:
        """Return *spec*, which is fitted to the kernel, with a gate if it is to have one."""
        hooks = self._hooks.get(spec.name, [])
        reasons = [self._refusal(spec, hook) for hook in hooks]
        if not any(reasons):
            return spec
        gate = self._gates[spec.name] = self._gate(spec.name, next(filter(None, reasons)))
        answer = Hook(hooks[0].hook).traits.empty_answer or 0
        return with_gate(spec, gate.map, gate.numbers.number, answer=answer)

    def close(self) -> None:
        """Close the maps; programs and pins keep them."""
        self._opened.close()

    def _may_have_one(self, name: str, hooks: list[HookPlan]) -> bool:
        # A program that others reach by tail calls would ask its gate there, too.
        if name in self._request.spec.tail_called:
            return False
        # A hook that is updated runs a stub, or changes its program by itself.
        return all(
            hook.action is HookAction.ATTACH and Hook(hook.hook).traits.needs_stub for hook in hooks
        )

    def _refusal(self, spec: ProgramSpec, hook: HookPlan) -> str:
        return refusal(spec, Hook(hook.hook), hook_target(self._request.place, hook.target))

    def _gate(self, name: str, reason: str) -> Gate:
        """Return the gate of the live set's program of that name, or a new one."""
        note = gate_note(name, reason)
        before, gate_map = 0, _live_map(self._live, name)
        if gate_map is None:
            gate_map = make_gate()
        elif self._live is not None:
            before = self._live.manifest.gates[name].number
        self._opened.callback(gate_map.close)
        number = state_of(gate_map).next
        # A dry run changes nothing, and the program of one is never attached.
        if not self._request.is_dry_run:
            give(gate_map, number)
        return Gate(gate_map, GateNumbers(number, before), note)


def _live_map(live: LoadedSet | None, name: str) -> Map | None:
    """Open the map of the gate that a program of the live set has; None if there is none."""
    if live is None or name not in live.manifest.gates:
        return None
    return live.open_slot(names.program_pin_name(name))
