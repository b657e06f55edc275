"""`load` of programs of the network stack that name their own targets."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpfpin.attach import sockmap
from bpfpin.attach.lwt import attach_lwt
from bpfpin.attach.netfilter import NetfilterTarget, attach_netfilter
from bpfpin.attach.network_namespace import attach_netns
from bpfpin.attach.query import netns_program, sockmap_program
from bpfpin.attach.sockmap import attach_sockmap
from bpfpin.errors import HookBusyError, UsageError, WrongHookError
from bpfpin.loading.collection import load as load_object
from bpfpin.objects.kernel.btf import has_enumerator
from bpfpin.objects.maps.map import Map
from bpfpin.objfile.reader import read_object
from bpfpin.syscall import netns
from bpfpin.uapi import AttachType
from support.crash import Fault, Injection, faulted, points
from support.here import Here, listed_by_id, veth
from support.lab import TestLab
from support.objects import compiled
from support.wait import HANG_S

needs_netfilter = pytest.mark.skipif(
    not has_enumerator("bpf_attach_type", "BPF_NETFILTER"),
    reason="this kernel has no links for netfilter",
)
needs_sockmap_links = pytest.mark.skipif(
    not has_enumerator("bpf_link_type", "BPF_LINK_TYPE_SOCKMAP"),
    reason="this kernel has no links for maps of sockets",
)
ON_INPUT, ON_OUTPUT, ON_PARSE, ON_VERDICT, ON_MESSAGE, ON_ROUTE, ON_SOCKET = range(7)
ON_LARGE, ON_WHOLE = 7, 8
KILLS = 6  # moments of a reload, spread over it
PACKETS = 20
NEW_ROUTE = "nlmsg_type=(RTM_NEWROUTE|0x18)"  # as strace shows it
DROPS = ("ANSWER=0",)


@pytest.fixture
def here(bpffs: Path) -> Here:
    """A pin root of its own, with a set `seen` in it."""
    return Here(bpffs, "seen")


@pytest.fixture
def source() -> Path:
    return compiled("network")


def newer(step: int = 1000) -> Path:
    return compiled("network", defines=(f"STEP={step}",))


def load(here: Here, source: Path, *words: object) -> dict[str, object]:
    document: dict[str, object] = here.ok("load", source, "--name", "seen", *words)
    return document


def counted(here: Here, kind: int) -> int:
    with Map.from_pin(here.set / "seen") as seen:
        return int(seen[kind])


def send(packets: int = PACKETS) -> int:
    """Send packets to a socket of this host, and return how many arrived."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        arrived = 0
        for _ in range(packets):
            receiver.sendto(b"packet", receiver.getsockname())
            try:
                arrived += bool(receiver.recv(64))
            except BlockingIOError:  # loopback delivers before sendto() returns
                continue
        return arrived


def heals_after_kills(here: Here, folder: Path, words: list[str], send: Callable[[], int]) -> None:
    """Kill reloads at moments spread over them; the next command counts each event once."""
    tail = ["--name", "seen", "--pin-root", str(here.root), *words]
    moments = points(["load", str(newer()), *tail], folder=folder)
    source, healed = newer(5), newer(7)
    hits = 0
    for point in moments[:: max(1, len(moments) // KILLS)]:
        ended = faulted(["load", str(source), *tail], Injection(point, Fault.KILL), folder=folder)
        hits += ended.was_hit
        here.ok("load", healed, "--name", "seen", *words)
        before = [counted(here, kind) for kind in range(ON_SOCKET + 1)]
        sent = send()
        after = [counted(here, kind) for kind in range(ON_SOCKET + 1)]

        assert sum(after) - sum(before) == 7 * sent, point
        assert here.ok("status")["sets"][0]["state"] == "ok"
    assert hits >= KILLS // 2  # a reload makes some calls less than the measured one


INPUT = "on_input:netfilter=ipv4:input"


@needs_netfilter
def test_netfilter_counts_through_a_reload_and_leaves_nothing(here: Here, source: Path) -> None:
    document = load(here, source, "--prog", INPUT, "--prog", "on_output:netfilter=ipv4:output:-5")
    arrived = send()
    (shown,) = here.ok("status")["sets"]
    again = load(here, newer(), "--prog", INPUT, "--prog", "on_output:netfilter=ipv4:output:-5")
    send()
    here.ok("unload", "seen")

    assert [each["target"] for each in document["programs"]] == [  # type: ignore[attr-defined]
        "ipv4:input",
        "ipv4:output:-5",
    ]
    assert {(hook["held"], hook["device"]) for hook in shown["hooks"]} == {
        ("stub", "netfilter hook ipv4:input"),
        ("stub", "netfilter hook ipv4:output:-5"),
    }
    assert (arrived, again["result"]) == (PACKETS, "reloaded")
    assert not here.set.exists()
    assert send() == PACKETS


FRAGMENTS = 3  # of a datagram, on the lab's devices
FAMILIES = {"ipv4": (socket.AF_INET, "127.0.0.1", 0), "ipv6": (socket.AF_INET6, "::1", 1)}


@needs_netfilter
@pytest.mark.parametrize("family", FAMILIES)
def test_netfilter_has_both_families_and_puts_fragments_together(
    here: Here, lab: TestLab, family: str
) -> None:
    number, loopback, version = FAMILIES[family]
    address = lab.lab.addresses.host[version]
    words = [
        f"--prog=on_large:netfilter={family}:prerouting:-450",
        f"--prog=on_whole:netfilter={family}:prerouting:-150,defrag",
        f"--prog=on_input:netfilter={family}:input",
        f"--prog=on_output:netfilter={family}:output",
    ]

    def arrive() -> int:
        """Send datagrams from the peer, each in fragments, and one a time on this host."""
        with netns.enter(lab.lab.netns):
            sender = socket.socket(number, socket.SOCK_DGRAM)
        with sender, socket.socket(number, socket.SOCK_DGRAM) as receiver:
            receiver.bind((address, 0))
            receiver.settimeout(HANG_S)
            for _ in range(PACKETS):
                sender.sendto(bytes(4000), receiver.getsockname())
                assert len(receiver.recv(5000)) == 4000
        with socket.socket(number, socket.SOCK_DGRAM) as own:
            own.bind((loopback, 0))
            for _ in range(PACKETS):
                own.sendto(b"packet", own.getsockname())
        return PACKETS

    planned = load(here, compiled("network"), *words, "--dry-run")
    load(here, compiled("network"), *words)
    arrive()
    (shown,) = here.ok("status")["sets"]
    links = {row["where"] for row in here.ok("link", "list")["links"] if row["set"] == "seen"}
    again = load(here, newer(), *words)
    arrive()
    unchanged = load(here, newer(), *words)
    counts = {kind: counted(here, kind) for kind in (ON_LARGE, ON_WHOLE, ON_INPUT, ON_OUTPUT)}
    here.ok("unload", "seen")

    places = [word.partition("netfilter=")[2] for word in words]
    assert [planned["result"], again["result"], unchanged["result"]] == [
        *("planned", "reloaded", "unchanged")
    ]
    assert {hook["device"] for hook in shown["hooks"]} == {f"netfilter hook {it}" for it in places}
    assert links == set(places)
    assert counts[ON_LARGE] == 1001 * PACKETS * FRAGMENTS
    assert counts[ON_WHOLE] == 1001 * PACKETS
    # Neighbour discovery comes in and goes out as well.
    assert counts[ON_INPUT] // 1000 >= 2 * PACKETS
    assert counts[ON_OUTPUT] // 1000 >= PACKETS
    assert not here.set.exists()


@needs_netfilter
def test_netfilter_heals_after_a_kill(here: Here, source: Path, tmp_path: Path) -> None:
    load(here, source, "--prog", INPUT)
    heals_after_kills(here, tmp_path, ["--prog", INPUT], send)


@needs_netfilter
def test_a_program_that_drops_is_reloaded_by_one_that_accepts(here: Here, source: Path) -> None:
    load(here, compiled("network", defines=DROPS), "--prog", INPUT)
    dropped = send()
    load(here, source, "--prog", INPUT)

    assert (dropped, send()) == (0, PACKETS)
    assert counted(here, ON_INPUT) == 2 * PACKETS


@needs_netfilter
def test_a_stub_without_its_program_lets_packets_pass(here: Here) -> None:
    load(here, compiled("network", defines=DROPS), "--prog", INPUT)
    (here.set / "slots~" / "netfilter~on_input").unlink()
    (here.set / "programs~" / "on_input").unlink()

    assert send() == PACKETS
    assert here.ok("status")["sets"][0]["state"] == "defunct"


@needs_netfilter
def test_a_priority_of_netfilter_is_taken_once(here: Here, source: Path) -> None:
    load(here, source, "--prog", f"{INPUT}:7")
    result = here.refused(7, "load", source, "--name", "other", "--prog", f"{INPUT}:7")
    load(here, source, "--name", "other", "--prog", f"{INPUT}:8")
    send()

    assert "ipv4:input:8" in result.stderr
    assert counted(here, ON_INPUT) == PACKETS


@needs_netfilter
@pytest.mark.parametrize(
    ("target", "refused"),
    [
        ("", (2, "on_input:netfilter=ipv4:input")),
        ("=ipv4", (2, "a family and a hook")),
        ("=ipv4:inptu", (4, "input")),
        ("=arp:input", (4, "ipv4, ipv6")),
        ("=ipv4:input:first", (2, "whole number")),
        ("=ipv4:input:-400,defrag", (2, "too early")),
        ("=ipv4:input,fragments", (2, "defrag")),
    ],
)
def test_a_wrong_hook_of_netfilter_is_refused(
    here: Here, source: Path, target: str, refused: tuple[int, str]
) -> None:
    exit_code, words = refused
    word = f"on_input:netfilter{target}"
    planned = here.refused(exit_code, "load", source, "--name", "n", "--prog", word, "--dry-run")
    result = here.refused(exit_code, "load", source, "--name", "n", "--prog", word)

    assert words in result.stderr
    assert words in planned.stderr


@pytest.mark.skipif(not needs_netfilter.args[0], reason="this kernel has netfilter links")
def test_a_kernel_without_links_for_netfilter_is_named(here: Here, source: Path) -> None:
    result = here.refused(8, "load", source, "--name", "seen", "--prog", INPUT)

    assert "netfilter" in result.stderr


@needs_netfilter
def test_netfilter_is_of_the_network_namespace_that_is_named(
    here: Here, source: Path, lab: TestLab
) -> None:
    words = ("--prog", INPUT, "-n", lab.lab.netns)
    load(here, source, *words)
    send()
    elsewhere = counted(here, ON_INPUT)
    reloaded = load(here, newer(), *words)
    moved = load(here, newer(), "--prog", INPUT)
    send()

    assert (elsewhere, reloaded["result"], moved["result"]) == (0, "reloaded", "reloaded")
    assert counted(here, ON_INPUT) == 1000 * PACKETS


@needs_netfilter
def test_netfilter_from_python() -> None:
    with load_object(read_object(compiled("network")), programs=["on_input"]) as loaded:
        program = loaded.programs["on_input"]
        with attach_netfilter(program, "ipv4:input:-150,defrag"):
            with pytest.raises(HookBusyError, match="of priority -150 already"):
                attach_netfilter(program, "ipv4:input:-150")
            arrived = send()

        assert (arrived, loaded.maps["seen"][ON_INPUT]) == (PACKETS, PACKETS)
        assert str(NetfilterTarget.parse("ipv6:forward:0")) == "ipv6:forward"


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with connected() as ends:
        yield ends


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends of a TCP connection of this host."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=HANG_S) as near,
        listener.accept()[0] as far,
    ):
        far.settimeout(HANG_S)
        yield near, far


def add(here: Here, end: socket.socket, key: int = 0) -> None:
    with Map.from_pin(here.set / "sockets") as sockets:
        sockets[key] = end.fileno()


def talk(connection: tuple[socket.socket, socket.socket], messages: int = PACKETS) -> int:
    """Send messages one after the other, each received before the next, and return how many."""
    near, far = connection
    for _ in range(messages):
        near.sendall(b"message")
        assert far.recv(64) == b"message"
    return messages


VERDICTS = {  # what is loaded, what counts, and which end it sees
    "sk-skb-verdict": (("--prog", "on_verdict"), ON_VERDICT, 1),
    "sk-skb-stream-verdict": (("--prog", "on_parse", "--prog", "on_stream"), ON_VERDICT, 1),
    "sk-msg-verdict": (("--prog", "on_message:sk-msg-verdict=sockets"), ON_MESSAGE, 0),
}


@needs_sockmap_links
@pytest.mark.parametrize("hook", VERDICTS)
def test_a_map_of_sockets_runs_the_program_of_a_reload_for_the_sockets_in_it(
    here: Here, source: Path, hook: str, connection: tuple[socket.socket, socket.socket]
) -> None:
    words, kind, end = VERDICTS[hook]
    load(here, source, *words)
    add(here, connection[end])
    talk(connection)
    (shown,) = here.ok("status")["sets"]
    again = load(here, newer(), *words)
    talk(connection)
    at_end = counted(here, kind)
    unchanged = load(here, newer(), *words)
    here.ok("unload", "seen")
    talk(connection)

    assert (hook, "map sockets", "stub") in {
        (each["hook"], each["device"], each["held"]) for each in shown["hooks"]
    }
    assert (again["result"], unchanged["result"]) == ("reloaded", "unchanged")
    assert at_end == 1001 * PACKETS
    assert not here.set.exists()


@needs_sockmap_links
def test_without_a_stub_a_reload_is_for_sockets_that_come_later(
    here: Here, source: Path, connection: tuple[socket.socket, socket.socket]
) -> None:
    words = ("--prog", "on_verdict", "--no-stub")
    load(here, source, *words)
    add(here, connection[1])
    (before,) = here.ok("status")["sets"]
    again = load(here, newer(), *words)
    talk(connection)
    with_old = counted(here, ON_VERDICT)
    with connected() as later:
        add(here, later[1], key=1)
        talk(later)
    (after,) = here.ok("status")["sets"]

    assert [each["held"] for each in before["hooks"]] == ["link"]
    assert [each["link"] for each in before["hooks"]] == [each["link"] for each in after["hooks"]]
    assert (again["result"], after["state"], with_old) == ("reloaded", "ok", PACKETS)
    assert counted(here, ON_VERDICT) == 1001 * PACKETS


def test_a_new_map_of_sockets_gets_the_program_of_its_generation(
    here: Here, source: Path, connection: tuple[socket.socket, socket.socket]
) -> None:
    load(here, source, "--prog", "on_verdict")
    larger = compiled("network", defines=("ENTRIES=8", "STEP=1000"))
    load(here, larger, "--prog", "on_verdict", "--fresh", "sockets")
    add(here, connection[1])
    talk(connection)

    assert counted(here, ON_VERDICT) == 1000 * PACKETS
    assert here.ok("status")["sets"][0]["state"] == "ok"


def test_a_map_of_sockets_that_the_object_lacks_is_refused_with_those_it_has(
    here: Here, source: Path
) -> None:
    for more in ((), ("--dry-run",)):
        words = ("load", source, "--name", "n", "--prog", "on_verdict:sk-skb-verdict=socket", *more)
        missing = here.refused(4, *words)
        assert "it has: sockets" in missing.stderr
    wrong = here.refused(
        2, "load", source, "--name", "n", "--prog", "on_verdict:sk-skb-verdict=seen"
    )

    assert "map seen is of type array" in wrong.stderr


@needs_sockmap_links
def test_a_map_of_sockets_heals_after_a_kill(
    here: Here, source: Path, tmp_path: Path, connection: tuple[socket.socket, socket.socket]
) -> None:
    load(here, source, "--prog", "on_verdict")
    add(here, connection[1])
    heals_after_kills(here, tmp_path, ["--prog", "on_verdict"], lambda: talk(connection))


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.10: no links for maps of sockets."""
    monkeypatch.setattr(sockmap, "_link", lambda program, bpf_map, hook: None)


@pytest.mark.usefixtures("without_links")
def test_a_map_holds_its_program_where_the_kernel_has_no_links_for_it(
    here: Here, source: Path, tmp_path: Path, connection: tuple[socket.socket, socket.socket]
) -> None:
    document = load(here, source, "--prog", "on_verdict")
    (shown,) = here.ok("status")["sets"]
    load(here, newer(), "--prog", "on_verdict")
    add(here, connection[1])
    talk(connection)
    first = counted(here, ON_VERDICT)

    def talk_again() -> int:
        with Map.from_pin(here.set / "sockets") as sockets:
            del sockets[0]
        add(here, connection[1])  # a socket keeps the program that it was added with
        return talk(connection)

    heals_after_kills(here, tmp_path, ["--prog", "on_verdict"], talk_again)
    running = here.ok("status")["sets"][0]
    with Map.from_pin(here.set / "sockets") as sockets:
        here.ok("unload", "seen")
        after = sockmap_program(sockets.fd, AttachType.SK_SKB_VERDICT)

    assert "no links for maps of sockets" in str(document)
    assert [each["held"] for each in shown["hooks"]] == ["map"]
    assert first == 1000 * PACKETS
    assert running["state"] == "ok"
    assert after == 0


@needs_sockmap_links
def test_maps_of_sockets_from_python() -> None:
    spec = read_object(compiled("network"))
    with load_object(spec, programs=["on_verdict", "on_stream", "on_message"]) as loaded:
        sockets, programs = loaded.maps["sockets"], loaded.programs
        with (
            attach_sockmap(programs["on_message"], sockets) as message,
            attach_sockmap(programs["on_verdict"], sockets) as verdict,
        ):
            with pytest.raises(HookBusyError, match="cannot take one more program"):
                attach_sockmap(programs["on_stream"], sockets, "sk-skb-stream-verdict")
            with pytest.raises(HookBusyError, match=f"program id {verdict.program_id()}"):
                attach_sockmap(programs["on_stream"], sockets)
            with load_object(spec, programs=["on_verdict"]) as other:
                newer_verdict = other.programs["on_verdict"]
                verdict.update(newer_verdict, programs["on_verdict"])

                assert verdict.program_id() == newer_verdict.id
            assert message.program_id() == programs["on_message"].id
        for hook in (AttachType.SK_SKB_VERDICT, AttachType.SK_MSG_VERDICT):
            assert sockmap_program(sockets.fd, hook) == 0
        with pytest.raises(WrongHookError):
            attach_sockmap(programs["on_message"], sockets, "sk-skb-verdict")
        with pytest.raises(UsageError, match="map seen is of type array"):
            attach_sockmap(programs["on_message"], loaded.maps["seen"])


@dataclass(frozen=True)
class Road:
    """A route of this host by a device of a lab; packets that take it are counted."""

    lab: TestLab
    route: str

    def send(self) -> int:
        """Send packets to the peer by the route."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(PACKETS):
                sender.sendto(b"packet", (self.lab.peer_address, 9))
        return PACKETS

    def shown(self) -> str:
        """Return what ip(8) says of it."""
        words = ["ip", "-d", "route", "show", self.route]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def road(lab: TestLab) -> Iterator[Road]:
    route = f"{lab.peer_address}/32"
    words = ["dev", lab.device, "metric", "50", "src", lab.host_address, "mtu", "1400"]
    subprocess.run(["ip", "route", "add", route, *words], check=True)
    yield Road(lab, route)
    subprocess.run(["ip", "route", "del", route], check=False, capture_output=True)


def test_a_route_runs_its_programs_through_reloads_and_is_as_before_after_unload(
    here: Here, source: Path, road: Road
) -> None:
    before = road.shown()
    words = ("--prog", f"on_route:lwt-xmit={road.route},metric=50")
    both = (*words, "--prog", f"on_departure:lwt-out={road.route} dev {road.lab.device}")
    load(here, source, *words)
    road.send()
    on_route = counted(here, ON_ROUTE)
    (shown,) = here.ok("status")["sets"]
    graph = here.ok("graph")
    listed = listed_by_id("prog")
    load(here, newer(), *both)
    road.send()
    unchanged = load(here, newer(), *both)
    counts = [counted(here, kind) for kind in (ON_ROUTE, ON_SOCKET)]
    with_programs = road.shown()
    here.ok("unload", "seen")

    assert on_route == PACKETS
    assert [(each["held"], each["device"]) for each in shown["hooks"]] == [
        ("route", f"route {road.route},metric=50")
    ]
    assert any(edge.get("hook") == "lwt-xmit" for edge in graph["edges"])
    assert any("lwt-xmit" in str(row["attached"]) for row in listed.values())
    assert unchanged["result"] == "unchanged"
    assert counts == [1001 * PACKETS, 1000 * PACKETS]
    assert "encap bpf out on_departure id" in " ".join(with_programs.split())
    assert road.shown() == before
    assert not here.set.exists()


def test_a_program_that_cuts_the_default_route_is_refused_and_another_is_not(
    here: Here, road: Road
) -> None:
    drops = compiled("network", defines=("ROUTED=2",))
    with default_route(road.lab):
        result = here.refused(
            2, "load", drops, "--name", "n", "--prog", "on_route:lwt-xmit=default"
        )
        load(here, drops, "--prog", f"on_route:lwt-xmit={road.route}")

    assert "on_route answers BPF_DROP" in result.stderr
    assert "the default route" in result.stderr


@contextmanager
def default_route(lab: TestLab) -> Iterator[None]:
    """The default route by the device of a lab: what goes there must not be cut."""
    words = ["ip", "route", "add", "default", "dev", lab.device]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "del", "default"], check=True)


CUTTING = {
    "on_input:netfilter=ipv4:input": "NF_DROP",
    "on_output:netfilter=ipv4:postrouting:-5": "NF_DROP",
    "on_output:netfilter=ipv4:output": "NF_DROP",
}


def test_a_program_of_the_namespace_that_cuts_the_way_here_is_refused(
    here: Here, source: Path, lab: TestLab
) -> None:
    drops = compiled("network", defines=DROPS)
    with default_route(lab):
        for word, answer in CUTTING.items():
            if "netfilter" in word and not needs_netfilter.args[0]:
                result = here.refused(2, "load", drops, "--name", "n", "--prog", word)
                assert f"answers {answer}" in result.stderr, word
        result = here.refused(2, "load", drops, "--name", "n", "--prog", "on_lookup")
        passing = here.ok("load", source, "--name", "seen", "--prog", "on_lookup")
        forced = here.ok("load", drops, "--name", "forced", "--prog", "on_lookup", "--force")
        here.ok("unload", "forced")

    assert "answers SK_DROP" in result.stderr
    assert [passing["result"], forced["result"]] == ["loaded", "loaded"]
    assert not any("not tried" in note for note in passing["notes"])


def test_a_route_of_ipv6_runs_its_program_over_a_reload(
    here: Here, source: Path, lab: TestLab
) -> None:
    peer = lab.lab.addresses.peer[1]
    route = f"{peer}/128"
    words = ["dev", lab.device, "metric", "50"]
    subprocess.run(["ip", "-6", "route", "add", route, *words], check=True)
    word = ("--prog", f"on_route:lwt-xmit={route}")

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            for _ in range(PACKETS):
                sender.sendto(b"packet", (peer, 9))

    def shown() -> str:
        show = ["ip", "-6", "route", "show", route]
        return subprocess.run(show, check=True, capture_output=True, text=True).stdout

    before = shown()
    load(here, source, *word)
    send()
    load(here, newer(), *word)
    send()
    at_end = counted(here, ON_ROUTE)
    here.ok("unload", "seen")

    assert at_end % 1000 >= PACKETS  # neighbour discovery takes the route as well
    assert at_end // 1000 >= PACKETS
    assert shown() == before


def test_packets_that_arrive_for_a_route_are_seen(here: Here, source: Path, lab: TestLab) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    with veth() as onward:
        for words in (
            f"link set {onward} up",
            f"route add 10.79.0.0/24 dev {onward}",
            f"-n {lab.lab.netns} route add 10.79.0.0/24 via {lab.host_address}",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        load(here, source, "--prog", "on_arrival:lwt-in=10.79.0.0/24")
        with netns.enter(lab.lab.netns):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        forwarding.write_text("1")
        with sender:
            for _ in range(PACKETS):
                sender.sendto(b"packet", ("10.79.0.1", 9))
        forwarding.write_text("0")
        arrived = counted(here, ON_ROUTE)
        here.ok("unload", "seen")

    assert arrived == PACKETS


def test_a_route_heals_after_a_kill(here: Here, source: Path, tmp_path: Path, road: Road) -> None:
    words = ["--prog", f"on_route:lwt-xmit={road.route}"]
    load(here, source, *words)
    heals_after_kills(here, tmp_path, words, road.send)
    here.ok("unload", "seen")

    assert "encap" not in road.shown()


def test_a_first_load_that_is_killed_leaves_no_program_on_a_route(
    here: Here, source: Path, tmp_path: Path, road: Road
) -> None:
    words = ["load", str(source), "--name", "seen", "--prog", f"on_route:lwt-xmit={road.route}"]
    words += ["--pin-root", str(here.root)]
    moments = points(words, folder=tmp_path)
    here.ok("unload", "seen")
    (made,) = [number for number, it in enumerate(moments) if re.search(NEW_ROUTE, it.arguments)]
    for point in moments[made : made + 3]:
        assert faulted(words, Injection(point, Fault.KILL), folder=tmp_path).was_hit
        here.ok("clean")

        assert "encap" not in road.shown(), point


def test_a_program_of_somebody_else_on_a_route_is_left_alone(
    here: Here, source: Path, road: Road
) -> None:
    word = f"on_route:lwt-xmit={road.route}"
    with load_object(read_object(source), programs=["on_route"]) as loaded:
        with attach_lwt(loaded.programs["on_route"], road.route) as theirs:
            busy = here.refused(7, "load", source, "--name", "n", "--prog", word)
            planned = here.refused(7, "load", source, "--name", "n", "--prog", word, "--dry-run")
            running = theirs.program_id()
        load(here, source, "--prog", word)
        theirs.update(loaded.programs["on_route"])
        changed = here.ok("status")
        refused = here.refused(7, "unload", "seen")
        line = refused.stderr.partition("remove it on purpose: ")[2].splitlines()[0]
        subprocess.run(line.split(), check=True)
        here.ok("unload", "seen")

    assert f"runs program id {running} already" in busy.stderr
    assert f"runs program id {running} already" in planned.stderr
    assert [each["kind"] for each in changed["problems"]] == ["program-changed"]
    assert "encap" not in road.shown()


def test_a_route_is_found_again_when_its_device_was_renamed(
    here: Here, source: Path, road: Road
) -> None:
    device = road.lab.device
    word = f"on_route:lwt-xmit={road.route},dev={device}"
    load(here, source, "--prog", word)
    rename = ["ip", "link", "set", device, "name", "renamed"]
    if subprocess.run(rename, check=False, capture_output=True).returncode:
        pytest.skip("this kernel renames no device that is up")
    (shown,) = here.ok("status")["sets"]
    here.ok("unload", "seen")
    left = road.shown()
    subprocess.run(["ip", "link", "set", "renamed", "name", device], check=True)

    assert shown["state"] == "ok"
    assert "dev renamed" in left
    assert "encap" not in left


def test_a_route_that_is_gone_is_told(here: Here, source: Path, road: Road) -> None:
    word = f"on_route:lwt-xmit={road.route}"
    load(here, source, "--prog", word)
    subprocess.run(["ip", "route", "del", road.route], check=True)
    (shown,) = here.ok("status")["sets"]
    again = here.refused(4, "load", newer(), "--name", "seen", "--prog", word)
    here.ok("unload", "seen")

    assert shown["state"] == "defunct"
    assert "there is no route" in again.stderr


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("10.250.0.0/16", (4, "there is no route")),
        ("10.250.0.0/16,of=lo", (2, "is not a route")),
        ("10.250.0.0", (4, "there is no route")),
        ("10.250.0.0/99", (2, "is not a route")),
        ("10.251.0.0/16", (2, "several next hops")),
        ("10.252.0.0/16", (2, "10.252.0.0/16,dev=lo,metric=9")),
        ("10.252.0.0/16,metric=7", (2, "a tunnel of another kind")),
    ],
)
def test_a_route_that_can_have_no_program_is_refused(
    here: Here, source: Path, words: str, refused: tuple[int, str]
) -> None:
    exit_code, reason = refused
    for line in (
        "replace 10.251.0.0/16 nexthop dev lo weight 1 nexthop dev lo weight 2",
        "replace 10.252.0.0/16 dev lo metric 9",
        "replace 10.252.0.0/16 dev lo metric 7 encap ip dst 10.0.0.1",
    ):
        subprocess.run(["ip", "route", *line.split()], check=True)
    result = here.refused(
        exit_code, "load", source, "--name", "n", "--prog", f"on_route:lwt-xmit={words}"
    )

    assert reason in result.stderr


def test_a_namespace_has_one_flow_dissector_which_is_named_and_taken_over(here: Here) -> None:
    dissector = compiled("dissector")
    with load_object(read_object(dissector)) as loaded:
        with attach_netns(loaded.programs["dissect"], "flow-dissector") as theirs:
            busy = here.refused(7, "load", dissector, "--name", "n")
            with pytest.raises(HookBusyError, match=f"held by link id {theirs.id}"):
                attach_netns(loaded.programs["dissect"], "flow-dissector")
            taken = load(here, dissector, "--take-over")
        running = here.ok("status")["sets"][0]
        again = load(here, compiled("dissector", defines=("VERSION=2",)))
        here.ok("unload", "seen")
    with netns.open_namespace(netns.OWN) as namespace:
        left = netns_program(namespace.fileno(), AttachType.FLOW_DISSECTOR)

    assert f"program id {theirs_id(busy.stderr)}, held by link id" in busy.stderr
    assert "--take-over" in busy.stderr
    assert (taken["result"], again["result"]) == ("loaded", "reloaded")
    assert (running["state"], running["hooks"][0]["hook"]) == ("ok", "flow-dissector")
    assert left == 0


def theirs_id(text: str) -> str:
    return str(re.findall("program id ([0-9]+)", text)[0])
