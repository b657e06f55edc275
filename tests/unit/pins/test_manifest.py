"""The manifest's text, ours and hostile ones."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.errors import LimitError
from bpfpin.hooks import HeldBy
from bpfpin.pins.manifest import (
    Access,
    AttachPoint,
    GateNumbers,
    HookRecord,
    Lineage,
    Manifest,
    OutsidePin,
)

MANIFEST = Manifest(
    tool="0.1.0",
    object="/srv/xdp_prog_kern.o",
    sha256="ab" * 32,
    generation=3,
    time=1_790_000_000,
    place=AttachPoint(netns_inode=4026531840, netns="blue", ifindex=7, device="lab0"),
    hooks=(HookRecord("xdp", "xdp_pass_func", "xdp", asked_mode="auto", mode="native"),),
)


def changed(**changes: Any) -> str:
    """Return the text of MANIFEST with some top-level values replaced."""
    return json.dumps({**json.loads(MANIFEST.to_text()), **changes})


def test_a_manifest_reads_back() -> None:
    assert Manifest.parse(MANIFEST.to_text()) == MANIFEST


def test_what_was_set_reads_back_and_takes_no_room_if_nothing_was() -> None:
    whole = dataclasses.replace(MANIFEST, variables={".rodata": "0123456789abcdef"})

    assert Manifest.parse(whole.to_text()) == whole
    assert "variables" not in json.loads(MANIFEST.to_text())


def test_who_may_read_and_where_maps_are_shared_read_back() -> None:
    whole = dataclasses.replace(
        MANIFEST,
        hooks=(dataclasses.replace(MANIFEST.hooks[0], held_by=HeldBy.NETLINK),),
        access=Access(gid=100, mode=0o640),
        outside=(OutsidePin("flows", "tc/globals/flows"),),
    )

    assert Manifest.parse(whole.to_text()) == whole


@pytest.mark.parametrize(
    ("mode", "directory"), [(0o600, 0o700), (0o640, 0o750), (0o660, 0o750), (0o644, 0o755)]
)
def test_who_reads_the_maps_may_look_into_their_directory(mode: int, directory: int) -> None:
    assert Access(mode=mode).directory_mode == directory


def test_what_was_migrated_reads_back_and_takes_no_room_if_nothing_was() -> None:
    whole = dataclasses.replace(MANIFEST, migrated={"flows": Lineage(17, 12)})

    assert json.loads(whole.to_text())["migrated"] == {"flows": [17, 12]}
    assert Manifest.parse(whole.to_text()) == whole
    assert "migrated" not in json.loads(MANIFEST.to_text())


def test_gates_read_back_and_take_no_room_if_there_are_none() -> None:
    whole = dataclasses.replace(MANIFEST, gates={"on_call": GateNumbers(255, 0)})

    assert json.loads(whole.to_text())["gates"] == {"on_call": [255, 0]}
    assert Manifest.parse(whole.to_text()) == whole
    assert "gates" not in json.loads(MANIFEST.to_text())
    assert Manifest.parse(MANIFEST.to_text()).gates == {}


@pytest.mark.parametrize(
    "gates",
    [
        *([], 7, {"a/b": [1, 0]}, {"..": [1, 0]}, {"p": [1]}, {"p": [256, 0]}, {"p": [True, 0]}),
        *({"p": "12"}, {"p": [-1, 0]}, {"p": [1.0, 0]}),
    ],
)
def test_damaged_gates_are_refused(gates: object) -> None:
    with pytest.raises(ValueError, match="'gates' is not a table"):
        Manifest.parse(changed(gates=gates))


def test_a_generation_without_hooks_has_no_gates() -> None:
    whole = dataclasses.replace(MANIFEST, gates={"on_call": GateNumbers(2, 1)})

    assert whole.without_hooks().gates == {}


def test_what_was_migrated_is_left_out_where_there_is_no_room() -> None:
    """Readers begin anew then."""
    many = {f"a_map_with_a_long_name_{n}": Lineage(n + 1, 1) for n in range(200)}

    assert Manifest.parse(dataclasses.replace(MANIFEST, migrated=many).to_text()).migrated == {}


@pytest.mark.parametrize("ids", [None, 12, [12], [12, 0], [12, -1], [True, 1], [1, 2, 3], ["1", 2]])
def test_a_line_that_is_no_pair_of_ids_damages_a_manifest(ids: object) -> None:
    with pytest.raises(ValueError, match="'migrated' is not a table of pairs"):
        Manifest.parse(changed(migrated={"flows": ids}))


def test_an_object_path_that_is_no_utf8_reads_back() -> None:
    odd = dataclasses.replace(MANIFEST, object="/srv/\udcff.o")

    assert Manifest.parse(odd.to_text()) == odd


def test_a_later_version_may_add_keys() -> None:
    assert Manifest.parse(changed(trial=True)) == MANIFEST


def test_a_long_object_path_is_cut_to_its_last_part() -> None:
    deep = dataclasses.replace(MANIFEST, object="/deep" * 1000 + "/x.o")

    assert Manifest.parse(deep.to_text()).object == "x.o"


def test_a_manifest_that_bpffs_cannot_hold_is_a_limit_error() -> None:
    hooks = tuple(HookRecord("xdp", f"program_{i}", f"xdp~program_{i}") for i in range(100))

    with pytest.raises(LimitError, match="has room for 4095"):
        dataclasses.replace(MANIFEST, hooks=hooks).to_text()


HOOK = {"hook": "xdp", "program": "p", "link": "xdp", "asked_mode": "", "mode": ""}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "'schema' is missing"),
        (" " * 5000, "too long"),
        (changed(schema=2), "another version"),
        (changed(schema=True), "not a number"),
        (changed(generation=-1), "not a number"),
        (changed(generation=1 << 64), "not a number"),
        (changed(generation=1.5), "not a number"),
        (changed(sha256=None), "not a text"),
        (changed(place=[]), "not a JSON object"),
        (changed(place={"ifindex": 1}), "'netns_inode' is missing"),
        (changed(hooks={}), "not a list"),
        (changed(hooks=["xdp"]), "not a JSON object"),
        (changed(hooks=[{**HOOK, "link": "../../etc"}]), "not one name"),
        (changed(hooks=[{**HOOK, "link": "."}]), "not one name"),
        (changed(hooks=[{**HOOK, "program": ""}]), "not one name"),
        (changed(hooks=[{**HOOK, "program": "a\0b"}]), "not one name"),
        (changed(hooks=[{**HOOK, "held": "rope"}]), "not a valid Held"),
        (changed(access=[]), "not a JSON object"),
        (changed(access={"gid": -1, "mode": 0o640}), "not a number"),
        (changed(access={"gid": None, "mode": 0o777}), "not a number"),
        (changed(outside={}), "not a list"),
        (changed(outside=[{"map": "m", "path": "../etc/m"}]), "not a path below"),
        (changed(outside=[{"map": "m", "path": "/etc/m"}]), "not a path below"),
        (changed(outside=[{"map": "m", "path": "x/" * 20 + "m"}]), "not a path below"),
        (changed(outside=[{"map": "../m", "path": "m"}]), "not one name"),
    ],
)
def test_a_damaged_manifest_is_a_value_error_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Manifest.parse(text)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|'\w+') is|^it was"):
        Manifest.parse(text)


def test_settings_and_origin_read_back_and_take_no_room_if_there_are_none() -> None:
    whole = dataclasses.replace(
        MANIFEST, settings={"largest": "hex:c8000000"}, origin="apply", given={"flows": "/p"}
    )

    assert Manifest.parse(whole.to_text()) == whole
    assert {"settings", "origin", "given"}.isdisjoint(json.loads(MANIFEST.to_text()))


def test_settings_are_left_out_first_where_there_is_no_room() -> None:
    many = {f"variable_{number}": "hex:00" for number in range(300)}
    parsed = Manifest.parse(dataclasses.replace(MANIFEST, settings=many).to_text())

    assert parsed == MANIFEST


@pytest.mark.parametrize("key", ["settings", "given"])
@pytest.mark.parametrize("value", [[], {"a": 1}, "text"])
def test_damaged_settings_make_no_manifest(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is not a table of texts"):
        Manifest.parse(changed(**{key: value}))
