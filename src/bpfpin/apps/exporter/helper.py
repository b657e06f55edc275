"""The privileged half of the exporter: it opens maps and programs, and hands the descriptors over.

The process that is scraped asks once a scrape. The answer has the descriptors that it needs for
this scrape alone: it closes them at the end, so that the exporter keeps no map or program alive.
The look at the host takes longer, and is repeated only if something came or went, at most once a
second. What `bpfpin status` finds is looked for after an answer: when a set changed, and every 15
seconds or more, so that it takes at most 2 % of a CPU.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from bpfpin.apps.exporter import channel, fills
from bpfpin.apps.exporter.look import HostIds, HostLook
from bpfpin.apps.exporter.rules import MetricRule
from bpfpin.apps.exporter.view import HostView
from bpfpin.errors import BpfError
from bpfpin.map.generation import is_folding
from bpfpin.pins import names
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Closing, Descriptor
from bpfpin.uapi import ObjectFlag

LOOK_EVERY_S: Final = 15.0
LOOK_PAUSE_S: Final = 1.0
# Prometheus takes a series for gone after five minutes; nobody scrapes any more.
IDLE_S: Final = 300.0
_OPENED_MAX: Final = 4096


class Helper(Closing):
    """Answers the requests of one scraped process after the other."""

    def __init__(
        self, pin_root: Path, rules: Sequence[MetricRule], *, with_statistics: bool
    ) -> None:
        self._pin_root = pin_root
        self._look = HostLook(pin_root, rules)
        self._with_statistics = with_statistics
        self._statistics: Descriptor | None = None
        self._view = HostView([], [], [], [], [], {})
        self._text = self._view.to_json()
        self._version = 0
        self._objects: HostIds | None = None
        self._looked_whole_s = 0.0
        self._looked_at_s = -LOOK_EVERY_S
        self._look_took_s = self._whole_took_s = 0.0
        self.iterator = _iterator()

    def serve(self, connection: socket.socket) -> None:
        """Answer requests until the other side closes the connection."""
        connection.settimeout(None)
        sent = -1
        with suppress(ConnectionError):
            self._send_first(connection)
            while request := self._next_request(connection):
                sent = self._answer(connection, sent, is_fresh=request == channel.FRESH)
                # After the answer, so that no scrape waits for it.
                if self._look.is_behind or self._is_old():
                    self._refresh(is_whole=True)

    def close(self) -> None:
        """Close what is open."""
        for descriptor in (self._statistics, self.iterator):
            if descriptor is not None:
                descriptor.close()
        self._statistics = self.iterator = None

    def _send_first(self, connection: socket.socket) -> None:
        fds = [self.iterator.fileno()] if self.iterator else []
        channel.send(connection, {"iterator": bool(fds)}, fds)

    def _next_request(self, connection: socket.socket) -> bytes:
        while True:
            readable, _, _ = select.select([connection], [], [], IDLE_S)
            if readable:
                return connection.recv(1)
            self._stop_statistics()

    def _answer(self, connection: socket.socket, sent: int, *, is_fresh: bool) -> int:
        started_s = time.monotonic()
        self._start_statistics()
        if is_fresh or self._version == 0 or self._is_due(started_s):
            self._refresh(is_whole=self._version == 0)
        with ExitStack() as opened:
            maps = _opened(self._maps_to_read(), opened)
            # A counter map went away: after a reload another one goes on with its series, which
            # must not be missing until the next look.
            if any(row.id not in maps for row in self._view.counters):
                self._refresh(is_whole=False)
                maps |= _opened([i for i in self._maps_to_read() if i not in maps], opened)
            programs = _opened([row.id for row in self._view.programs], opened, is_program=True)
            message: dict[str, Any] = {
                "version": self._version,
                "maps": list(maps),
                "programs": list(programs),
                "folding": self._folding(),
                "age_s": round(time.monotonic() - self._looked_at_s, 3),
                "statistics": self._statistics is not None,
            }
            if sent != self._version:
                message["view"] = self._text
            channel.send(connection, message, [*maps.values(), *programs.values()])
        return self._version

    def _maps_to_read(self) -> list[int]:
        view = self._view
        wanted = [
            *(row.id for row in view.counters),
            *(row.id for row in view.rule_maps),
            *(row.id for row in view.maps if row.is_growing or row.is_ring),
        ]
        return list(dict.fromkeys(wanted))

    def _is_due(self, now_s: float) -> bool:
        """Whether something came or went; of objects in no set, some time after the last look."""
        if self._look.is_outdated():
            return True
        is_early = now_s - self._looked_at_s < max(LOOK_PAUSE_S, 5 * self._look_took_s)
        return not is_early and HostIds.now() != self._objects

    def _is_old(self) -> bool:
        age_s = time.monotonic() - self._looked_whole_s
        return age_s >= max(LOOK_EVERY_S, 50 * self._whole_took_s)

    def _refresh(self, *, is_whole: bool) -> None:
        started_s = time.monotonic()
        # Before the look: what comes meanwhile is a change for the next one.
        self._objects = HostIds.now()
        self._view = self._look.refresh(self._objects, is_whole=is_whole)
        text = self._view.to_json()
        if text != self._text or not self._version:
            self._text, self._version = text, self._version + 1
        self._looked_at_s = time.monotonic()
        took_s = self._looked_at_s - started_s
        if is_whole:
            self._looked_whole_s, self._whole_took_s = self._looked_at_s, took_s
        else:
            self._look_took_s = took_s

    def _folding(self) -> list[int]:
        """Return the ids of the counter maps whose entries are moved into another map now."""
        try:
            pins = os.listdir(self._pin_root)  # noqa: PTH208 - names, not paths
        except OSError:
            return []
        stages = {name for name in pins if name.endswith(names.STAGE_SUFFIX)}
        # Nearly always: no stage, nothing to ask.
        if not stages:
            return []
        shown = {names.display_name(name.removesuffix(names.STAGE_SUFFIX)): name for name in stages}
        folding = []
        for row in self._view.counters:
            stage = shown.get(row.set)
            if stage is not None:
                directory = self._pin_root / stage.removesuffix(names.STAGE_SUFFIX)
                if is_folding(directory / names.encode(row.name)):
                    folding.append(row.id)
        return folding

    def _start_statistics(self) -> None:
        if self._with_statistics and self._statistics is None:
            try:
                self._statistics = Descriptor(bpf.enable_stats())
            except BpfError:  # no right, or an older kernel: then programs have no runs
                self._with_statistics = False

    def _stop_statistics(self) -> None:
        if self._statistics is not None:
            self._statistics.close()
            self._statistics = None


def _iterator() -> Descriptor | None:
    """Make the iterator that counts entries; None if this kernel or user cannot.

    A child process does it, because it reads the BTF of the whole kernel: 20 MB that this process
    would keep.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            with suppress(BpfError), fills.make_link() as link:
                socket.send_fds(theirs, [b"i"], [link.fileno()])
                status = 0
        finally:
            os._exit(status)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(pid, 0)
    return Descriptor(fds[0]) if fds else None


def _opened(ids: Sequence[int], stack: ExitStack, *, is_program: bool = False) -> dict[int, int]:
    """Open objects by id; those that are gone, or that this user may not open, are left out."""
    fds: dict[int, int] = {}
    for object_id in ids[:_OPENED_MAX]:
        with suppress(BpfError):
            if is_program:
                fd = bpf.prog_get_fd_by_id(object_id)
            else:
                fd = bpf.map_get_fd_by_id(object_id, flags=ObjectFlag.RDONLY)
            stack.callback(os.close, fd)
            fds[object_id] = fd
    return fds
