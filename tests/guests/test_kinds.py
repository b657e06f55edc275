"""Programs of the kinds that only stock kernels take, and types and functions of modules."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.btf.types import Function
from bpfpin.errors import PermissionDeniedError
from bpfpin.loading.collection import load
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.kernel.info import btf_info
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import ObjectSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.attr import ProgInfoAnswer
from bpfpin.uapi import ProgramType
from support.objects import compiled
from support.tools import need

pytestmark = pytest.mark.kernel

FRAME = bytes(64)
TYPES = Path("/sys/kernel/btf")


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compiled("module_types", "clang"))


def loaded_program(
    spec: ObjectSpec, name: str, targets: dict[str, Program] | None = None
) -> Iterator[Program]:
    """Load one program; the test is skipped where the kernel does not take the type of program."""
    try:
        made = load(spec, programs=[name], targets=targets)
    except PermissionDeniedError as error:
        if os.environ.get("BPFPIN_GUEST"):  # a stock kernel takes them all from root
            raise
        pytest.skip(f"{error}")
    with made:
        yield made.programs[name]


def attach_types(program: Program) -> tuple[str, str]:
    """Return the BTF object and the type in it that the kernel reports for an attach target."""
    answer = ProgInfoAnswer()
    bpf.obj_get_info_by_fd(program.fd, answer)
    with BtfHandle.from_id(answer.attach_btf_obj_id) as handle:
        kind = handle.btf[answer.attach_btf_id]
        assert isinstance(kind, Function)
        return btf_info(handle.fd).name, kind.name


def need_module(name: str) -> None:
    """Load a kernel module; the test is skipped where there is none, or without its types."""
    subprocess.run(["modprobe", name], check=False, capture_output=True)
    if not (TYPES / name).exists():
        pytest.skip(f"this kernel has no module {name} with types")


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("entry", ProgramType.TRACING, "do_nanosleep"),
        ("guard", ProgramType.LSM, "bpf_lsm_file_open"),
    ],
)
def test_a_program_is_loaded_for_a_function_of_the_kernel(
    spec: ObjectSpec, name: str, kind: ProgramType, target: str
) -> None:
    for program in loaded_program(spec, name):
        assert program.type == kind
        assert attach_types(program) == ("vmlinux", target)


def test_a_kprobe_program_is_loaded(spec: ObjectSpec) -> None:
    for program in loaded_program(spec, "probe"):
        assert program.type == ProgramType.KPROBE


def test_an_extension_is_loaded_for_a_function_of_a_program(spec: ObjectSpec) -> None:
    for target in loaded_program(spec, "target"):
        for program in loaded_program(spec, "replacement", {"replacement": target}):
            answer = ProgInfoAnswer()
            bpf.obj_get_info_by_fd(program.fd, answer)

            assert program.type == ProgramType.EXT
            assert answer.attach_btf_obj_id == target.info.btf_id
            assert attach_types(program)[1] == "target"


@pytest.mark.parametrize("name", ["entry_of_module", "exit_of_module"])
def test_a_program_is_loaded_for_a_function_of_a_module(spec: ObjectSpec, name: str) -> None:
    need_module("nf_conntrack")
    for program in loaded_program(spec, name):
        assert attach_types(program) == ("nf_conntrack", "nf_conntrack_in")


def test_a_program_is_fitted_to_a_structure_of_a_module(spec: ObjectSpec) -> None:
    """The module is loaded after this process has read the types of another one."""
    need("bpftool")
    need_module("nf_conntrack")
    for program in loaded_program(spec, "look_up"):
        assert program.id
    need_module("wireguard")
    words = ("--json", "-B", TYPES / "vmlinux", "btf", "dump", "file", TYPES / "wireguard")
    shown = subprocess.run(["bpftool", *words], check=True, capture_output=True)
    types = json.loads(shown.stdout)["types"]
    # The types of a module may have a structure more than once.
    structures = [one for one in types if (one["name"], one["kind"]) == ("wg_device", "STRUCT")]
    offsets = {
        member["bits_offset"]
        for structure in structures
        for member in structure["members"]
        if member["name"] == "incoming_port"
    }

    for program in loaded_program(spec, "port_offset"):
        assert {program.test_run(FRAME).return_value * 8} == offsets


def test_a_program_calls_functions_of_a_module(spec: ObjectSpec) -> None:
    subprocess.run(["modprobe", "nf_conntrack"], check=False, capture_output=True)
    if " bpf_xdp_ct_lookup" not in Path("/proc/kallsyms").read_text():
        pytest.skip("this kernel has no bpf_xdp_ct_lookup(), which nf_conntrack brings")
    for program in loaded_program(spec, "look_up"):
        # No such connection: ENOENT (2).
        assert program.test_run(FRAME).return_value == 102
