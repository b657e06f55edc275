"""Patterns that devices match: a name, `veth*`, `driver=NAME`, `group=NUMBER`."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Self

from bpfpin.attach.devices import DeviceRow, all_devices, driver_name
from bpfpin.choices import similar
from bpfpin.errors import UsageError
from bpfpin.records import dataclass

DRIVER: Final = "driver"
GROUP: Final = "group"
_NAME: Final = "name"
_WILD: Final = ("*", "?", "[")
# iproute2's names of groups; distributions keep an untouched copy below /usr.
_GROUP_TABLES: Final = (
    Path("/etc/iproute2/group"),
    Path("/usr/share/iproute2/group"),
    Path("/usr/lib/iproute2/group"),
)


@dataclass(frozen=True, slots=True)
class DevicePattern:
    """What devices are meant: *field* is `name`, `driver` or `group`, *text* what it matches."""

    field: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `eth0`, `veth*`, `driver=mlx5_core`, `group=5`; `UsageError` for other texts."""
        field, equals, value = text.partition("=")
        if not equals:
            if not text:
                raise UsageError("an empty text is no device")
            return cls(_NAME, text)
        if field not in (DRIVER, GROUP) or not value:
            near = similar(field, (DRIVER, GROUP))
            guess = f"did you mean {near[0]}=…? " if near else ""
            raise UsageError(
                f"{text!r} is no pattern of devices",
                hint=f"{guess}There are: NAME, NAME with * and ?, driver=NAME, group=NUMBER.",
            )
        if field == GROUP:
            value = str(_group_number(value))
        return cls(field, value)

    @property
    def is_name(self) -> bool:
        """Whether it is the name of one device."""
        return self.field == _NAME and not any(sign in self.text for sign in _WILD)

    def matches(self, device: DeviceRow) -> bool:
        """Whether it means *device*, which is in the current network namespace."""
        if self.field == GROUP:
            return device.group == int(self.text)
        if self.field == DRIVER:
            return fnmatchcase(driver_name(device.name), self.text)
        # A name is compared as it is: of a device, `[` is a character like any other.
        return device.name == self.text if self.is_name else fnmatchcase(device.name, self.text)

    def __str__(self) -> str:
        return self.text if self.field == _NAME else f"{self.field}={self.text}"


def matching(patterns: Iterable[DevicePattern], devices: Iterable[DeviceRow]) -> list[str]:
    """Return the names of the devices that match one of the patterns, in the order of the kernel.

    The loopback device is only meant by its name.
    """
    asked = list(patterns)
    return [
        device.name
        for device in devices
        if any(each.matches(device) for each in asked if each.is_name or device.name != "lo")
    ]


def devices_of(patterns: Iterable[DevicePattern]) -> list[str]:
    """Return the names of the devices of the current network namespace that match."""
    return matching(patterns, all_devices())


def _group_number(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) < 1 << 32:
        return int(text)
    table = next((path for path in _GROUP_TABLES if path.is_file()), None)
    lines = table.read_text(errors="surrogateescape").splitlines() if table else []
    names = {
        words[1]: int(words[0], 0)
        for line in lines
        if len(words := line.partition("#")[0].split()) >= 2 and words[0].isdecimal()
    }
    if text in names:
        return names[text]
    known = ", ".join(names) or "none"
    raise UsageError(f"there is no device group {text!r}; named groups: {known}")
