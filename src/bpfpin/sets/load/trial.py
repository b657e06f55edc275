"""A load on trial: the waiting process holds its new links, and the generation before is kept."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from types import TracebackType
from typing import Self

from bpfpin.errors import BpfError, PinNotFoundError
from bpfpin.objects.link import Link
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import AttachPoint
from bpfpin.pins.trial import (
    BEFORE,
    RECORD,
    Trial,
    TrialPlace,
    begin_trial,
    command_deadline_ms,
    copy_generation,
    make_trial,
    read_trial,
)
from bpfpin.sets.trial import Started, end_waiting, put_back, start_waiting
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.signals import signals_deferred


class LoadTrial:
    """A context around a load of set *name* that is taken back after *seconds*.

    Within its `next_generation`, `hold` takes each new link, which gets no pin, and `begin` comes
    last before the manifest. The trial begins when the block is left without an error. After an
    error, also one that follows the commit, the change is taken back and its process ended. If the
    command dies, the process takes the change back.
    """

    def __init__(self, seconds: int, root: Directory, name: str, place: AttachPoint) -> None:
        self._seconds = seconds
        self._root = root
        self._name = name
        self._place = place
        self._links: dict[str, int] = {}
        self._kept: list[Descriptor] = []
        self._trial: Trial | None = None
        self._process: Started | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A signal in between would leave a change that has neither begun its trial nor gone
            # back.
            with signals_deferred():
                self._conclude(is_done=error is None)
        finally:
            for descriptor in self._kept:
                descriptor.close()
            if self._process is not None:
                self._process.close()

    def _conclude(self, *, is_done: bool) -> None:
        # `begin` was not reached, so there is neither a process nor a record.
        if self._trial is None:
            return
        try:
            if is_done:
                with self._root.child(self._name) as live:
                    begin_trial(live, self._seconds)
                return
        except BpfError:
            self._take_back(self._trial)
            raise
        self._take_back(self._trial)

    def _take_back(self, trial: Trial) -> None:
        # An error before the commit has rolled the stage back with its record; then only the
        # process is left.
        if self._is_published(trial):
            put_back(self._root, TrialPlace(self._root.path, self._name), trial)
        else:
            end_waiting(trial)

    def hold(self, pin: str, link: Link) -> None:
        """Keep *link*, which is to be pinned as `links~/PIN` once it is confirmed."""
        self._links[pin] = link.id
        # A duplicate, since the caller closes its link once the record of it is made.
        self._kept.append(Descriptor(os.dup(link.fd)))

    def begin(self, live: Directory | None) -> None:
        """Start the waiting process, and keep the generation in *live*, if any, to go back to.

        The process holds the new links from here on.
        """
        place = TrialPlace(self._root.path, self._name)
        # The token tells this trial from an earlier or later one of the same set, also after the
        # set was loaded anew under the same name.
        token, deadline_ms = secrets.token_hex(8), command_deadline_ms(self._seconds)
        keeps = [descriptor.fileno() for descriptor in self._kept]
        # Before the record is written, which names the process by pid and start time. If the
        # command dies in between, the process finds no trial, lets the links go and ends.
        self._process = start_waiting(place, token, deadline_ms, keeps=keeps)
        self._trial = Trial(
            token,
            self._seconds,
            deadline_ms,
            self._process.pid,
            self._process.started,
            device=self._place.device,
            netns_inode=self._place.netns_inode,
            what="a reload" if live else "a load",
            links=self._links,
        )
        # In the stage: the record becomes visible with the generation that it is about, in the same
        # rename.
        with self._root.child(names.stage_name(self._name)) as stage, make_trial(stage) as room:
            if live is not None:
                with room.make(BEFORE) as before:
                    # Before the record: a trial that counts must have all that its way back needs.
                    copy_generation(live, before)
            room.write_text(RECORD, self._trial.to_text())

    def _is_published(self, trial: Trial) -> bool:
        with suppress(PinNotFoundError), self._root.child(self._name) as live:
            record = read_trial(live)
            return record is not None and record.token == trial.token
        return False
