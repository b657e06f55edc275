"""Switches hooks from the programs of one generation to those of the next, without a gap.

This is step 5 of a change (module `transaction`), and the reverse of it for a roll-back.

In a stage, `previous~/LINK` pins the program that the hook of that link runs before the switch. The
manifest of the stage names the program that it runs afterwards, pinned in `programs~`. A hook
without an entry in `previous~` is new and already runs the new program.

Each hook is switched by compare-and-swap: the new program replaces the old one only if the hook
runs the old one. So a program that somebody else attached meanwhile is never replaced, and every
switch can be repeated: a hook that already runs the new program is left alone. For a link the
kernel compares (BPF_LINK_UPDATE with BPF_F_REPLACE, EPERM for another program; Linux 5.7). For a
netlink attachment it compares as well (IFLA_XDP_EXPECTED_FD). A filter of classic tc and the slot
of a stub have no compare-and-swap; the program is read before it is replaced, and that of a filter
afterwards, too (docs/decisions/0012).

Programs with a gate (`objects.gate`) are attached already, the new ones beside the old ones. The
switch writes which of them runs, and repeating it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpfpin.errors import AttachError, PinNotFoundError, ProgramChangedError
from bpfpin.hooks import HeldBy, has_table
from bpfpin.objects.link import HookAttachment, Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names, shared
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import AttachPoint, HookRecord, Manifest
from bpfpin.records import dataclass

Reopen = Callable[[AttachPoint, HookRecord], HookAttachment]
"""Opens the hook of a record that no link holds, in the network namespace of its attach point."""


@dataclass(frozen=True)
class HookSwitch:
    """One open hook with the program *old* that it runs now, and *new* that replaces it.

    At a hook of tables (struct_ops), these are maps.
    """

    record: HookRecord
    hook: HookAttachment
    old: Program | Map
    new: Program | Map

    def forward(self) -> None:
        """Run the new program; `ProgramChangedError` if the hook runs neither of the two."""
        self._swap(self.new, self.old)

    def back(self) -> None:
        """Run the old program again; a hook that runs neither, or is gone, is left as it is."""
        with suppress(ProgramChangedError, AttachError):
            self._swap(self.old, self.new)

    def _swap(self, wanted: Program | Map, expected: Program | Map) -> None:
        try:
            # Without a look before: the kernel compares in the same step, and a look would only be
            # older.
            # A link of tables takes maps.
            self.hook.update(wanted, expected_old=expected)  # type: ignore[arg-type]
        except ProgramChangedError as error:
            running = self.hook.program_id()
            if running == wanted.id:
                return  # an earlier attempt switched it
            if running == expected.id:
                raise  # the hook did not change: the kernel refused for another reason
            raise ProgramChangedError(
                f"{self.record.hook} runs program id {running} now, which is neither"
                f" {self.record.program} nor its predecessor (id {expected.id}); it was left alone",
                holder=f"program id {running}",
                hint="see the program that runs now: bpfpin status",
            ) from error


def switch(stage: Directory, manifest: Manifest, reopen: Reopen, *, root: Directory) -> None:
    """Exchange and make the shared names of *stage*, then switch its hooks (steps 4 and 5)."""
    # The names first: a program that shares a map must not run while another loader finds no map,
    # or an old one, under the shared name (docs/decisions/0009).
    shared.exchange(root, stage)
    for pin in manifest.outside:
        shared.share(root, stage, pin)
    for hook in _hooks(stage, manifest, reopen):
        hook.forward()
    # Last, since no hook refuses it.
    for program, numbers in manifest.gates.items():
        _admit(stage, program, numbers.number)


def switch_back(stage: Directory, manifest: Manifest, reopen: Reopen) -> None:
    """Undo `switch` at the hooks: each runs its previous program again."""
    for program, numbers in manifest.gates.items():
        _admit(stage, program, numbers.before)
    for hook in _hooks(stage, manifest, reopen):
        hook.back()


def _admit(stage: Directory, program: str, number: int) -> None:
    """Let the generation of *program* run that has *number*."""
    from bpfpin.objects.gate import admit  # noqa: PLC0415 - few sets have gates

    with Map.from_pin(stage.path / names.SLOTS / names.program_pin_name(program)) as gate:
        admit(gate, number)


def open_hook(
    directory: Directory, place: AttachPoint, record: HookRecord, reopen: Reopen
) -> HookAttachment:
    """Open the hook of *record*, which belongs to the generation in *directory*."""
    link = directory.path / names.LINKS / record.link
    if record.held_by is HeldBy.LINK:
        return Link.from_pin(link)
    if record.held_by is HeldBy.STUB:
        from bpfpin.objects.stub import StubAttachment  # noqa: PLC0415 - few sets have stubs

        return StubAttachment.from_pins(link, directory.path / names.SLOTS / record.link)
    return reopen(place, record)


def _hooks(stage: Directory, manifest: Manifest, reopen: Reopen) -> Iterator[HookSwitch]:
    """Yield the hooks that have a previous program; each stays open until the next one."""
    # The hooks are opened one after the other: a set of many hooks would run out of descriptors in
    # a roll-back, which has few (`transaction._RESERVED`).
    switched = _names_below(stage, names.PREVIOUS)
    for record in manifest.hooks:
        if record.link in switched:
            with _open(stage, manifest.place, record, reopen) as hook:
                yield hook


@contextmanager
def _open(
    stage: Directory, place: AttachPoint, record: HookRecord, reopen: Reopen
) -> Iterator[HookSwitch]:
    kind: type[Program | Map] = Map if has_table(record.hook) else Program
    with (
        kind.from_pin(stage.path / names.PREVIOUS / record.link) as old,
        kind.from_pin(stage.path / own_pin(record)) as new,
    ):
        hook = open_hook(stage, place, record, reopen)
        try:
            yield HookSwitch(record, hook, old, new)
        finally:
            hook.close()


def own_pin(record: HookRecord) -> Path:
    """Return the path of the pin of what a hook runs, below the directory of its generation."""
    if has_table(record.hook):
        return Path(names.map_pin_name(record.target))
    return Path(names.PROGRAMS, names.program_pin_name(record.program))


def _names_below(stage: Directory, folder: str) -> list[str]:
    try:
        with stage.child(folder) as directory:
            return directory.names()
    except PinNotFoundError:
        return []
