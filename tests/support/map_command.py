"""`bpfpin map` in this process, and maps of rich types to try it on."""

from __future__ import annotations

from typing import Any

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import (
    Array,
    Enum,
    Enumerator,
    Int,
    Member,
    Modifier,
    ModifierKind,
    Struct,
    Union,
)
from bpfpin.btf.write import BtfBuilder
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType
from support.cli import CliResult
from support.here import run_here


def run(*words: object) -> CliResult:
    """Run `bpfpin map WORDS…` and return how it ended."""
    return run_here("map", *words)


def ok(*words: object) -> Any:
    """Run a line that must succeed, and return its JSON document."""
    result = run(*words, "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert result.json["schema"] == 1
    return result.json


def said(*words: object) -> CliResult:
    """Run a line that must succeed, and return what people see of it."""
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return result


def refused(exit_code: int, *words: object) -> Any:
    """Run a line that must be refused with that exit code, and return its error as JSON has it."""
    result = run(*words, "-o", "json")
    assert result.exit_code == result.json["error"]["exit"] == exit_code, result.stderr
    return result.json["error"]


def specs() -> tuple[MapSpec, MapSpec]:
    """Return the hash `sessions` and the LPM trie `routes`, whose types have names and addresses.

    ```c
    struct session { __be32 saddr; __be16 dport; enum protocol { ICMP = 1, TCP = 6 } __packed; };
    struct state {
        enum verdict { DROP = 1, PASS = 2 } verdict; u32 ifindex; u32 hits[2]; char tag[8];
        union { u32 word; u8 byte; };
    };
    struct prefix { u32 prefixlen; __be32 addr; };
    ```
    """
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    u16 = builder.add(Int("unsigned short", 2, 16))
    u8 = builder.add(Int("unsigned char", 1, 8))
    char = builder.add(Int("char", 1, 8))
    be32 = builder.add(Modifier(ModifierKind.TYPEDEF, "__be32", u32))
    be16 = builder.add(Modifier(ModifierKind.TYPEDEF, "__be16", u16))
    protocols = (Enumerator("ICMP", 1), Enumerator("TCP", 6))
    protocol = builder.add(Enum("protocol", 2, False, protocols))
    verdicts = (Enumerator("DROP", 1), Enumerator("PASS", 2))
    verdict = builder.add(Enum("verdict", 4, False, verdicts))
    key = (Member("saddr", be32, 0), Member("dport", be16, 32), Member("protocol", protocol, 48))
    session = builder.add(Struct("session", 8, key))
    either = builder.add(Union("", 4, (Member("word", u32, 0), Member("byte", u8, 0))))
    members = (
        Member("verdict", verdict, 0),
        Member("ifindex", u32, 32),
        Member("hits", builder.add(Array(u32, u32, 2)), 64),
        Member("tag", builder.add(Array(char, u32, 8)), 128),
        Member("", either, 192),
    )
    state = builder.add(Struct("state", 28, members))
    parts = (Member("prefixlen", u32, 0), Member("addr", be32, 32))
    prefix = builder.add(Struct("prefix", 8, parts))
    btf = Btf.parse(builder.build())
    return (
        MapSpec("sessions", MapType.HASH, 8, 28, 4, key=btf.ref(session), value=btf.ref(state)),
        MapSpec(
            "routes",
            MapType.LPM_TRIE,
            8,
            4,
            8,
            map_flags=MapFlag.NO_PREALLOC,
            key=btf.ref(prefix),
            value=btf.ref(u32),
        ),
    )


SESSIONS, ROUTES = specs()
