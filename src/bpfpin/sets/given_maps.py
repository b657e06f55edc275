"""Maps of an object from outside of its set, and maps that it shares outside of its set.

iproute2 pins the maps of `struct bpf_elf_map` as follows (lib/bpf_legacy.c, 6.1; a build with
libbpf calls the same functions), and bpfpin shares them there. Below the mount point of bpffs each
kind of program has a directory. All but the first are symlinks to it (`xdp -> tc`), unless they
were made as directories before. Below it, pinning 1 is a directory named by the SHA-1 of the object
file, and pinning 2 is `globals`. The other numbers are looked up in a table of directories below
the mount point; a number that is not in the table asks for no pin.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from bpfpin.choices import similar
from bpfpin.errors import NotBpffsError, PinKindError, PinNotFoundError, UsageError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.objects.kernel.info import ID, NAME
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.program_traits import traits_of_program
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec, ObjectSpec, Pinning
from bpfpin.syscall import fs
from bpfpin.syscall.fd import Descriptor

# Where distributions put iproute2's tables; newer ones keep an untouched copy below /usr.
TABLES: Final = (
    Path("/etc/iproute2/bpf_pinning"),
    Path("/usr/share/iproute2/bpf_pinning"),
    Path("/usr/lib/iproute2/bpf_pinning"),
)
GLOBALS: Final = "globals"
_OWN_NUMBERS = frozenset({0, 1, 2})
_FIRST = "tc"
Given = str | Path | Map
INDEX = "idx:"  # bpftool's word for a map of the object by its place in libbpf's order
_INDEX_DIGITS = 10  # of a u32; `int` is slow and at last unwilling with very long numbers


def pin_path(
    spec: ObjectSpec, map_spec: MapSpec, *, pin_root: Path, tables: Iterable[Path] = TABLES
) -> Path | None:
    """Return where iproute2 pins the map *map_spec* of object *spec*; None if it does not pin it.

    The object's own directory is not known of an object that was read from bytes, or whose file
    changed meanwhile.
    """
    mount_point = _mount_point(pin_root)
    name = names.map_pin_name(map_spec.name)
    if map_spec.pinning is Pinning.FILE:
        subpath = custom_directories(tables).get(map_spec.pinning_id)
        return mount_point / subpath / name if subpath else None
    directory = mount_point / _directory(spec, mount_point)
    if map_spec.pinning is Pinning.GLOBAL_NAMESPACE:
        return directory / GLOBALS / name
    digest = _object_hash(spec)
    return directory / digest / name if digest else None


def custom_directories(tables: Iterable[Path] = TABLES) -> dict[int, PurePosixPath]:
    """Return the directories below bpffs by pinning number, from the first table that exists.

    A line is `NUMBER DIRECTORY`, and `#` begins a comment. As in iproute2, the numbers 0 to 2 are
    reserved, the last line of a number counts, and reading ends at any other line; a line whose
    directory leads out of bpffs is such a line.
    """
    # iproute2 reads one table, so a file in /etc replaces the one of the distribution and is not
    # added to it.
    table = next((table for table in tables if table.is_file()), None)
    text = table.read_text(errors="surrogateescape") if table else ""
    directories: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        number, directory = _entry(words)
        if directory is None:
            break
        if number not in _OWN_NUMBERS:
            directories[number] = directory
    return directories


def _entry(words: list[str]) -> tuple[int, PurePosixPath | None]:
    try:
        number, directory = int(words[0], 0), PurePosixPath(words[1].lstrip("/"))
    except (ValueError, IndexError):
        return 0, None
    return number, None if ".." in directory.parts else directory


def _mount_point(pin_root: Path) -> Path:
    """Return the mount point of the bpffs of *pin_root*; *pin_root* itself without a bpffs."""
    place = pin_root
    while place.parent.is_dir() and fs.is_bpffs(place.parent):
        place = place.parent
    return place


def _directory(spec: ObjectSpec, mount_point: Path) -> str:
    types = {program.type for program in spec.programs.values()}
    # iproute2 loads one program at a time, and knows its type; for an object with several types
    # this is a guess.
    own = traits_of_program(types.pop()).iproute2_directory if len(types) == 1 else _FIRST
    place = mount_point / own
    return own if place.is_dir() and not place.is_symlink() else _FIRST


def _object_hash(spec: ObjectSpec) -> str:
    try:
        data = Path(spec.path).read_bytes()
    except OSError:
        return ""
    # iproute2 hashes the file as it is now, so the name of the directory is only known if the file
    # did not change.
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        return ""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Shared:
    """A map of the object that comes from outside of the set, or is shared there.

    *bpf_map* is the opened map, None where nothing is pinned yet and a new one is to be pinned at
    *path*, too. *path* is None for a map that was named by id, name or handle, and for one that
    iproute2 keeps outside of the pin root, where we only look. *source* names the map as the user
    did; *is_promised* says that the user asked for it, not the object; *is_new* that another set of
    the same command makes the map, and nothing is pinned there yet.
    """

    name: str
    bpf_map: Map | None
    path: Path | None
    source: str
    is_promised: bool
    is_new: bool = False

    def use(self, made: Mapping[Path, Map]) -> Shared:
        """Return it with the map that another set of the same command makes for its path, if any.

        A map that is pinned there now is closed.
        """
        if self.is_promised or self.path is None or self.path not in made:
            return self
        _close(self)
        return dataclasses.replace(self, bpf_map=_duplicate(made[self.path]), is_new=True)

    @property
    def is_exchangeable(self) -> bool:
        """Whether the shared name may get another map, as far as nobody else uses the map."""
        is_pinned = self.bpf_map is not None and self.path is not None
        return is_pinned and not (self.is_promised or self.is_new)


PINNINGS = {"none": Pinning.NONE, "by-name": Pinning.BY_NAME}


def with_pinnings(
    spec: ObjectSpec, pinnings: Mapping[str, str], given: Mapping[str, Given]
) -> ObjectSpec:
    """Return *spec* with the pinnings of *pinnings*, by map name: `none` or `by-name`.

    `UsageError` for a map that the object lacks, another word, and a map whose definition asks for
    a pinning that bpfpin has no meaning for, unless it is here or in *given*, the maps from
    elsewhere.
    """
    for name, word in pinnings.items():
        if name not in spec.maps:
            raise _unknown(spec, name)
        if word not in PINNINGS:
            raise UsageError(f"map {name}: no pinning {word!r}; there are: {', '.join(PINNINGS)}")
        spec = spec.with_map(name, pinning=PINNINGS[word], pinning_id=0)
    # Resolved here, too, for `idx:I`: a map from elsewhere needs no pinning.
    named = _by_name(spec, given)
    for name, map_spec in spec.maps.items():
        if map_spec.pinning is Pinning.UNKNOWN and name not in named:
            raise UsageError(
                f"map {name} asks for pinning {map_spec.pinning_id}, which has no meaning here:"
                " LIBBPF_PIN_NONE (0) and LIBBPF_PIN_BY_NAME (1) have",
                hint=Fix.of(
                    "say how to pin it: ",
                    Argument("pinning", {name: "none"}),
                    " or ",
                    Argument("pinning", {name: "by-name"}),
                    "; or use a map that exists: ",
                    Argument("maps", {name: Placeholder("PATH")}),
                ),
            )
    return spec


def open_shared(
    spec: ObjectSpec, given: Mapping[str, Given], *, pin_root: Path
) -> dict[str, Shared]:
    """Open the maps that *given* names, and those at the pins that the object asks for.

    *given* is by map name, or by `idx:I`, the map's place in libbpf's order: by section, then by
    offset, data sections last. A `Map` stays its owner's; all that is in the result is the caller's
    to close. No directory is made.

    `UsageError` for a map that the object lacks or that is named twice, `PinNotFoundError` and
    `IdNotFoundError` for a pin or an id that does not exist, `PinKindError` where something else
    is pinned, `PinNameError` for a name that could lead elsewhere.
    """
    promised = _by_name(spec, given)
    shared_maps: dict[str, Shared] = {}
    with ExitStack() as undo:
        for name, source in promised.items():
            shared_maps[name] = _opened(name, source)
            undo.callback(_close, shared_maps[name])
        for name, map_spec in spec.maps.items():
            path = None if name in promised else own_place(spec, map_spec, pin_root=pin_root)
            shared = _looked_up(name, path, pin_root) if path else None
            if shared is not None:
                shared_maps[name] = shared
                undo.callback(_close, shared)
        undo.pop_all()
    return shared_maps


def own_place(spec: ObjectSpec, map_spec: MapSpec, *, pin_root: Path) -> Path | None:
    """Return the shared path that the object asks for the map *map_spec*, None for none."""
    if map_spec.pinning in (Pinning.NONE, Pinning.UNKNOWN):
        return None
    if map_spec.pinning is Pinning.BY_NAME:
        return pin_root / names.map_pin_name(map_spec.name)
    return pin_path(spec, map_spec, pin_root=pin_root)


def _by_name(spec: ObjectSpec, given: Mapping[str, Given]) -> dict[str, Given]:
    """Return *given* by map name: `idx:I` is resolved."""
    named: dict[str, Given] = {}
    for word, source in given.items():
        name = _map_at(spec, word) if word.startswith(INDEX) else word
        if name not in spec.maps:
            raise _unknown(spec, name)
        if name in named:
            raise UsageError(f"map {name!r} is named twice: {named[name]} and {source} ({word})")
        named[name] = source
    return named


def _map_at(spec: ObjectSpec, word: str) -> str:
    names_in_order, digits = list(spec.maps), word.removeprefix(INDEX)
    # isdecimal() alone takes digits of every script.
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _INDEX_DIGITS
    if is_number and int(digits) < len(names_in_order):
        return names_in_order[int(digits)]
    listed = ", ".join(f"{INDEX}{index} {name}" for index, name in enumerate(names_in_order))
    raise UsageError(f"the object has no map {word}; it has: {listed or 'none'}")


def _unknown(spec: ObjectSpec, name: str) -> UsageError:
    near = similar(name, spec.maps)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(spec.maps) or "none"
    return UsageError(f"the object has no map {name}; it has: {listed}", hint=hint)


def _opened(name: str, source: Given) -> Shared:
    if isinstance(source, Map):
        # A descriptor of our own: the caller may close the map while the load uses it, and the load
        # closes all that it opened.
        return Shared(name, _duplicate(source), None, f"{ID}{source.id}", is_promised=True)
    if isinstance(source, str) and source.startswith((ID, NAME)):
        from bpfpin.map.open import open_map  # noqa: PLC0415 - most objects bring all their maps

        return Shared(name, open_map(source, read_only=False), None, source, is_promised=True)
    path = Path(os.path.abspath(source))  # noqa: PTH100  (no symlink may be resolved)
    bpf_map = _open_for(name, lambda: Map.from_pin(path), Argument("maps", {name: str(source)}))
    return Shared(name, bpf_map, path, str(source), is_promised=True)


def _looked_up(name: str, path: Path, pin_root: Path) -> Shared | None:
    """Return the map that is pinned at *path* or is to be pinned there; None for neither."""
    is_ours = path.is_relative_to(pin_root)  # a set makes no names where its lock does not reach
    bpf_map = None
    with suppress(PinNotFoundError, NotBpffsError):  # no bpffs yet: `load` mounts one
        bpf_map = _open_for(
            name, lambda: Map.from_pin(path), "the object asks it to be pinned there"
        )
    if bpf_map is None and not is_ours:
        return None
    return Shared(name, bpf_map, path if is_ours else None, str(path), is_promised=False)


def _open_for(name: str, opened: Callable[[], Map], reason: str | Argument) -> Map:
    try:
        return opened()
    except PinKindError as error:
        error.fix = Fix.of(f"it was to be map {name}: ", reason)
        raise


def _duplicate(bpf_map: Map) -> Map:
    copy = Descriptor(os.dup(bpf_map.fd))
    # The types may come from the user, and are then not in the kernel.
    return Map(copy, key_type=bpf_map.key_type, value_type=bpf_map.value_type)


def _close(shared: Shared) -> None:
    if shared.bpf_map is not None:
        shared.bpf_map.close()
