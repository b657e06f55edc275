"""What the kernel reports, and walks over all objects."""

from __future__ import annotations

import os
from pathlib import Path

from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Int
from bpfpin.btf.write import BtfBuilder
from bpfpin.insn import EXIT, Instruction, encode, mov_imm
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.btf import BtfHandle, type_of, vmlinux_btf
from bpfpin.objects.kernel.info import btf_info, link_info, map_info, program_info
from bpfpin.objects.maps.map import Map
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgLoadAttr
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import AttachType, LinkType, MapType, ProgramType

LOOPBACK = 1


def load_pass() -> Descriptor:
    """Load an XDP program that passes everything."""
    code = bpf.buffer_of(encode([mov_imm(0, 2), Instruction(EXIT)]))
    license_text = bpf.buffer_of(b"GPL\0")
    wanted = ProgLoadAttr(
        prog_type=ProgramType.XDP,
        insn_cnt=2,
        insns=bpf.address(code),
        license=bpf.address(license_text),
        prog_name=b"pass",
        expected_attach_type=AttachType.XDP,
    )
    return Descriptor(bpf.prog_load(wanted))


def test_a_map_is_reported_as_it_was_made() -> None:
    spec = MapSpec("a_name_longer_than_kept", MapType.HASH, 4, 8, 16)
    with Map.create(spec) as made:
        info = map_info(made.fd)

    assert (info.type, info.key_size, info.value_size) == (MapType.HASH, 4, 8)
    assert (info.max_entries, info.name, info.btf_id) == (16, "a_name_longer_t", 0)


def test_a_program_and_its_link_are_reported() -> None:
    with load_pass() as program:
        made = bpf.link_create(program.fileno(), LOOPBACK, AttachType.XDP, flags=2)
        with Descriptor(made) as link:
            reported, attached = program_info(program.fileno()), link_info(link.fileno())
            program_ids, links = list(walk.program_ids()), list(walk.links())

    assert (reported.type, reported.name) == (ProgramType.XDP, "pass")
    assert (reported.is_gpl_compatible, reported.map_ids) == (True, ())
    assert reported.uid == os.geteuid()
    assert reported.xlated_size == 16
    assert len(reported.tag) == 16
    assert (attached.type, attached.program_id) == (LinkType.XDP, reported.id)
    assert (attached.ifindex, attached.cgroup_id) == (LOOPBACK, None)
    assert reported.id in program_ids
    assert attached in links


def test_all_maps_are_walked_by_id() -> None:
    with Map.create(MapSpec("walked", MapType.ARRAY, 4, 4, 1)) as made:
        assert made.id in walk.map_ids()
        assert made.info in walk.maps()


def test_a_map_that_goes_away_during_a_walk_is_left_out() -> None:
    first = Map.create(MapSpec("first", MapType.ARRAY, 4, 4, 1))
    ids = iter([first.id])
    first.close()

    assert list(walk._infos(ids, bpf.map_get_fd_by_id, map_info)) == []


def test_the_kernels_own_types_are_read() -> None:
    btf = vmlinux_btf()

    assert btf.find("bpf_map") is not None
    assert type_of(0, 1) is None


def test_loaded_types_are_read_back() -> None:
    builder = BtfBuilder()
    word = builder.add(Int("unsigned int", 4, 32))
    with BtfHandle.load(Btf.parse(builder.build())) as handle:
        info = btf_info(handle.fd)
        with BtfHandle.from_id(info.id) as again:
            found = type_of(info.id, word)

            assert again.btf.find("unsigned int") == word
    assert found is not None
    assert (found.name, found.size, info.is_kernel) == ("unsigned int", 4, False)


def test_an_object_is_pinned_and_opened_again(bpffs: Path) -> None:
    with load_pass() as program:
        bpf.obj_pin(program.fileno(), bpffs / "pass")
        with Descriptor(bpf.obj_get(bpffs / "pass")) as again:
            assert program_info(again.fileno()).id == program_info(program.fileno()).id
