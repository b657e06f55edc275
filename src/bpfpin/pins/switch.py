"""From the programs of one generation to those of the next, hook by hook and without a gap.

What a stage has under `previous~/LINK` is the program that the hook of that link runs before the
switch; its manifest names the one that it runs after it. Each hook is moved by compare-and-swap,
so that what somebody else attached meanwhile is never replaced, and every step may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bpfpin.errors import AttachError, PinNotFoundError, ProgramChangedError
from bpfpin.objects.link import HookAttachment, Link
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names, shared
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import AttachPoint, HeldBy, HookRecord, Manifest

Reopen = Callable[[AttachPoint, HookRecord], HookAttachment]
"""Opens the hook of a record that no link holds, in the namespace of its place."""


@dataclass(frozen=True)
class HookSwitch:
    """A hook that is to run *new* where it runs *old*."""

    record: HookRecord
    hook: HookAttachment
    old: Program
    new: Program

    def forward(self) -> None:
        """Run the new program, if the hook does not already; `ProgramChangedError` if neither."""
        self._swap(self.new, self.old)

    def back(self) -> None:
        """Run the old program again; what is neither of the two, or gone, is left as it is."""
        with suppress(ProgramChangedError, AttachError):
            self._swap(self.old, self.new)

    def _swap(self, wanted: Program, expected: Program) -> None:
        try:
            self.hook.update(wanted, expected_old=expected)
        except ProgramChangedError as error:
            running = self.hook.program_id()
            if running == wanted.id:
                return
            if running == expected.id:
                raise
            raise ProgramChangedError(
                f"{self.record.hook} runs program id {running} by now, which is neither"
                f" {self.record.program} nor its predecessor (id {expected.id}); it was left alone",
                holder=f"program id {running}",
                hint="see who changed it: bpfpin status",
            ) from error


def switch(stage: Directory, manifest: Manifest, reopen: Reopen, *, root: Directory) -> None:
    """Share the maps of *stage* that are to be shared, then run its programs."""
    shared.exchange(root, stage)
    for pin in manifest.outside:
        shared.share(root, stage, pin)
    for move in _moves(stage, manifest, reopen):
        move.forward()


def switch_back(stage: Directory, manifest: Manifest, reopen: Reopen) -> None:
    """Run the programs again that ran before `switch`."""
    for move in _moves(stage, manifest, reopen):
        move.back()


def open_hook(
    directory: Directory, place: AttachPoint, record: HookRecord, reopen: Reopen
) -> HookAttachment:
    """Open the hook of *record*, which belongs to the generation in *directory*."""
    if record.held_by is HeldBy.LINK:
        return Link.from_pin(directory.path / names.LINKS / record.link)
    return reopen(place, record)


def _moves(stage: Directory, manifest: Manifest, reopen: Reopen) -> Iterator[HookSwitch]:
    """Yield the hooks that run a program before the switch, each open while it is looked at."""
    moved = _names_below(stage, names.PREVIOUS)
    for record in manifest.hooks:
        if record.link in moved:
            with _open(stage, manifest.place, record, reopen) as move:
                yield move


@contextmanager
def _open(
    stage: Directory, place: AttachPoint, record: HookRecord, reopen: Reopen
) -> Iterator[HookSwitch]:
    program = names.program_pin_name(record.program)
    with (
        Program.from_pin(stage.path / names.PREVIOUS / record.link) as old,
        Program.from_pin(stage.path / names.PROGRAMS / program) as new,
    ):
        hook = open_hook(stage, place, record, reopen)
        try:
            yield HookSwitch(record, hook, old, new)
        finally:
            hook.close()


def _names_below(stage: Directory, folder: str) -> list[str]:
    try:
        with stage.child(folder) as directory:
            return directory.names()
    except PinNotFoundError:
        return []
