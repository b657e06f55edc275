"""Choices and paths given as texts, in every public function that takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bpfpin
from bpfpin import (
    Hook,
    IdNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    Map,
    MapSpec,
    MapType,
    Program,
    SyscallError,
    UpdateFlag,
    UsageError,
    XdpMode,
    attach_cgroup,
    attach_clsact,
    attach_netkit,
    attach_tcx,
    attach_xdp,
    deploy,
    deploy_all,
    undeploy,
)
from bpfpin.attach.order import Order
from bpfpin.errors import PermissionDeniedError, PinNotFoundError
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Access
from bpfpin.sets.choose import read_source
from bpfpin.sets.request import LoadOptions
from support.lab import TestLab
from support.nobody import let_everybody_enter, nobody

PASS = "builtin:xdp_pass"


@pytest.fixture
def program() -> Iterator[Program]:
    with bpfpin.load(read_source(PASS)) as loaded:
        yield next(iter(loaded.programs.values()))


def parsed(**options: Any) -> LoadOptions:
    """Return options as `deploy` parses them; those that are left out have its defaults."""
    parameters = dict(inspect.signature(deploy).parameters)
    for target in ("source", "device", "cgroup"):
        del parameters[target]
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return LoadOptions.parse(**{**defaults, **options})


def test_options_of_deploy_are_parsed_as_they_are_typed(tmp_path: Path) -> None:
    options = parsed(
        mode="Native",
        hook="TCX_EGRESS",
        chmod="0640",
        order="first",
        pin_root=str(tmp_path),
        programs="one",
        fresh="all",
    )

    assert options.mode is XdpMode.NATIVE
    assert options.hook is Hook.TCX_EGRESS
    assert options.access == Access(None, 0o640)
    assert options.order == Order.first()
    assert options.pin_root == tmp_path
    assert (options.programs, options.fresh) == (("one",), frozenset({"all"}))
    already = parsed(mode=XdpMode.GENERIC, hook=None, chmod=0o600, order=Order.first())
    assert (already.mode, already.hook, already.order) == (XdpMode.GENERIC, None, Order.first())
    assert already.access == Access(None, 0o600)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("mode", "nativ", ("'nativ'", "auto, native, generic, offload")),
        ("mode", 1, ("there is no XDP mode 1", "native")),
        ("hook", "tc-in", ("xdp, tcx-ingress",)),
        ("hook", "", ("xdp, tcx-ingress",)),
        ("chmod", "999", ("0640",)),
        ("chmod", "rw", ("0640",)),
        ("chmod", 640, ("1200", "read and written")),
        ("order", "third", ("first, last, before:ID, after:ID",)),
    ],
)
def test_a_wrong_choice_is_a_value_error_with_the_choices(
    bpffs: Path, option: str, value: object, words: tuple[str, ...]
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(UsageError) as refused:
        deploy(PASS, device="lo", pin_root=bpffs, **options)

    assert isinstance(refused.value, ValueError)
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("options", "refused", "what"),
    [
        ({"dryrun": True}, TypeError, "unexpected keyword argument 'dryrun'"),
        ({"type": "xdp"}, TypeError, "unexpected keyword argument 'type'"),
        ({"dry_run": "no"}, TypeError, "dry_run is True or False, not 'no'"),
        ({"force": "false"}, TypeError, "force is True or False, not 'false'"),
        ({"lock_timeout_s": "x"}, ValueError, "lock_timeout_s is a number of seconds"),
        ({"lock_timeout_s": -1}, ValueError, "lock_timeout_s is a number of seconds"),
        ({"lock_timeout_s": float("nan")}, ValueError, "lock_timeout_s is a number of seconds"),
    ],
)
def test_no_option_is_passed_over(
    options: dict[str, Any], refused: type[Exception], what: str
) -> None:
    with pytest.raises(refused, match=what):
        deploy(PASS, device="nosuch0", **options)
    with pytest.raises(refused, match=what):
        deploy_all(PASS, devices=["nosuch0"], **options)


def test_near_choices_are_hinted() -> None:
    with pytest.raises(UsageError) as refused:
        parsed(hook="tcx-ingres")

    assert refused.value.hint.startswith("near it: tcx-ingress")


Attach = Callable[[Program, str], object]
WRONG: list[Attach] = [
    lambda program, word: attach_xdp(program, "lo", mode=word),
    lambda program, word: attach_tcx(program, "lo", word),
    lambda program, word: attach_clsact(program, "lo", word),
    lambda program, word: attach_netkit(program, "lo", word),
    lambda program, word: attach_cgroup(program, "/", word),
]


@pytest.mark.parametrize("attach", WRONG)
def test_attaching_takes_words_and_lists_them(attach: Attach, program: Program) -> None:
    with pytest.raises(ValueError, match=r"there is no (XDP mode|hook) 'ingres'; there are: "):
        attach(program, "ingres")


def test_xdp_is_attached_in_a_mode_by_its_word(lab: TestLab, program: Program) -> None:
    with attach_xdp(program, lab.device, mode="generic") as link:
        assert link.mode is XdpMode.GENERIC


def test_flags_and_types_of_maps_are_words_too() -> None:
    spec = MapSpec("flows", "hash", 4, 4, 4)  # type: ignore[arg-type]
    assert spec.type is MapType.HASH
    assert spec.with_changes(type="percpu-hash").type is MapType.PERCPU_HASH
    with pytest.raises(ValueError, match="there is no type of map 'hsh'"):
        MapSpec("flows", "hsh", 4, 4, 4)  # type: ignore[arg-type]
    with Map.create(spec) as flows:
        key = bytes(4)
        flows.update(key, key, "noexist")
        with pytest.raises(KeyExistsError):
            flows.update(key, key, flag="noexist")
        with pytest.raises(KeyNotFoundError):
            flows.update_batch({b"\1" * 4: key}, flag="exist")
        assert flows.update_batch({b"\1" * 4: key}, flag=UpdateFlag.NOEXIST) == 1
        with pytest.raises(ValueError, match="there is no flag 'never'; there are: any, noexist"):
            flows.update(key, key, "never")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("key_size", 2**32 + 4),
        ("key_size", -1),
        ("value_size", 2**32 + 8),
        ("max_entries", 2**32 + 8),
        ("map_flags", 2**32),
        ("map_extra", 2**64),
        ("type", 9999),
    ],
)
def test_no_number_of_a_definition_is_cut(name: str, number: int) -> None:
    spec = MapSpec(name="x", type=MapType.HASH, key_size=4, value_size=8, max_entries=8)

    with pytest.raises(UsageError, match=f"map x: .*{number}"):
        Map.create(spec.with_changes(**{name: number}))


def test_no_id_is_cut_to_that_of_another_object() -> None:
    spec = MapSpec(name="x", type=MapType.HASH, key_size=4, value_size=8, max_entries=8)
    with Map.create(spec) as map_, pytest.raises(IdNotFoundError, match="ids are from 1 to"):
        Map.from_id(2**32 + map_.id)
    with pytest.raises(IdNotFoundError, match="ids are from 1 to"):
        Program.from_id(-1)


@pytest.mark.parametrize("number", [-1, 99_999])
def test_a_number_that_is_no_descriptor_is_ours_to_tell(number: int) -> None:
    with pytest.raises(SyscallError, match=f"descriptor {number}.*EBADF"):
        Map.from_fd(number)


def test_a_deployment_shows_itself_and_takes_itself_away(lab: TestLab, bpffs: Path) -> None:
    deployment = deploy(
        "builtin:xdp_stats", device=lab.device, pin_root=str(bpffs), mode="generic", chmod="0600"
    )
    assert repr(deployment).startswith(f"<Deployment {lab.device}: loaded, generation 1; ")
    assert f"at xdp of {lab.device}; maps " in repr(deployment)
    (name,) = deployment.programs
    assert deployment.programs[name].id == deployment.report.programs[0].id
    assert name in repr(deployment.programs)
    assert set(deployment.maps) == {held.name for held in deployment.report.maps}
    report = deployment.undeploy()

    assert report.set == deployment.name == lab.device
    assert not (bpffs / lab.device).exists()
    with pytest.raises(PinNotFoundError):
        deployment.undeploy()
    deployment.close()


def test_a_planned_deployment_has_nothing_to_take_away(lab: TestLab, bpffs: Path) -> None:
    with deploy(PASS, device=lab.device, pin_root=bpffs, dry_run=True) as planned:
        assert list(planned.programs) == []
        assert "planned" in repr(planned)
        with pytest.raises(UsageError, match="planned, not loaded"):
            planned.undeploy()


def test_undeploy_takes_a_path_as_text(lab: TestLab, bpffs: Path) -> None:
    deploy(PASS, device=lab.device, pin_root=bpffs).close()

    assert undeploy(lab.device, pin_root=str(bpffs)).set == lab.device


def test_what_is_closed_to_a_user_is_told_with_its_path(bpffs: Path) -> None:
    """And never by the number of a descriptor."""
    let_everybody_enter(bpffs)
    closed = bpffs / "closed"
    closed.mkdir(0o700)
    with Map.create(MapSpec("flows", MapType.ARRAY, 4, 4, 1)) as flows:
        flows.pin(closed / "flows")
        flows.pin(bpffs / "flows")
        (bpffs / "flows").chmod(0o600)
        with Directory.open(closed) as directory, nobody():
            with pytest.raises(PermissionDeniedError) as refused:
                flows.pin(directory.pin_path("more"))
            assert str(closed / "more") in str(refused.value)
        for read in (
            lambda: Map.from_pin(bpffs / "flows"),
            lambda: Map.from_pin(closed / "flows"),
            lambda: bpfpin.follow(closed / "flows"),
            lambda: bpfpin.follow(bpffs / "flows"),
            lambda: Directory.open(closed),
            lambda: flows.pin(closed / "again"),
        ):
            with nobody(), pytest.raises(bpfpin.BpfError) as denied:
                read()
            assert isinstance(denied.value, PermissionError)
            assert str(bpffs) in str(denied.value)
            assert "/proc/" not in str(denied.value)
