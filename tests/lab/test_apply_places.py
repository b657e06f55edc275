"""State files for cgroups, namespaces and functions, and what `apply` leaves to the user."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.devices import driver_name
from bpfpin.errors import PermissionDeniedError
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.sets.apply.state import loaded_state
from support import isolation
from support.cli import CliResult, run_cli, run_cli_ok
from support.hooks import new_cgroup
from support.lab import TestLab
from support.nobody import nobody, run_cli_as_nobody
from support.objects import compiled

ROOT = Path("/sys/fs/bpf")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    run_cli("unload", "--all")


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def actions(result: CliResult) -> dict[str, str]:
    return {each["set"]: each["action"] for each in result.json["sets"]}


def test_sets_at_all_kinds_of_places_come_back(lab: TestLab, tmp_path: Path) -> None:
    with new_cgroup(tmp_path / "cgroups") as cgroup:
        run_cli_ok("load", "builtin:cgroup_stats", "--cgroup", cgroup)
        run_cli_ok("load", "builtin:xdp_stats", "-n", lab.lab.netns, "--dev", lab.lab.peer)
        run_cli_ok(
            *("load", compiled("tracing"), "--prog", "on_other", "--no-stub"),
            *("--prog", "anywhere:tracepoint=syscalls/sys_enter_sched_getparam"),
        )
        run_cli_ok("load", compiled("tracing"), "--prog", "on_raw", "--name", "a set")
        state = write(tmp_path / "state.toml", run_cli_ok("state").stdout)
        unchanged = run_cli("apply", state, "--check", "-o", "json")
        isolation.umount(ROOT)
        isolation.mount("bpf", ROOT)
        applied = run_cli_ok("apply", state, "-o", "json")
        again = run_cli("apply", state, "--check")
        written = run_cli_ok("state").stdout
        run_cli_ok("unload", "--all")
    gone = run_cli("apply", state)

    assert (unchanged.exit_code, set(actions(unchanged).values())) == (0, {"unchanged"})
    assert list(actions(applied).values()) == ["load"] * 4
    assert again.exit_code == 0
    assert tomllib.loads(written) == tomllib.loads(state.read_text())
    wanted = tomllib.loads(written)["set"]
    # By the first mount of the hierarchy, whose paths are the same after a reboot.
    assert [Path(each.get("cgroup", each.get("netns", "-"))).name for each in wanted] == [
        cgroup.name,
        lab.lab.netns,
        "-",
        "-",
    ]
    assert (wanted[2]["stub"], wanted[3]["name"]) == (False, "a set")
    # The cgroup is gone; the others are loaded.
    assert gone.exit_code == 4
    assert f"state.toml:4: set {wanted[0]['cgroup']}: " in gone.stderr


def test_a_map_from_elsewhere_is_used_again(lab: TestLab, tmp_path: Path) -> None:
    outside, object_file = ROOT / "elsewhere", compiled("stated")
    spec = read_object(object_file).maps["limits"]
    with Map.create(spec) as bpf_map:
        bpf_map.pin(outside)
        wanted_id = bpf_map.id
    try:
        run_cli_ok("load", object_file, "--dev", lab.device, "--map", f"limits={outside}")
        # A reload keeps the map without naming it again.
        run_cli_ok("load", object_file, "--dev", lab.device, "--fresh", "seen")
        state = write(tmp_path / "a.toml", run_cli_ok("state").stdout)
        run_cli_ok("unload", "--all")
        run_cli_ok("apply", state)
        again = run_cli("apply", state, "--check")
        with Map.from_pin(ROOT / lab.device / "limits") as limits:
            used_id = limits.id
        run_cli_ok("unload", "--all")
    finally:
        outside.unlink()
    missing = run_cli("apply", state)

    assert tomllib.loads(state.read_text())["set"][0]["maps"] == {"limits": {"use": str(outside)}}
    assert (used_id, again.exit_code) == (wanted_id, 0)
    assert (missing.exit_code, str(outside) in missing.stderr) == (4, True)


def test_what_a_state_cannot_hold_is_said(lab: TestLab) -> None:
    run_cli_ok("load", "builtin:xdp_stats", "--dev", lab.device)
    run_cli_ok("unload", lab.device, "--keep-maps")
    kept = run_cli("state", "-o", "json")
    run_cli_ok("load", "builtin:xdp_stats", "--dev", lab.device, "--confirm", "600")
    on_trial = run_cli("state")
    run_cli_ok("confirm", lab.device)

    assert (kept.exit_code, kept.json["sets"][0]["keys"]) == (4, {})
    assert "nothing of it is attached" in kept.json["problems"][0]
    assert (on_trial.exit_code, "it is on trial" in on_trial.stderr) == (4, True)
    assert f"# {lab.device}: it is on trial" in on_trial.stdout
    assert run_cli("state").exit_code == 0


def test_a_user_without_rights_gets_no_part_of_a_state(lab: TestLab, tmp_path: Path) -> None:
    run_cli_ok("load", "builtin:xdp_stats", "--dev", lab.device)
    file = write(
        tmp_path / "a.toml", f"[[set]]\nobject = 'builtin:xdp_pass'\ndevice = '{lab.device}'\n"
    )
    with nobody(), pytest.raises(PermissionDeniedError, match="may not be read"):
        loaded_state()
    refused = run_cli_as_nobody("apply", file)

    assert refused.exit_code == 3
    assert "needs CAP_BPF and CAP_NET_ADMIN" in refused.stderr


def test_devices_are_found_by_group_and_driver(lab: TestLab, tmp_path: Path) -> None:
    subprocess.run(["ip", "link", "set", lab.device, "group", "77"], check=True)
    file = tmp_path / "a.toml"
    found = []
    for pattern in ("group=77", f"driver={driver_name(lab.device)}", f"{lab.device[:3]}*"):
        write(file, f"[[set]]\nobject = 'builtin:xdp_pass'\ndevice = '{pattern}'\n")
        found.append(run_cli("apply", file, "--check", "-o", "json"))

    assert [list(actions(each)) for each in found] == [[lab.device]] * 3


def test_a_size_changes_by_migration_if_that_is_allowed(lab: TestLab, tmp_path: Path) -> None:
    text = f"[[set]]\nobject = '{compiled('stated')}'\ndevice = '{lab.device}'\n"
    file = write(tmp_path / "a.toml", text)
    run_cli_ok("apply", file)
    run_cli_ok("map", "set", f"{lab.device}/limits", "port=5,zone=0", "rate=7")
    write(file, f"{text}maps.limits.max_entries = 9\n")
    refused = run_cli("apply", file)
    write(file, f"{text}maps.limits.max_entries = 9\nmigrate = true\n")
    applied = run_cli_ok("apply", file, "--diff")
    with Map.from_pin(ROOT / lab.device / "limits") as limits:
        size, entries = limits.max_entries, len(list(limits))
    state = tomllib.loads(run_cli_ok("state").stdout)["set"][0]

    assert refused.exit_code == 6
    assert "hint: " in refused.stderr
    assert "migrate = true" in refused.stderr
    assert "map limits, max_entries: 4 -> 9" in applied.stdout
    assert (size, entries) == (9, 1)
    assert state["maps"] == {"limits": {"max_entries": 9}}


def test_a_map_that_others_share_is_not_taken_away(lab: TestLab, tmp_path: Path) -> None:
    def a_set(device: str, entries: str) -> str:
        return (
            f"[[set]]\nobject = '{compiled('stated')}'\ndevice = '{device}'\nforce = true\n"
            f"maps.blocked = {{ pinning = 'by-name', entries = {entries} }}\n"
        )

    same = "{ '10.0.0.0/8' = 1 }"
    file = write(tmp_path / "a.toml", a_set(lab.device, same) + a_set("lo", same))
    shared = run_cli_ok("apply", file, "-o", "json")
    again = run_cli_ok("apply", file, "-o", "json")
    written = tomllib.loads(run_cli_ok("state").stdout)["set"]
    write(file, a_set(lab.device, same) + a_set("lo", "{}"))
    refused = run_cli("apply", file, "-o", "json")

    assert set(actions(shared).values()) == {"load"}
    assert set(actions(again).values()) == {"unchanged"}
    assert [each["maps"]["blocked"] for each in written] == [{"pinning": "by-name"}] * 2
    assert (refused.exit_code, actions(refused)) == (7, {lab.device: "unchanged", "lo": "fail"})
    assert "1 removed" in refused.json["error"]["message"]


def test_entries_that_would_cut_the_user_off_are_refused(
    lab: TestLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", f"{lab.peer_address} 50000 {lab.host_address} 22")
    text = f"[[set]]\nobject = '{compiled('stated')}'\ndevice = '{lab.device}'\n"
    file = write(tmp_path / "a.toml", f"{text}maps.lists.slots.0.entries = {{ 23 = 1 }}\n")
    run_cli_ok("apply", file)
    write(file, f"{text}maps.lists.slots.0.entries = {{ 22 = 1 }}\n")
    slot = run_cli("apply", file)
    write(file, f"{text}maps.blocked.entries = {{ '{lab.peer_address}' = 1 }}\n")
    reload = run_cli("apply", file)
    checked = run_cli("apply", file, "--check")
    write(file, f"{text}force = true\nmaps.lists.slots.0.entries = {{ 22 = 1 }}\n")
    forced = run_cli("apply", file)

    assert (slot.exit_code, reload.exit_code, checked.exit_code) == (2, 2, 2), slot.stderr
    assert "your ssh session" in slot.stderr
    assert "force = true" in slot.stderr
    assert "your ssh session" in reload.stderr
    assert forced.exit_code == 0, forced.stderr
