"""An object of iproute2's making, loaded by the command: its tail calls decide over packets."""

from __future__ import annotations

from bpfpin.objects.maps.map import Map
from bpfpin.pins.bpffs import BPFFS
from support.cli import run_cli_ok
from support.lab import TestLab
from support.objects import compiled

DROPPING, EMPTY = 0, 1  # entries of the program array


def test_packets_meet_the_program_behind_the_tail_call(lab: TestLab) -> None:
    words = ("load", compiled("elf_tail_calls_xdp"), "--dev", lab.device)
    loaded = run_cli_ok(*words, "-o", "json").json
    places = {each["name"]: each["path"] for each in loaded["maps"]}

    def answers(index: int) -> bool:
        with Map.from_pin(places["chosen"]) as chosen:
            chosen.update_bytes(bytes(4), index.to_bytes(4, "little"))
        return lab.answers(timeout_s=0.3 if index == DROPPING else 5.0)

    assert places["jumps"] == str(BPFFS / lab.device / "jumps")
    assert (answers(EMPTY), answers(DROPPING)) == (True, False)

    # A reload makes the array anew, with the new programs in it.
    again = run_cli_ok(*words, "--fresh", "chosen", "-o", "json").json
    decisions = {each["name"]: each["decision"] for each in again["maps"]}

    assert decisions == {"chosen": "fresh", "jumps": "created"}
    assert (answers(EMPTY), answers(DROPPING)) == (True, False)
    run_cli_ok("unload", lab.device)
    assert lab.answers()
