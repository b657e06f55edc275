"""Descriptions of the maps that several tests make."""

from __future__ import annotations

from bpfpin.btf.btf import Btf, TypeRef
from bpfpin.btf.types import Array, Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapType


def types() -> tuple[TypeRef, TypeRef, TypeRef]:
    """Return u32, struct datarec of two u64, and struct key of four u8."""
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    u64 = builder.add(Int("unsigned long long", 8, 64))
    u8 = builder.add(Int("unsigned char", 1, 8))
    members = (Member("rx_packets", u64, 0), Member("rx_bytes", u64, 64))
    datarec = builder.add(Struct("datarec", 16, members))
    address = builder.add(Array(u8, u32, 4))
    key = builder.add(Struct("key", 4, (Member("ip", address, 0),)))
    btf = Btf.parse(builder.build())
    return btf.ref(u32), btf.ref(datarec), btf.ref(key)


U32, DATAREC, KEY = types()
COUNTERS = MapSpec("xdp_stats_map", MapType.PERCPU_ARRAY, 4, 16, 5, key=U32, value=DATAREC)
FLOWS = MapSpec("flows", MapType.HASH, 4, 4, 4, key=U32, value=U32)
PLAIN = MapSpec("plain", MapType.HASH, 4, 16, 4)
