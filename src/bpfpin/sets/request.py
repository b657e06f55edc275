"""The request of one load: the object, its place, and the choices of the user."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, Self

from bpfpin.attach import interface
from bpfpin.attach.cgroup_path import cgroup2_mount, open_cgroup
from bpfpin.choices import choice_of
from bpfpin.errors import BusyError, CgroupNotFoundError, UsageError
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.objects.maps.create import map_memory_limit
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.manifest import Access, AttachPoint
from bpfpin.pins.pinset import LoadedSet
from bpfpin.pins.plan import ALL
from bpfpin.records import dataclass
from bpfpin.sets.choose import Choice, TargetKinds, check_options, choose, programs_to_load
from bpfpin.sets.find import is_set_at, names_at
from bpfpin.sets.given_maps import Given, Shared, with_pinnings
from bpfpin.sets.place import target_kinds, target_name, usual_name
from bpfpin.sets.variables import Settings, with_variables
from bpfpin.spec import Hook, ObjectSpec, XdpMode
from bpfpin.syscall import fs
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.fd import Closing

if TYPE_CHECKING:
    from bpfpin.attach.order import Order
    from bpfpin.migration.request import Migration
    from bpfpin.objects.programs.program import Program

READABLE_BY_GROUP = 0o640
# -1 stands for "leave it" in chown(2).
GROUP_MAX = (1 << 32) - 2


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of `deploy`, with enumerations, numbers and paths in place of text.

    *origin* is the command that loads, if it is to be recorded in the manifest (`APPLY`).
    """

    programs: tuple[str, ...]
    hook: Hook | None
    program_type: str | None
    mode: XdpMode
    order: Order | None
    name: str | None
    netns: str | None
    pin_root: Path
    private_mount: bool
    lock_timeout_s: float
    maps: Mapping[str, Given]
    pinning: Mapping[str, str]
    fresh: frozenset[str]
    variables: Mapping[str, Any]
    migrate: Migration | None
    replace: bool
    stub: bool
    take_over: bool
    access: Access | None
    dry_run: bool
    confirm_s: int | None
    force: bool
    max_map_memory: int | None
    kernel_btf: str | Path | None
    origin: str = ""

    @classmethod
    def parse(
        cls,
        *,
        programs: str | Sequence[str],
        hook: Hook | str | None,
        mode: XdpMode | str,
        order: Order | str | None,
        pin_root: str | Path,
        fresh: str | Collection[str],
        migrate: bool | Migration,
        group: str | int | None,
        chmod: int | str | None,
        **others: Any,
    ) -> Self:
        """Parse the parameters of `deploy`; `UsageError` or `TypeError` for a wrong value."""
        _require_values(others)
        return cls(
            programs=(programs,) if isinstance(programs, str) else tuple(programs),
            hook=None if hook is None else choice_of(Hook, hook, what="hook"),
            mode=choice_of(XdpMode, mode, what="XDP mode"),
            order=parse_order(order) if isinstance(order, str) else order,
            pin_root=Path(pin_root).absolute(),
            fresh=frozenset((fresh,) if isinstance(fresh, str) else fresh),
            migrate=_migration_of(migrate),
            access=_access_of(group, parse_mode(chmod) if isinstance(chmod, str) else chmod),
            **others,
        )


def _migration_of(asked: bool | Migration) -> Migration | None:
    """Return the rules for maps whose definition changed, None to refuse such maps."""
    if not asked:
        return None
    from bpfpin.migration.request import Migration  # noqa: PLC0415 - most loads migrate nothing

    return asked if isinstance(asked, Migration) else Migration()


_SWITCHES: Final = ("private_mount", "replace", "stub", "take_over", "dry_run", "force")


def _require_values(options: Mapping[str, Any]) -> None:
    """Raise for values with which something else would be done than was asked.

    The text "no" is true, and with a timeout that is not a number no comparison holds.
    """
    for name in _SWITCHES:
        if isinstance(options[name], str):
            raise TypeError(f"{name} is True or False, not {options[name]!r}")
    timeout_s = options["lock_timeout_s"]
    if isinstance(timeout_s, str) or not timeout_s >= 0:  # NaN is not >= 0
        raise UsageError(f"lock_timeout_s is a number of seconds from 0, not {timeout_s!r}")


def parse_mode(text: str) -> int:
    """Return a mode as `chmod` takes it, `0640` or `640`; `UsageError` for any other text."""
    digits = text.removeprefix("0o")
    if not 3 <= len(digits) <= 4 or set(digits) - set("01234567"):
        raise UsageError(f"{text!r} is not a mode: write it as for chmod (0640)")
    return int(digits, 8)


@dataclass(frozen=True)
class LoadRequest(Closing):
    """The load of one set; *path* is the set's directory.

    *shared* are maps from outside of the set, *fresh* the names of those that start empty,
    *settings* the variables that were set, which the spec has already. *beside* are the live sets
    that the same command changes as well. *replaces* allows an unrelated object or another place,
    *takes_over* the hook of another owner. *without_stub* attaches programs themselves, also where
    a link cannot change its program. *access* is None to leave it as it is; *is_chosen* says
    that programs or hooks were named, *origin* which command is to be recorded in the manifest.
    """

    spec: ObjectSpec
    chosen: tuple[Choice, ...]
    mode: XdpMode
    place: AttachPoint
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
    origin: str = ""
    without_stub: bool = False
    beside: tuple[LoadedSet, ...] = ()

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
        """The programs that are loaded: the chosen programs, and those that they may tail-call."""
        return programs_to_load(self.spec, self.chosen)

    def open_beside_programs(self) -> Iterator[Program]:
        """Open the programs of other sets that this command replaces; the caller closes them.

        Programs at hooks that the object does not go to stay.
        """
        hooks = {choice.hook.value for choice in self.chosen}
        for other in self.beside:
            stays = {record.program for record in other.hooks if record.hook not in hooks}
            for name in other.program_names:
                if name not in stays and (program := other.open_program(name)):
                    yield program

    @property
    def targets(self) -> TargetKinds:
        """The kinds of target that were named."""
        return target_kinds(self.place)

    def place_of(self, hook: str, target: str = "") -> str:
        """Return the target of *hook* as it is shown: `lab0`, `cgroup /web`, `function do_exit`."""
        return target_name(self.place, hook, target)

    @property
    def unload_line(self) -> str:
        """The line that detaches the set and keeps its maps for the next load."""
        return shell_line("bpfpin unload --keep-maps", self.shown_name)

    def map_path(self, name: str) -> Path:
        """Return the path of the pin of map *name*."""
        return self.path / names.map_pin_name(name)

    def close(self) -> None:
        """Close the maps from outside of the set."""
        for shared in self.shared.values():
            if shared.bpf_map is not None:
                shared.bpf_map.close()


def check_fresh(spec: ObjectSpec, fresh: frozenset[str], shared: Mapping[str, Shared]) -> None:
    """Raise `UsageError` for fresh maps that the object lacks, or that come from elsewhere."""
    unknown = fresh - {ALL} - set(spec.maps)
    if unknown:
        listed = ", ".join(spec.maps) or "none"
        raise UsageError(
            f"--fresh names no map of the object: {', '.join(sorted(unknown))}; it has: {listed}"
        )
    for name in sorted(fresh & set(shared)):
        exists = shared[name].bpf_map is not None and not shared[name].is_new
        if exists and not shared[name].is_exchangeable:
            remove = shell_line("rm", shared[name].path or shared[name].source)
            raise UsageError(
                f"map {name} is that of {shared[name].source}, which others may use: it cannot"
                " start empty here",
                hint=f"unpin it on purpose first: {remove}",
            )


def _access_of(group: str | int | None, mode: int | None) -> Access | None:
    """Return the access to the maps; a group may read them unless *mode* says otherwise."""
    if group is None and mode is None:
        return None
    if mode is not None and mode & ~0o666:
        raise UsageError(
            f"mode {mode:04o} cannot be that of a map: a map is only read and written",
            hint=Fix.of("for example: ", Argument("chmod", "0640")),
        )
    default = 0o600 if group is None else READABLE_BY_GROUP
    # The owner keeps both rights: without them the tool could not open its own pins.
    return Access(_gid(group), default if mode is None else mode | 0o600)


def parse_order(word: str) -> Order:
    """Parse `first`, `last`, `before:ID` or `after:ID`; `UsageError` for any other text."""
    from bpfpin.attach.order import Order  # noqa: PLC0415  (few loads ask for an order)

    side, colon, number = word.partition(":")
    plain = {"first": Order.first, "last": Order.last}
    beside = {"before": Order.before, "after": Order.after}
    if side in plain and not colon:
        return plain[side]()
    if side in beside and number.isdecimal():
        return beside[side](int(number))
    raise UsageError(f"{word!r} is not an order: first, last, before:ID, after:ID")


def _gid(group: str | int | None) -> int | None:
    if group is None:
        return None
    import grp  # noqa: PLC0415  (only for a named group)

    try:
        gid = int(group) if str(group).isdecimal() else grp.getgrnam(str(group)).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"there is no group {group!r}", hint="getent group") from None
    if gid > GROUP_MAX:
        raise UsageError(f"group {gid} is beyond the last one, {GROUP_MAX}")
    return gid


def place_of(device: str | None, cgroup: str | Path | None, *, netns: str | None) -> AttachPoint:
    """Return the place of *device* in the current namespace, of *cgroup*, of both or of neither.

    Raises `InterfaceNotFoundError` or `CgroupNotFoundError`.
    """
    path = cgroup_path(cgroup) if cgroup else ""
    if path and not device:
        return AttachPoint(cgroup=path)
    if not device:  # for the hooks of a network namespace
        return AttachPoint(netns_inode=namespaces.inode(), netns=netns or "")
    return AttachPoint(
        netns_inode=namespaces.inode(),
        netns=netns or "",
        ifindex=interface.ifindex(device),
        device=device,
        cgroup=path,
    )


def cgroup_path(cgroup: str | Path) -> str:
    """Return the path of a cgroup below the cgroup2 mount, `/` for the mount itself.

    *cgroup* is the path of a folder, or already such a path.
    """
    # Through a descriptor: the kernel resolves symlinks and `..` once, and gives out the path that
    # it means.
    with open_cgroup(_folder(cgroup)) as opened:
        folder = Path(os.readlink(f"/proc/self/fd/{opened.fileno()}"))  # noqa: PTH115 - no file's path
    # The hierarchy may be mounted several times, and each time at another cgroup of it.
    for mount in reversed(fs.mounts()):
        if mount.fs_type == "cgroup2" and folder.is_relative_to(mount.mount_point):
            # Relative to the root of the hierarchy, so that the manifest means the same cgroup
            # under any mount.
            return str(PurePath(mount.root, folder.relative_to(mount.mount_point)))
    raise CgroupNotFoundError(f"{folder} is not below a mount of cgroup2 that can be seen here")


def _folder(cgroup: str | Path) -> Path:
    """Return the folder of *cgroup*: an existing folder, or the path below the mount."""
    path = Path(cgroup)
    # `/` is the root of the hierarchy, as `/proc/PID/cgroup` writes it, and never the root
    # directory.
    is_below_mount = path.is_absolute() and (path == Path("/") or not path.exists())
    below = cgroup2_mount() / str(path).lstrip("/") if is_below_mount else path
    return below if is_below_mount and below.is_dir() else path


def _set_name_for(place: AttachPoint, usual: str, pin_root: Path) -> str:
    """Return the name of the set that *place* has already, or *usual*.

    `UsageError` with the list if it has several.
    """
    if not place.device and not place.cgroup:
        return usual
    is_mounted = bpffs.inspect(pin_root) is RootState.MOUNTED
    # The usual case reads one manifest. Only a set with a name of its own makes it necessary to
    # read all: of 1,000 sets that takes a moment, where reading their pins would take seconds.
    if not is_mounted or is_set_at(place, pin_root / usual):
        return usual
    set_names = names_at(place, pin_root)
    if not set_names:
        return usual
    if len(set_names) > 1:
        shown = ", ".join(map(names.display_name, set_names))
        where = place.device or f"cgroup {place.cgroup}"
        raise UsageError(
            f"{where} has {len(set_names)} pin sets: {shown}",
            hint=Fix.of("name one: ", Argument("name", Placeholder("NAME"))),
        )
    return set_names[0]


def _require_plain_name(name: str, path: Path) -> None:
    """Raise `UsageError` for a new set whose name other commands would take for a map or a path."""
    from bpfpin.map.open import is_map_name  # noqa: PLC0415 - few sets have a name of their own
    from bpfpin.objects.kernel.info import ID, NAME  # noqa: PLC0415

    # Sets that have such a name already can still be reloaded.
    if not os.path.lexists(path) and (is_map_name(name) or name in {".", ".."}):
        what = "a map" if name.startswith((ID, NAME)) else "a path"
        raise UsageError(
            f"a set cannot be named {name!r}: other commands take that for {what}",
            hint=Fix.of("choose another name: ", Argument("name", Placeholder("NAME"))),
        )


SetTarget = tuple[str | None, str | Path | None]
"""The device and the cgroup of one set; one of them may be None."""


def requests_of(
    spec: ObjectSpec, targets: Iterable[SetTarget], options: LoadOptions
) -> list[LoadRequest]:
    """Return a request for each target; `with_names` must follow.

    The current namespace is that of the devices.
    """
    # First: maps and programs that this kernel cannot have are not chosen, and need neither
    # pinnings nor variables.
    if spec.has_struct_ops:
        from bpfpin.objects.maps.struct_ops import without_unusable  # noqa: PLC0415 - few objects have tables

        spec = without_unusable(spec)
    requests = []
    for device, cgroup in targets:
        place = place_of(device, cgroup, netns=options.netns)
        words, hook = options.programs, options.hook
        choices = choose(spec, words=words, hook=hook, targets=target_kinds(place))
        chosen = tuple(each for choice in choices for each in _with_each_link(choice))
        requests.append(_request(spec, chosen, place, options))
    return requests


def _with_each_link(choice: Choice) -> Iterator[Choice]:
    """Yield the choice with each of its targets, where one target takes several links."""
    if not choice.hook.traits.has_several_links:
        yield choice
        return
    from bpfpin.attach.registry import code_of  # noqa: PLC0415 - few hooks have several links

    for target in code_of(choice.hook).targets(choice.hook, choice.target):
        yield dataclasses.replace(choice, target=target)


def with_names(targets: Iterable[LoadRequest], options: LoadOptions) -> list[LoadRequest]:
    """Return a request for each set, with the name of the set that its target has already.

    A device under two names is one set. A load that changes something holds the lock: without it
    another first load could make a set of another name for the target after this looked.

    Raises `UsageError` if a target has several sets, `BusyError` if two targets have one set
    between them.
    """
    requests: dict[Path, LoadRequest] = {}
    for target in targets:
        place, request = target.place, target
        if not options.name:
            path = options.pin_root / _set_name_for(place, target.name, options.pin_root)
            request = dataclasses.replace(target, path=path)
        # A second name of the same device (an altname) leads to the same set and is dropped.
        other = requests.setdefault(request.path, request).place
        if (other.ifindex, other.cgroup) != (place.ifindex, place.cgroup):
            where = [at.device or f"cgroup {at.cgroup}" for at in (other, place)]
            raise BusyError(
                f"{' and '.join(where)} have one set between them, {request.shown_name}",
                holder=request.shown_name,
                hint=Fix.of(
                    "load them one after the other, each with ",
                    Argument("name", Placeholder("NAME")),
                ),
            )
    return list(requests.values())


def _request(
    spec: ObjectSpec, chosen: tuple[Choice, ...], place: AttachPoint, options: LoadOptions
) -> LoadRequest:
    has_mode = options.mode is not XdpMode.AUTO
    check_options(chosen, has_order=options.order is not None, has_mode=has_mode)
    spec = with_pinnings(spec, options.pinning, options.maps)
    spec, settings = with_variables(spec, options.variables)
    for choice in chosen:  # the hook and its target may say for what a program is loaded
        attach_type = choice.program.expected_attach_type
        spec = spec.with_program(
            choice.program.name, expected_attach_type=attach_type, attach_to=choice.target
        )
    if options.name:
        name = names.encode(options.name)
        _require_plain_name(options.name, options.pin_root / name)
    else:
        name = usual_name(place, spec.path)
    if not name:
        raise UsageError(
            "the object was read from bytes, so the set has no name",
            hint=Fix.of("give one: ", Argument("name", Placeholder("NAME"))),
        )
    return LoadRequest(
        spec,
        chosen,
        options.mode,
        place,
        options.pin_root / name,
        options.max_map_memory or map_memory_limit(),
        fresh=options.fresh,
        migration=options.migrate,
        settings=settings,
        replaces=options.replace,
        takes_over=options.take_over,
        without_stub=not options.stub,
        order=options.order,
        confirm_s=options.confirm_s,
        is_forced=options.force,
        access=options.access,
        is_dry_run=options.dry_run,
        is_chosen=bool(options.programs or options.hook),
        origin=options.origin,
    )
