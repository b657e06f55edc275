"""A load on trial: what it attaches is held by a process alone, what it replaces is kept."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from types import TracebackType
from typing import Self

from bpfpin.apps.trial.start import end_waiting, start_waiting
from bpfpin.errors import PinNotFoundError
from bpfpin.objects.link import Link
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Place
from bpfpin.pins.trial import (
    BEFORE,
    RECORD,
    Trial,
    TrialPlace,
    copy_generation,
    make_room,
    now_ms,
    read_trial,
)
from bpfpin.syscall.fd import Descriptor


class LoadTrial:
    """A load that goes back after *seconds*: around the `next_generation` of set *name*.

    In there `hold` takes what is attached anew, instead of a pin, and `begin` comes last before the
    manifest. A failure before the commit leaves neither the trial nor its process.
    """

    def __init__(self, seconds: int, root: Directory, name: str, place: Place) -> None:
        self._seconds = seconds
        self._root = root
        self._name = name
        self._place = place
        self._links: dict[str, int] = {}
        self._kept: list[Descriptor] = []
        self._trial: Trial | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._kept:
            descriptor.close()
        if error is not None and self._trial is not None and not self._is_published():
            end_waiting(self._trial)

    def hold(self, pin: str, link: Link) -> None:
        """Keep *link*, which is to be pinned as `links~/PIN` once it is confirmed."""
        self._links[pin] = link.id
        self._kept.append(Descriptor(os.dup(link.fd)))

    def begin(self, live: Directory | None) -> None:
        """Start the process, and keep the generation in *live*, if there is one, to go back to.

        The descriptors of what was held belong to that process from here on.
        """
        place = TrialPlace(self._root.path, self._name)
        token, deadline_ms = secrets.token_hex(8), now_ms() + self._seconds * 1000
        keeps = [descriptor.fileno() for descriptor in self._kept]
        pid, started = start_waiting(place, token, deadline_ms, keeps=keeps)
        self._trial = Trial(
            token,
            self._seconds,
            deadline_ms,
            pid,
            started,
            device=self._place.device,
            netns_inode=self._place.netns_inode,
            what="a reload" if live else "a load",
            links=self._links,
        )
        with self._root.child(names.stage_name(self._name)) as stage, make_room(stage) as room:
            if live is not None:
                with room.make(BEFORE) as before:
                    copy_generation(live, before)
            room.write_text(RECORD, self._trial.to_text())

    def _is_published(self) -> bool:
        with suppress(PinNotFoundError), self._root.child(self._name) as live:
            return read_trial(live) == self._trial
        return False
