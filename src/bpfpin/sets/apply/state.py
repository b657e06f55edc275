"""What is loaded now, as a state file that `apply` makes the same from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.errors import BpfError, PermissionDeniedError
from bpfpin.hooks import HeldBy, Hook, known_hook
from bpfpin.objects.kernel.info import ID
from bpfpin.objects.maps import compat
from bpfpin.objfile.reader import PREFIX, read_object
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import HookRecord
from bpfpin.pins.pinset import LoadedSet, SetState, all_sets
from bpfpin.pins.plan import is_constant
from bpfpin.pins.trial import read_trial
from bpfpin.records import dataclass
from bpfpin.sets.apply import toml
from bpfpin.sets.place import DeviceState, device_state, namespace_of, usual_name
from bpfpin.spec import ObjectSpec, Pinning
from bpfpin.version import __version__

_PINNING_WORDS: Final = {Pinning.NONE: "none", Pinning.BY_NAME: "by-name"}


@dataclass(frozen=True)
class StateOfSet:
    """A loaded set as a `[[set]]`, and what of it a state file cannot hold.

    Attributes:
        set: The name of the set.
        path: The directory of its pins.
        keys: The keys and values of the `[[set]]`; none for a set that no file can describe.
        problems: Why `apply` would not make the same set from it, a line each.
        maps: The maps that are the set's own, by name: not those of other sets.
    """

    set: str
    path: Path
    keys: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "set": self.set,
            "path": str(self.path),
            "keys": dict(self.keys),
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class LoadedState:
    """All pin sets that are loaded, in an order in which `apply` can load them.

    Attributes:
        pin_root: The directory of bpffs that holds them.
        sets: The sets.
    """

    pin_root: Path
    sets: tuple[StateOfSet, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What `apply` could not make the same, a line each."""
        return tuple(f"{each.set}: {text}" for each in self.sets for text in each.problems)

    def to_toml(self) -> str:
        """Return the text of the state file."""
        head = [f"# The pin sets below {self.pin_root}, written by bpfpin {__version__}."]
        head += [f"# {toml.value_text(problem)[1:-1]}" for problem in self.problems]
        tables = [each.keys for each in self.sets if each.keys]
        return "\n".join(["\n".join(head), "schema = 1", "", toml.tables_text("set", tables)])

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "pin_root": str(self.pin_root),
            "sets": [each.to_json() for each in self.sets],
            "problems": list(self.problems),
        }


def loaded_state(*, pin_root: str | Path = BPFFS) -> LoadedState:
    """Return what is loaded now, in the form of a state file.

    `apply` makes the same sets from it: the same objects, on the same devices and cgroups, with the
    same choices. Contents of maps are not part of it; `save_state` keeps them beside it.

    Args:
        pin_root: Directory of bpffs that holds the sets; `/sys/fs/bpf` by default.

    Returns:
        The sets, and the problems: objects that are gone or differ, and choices that are not known.

    Raises:
        NotBpffsError: *pin_root* is not in a bpffs.
        PermissionDeniedError: A set may not be read.

    Kernel: BPF_OBJ_GET, BPF_OBJ_GET_INFO_BY_FD.
    """
    root = Path(pin_root).absolute()
    sets = []
    owners: dict[int, str] = {}  # of each map so far, by id: SET/MAP
    # The oldest load first: a set that uses a map of another was loaded after that, and programs at
    # a hook that runs several are in the order of their loads.
    pin_sets = all_sets(root)
    for each in pin_sets:
        # A file without it would be taken for the whole state.
        if not each.is_readable:
            raise PermissionDeniedError(
                f"{each.path}: {each.reason}", target=str(each.path), errno=0
            )
    loaded = [each for each in pin_sets if isinstance(each, LoadedSet)]
    for live in sorted(loaded, key=_age):
        sets.append(_Describing(live, owners).described())
    return LoadedState(root, tuple(sets))


def _age(live: LoadedSet) -> tuple[int, int, str]:
    # Ids of programs only grow; several sets may be loaded in one second.
    ids = live.objects.programs.values() if live.objects else ()
    return live.manifest.time, min(ids, default=0), live.name


class _Describing:
    """Describes one set; *owners* are the maps of the sets before it, and it adds its own."""

    def __init__(self, live: LoadedSet, owners: dict[int, str]) -> None:
        self._live = live
        self._manifest = live.manifest
        self._owners = owners
        self._problems: list[str] = []
        self._own_maps: list[str] = []

    def described(self) -> StateOfSet:
        """Return the set as a `[[set]]`."""
        shown = names.display_name(self._live.name)
        keys: Mapping[str, Any] = {}
        if self._live.state is SetState.HALF_BUILT:
            self._problems.append(self._live.reason)
        if _is_on_trial(self._live):
            self._problems.append("it is on trial, and may go back to what was loaded before")
        if not self._manifest.hooks:
            self._problems.append("nothing of it is attached, only its maps are kept: left out")
        elif not self._manifest.object:
            self._problems.append("its object was read from bytes and has no file: left out")
        else:
            keys = self._keys()
        return StateOfSet(
            shown, self._live.path, keys, tuple(self._problems), tuple(self._own_maps)
        )

    def _keys(self) -> dict[str, Any]:
        manifest = self._manifest
        spec = self._object()
        keys: dict[str, Any] = {"object": manifest.object, "sha256": manifest.sha256}
        keys |= self._place()
        if self._live.name != usual_name(manifest.place, manifest.object):
            keys["name"] = names.display_name(self._live.name)
        if manifest.is_chosen:
            keys["programs"] = list(dict.fromkeys(map(_program_word, manifest.hooks)))
        modes = {record.asked_mode for record in manifest.hooks} - {"", "auto"}
        keys |= {"mode": modes.pop()} if modes else {}
        # A program with a gate has no stub, and was asked to be switched all the same.
        plain = [record for record in manifest.hooks if record.program not in manifest.gates]
        if any(map(_is_without_stub, plain)):
            keys["stub"] = False
        if (access := manifest.access) is not None:
            keys |= {"group": access.gid} if access.gid is not None else {}
            keys["chmod"] = f"{access.mode:04o}"
        if manifest.settings:
            keys["variables"] = {
                name: setting_value(spec, name, word) for name, word in manifest.settings.items()
            }
        elif manifest.variables:
            self._problems.append("the variables that were set are not recorded: set them again")
        maps = {name: wanted for name, wanted in self._maps(spec) if wanted}
        return keys | ({"maps": maps} if maps else {})

    def _object(self) -> ObjectSpec | None:
        """Read the object of the set, None if it is gone or another one."""
        path, sha256 = self._manifest.object, self._manifest.sha256
        if not path.startswith(("/", PREFIX)):
            self._problems.append(f"only the name of its object is recorded: {path}")
            return None
        try:
            spec = read_object(path)
        except BpfError as error:
            self._problems.append(f"its object {path} cannot be read: {error.message}")
            return None
        if spec.sha256 != sha256:
            self._problems.append(
                f"its object {path} differs: its SHA-256 is {spec.sha256} by now, and {sha256} is"
                " loaded"
            )
            return None
        return spec

    def _place(self) -> dict[str, str]:
        place = self._manifest.place
        keys: dict[str, str] = {}
        if place.device:
            keys["device"] = place.device
            state = device_state(place)
            if state is not DeviceState.HERE:
                self._problems.append(f"device {place.device}: {state.value}")
        if place.cgroup:
            keys["cgroup"] = place.cgroup
            with suppress(BpfError):
                # As a folder: `/web` alone could also be one of the root directory.
                keys["cgroup"] = str(cgroup2_mount() / place.cgroup.lstrip("/"))
        if place.netns_inode:
            try:
                name = namespace_of(place)
            except BpfError:
                name = place.netns or None
                self._problems.append("its network namespace has no name here")
            keys |= {"netns": name} if name else {}
        return keys

    def _given(self, name: str) -> str | None:
        """Return the map from elsewhere that the user named as map *name*, as `use` takes it."""
        source = self._manifest.given.get(name)
        if source is None or source.startswith(ID):  # ids are others after a reboot
            return None
        path = Path(source)
        if path.parent.parent == self._live.path.parent:
            # A map of another set, by the words that are the same below every pin root.
            return f"{names.display_name(path.parent.name)}/{names.decode(path.name)}"
        return source

    def _maps(self, spec: ObjectSpec | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is to be said of each map."""
        outside = {pin.map for pin in self._live.outside}
        for name in self._live.map_names:
            wanted: dict[str, Any] = {}
            map_spec = spec.maps.get(name) if spec else None
            opened = None
            with suppress(BpfError):
                opened = self._live.open_map(name, read_only=True)
            if opened is None:
                self._problems.append(f"map {name} cannot be opened")
                continue
            with opened as bpf_map:
                owner = self._given(name) or self._owners.get(bpf_map.id)
                if owner is not None and name not in outside:
                    yield name, {"use": owner}
                    continue
                if owner is None:
                    shown = names.display_name(self._live.name)
                    self._owners[bpf_map.id] = f"{shown}/{name}"
                    if not is_constant(name):
                        self._own_maps.append(name)
                if map_spec is not None:
                    fields = {each.field for each in compat.differences(map_spec, bpf_map)}
                    if "max_entries" in fields:
                        wanted["max_entries"] = bpf_map.max_entries
                    pinning = Pinning.BY_NAME if name in outside else Pinning.NONE
                    # iproute2's kinds of pinning are not chosen by a word.
                    if map_spec.pinning in _PINNING_WORDS and map_spec.pinning is not pinning:
                        wanted["pinning"] = _PINNING_WORDS[pinning]
            yield name, wanted


def _is_on_trial(live: LoadedSet) -> bool:
    with suppress(BpfError), Directory.open(live.path) as directory:
        return read_trial(directory) is not None
    return False


def _program_word(record: HookRecord) -> str:
    """Return a program and its hook as they were asked for."""
    # Where the kernel lacks the hook that was asked for, only the name of the link still has it.
    asked = names.hook_of_link(record.link)
    hook = asked if known_hook(asked) else record.hook
    return f"{record.program}:{hook}{f'={record.target}' if record.target else ''}"


def _is_without_stub(record: HookRecord) -> bool:
    hook: Hook | None = known_hook(record.hook)
    return hook is not None and hook.traits.needs_stub and record.held_by is not HeldBy.STUB


def setting_value(spec: ObjectSpec | None, name: str, word: str) -> Any:
    """Return a value of a variable as people write it, else as it is recorded: `hex:0a00`."""
    if not word.startswith("hex:"):
        number = int(word)
        return number if -(1 << 63) <= number < 1 << 63 else word
    if spec is None or name not in spec.variables:
        return word
    data, codec = bytes.fromhex(word.removeprefix("hex:")), spec.variables[name].codec
    with suppress(TypeError, ValueError):
        value = codec.decode(data)
        toml.value_text(value)
        # A text may be read in another way than it is written; a number is what it is.
        if not isinstance(value, str) and codec.encode(value) == data:
            return value
    return word
