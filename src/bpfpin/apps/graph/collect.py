"""Who shares what on this host, ours or not, asked of the kernel: the graph of all of it.

Devices and cgroups run programs, programs use maps, and pins and processes keep them.
"""

from __future__ import annotations

from pathlib import Path

from bpfpin.apps.graph import objects as kernel_objects
from bpfpin.apps.graph.cgroups import CgroupWalk
from bpfpin.apps.graph.draft import Draft
from bpfpin.apps.graph.holders import all_holders
from bpfpin.apps.graph.model import Graph
from bpfpin.apps.graph.objects import Objects
from bpfpin.apps.graph.pins import all_pins
from bpfpin.apps.graph.places import Attachment, DeviceWalk
from bpfpin.apps.graph.sets import set_names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.uapi import ProgramType


def graph(*, pin_root: Path = BPFFS) -> Graph:
    """Return who shares what, for everything on the host; changes nothing.

    Seen from the current network namespace: its devices go by their name, those of another one by
    `NAMESPACE@NAME`. Sets are those below *pin_root*, pins are found in every mounted bpffs.
    Without CAP_SYS_ADMIN the graph has what this user may see, and notes on the rest.
    """
    is_privileged = kernel_objects.may_walk()
    pins = all_pins(pin_root, with_infos=not is_privileged)
    objects = kernel_objects.all_objects() if is_privileged else kernel_objects.pinned_objects(pins)
    draft = Draft(objects)
    draft.add_attachments(_attachments(objects))
    draft.add_contents(kernel_objects.contents(objects))
    draft.add_pins(pins.pins, set_names(pin_root, objects.notes))
    _add_holders(draft, objects)
    objects.notes += pins.notes
    return draft.graph()


def _attachments(objects: Objects) -> list[Attachment]:
    types: set[int] = set(ProgramType)
    if objects.is_complete:
        types = {info.type for info in objects.programs.values()}
    links = list(objects.links.values())
    devices, cgroups = DeviceWalk(links, types), CgroupWalk(links, types)
    found = [*devices.attachments(), *cgroups.attachments()]
    objects.notes += [*devices.notes, *cgroups.notes]
    return found


def _add_holders(draft: Draft, objects: Objects) -> None:
    holders = all_holders()
    draft.add_holders(holders.processes)
    if holders.hidden:
        objects.notes.append(f"{holders.hidden} processes of other users were not looked into")
    if holders.is_cut:
        objects.notes.append("this host has too many open files to look at all; some holders lack")
