"""What one load is asked to do: the object, where it goes, and the choices of the user."""

from __future__ import annotations

import grp
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, Final, TypedDict

from bpfpin.attach import interface
from bpfpin.attach.cgroup_path import cgroup2_mount, open_cgroup
from bpfpin.attach.order import Order
from bpfpin.errors import CgroupNotFoundError, UsageError
from bpfpin.migration.request import Migration
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.manifest import Access, Place
from bpfpin.pins.pinset import PinSet, all_sets
from bpfpin.pins.plan import ALL
from bpfpin.sets.choose import Choice, Places, programs_to_load
from bpfpin.sets.find import is_set_at, sets_at
from bpfpin.sets.given_maps import Given, Shared
from bpfpin.sets.variables import Settings
from bpfpin.spec import Hook, ObjectSpec, XdpMode, choice_of
from bpfpin.syscall import fs
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.fd import Closing

READABLE_BY_GROUP = 0o640
GROUP_MAX = (1 << 32) - 2


class LoadOptions(TypedDict, total=False):
    """The options of `deploy`, which are those of `bpfpin load`; all may be left out.

    *programs* (`NAME` or `NAME:HOOK`) chooses programs; *hook* and *program_type* say what a
    section does not; *mode* is that of XDP, *order* says where among the programs of a hook of tcx
    or netkit it goes. The set is called *name*, or after its device and
    *netns*, below *pin_root*; *private_mount* allows a bpffs that only this process's mount
    namespace sees, and that ends with it. *lock_timeout_s* is how long to wait for another command.

    *fresh* names maps that start empty on a reload (`all`: every one), *maps* those to be used from
    elsewhere by name: a pin's path, `id:N`, or a `Map`, which stays the caller's. *replace* allows
    an object that has nothing in common with the set, or another device; *take_over* puts the
    program in the place of somebody else's. *variables* gives global variables of the object their
    first values, by name; a text is read as after `--set`. A `.data` or `.bss` that is kept goes on
    with its values, so that setting a variable there is `UsageError`. *pinning* says by name how
    maps are pinned, `none` or `by-name`, whatever the object asks for.

    *migrate* lets the contents of maps whose definition changed go over to new ones, exactly and
    while packets keep coming: `True`, or a `Migration` that says what becomes of members.

    *group* and *chmod* (a mode such as 0o640 or "0640") let others open the maps, from now on.
    *dry_run* has the programs verified and changes nothing; *max_map_memory* is in bytes (a quarter
    of the memory). *kernel_btf* is a file with the types that CO-RE takes for the kernel's.

    Choices may be typed as after the options of the command: `mode="native"`, `hook="tcx-egress"`,
    `order="first"`; a path may be a text, and one name stand for a list of one. What is none of the
    choices is `UsageError`, a `ValueError` that lists them.

    *confirm_s* takes the load back by itself after so many seconds, unless `bpfpin confirm` came.
    Without it a program that would cut the default route or one's ssh session is refused, unless
    *force* says that it is meant.
    """

    programs: str | Sequence[str]
    hook: Hook | str | None
    program_type: str | None
    mode: XdpMode | str
    order: Order | str | None
    name: str | None
    netns: str | None
    pin_root: str | Path
    private_mount: bool
    lock_timeout_s: float
    maps: Mapping[str, Given]
    pinning: Mapping[str, str]
    fresh: str | Collection[str]
    variables: Mapping[str, Any]
    migrate: bool | Migration
    replace: bool
    take_over: bool
    group: str | int | None
    chmod: int | str | None
    dry_run: bool
    confirm_s: int | None
    force: bool
    max_map_memory: int | None
    kernel_btf: str | Path | None


def taken(options: LoadOptions) -> Mapping[str, Any]:
    """Return the options with enumerations, numbers and paths for what was given as text."""
    found: dict[str, Any] = {**options}
    _require_known(found)
    if "mode" in found:
        found["mode"] = choice_of(XdpMode, found["mode"], what="XDP mode")
    if found.get("hook") is not None:
        found["hook"] = choice_of(Hook, found["hook"], what="hook")
    if isinstance(order := found.get("order"), str):
        found["order"] = parse_order(order)
    if isinstance(mode := found.get("chmod"), str):
        found["chmod"] = parse_mode(mode)
    if "pin_root" in found:
        found["pin_root"] = Path(found["pin_root"]).absolute()
    if isinstance(programs := found.get("programs"), str):
        found["programs"] = (programs,)
    if isinstance(fresh := found.get("fresh"), str):
        found["fresh"] = (fresh,)
    return found


_SWITCHES: Final = ("private_mount", "replace", "take_over", "dry_run", "force")


def _require_known(options: Mapping[str, Any]) -> None:
    """Raise for a name or value that would be passed over, and something else done than was asked.

    `dryrun=True` would load, and the text "no" is true.
    """
    known = LoadOptions.__annotations__
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise TypeError(
                f"deploy has no option {name!r}; "
                + (f"near it: {near[0]}" if near else f"there are: {', '.join(known)}")
            )
    for name in _SWITCHES:
        if isinstance(options.get(name), str):
            raise TypeError(f"{name} is True or False, not {options[name]!r}")
    timeout_s = options.get("lock_timeout_s", 0)
    if isinstance(timeout_s, str) or not timeout_s >= 0:  # not a number is not >= 0
        raise UsageError(f"lock_timeout_s is a number of seconds from 0, not {timeout_s!r}")


def parse_mode(text: str) -> int:
    """Return a mode as `chmod` takes it, `0640` or `640`; `UsageError` for any other text."""
    digits = text.removeprefix("0o")
    if not 3 <= len(digits) <= 4 or set(digits) - set("01234567"):
        raise UsageError(f"{text!r} is no mode; say it as chmod takes it: 0640")
    return int(digits, 8)


@dataclass(frozen=True)
class Loading(Closing):
    """What is to be loaded where; *path* is the set's directory.

    *shared* are maps from outside of the set, *fresh* those that start empty, *settings* the
    variables that were set, as they are in the spec already. *beside* are the sets as they are that
    the same command changes as well. *replaces* allows an
    unrelated object or another place, *takes_over* the hook of somebody else. *access* is None
    where it stays as it is; *is_chosen* says that programs or hooks were named.
    """

    spec: ObjectSpec
    chosen: tuple[Choice, ...]
    mode: XdpMode
    place: Place
    path: Path
    max_map_memory: int
    shared: Mapping[str, Shared] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    migration: Migration | None = None
    settings: Settings = field(default_factory=Settings)
    replaces: bool = False
    takes_over: bool = False
    access: Access | None = None
    order: Order | None = None
    confirm_s: int | None = None
    is_forced: bool = False
    is_dry_run: bool = False
    is_chosen: bool = False
    beside: tuple[PinSet, ...] = ()

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def shown_name(self) -> str:
        """The set as its user types it."""
        return names.display_name(self.name)

    @property
    def programs(self) -> list[str]:
        """The programs that are loaded: those chosen, and what their tail calls may reach."""
        return programs_to_load(self.spec, self.chosen)

    @property
    def beside_programs(self) -> dict[str, Path]:
        """The pins of those programs of the other sets that end with this command.

        That is all but those at hooks which the object does not go to.
        """
        hooks = {choice.hook.value for choice in self.chosen}
        found: dict[str, Path] = {}
        for other in self.beside:
            records = other.manifest.hooks if other.manifest else ()
            stays = {record.program for record in records if record.hook not in hooks}
            found |= {str(pin): pin for name, pin in other.programs.items() if name not in stays}
        return found

    @property
    def places(self) -> Places:
        """Which kinds of place were named."""
        return Places(bool(self.place.device), bool(self.place.cgroup))

    @property
    def cgroup_path(self) -> Path:
        """The folder of the cgroup."""
        return cgroup2_mount() / self.place.cgroup.lstrip("/")

    def place_of(self, hook: str) -> str:
        """Return where *hook* is, as it is told: `lab0`, or `cgroup /web`."""
        return f"cgroup {self.place.cgroup}" if Hook(hook).is_cgroup else self.place.device

    def map_path(self, name: str) -> Path:
        """Return where map *name* is pinned."""
        return self.path / names.map_pin_name(name)

    def close(self) -> None:
        """Close the maps from outside that it holds."""
        for shared in self.shared.values():
            if shared.held is not None:
                shared.held.close()


def check_fresh(spec: ObjectSpec, fresh: frozenset[str], shared: Mapping[str, Shared]) -> None:
    """Raise `UsageError` for maps that the object lacks, or that the user named elsewhere."""
    unknown = fresh - {ALL} - set(spec.maps)
    if unknown:
        there = ", ".join(spec.maps) or "none"
        raise UsageError(
            f"--fresh names no map of the object: {', '.join(sorted(unknown))}; it has: {there}"
        )
    for name in sorted(fresh & set(shared)):
        is_there = shared[name].held is not None and not shared[name].is_new
        if is_there and not shared[name].is_exchangeable:
            raise UsageError(
                f"map {name} is that of {shared[name].source}, which others may use: it cannot"
                " start empty here",
                hint=f"unpin it on purpose first: rm {shared[name].path or shared[name].source}",
            )


def migration_of(asked: bool | Migration) -> Migration | None:
    """Return what is to become of the members of maps that changed, None to refuse those."""
    if isinstance(asked, Migration):
        return asked
    return Migration() if asked else None


def access_of(group: str | int | None, mode: int | None) -> Access | None:
    """Return who is to open the maps; a group reads them unless *mode* says more or less."""
    if group is None and mode is None:
        return None
    if mode is not None and mode & ~0o666:
        raise UsageError(
            f"--chmod {mode:04o}: a map is read and written, nothing else (0640)",
            hint="in Python: 0o640, or '0640'",
        )
    default = 0o600 if group is None else READABLE_BY_GROUP
    return Access(_gid(group), default if mode is None else mode | 0o600)


def parse_order(word: str) -> Order:
    """Return where `first`, `last`, `before:ID` or `after:ID` puts a program among the others."""
    side, colon, number = word.partition(":")
    plain = {"first": Order.first, "last": Order.last}
    beside = {"before": Order.before, "after": Order.after}
    if side in plain and not colon:
        return plain[side]()
    if side in beside and number.isdecimal():
        return beside[side](int(number))
    raise UsageError(f"{word!r} is no order; there are: first, last, before:ID, after:ID")


def _gid(group: str | int | None) -> int | None:
    if group is None:
        return None
    try:
        gid = int(group) if str(group).isdecimal() else grp.getgrnam(str(group)).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"there is no group {group!r}", hint="getent group") from None
    if gid > GROUP_MAX:
        raise UsageError(f"group {gid} is beyond the last one, {GROUP_MAX}")
    return gid


# Where a load goes: the device and the cgroup that were named, and the set that is theirs.


def place_of(device: str | None, cgroup: str | Path | None, *, netns: str | None) -> Place:
    """Return the place of *device* in the current namespace, of *cgroup*, or of both.

    `InterfaceNotFoundError` and `CgroupNotFoundError` for what is not there, `UsageError` if
    neither was named.
    """
    if not device and not cgroup:
        raise UsageError(
            "where to load it? No device was named, nor a cgroup",
            hint="--dev DEV, or --cgroup PATH",
        )
    path = cgroup_path(cgroup) if cgroup else ""
    if not device:
        return Place(cgroup=path)
    return Place(
        netns_inode=namespaces.inode(),
        netns=netns or "",
        ifindex=interface.ifindex(device),
        device=device,
        cgroup=path,
    )


def cgroup_path(cgroup: str | Path) -> str:
    """Return the path of a cgroup below the cgroup2 mount, `/` for the mount itself.

    *cgroup* is a folder, or such a path, as cgroups are told by it.
    """
    with open_cgroup(_folder(cgroup)) as opened:
        folder = Path(os.readlink(f"/proc/self/fd/{opened.fileno()}"))  # noqa: PTH115 - no file's path
    # The hierarchy may be mounted several times, and each time at another cgroup of it.
    for mount in reversed(fs.mounts()):
        if mount.fs_type == "cgroup2" and folder.is_relative_to(mount.mount_point):
            return str(PurePath(mount.root, folder.relative_to(mount.mount_point)))
    raise CgroupNotFoundError(f"{folder} is below no mount of cgroup2 that is seen here")


def _folder(cgroup: str | Path) -> Path:
    """Return the folder that is meant: one that is there, or the one below the mount."""
    path = Path(cgroup)
    is_told = path.is_absolute() and (path == Path("/") or not path.exists())
    below = cgroup2_mount() / str(path).lstrip("/") if is_told else path
    return below if is_told and below.is_dir() else path


def set_name_for(place: Place, pin_root: Path) -> str:
    """Return the directory of the set that the place has already, or would get.

    `UsageError` with the list if it has several.
    """
    usual = _usual_name(place)
    is_mounted = bpffs.inspect(pin_root) is RootState.MOUNTED
    if not is_mounted or is_set_at(place, pin_root / usual):
        return usual
    there = [found.name for found in sets_at(place, all_sets(pin_root))]
    if not there:
        return usual
    if len(there) > 1:
        shown = ", ".join(map(names.display_name, there))
        where = place.device or f"cgroup {place.cgroup}"
        raise UsageError(
            f"{where} has {len(there)} pin sets: {shown}", hint="name one: --name NAME"
        )
    return there[0]


def _usual_name(place: Place) -> str:
    if place.device:
        return names.set_name(place.device, place.netns or None)
    return names.cgroup_set_name(place.cgroup)
