"""The manifest's text, ours and hostile ones."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.errors import LimitError
from bpfpin.pins.manifest import HookRecord, Manifest, Place

MANIFEST = Manifest(
    tool="0.1.0",
    object="/srv/xdp_prog_kern.o",
    sha256="ab" * 32,
    generation=3,
    time=1_790_000_000,
    place=Place(netns_inode=4026531840, netns="blue", ifindex=7, device="lab0"),
    hooks=(HookRecord("xdp", "xdp_pass_func", "xdp", asked_mode="auto", mode="native"),),
)


def changed(**changes: Any) -> str:
    """Return the text of MANIFEST with some top-level values replaced."""
    return json.dumps({**json.loads(MANIFEST.to_text()), **changes})


def test_a_manifest_reads_back() -> None:
    assert Manifest.parse(MANIFEST.to_text()) == MANIFEST


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
    ],
)
def test_a_damaged_manifest_is_a_value_error_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Manifest.parse(text)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|'\w+') is|^it was"):
        Manifest.parse(text)
