"""The order of sets, and what is refused before anything is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.attach.devices import DeviceRow
from bpfpin.errors import UsageError
from bpfpin.hints import Argument, Placeholder
from bpfpin.hooks import Hook
from bpfpin.migration.request import Migration, Rule
from bpfpin.pins.manifest import AttachPoint
from bpfpin.sets.apply.model import parse_state
from bpfpin.sets.apply.plan import located, toml_words
from bpfpin.sets.apply.targets import Target, in_order, require_free_hooks
from bpfpin.sets.device_pattern import DevicePattern, matching

FILE = Path("/etc/a.toml")
ROOT = Path("/sys/fs/bpf")


def target(name: str, *, uses: str = "", ifindex: int = 1) -> Target:
    use = f"maps.m.use = '{uses}'" if uses else ""
    (wanted,) = parse_state(f"[[set]]\nobject = 'o'\ndevice = 'e0'\n{use}", FILE).sets
    return Target(wanted, "e0", AttachPoint(netns_inode=1, ifindex=ifindex, device="e0"), name)


def test_a_set_comes_behind_those_whose_maps_it_uses() -> None:
    sets = [
        target("a", uses="c/m"),
        target("b"),
        target("c", uses=f"{ROOT}/b/m"),
        target("d", uses="id:5"),
    ]

    assert [each.name for each in in_order(sets, pin_root=ROOT)] == ["b", "c", "a", "d"]


def test_sets_that_use_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="sets use maps of each other"):
        in_order([target("a", uses="b/m"), target("b", uses="a/m")], pin_root=ROOT)


def test_two_sets_at_a_hook_that_runs_one_program_are_refused() -> None:
    first, second, other = target("a"), target("b"), target("c", ifindex=2)
    both = [Hook.XDP, Hook.TCX_INGRESS]
    require_free_hooks([(first, both), (second, [Hook.TCX_INGRESS]), (other, both)])
    with pytest.raises(UsageError, match="has the set a at the same hook, xdp of e0"):
        require_free_hooks([(first, both), (second, both)])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (Argument("replace"), "replace = true"),
        (Argument("mode", "native"), 'mode = "native"'),
        (Argument("name", Placeholder("NAME")), 'name = "NAME"'),
        (Argument("programs", ["a:xdp"]), 'programs = ["a:xdp"]'),
        (Argument("stub", False), "stub = false"),
        (Argument("confirm_s", None), "confirm_s"),
        (Argument("maps", {"flows": "/p"}), '[set.maps.flows] use = "/p"'),
        (Argument("pinning", {"flows": "none"}), '[set.maps.flows] pinning = "none"'),
        (Argument("variables", {"a": 1}), "variables = { a = 1 }"),
        (Argument("fresh", ["flows"]), "bpfpin load … --fresh flows"),
        (Argument("migrate", Migration()), "migrate = true"),
        (
            Argument("migrate", Migration(rules={"a": Rule.SUM}, dropped=("b",))),
            'migrate = { rules = { a = "sum" }, dropped = ["b"] }',
        ),
    ],
)
def test_hints_are_in_the_words_of_the_file(argument: Argument, words: str) -> None:
    assert toml_words(argument) == words


def test_an_error_has_the_place_of_its_set_once() -> None:
    (wanted,) = parse_state("\n[[set]]\nobject = 'o'", FILE).sets
    error = located(UsageError("no such map"), wanted.place, "e0")

    assert error.message == "/etc/a.toml:2: set e0: no such map"
    assert located(error, wanted.place, "e0").message == error.message


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["eth0"], ["eth0"]),
        (["eth*"], ["eth0", "eth1"]),
        (["group=7"], ["eth1"]),
        (["group=7", "eth1"], ["eth1"]),
        (["*"], ["eth0", "eth1", "veth[0]"]),
        (["lo"], ["lo"]),
        (["veth[[]0]"], ["veth[0]"]),
        (["eth9"], []),
    ],
)
def test_devices_match_patterns(words: list[str], names: list[str]) -> None:
    devices = [
        DeviceRow(1, "lo", "", {}),
        DeviceRow(2, "eth0", "", {}),
        DeviceRow(3, "eth1", "", {}, group=7),
        DeviceRow(4, "veth[0]", "veth", {}),
    ]

    assert matching(map(DevicePattern.parse, words), devices) == names


def test_a_pattern_is_written_as_it_was_read() -> None:
    texts = ["eth0", "veth*", "driver=mlx5*", "group=7"]

    assert [str(DevicePattern.parse(text)) for text in texts] == texts
    assert [DevicePattern.parse(text).is_name for text in texts] == [True, False, False, False]
    with pytest.raises(UsageError, match="no device group 'none such'"):
        DevicePattern.parse("group=none such")


def test_a_set_without_a_name_is_called_after_its_place() -> None:
    sets = parse_state(
        "[[set]]\nobject = 'a/o.o'\n[[set]]\nobject = 'o'\ncgroup = '/web'\n", FILE
    ).sets

    assert [each.title for each in sets] == ["o.o", "/web"]
