"""Which pin set of ours a pin belongs to, told by its path."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bpfpin.apps.sets.place import load_line
from bpfpin.apps.target import all_sets
from bpfpin.errors import BpfError
from bpfpin.pins import names


def set_names(pin_root: Path, notes: list[str]) -> Mapping[str, str]:
    """Return the sets of ours below *pin_root* by their directory, as a user types their names.

    Why there are none, if the pin root cannot be read, is added to *notes*.
    """
    try:
        sets = all_sets(pin_root)
    except BpfError as error:
        notes.append(f"no pin sets are shown: {error}")
        return {}
    return {str(one.path): names.display_name(one.name) for one in sets if one.manifest}


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


def set_of(path: str, sets: Mapping[str, str]) -> str:
    """Return the set that the pin *path* is in, or in whose stage, "" for none."""
    directory = path
    while directory := directory.rpartition("/")[0]:
        name = sets.get(directory) or sets.get(directory.removesuffix(names.STAGE_SUFFIX))
        if name:
            return name
    return ""
