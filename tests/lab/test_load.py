"""`bpfpin load`, `unload` and `status` as a user runs them, on a real device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import UsageError
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.sets.load.deploy import deploy
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab

ROOT = Path("/sys/fs/bpf")


@pytest.fixture(autouse=True)
def clean(lab: TestLab) -> Iterator[None]:
    yield
    run_cli("unload", lab.device)


def test_load_counts_and_unload_leaves_nothing(lab: TestLab) -> None:
    loaded = run_cli_ok("load", "--dev", lab.device)
    with Map.from_pin(ROOT / lab.device / "xdp_stats_map", read_only=True) as counters:
        before = counters.total(2)["rx_packets"]
        lab.flood(100)
        counted = counters.total(2)["rx_packets"] - before
    run_cli_ok("unload", lab.device)

    assert f"loaded xdp_stats on {lab.device} (native)" in loaded.stderr
    assert counted == 100
    assert xdp_holder(lab.ifindex) is None
    assert not (ROOT / lab.device).exists()


def test_the_json_of_a_load_has_the_keys_promised(lab: TestLab) -> None:
    document = run_cli_ok("load", "--dev", lab.device, "-o", "json").json

    assert (document["schema"], document["result"], document["set"]) == (1, "loaded", lab.device)
    assert (document["path"], document["generation"]) == (f"{ROOT}/{lab.device}", 1)
    assert {"name", "id", "hook", "device", "mode", "link"} <= set(document["programs"][0])
    assert {one["decision"] for one in document["maps"]} == {"created"}


def test_loading_the_same_again_changes_nothing(lab: TestLab) -> None:
    first = run_cli_ok("load", "--dev", lab.device, "-o", "json").json
    second = run_cli_ok("load", "--dev", lab.device, "-o", "json").json

    assert second["result"] == "unchanged"
    assert second["programs"] == first["programs"]


def test_another_object_on_a_loaded_device_is_a_reload(lab: TestLab) -> None:
    first = run_cli_ok("load", "--dev", lab.device, "-o", "json").json["programs"][0]
    reloaded = run_cli_ok("load", "builtin:xdp_pass", "--dev", lab.device)
    holder = xdp_holder(lab.ifindex)

    assert holder is not None
    assert (holder.program_name, holder.link_id) == ("xdp_pass", first["link"])
    assert f"program id {first['id']} -> {holder.program_id}" in reloaded.stderr


def test_kept_maps_go_on_in_the_next_load(lab: TestLab) -> None:
    first = run_cli_ok("load", "--dev", lab.device, "-o", "json").json
    kept = run_cli_ok("unload", lab.device, "--keep-maps", "-o", "json").json
    second = run_cli_ok("load", "--dev", lab.device, "-o", "json").json

    assert sorted(kept["kept_maps"]) == ["action", "xdp_stats_map"]
    assert {one["decision"] for one in second["maps"]} == {"kept"}
    assert [one["id"] for one in second["maps"]] == [one["id"] for one in first["maps"]]
    assert second["generation"] == 3


def test_a_dry_run_verifies_and_changes_nothing(lab: TestLab) -> None:
    before = sorted(os.listdir(ROOT))  # noqa: PTH208 - names only
    document = run_cli_ok("load", "--dev", lab.device, "--dry-run", "-o", "json").json

    assert document["result"] == "planned"
    assert sorted(os.listdir(ROOT)) == before  # noqa: PTH208 - names only
    assert xdp_holder(lab.ifindex) is None


def test_a_missing_device_is_told_before_anything_is_changed(lab: TestLab) -> None:
    refused = run_cli("load", "--dev", lab.device, "--dev", "nosuchdev")

    assert refused.exit_code == 4
    assert lab.device in refused.stderr
    assert not (ROOT / lab.device).exists()


def test_a_device_that_somebody_else_holds_is_left_alone(lab: TestLab) -> None:
    with deploy("builtin:xdp_pass", device=lab.device, name="other"):
        refused = run_cli("load", "--dev", lab.device, "--name", "mine")
    run_cli_ok("unload", "other")

    assert refused.exit_code == 7
    assert "program id" in refused.stderr
    assert not (ROOT / "mine").exists()
    assert not (ROOT / "mine~stage").exists()


def test_a_directory_that_is_not_ours_is_left_alone(lab: TestLab) -> None:
    (ROOT / lab.device).mkdir()
    refused = run_cli("load", "--dev", lab.device)
    (ROOT / lab.device).rmdir()

    assert refused.exit_code == 7
    assert "--name" in refused.stderr


def test_several_devices_make_several_sets(lab: TestLab) -> None:
    document = run_cli_ok("load", "--dev", lab.device, "--dev", "lo", "-o", "json").json
    run_cli_ok("unload", "lo")

    assert [one["set"] for one in document["sets"]] == [lab.device, "lo"]
    assert document["result"] == "loaded"


def test_a_device_of_a_namespace_is_loaded_from_outside(lab: TestLab) -> None:
    name = f"{lab.lab.netns}@{lab.lab.peer}"
    document = run_cli_ok("load", "--dev", lab.lab.peer, "-n", lab.lab.netns, "-o", "json").json
    run_cli_ok("unload", lab.lab.peer, "-n", lab.lab.netns)

    assert document["set"] == name
    assert not (ROOT / name).exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--hook", "nowhere"), "there is no hook"),
        (("--prog", "nosuch"), "it has: xdp_stats"),
        (("--prog", "xdp_stats:tcx-ingress"), "cannot run at tcx-ingress"),
        (("--max-map-memory", "many"), "is not a size"),
    ],
)
def test_a_wrong_choice_is_a_usage_error(lab: TestLab, options: tuple[str, ...], word: str) -> None:
    refused = run_cli("load", "--dev", lab.device, *options)

    assert refused.exit_code == 2
    assert word in refused.stderr


def test_a_deployment_without_a_device_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="goes to xdp of a device, and none was named"):
        deploy("builtin:xdp_pass")


def test_status_shows_what_is_loaded_and_finds_a_gone_link(lab: TestLab) -> None:
    run_cli_ok("load", "--dev", lab.device)
    healthy = run_cli("status", lab.device, "--check", "-o", "json")
    (ROOT / lab.device / "links~" / "xdp").unlink()
    broken = run_cli("status", lab.device, "--check", "-o", "json")

    assert (healthy.exit_code, healthy.json["sets"][0]["state"]) == (0, "ok")
    assert broken.exit_code == 10
    assert broken.json["problems"][0]["kind"] == "defunct-link"


def test_the_set_of_a_deleted_device_is_defunct_and_can_be_unloaded() -> None:
    subprocess.run(["ip", "link", "add", "gone0", "type", "veth", "peer", "gone1"], check=True)
    run_cli_ok("load", "--dev", "gone0")
    subprocess.run(["ip", "link", "del", "gone0"], check=True)
    shown = run_cli("status", "gone0", "-o", "json")
    run_cli_ok("unload", "gone0")

    assert shown.json["sets"][0]["state"] == "defunct"
    assert not (ROOT / "gone0").exists()


def test_unload_leaves_a_program_that_somebody_else_put_into_the_link(lab: TestLab) -> None:
    run_cli_ok("load", "--dev", lab.device)
    subprocess.run(["ip", "link", "add", "other0", "type", "veth", "peer", "other1"], check=True)
    deploy("builtin:xdp_pass", device="other0").close()
    with (
        Program.from_pin(ROOT / "other0" / "programs~" / "xdp_pass") as program,
        Link.from_pin(ROOT / lab.device / "links~" / "xdp") as link,
    ):
        link.update(program)
        refused = run_cli("unload", lab.device)
        still = link.program_id() == program.id
        link.detach()
    subprocess.run(["ip", "link", "del", "other0"], check=True)
    run_cli_ok("unload", "other0")

    assert refused.exit_code == 7
    assert still


def test_unloading_what_is_not_loaded_is_not_found() -> None:
    assert run_cli("unload", "nosuchset").exit_code == 4
