"""The library as its documentation shows it, by its public names alone."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfpin
from bpfpin import Map, XdpAction, XdpMode
from support.objects import compiled

OBJECT = "builtin:xdp_stats"


@pytest.fixture
def device() -> Iterator[str]:
    subprocess.run(["ip", "link", "add", "api0", "type", "veth", "peer", "api1"], check=True)
    subprocess.run(["ip", "link", "set", "api0", "up"], check=True)
    subprocess.run(["ip", "link", "set", "api1", "up"], check=True)
    yield "api0"
    subprocess.run(["ip", "link", "del", "api0"], check=True)


def test_a_description_is_a_value_that_a_change_copies() -> None:
    spec = bpfpin.read_object(OBJECT)
    changed = spec.with_map("xdp_stats_map", max_entries=8)

    assert spec.maps["xdp_stats_map"].max_entries == 5
    with bpfpin.load(changed) as loaded:
        assert loaded.maps["xdp_stats_map"].info.max_entries == 8


def test_a_program_is_attached_pinned_updated_and_detached(device: str, bpffs: Path) -> None:
    with bpfpin.load(bpfpin.read_object(OBJECT)) as loaded:
        program = loaded.programs["xdp_stats"]
        with bpfpin.load(bpfpin.read_object("builtin:xdp_pass")) as others:
            other = others.programs["xdp_pass"]
            expected = (program.id, other.id, other.id)
            with bpfpin.attach_xdp(program, device, mode=XdpMode.NATIVE) as link:
                before = link.program_id()
                link.pin(bpffs / "mylink")
                link.update(other)
                after = link.program_id()
            with bpfpin.Link.from_pin(bpffs / "mylink") as again:
                still = again.program_id()
                again.detach()

    assert (before, after, still) == expected


def test_a_map_is_shared_by_handing_it_to_a_load(bpffs: Path) -> None:
    spec = bpfpin.read_object(OBJECT)
    with bpfpin.load(spec) as first:
        first.maps["action"].pin(bpffs / "shared")
        with bpfpin.load(spec, maps={"action": Map.from_pin(bpffs / "shared")}) as second:
            second.maps["action"][0] = XdpAction.XDP_TX

            assert second.maps["action"].id == first.maps["action"].id
            assert first.maps["action"][0] == XdpAction.XDP_TX


def test_a_map_that_does_not_fit_lists_all_its_differences(bpffs: Path) -> None:
    spec = bpfpin.read_object(OBJECT)
    with bpfpin.load(spec) as first:
        first.maps["action"].pin(bpffs / "shared")
    changed = spec.with_map("action", max_entries=2, map_flags=bpfpin.MapFlag.MMAPABLE)
    with pytest.raises(bpfpin.IncompatibleMapError) as caught:
        bpfpin.load(changed, maps={"action": Map.from_pin(bpffs / "shared")})

    found = [(one.field, one.old, one.new) for one in caught.value.differences]
    assert ("max_entries", "1", "2") in found
    assert [field for field, _, _ in found if field == "map_flags"] == ["map_flags"]


def test_a_deployment_outlives_its_process_and_is_read_by_its_pin(device: str, bpffs: Path) -> None:
    with bpfpin.deploy(OBJECT, device=device, pin_root=bpffs) as deployment:
        deployment.maps["action"][0] = XdpAction.XDP_DROP
        report = deployment.report
    send(device, 3)
    with Map.from_pin(bpffs / device / "xdp_stats_map") as counters:
        per_cpu = {XdpAction(action): values for action, values in counters.items()}
        dropped = counters.total(XdpAction.XDP_DROP)["rx_packets"]
        as_dict = counters.to_dict()
        entries = counters.info.max_entries
    undone = bpfpin.undeploy(device, pin_root=bpffs)

    assert (report.set, report.result.value, undone.set) == (device, "loaded", device)
    assert dropped >= 3
    assert dropped == sum(value["rx_packets"] for value in per_cpu[XdpAction.XDP_DROP])
    assert (entries, len(as_dict)) == (5, 5)
    assert not (bpffs / device).exists()


def send(device: str, packets: int) -> None:
    """Send frames into the other end of the pair, so that *device* receives them."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device.replace("0", "1"), 0))
        for _ in range(packets):
            raw.send(b"\xff" * 12 + b"\x08\x00" + bytes(50))


def test_a_map_without_types_is_read_by_struct_formats(bpffs: Path) -> None:
    spec = bpfpin.MapSpec("flows", bpfpin.MapType.HASH, 4, 16, max_entries=8)
    with Map.create(spec) as made:
        made.pin(bpffs / "flows")
        made[bytes(4)] = bytes(range(16))
    with Map.from_pin(bpffs / "flows", key_format="I", value_format="QQ", read_only=True) as flows:
        assert dict(flows) == {0: (0x0706050403020100, 0x0F0E0D0C0B0A0908)}
        with pytest.raises(bpfpin.ReadOnlyMapError):
            flows[1] = (1, 2)


def test_maps_behave_as_mappings_do(bpffs: Path) -> None:
    spec = bpfpin.MapSpec("flows", bpfpin.MapType.HASH, 4, 4, max_entries=2)
    with Map.create(spec) as flows, Map.create(spec) as others:
        one, two, three = b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0"
        flows[one] = two
        flows.update(two, one, flag=bpfpin.UpdateFlag.NOEXIST)

        assert (flows != others, flows == flows, bool(others)) == (True, True, True)  # noqa: PLR0124  (identity)
        assert sorted(pair for batch in flows.lookup_batch() for pair in batch) == [
            (one, two),
            (two, one),
        ]
        with pytest.raises(KeyError):
            flows[three]
        with pytest.raises(bpfpin.KeyExistsError):
            flows.update(one, one, flag=bpfpin.UpdateFlag.NOEXIST)
        with pytest.raises(bpfpin.MapFullError):
            flows[three] = one
        del flows[one]
        assert list(flows) == [two]


def test_what_is_loaded_is_found_among_all_maps_programs_and_links(device: str) -> None:
    with bpfpin.load(bpfpin.read_object(OBJECT)) as loaded:
        program = loaded.programs["xdp_stats"]
        held = loaded.maps["action"]
        with bpfpin.attach_xdp(program, device) as link:
            found = {info.id: info.program_id for info in bpfpin.links()}

            assert found[link.id] == program.id
        assert held.id in {info.id for info in bpfpin.maps()}
        assert program.id in {info.id for info in bpfpin.programs()}


def test_a_refused_program_raises_with_the_whole_log() -> None:
    with pytest.raises(bpfpin.VerifierError) as caught:
        bpfpin.load(bpfpin.read_object(compiled("verifier_refused")))

    assert "*counter += 1;" in str(caught.value)
    assert caught.value.telling_line in caught.value.log
