"""The place of a set: whether its device still exists, and the line that loads the set again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePath

from bpfpin.attach import interface
from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.attach.registry import HookTarget
from bpfpin.errors import BpfError, NamespaceNotFoundError
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.hooks import TargetKind, known_hook
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.manifest import AttachPoint, HookRecord, Manifest
from bpfpin.pins.pinset import loaded_sets
from bpfpin.syscall import netns as namespaces


class DeviceState(Enum):
    """The state of the device that a set was loaded on."""

    HERE = "it is there"
    GONE = "it is gone"
    ANOTHER = "it is gone, and another device has its name"
    UNKNOWN = "its network namespace is gone, or has no name here"


def target_kinds(place: AttachPoint) -> frozenset[TargetKind]:
    """Return the kinds of target that *place* names."""
    named = {TargetKind.DEVICE: place.device, TargetKind.CGROUP: place.cgroup}
    return frozenset(kind for kind, name in named.items() if name)


def target_name(place: AttachPoint, hook: str, target: str = "") -> str:
    """Return the target of *hook* as it is shown: `lab0`, `cgroup /web`, `function do_exit`.

    *target* is what the program names. A hook that only a later version knows is shown at the
    device.
    """
    known = known_hook(hook)
    kind = known.traits.target if known else TargetKind.DEVICE
    if kind.is_named:
        return f"{kind.value} {target}"
    function = f"{target} of " if target else ""
    shown = {
        TargetKind.DEVICE: place.device,
        TargetKind.CGROUP: f"{function}cgroup {place.cgroup}",
        TargetKind.NETWORK_NAMESPACE: f"network namespace {place.netns or place.netns_inode}",
    }
    return shown.get(kind, "this host")


def hook_target(
    place: AttachPoint, name: str = "", maps: Mapping[str, Map] | None = None
) -> HookTarget:
    """Return what programs are attached to at *place*, for use in its network namespace.

    *name* is the target that the program names, if it does; *maps* are those of its object.
    """
    # Without the slash, or `/` of pathlib would drop the mount point.
    cgroup = cgroup2_mount() / place.cgroup.lstrip("/") if place.cgroup else None
    return HookTarget(place.ifindex, cgroup, name, maps or {})


def name_of(place: AttachPoint) -> str:
    """Return the place of a set in words: `device lab0`, `cgroup /web`."""
    if place.device:
        return f"device {place.device}"
    return f"cgroup {place.cgroup}" if place.cgroup else "this host"


def device_state(place: AttachPoint) -> DeviceState:
    """Look for the device in its network namespace, by ifindex and then by name.

    The cgroup of a set without a device is looked for by its path. A set with neither is here.
    """
    if not place.device:
        is_here = not place.cgroup or _has_cgroup(place.cgroup)
        return DeviceState.HERE if is_here else DeviceState.GONE
    # A namespace that cannot be entered gives UNKNOWN: it may still exist, and the set may run in
    # it.
    with suppress(BpfError), namespaces.enter(namespace_of(place)):
        devices = interface.names()
        # A renamed device keeps its ifindex; a device made anew under the old name has another one.
        if place.ifindex in devices:
            return DeviceState.HERE
        return DeviceState.ANOTHER if place.device in devices.values() else DeviceState.GONE
    return DeviceState.UNKNOWN


def in_namespace(place: AttachPoint, line: str) -> str:
    """Return *line* so that it works on the devices of *place* when it is typed here."""
    import shlex  # noqa: PLC0415  (only for hints)

    if not place.netns:
        return line
    # Not `ip netns exec`: it mounts another /sys, without the bpffs below it.
    # One word: without `=` nsenter(1) takes what follows for the command.
    return f"nsenter {shlex.quote(f'--net={namespaces.path_of(place.netns)}')} {line}"


def load_line(path: Path, manifest: Manifest) -> str:
    """Return the line that loads the set in directory *path* again."""
    import shlex  # noqa: PLC0415  (only for hints)

    place = manifest.place
    words = ["bpfpin", "load", manifest.object or "OBJ"]
    words += ["--dev", place.device] if place.device else []
    words += ["--cgroup", place.cgroup.lstrip("/") or "/"] if place.cgroup else []
    words += ["-n", place.netns] if place.netns else []
    # Programs that the sections of the object chose are chosen again by themselves.
    if manifest.is_chosen:
        words += [f"--prog={program_word(record)}" for record in manifest.hooks]
    if path.name != usual_name(place, manifest.object):
        words += ["--name", names.display_name(path.name)]
    if path.parent != BPFFS:
        words += ["--pin-root", str(path.parent)]
    return shlex.join(words)


def program_word(record: HookRecord) -> str:
    """Return a program, its hook and its target as `--prog` takes them."""
    return f"{record.program}:{record.hook}{f'={record.target}' if record.target else ''}"


def usual_name(place: AttachPoint, source: str) -> str:
    """Return the name of the set of a place: its device, its cgroup, else the object's file.

    "" if there is none of these, for an object that was read from bytes.
    """
    if place.device:
        return names.set_name(place.device, place.netns or None)
    if place.cgroup:
        return names.cgroup_set_name(place.cgroup)
    # `opensnoop.bpf.o` and `builtin:opensnoop` are both the set `opensnoop`.
    stem = PurePath(source.rpartition(":")[2]).name.partition(".")[0]
    return names.encode(stem) if stem else ""


def command_line(verb: str, *operands: str, root: Path) -> str:
    """Return a line of the command; it names the pin root where that is not the default."""
    first = "bpfpin" if root == BPFFS else shell_line("bpfpin", pin_root=root)
    return shell_line(f"{first} {verb}", *operands)


def namespace_of(place: AttachPoint) -> str | None:
    """Return the name that the device's namespace has now, None for the current namespace."""
    # Inode numbers identify namespaces. A name is only a mount of one in /run/netns, and can be
    # made anew for another.
    if place.netns_inode == namespaces.inode():
        return None
    for name in filter(None, (place.netns, *namespaces.names())):
        with suppress(NamespaceNotFoundError):
            # The name may have been removed, or given to another namespace since.
            if namespaces.inode(name) == place.netns_inode:
                return name
    raise NamespaceNotFoundError(
        f"the network namespace of {place.device} is gone, or has no name here",
        hint=Fix.of(
            f"run it where {place.device} is: nsenter --net=…, or ",
            Argument("netns", Placeholder("NAME")),
        ),
    )


def _has_cgroup(path: str) -> bool:
    with suppress(BpfError):
        return (cgroup2_mount() / path.lstrip("/")).is_dir()
    return False


def load_lines(pin_root: Path) -> Mapping[str, str]:
    """Return the line that loads each set again, by its name; none without a bpffs."""
    with suppress(BpfError):
        return {
            names.display_name(pin_set.name): load_line(pin_set.path, pin_set.manifest)
            for pin_set in loaded_sets(pin_root)
        }
    return {}
