"""Where a set was loaded: whether that device is still there, and how to load it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

from bpfpin.attach import interface
from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.errors import BpfError, NamespaceNotFoundError
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.manifest import AttachPoint, HookRecord, Manifest
from bpfpin.pins.pinset import all_sets
from bpfpin.spec import Hook
from bpfpin.syscall import netns as namespaces

_VERB: Final = re.compile(r"\bbpfpin (load|unload|clean|confirm)\b")


class DeviceState(Enum):
    """What has become of the device that a set was loaded on."""

    HERE = "it is there"
    GONE = "it is gone"
    ANOTHER = "it is gone, and another device has its name"
    UNKNOWN = "its network namespace is gone, or has no name here"


def is_cgroup(record: HookRecord) -> bool:
    """Whether a hook is one of the set's cgroup, and not of its device."""
    return any(hook.is_cgroup and hook.value == record.hook for hook in Hook)


def name_of(place: AttachPoint) -> str:
    """Return what a set is on, as it is told: `device lab0`, `cgroup /web`."""
    return f"device {place.device}" if place.device else f"cgroup {place.cgroup}"


def device_state(place: AttachPoint) -> DeviceState:
    """Look for the device in its network namespace, by ifindex and then by name.

    The cgroup of a set without a device is looked for by its path.
    """
    if not place.device:
        return DeviceState.HERE if _has_cgroup(place.cgroup) else DeviceState.GONE
    with suppress(BpfError), namespaces.enter(namespace_of(place)):
        there = interface.names()
        if place.ifindex in there:
            return DeviceState.HERE
        return DeviceState.ANOTHER if place.device in there.values() else DeviceState.GONE
    return DeviceState.UNKNOWN


def in_namespace(place: AttachPoint, line: str) -> str:
    """Return *line* so that it works on the devices of *place* when it is typed here."""
    if not place.netns:
        return line
    return f"nsenter --net={shlex.quote(str(namespaces.path_of(place.netns)))} {line}"


def load_line(path: Path, manifest: Manifest) -> str:
    """Return what to type to load the set in the directory *path* again."""
    place = manifest.place
    words = ["bpfpin", "load", manifest.object or "OBJ"]
    words += ["--dev", place.device] if place.device else []
    words += ["--cgroup", place.cgroup.lstrip("/") or "/"] if place.cgroup else []
    words += ["-n", place.netns] if place.netns else []
    if manifest.is_chosen:
        words += [f"--prog={record.program}:{record.hook}" for record in manifest.hooks]
    usual = names.cgroup_set_name(place.cgroup)
    if place.device:
        usual = names.set_name(place.device, place.netns or None)
    if path.name != usual:
        words += ["--name", names.display_name(path.name)]
    if path.parent != BPFFS:
        words += ["--pin-root", str(path.parent)]
    return shlex.join(words)


def at_root(line: str, root: Path) -> str:
    """Return what to type, with the pin root where it is not the usual one."""
    if root == BPFFS:
        return line
    return _VERB.sub(rf"bpfpin --pin-root {shlex.quote(str(root))} \1", line)


def namespace_of(place: AttachPoint) -> str | None:
    """Return the name that the device's namespace has now, None for this one."""
    if place.netns_inode == namespaces.inode():
        return None
    for name in filter(None, (place.netns, *namespaces.names())):
        with suppress(NamespaceNotFoundError):
            if namespaces.inode(name) == place.netns_inode:
                return name
    raise NamespaceNotFoundError(
        f"the network namespace of {place.device} is gone, or has no name here",
        hint=f"run it where {place.device} is: nsenter --net=…, or -n NAME",
    )


def _has_cgroup(path: str) -> bool:
    with suppress(BpfError):
        return (cgroup2_mount() / path.lstrip("/")).is_dir()
    return False


# Which pin set of ours a pin belongs to, told by its path.


def load_lines(pin_root: Path) -> Mapping[str, str]:
    """Return what to type to load each set of ours again, by its name; none without a bpffs."""
    with suppress(BpfError):
        sets = all_sets(pin_root)
        return {
            names.display_name(one.name): load_line(one.path, one.manifest)
            for one in sets
            if one.manifest
        }
    return {}
