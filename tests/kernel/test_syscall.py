"""bpf(2) itself: attributes as the kernel takes them, descriptors, the seam for failures."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.errors import (
    IdNotFoundError,
    KeyNotFoundError,
    NamespaceNotFoundError,
    NotSupportedError,
    SyscallError,
)
from bpfpin.syscall import attr, bpf, fs, netns
from bpfpin.syscall.call import ATTEMPTS, Call, fail_call
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import Cmd, MapType, UpdateFlag
from support import isolation


@pytest.fixture
def numbers() -> Iterator[int]:
    """A hash of four entries u32 -> u32."""
    wanted = attr.MapCreateAttr(MapType.HASH, 4, 4, 4)
    with Descriptor(bpf.map_create(wanted)) as made:
        yield made.fileno()


def test_a_value_is_written_read_walked_and_removed(numbers: int) -> None:
    bpf.map_update_elem(numbers, b"key1", b"val1")

    assert bpf.map_lookup_elem(numbers, b"key1", 4) == b"val1"
    assert bpf.map_get_next_key(numbers, None, 4) == b"key1"
    with pytest.raises(KeyNotFoundError):
        bpf.map_get_next_key(numbers, b"key1", 4)
    assert bpf.map_lookup_and_delete_elem(numbers, b"key1", 4) == b"val1"
    with pytest.raises(KeyNotFoundError):
        bpf.map_delete_elem(numbers, b"key1")


def test_the_flag_of_an_update_reaches_the_kernel(numbers: int) -> None:
    with pytest.raises(KeyNotFoundError):
        bpf.map_update_elem(numbers, b"key1", b"val1", flags=UpdateFlag.EXIST)


ATTRIBUTES = [
    (Cmd.MAP_CREATE, attr.MapCreateAttr),
    (Cmd.MAP_LOOKUP_ELEM, attr.MapElemAttr),
    (Cmd.MAP_FREEZE, attr.MapFreezeAttr),
    (Cmd.MAP_LOOKUP_BATCH, attr.MapBatchAttr),
    (Cmd.PROG_LOAD, attr.ProgLoadAttr),
    (Cmd.PROG_TEST_RUN, attr.ProgTestRunAttr),
    (Cmd.OBJ_GET, attr.ObjAttr),
    (Cmd.OBJ_GET_INFO_BY_FD, attr.ObjInfoAttr),
    (Cmd.MAP_GET_FD_BY_ID, attr.IdAttr),
    (Cmd.LINK_CREATE, attr.LinkCreateAttr),
    (Cmd.LINK_UPDATE, attr.LinkUpdateAttr),
    (Cmd.LINK_DETACH, attr.LinkDetachAttr),
    (Cmd.PROG_QUERY, attr.ProgQueryAttr),
]


@pytest.mark.parametrize(
    ("command", "kind"), ATTRIBUTES, ids=lambda each: getattr(each, "name", "")
)
def test_no_attribute_is_longer_than_this_kernel_knows(
    command: Cmd, kind: type[ctypes.Structure]
) -> None:
    """Bytes behind `union bpf_attr` that are not zero are E2BIG; ours all lie within it."""
    whole = kind.from_buffer_copy(b"\xff" * ctypes.sizeof(kind))
    call = Call(command, whole)

    assert call.enter() < 0
    assert ctypes.get_errno() != errno.E2BIG


def test_what_this_kernel_does_not_know_is_not_supported(numbers: int) -> None:
    class Longer(ctypes.Structure):
        _fields_ = [("known", attr.MapElemAttr), ("unknown", ctypes.c_uint8 * 512)]

    longer = Longer(attr.MapElemAttr(numbers))
    longer.unknown[511] = 1
    call = Call(Cmd.MAP_FREEZE, longer)

    assert call.enter() < 0
    assert isinstance(call.error(), NotSupportedError)


def test_a_tail_of_zeros_changes_nothing() -> None:
    class Longer(ctypes.Structure):
        _fields_ = [("known", attr.MapCreateAttr), ("unknown", ctypes.c_uint8 * 512)]

    os.close(Call(Cmd.MAP_CREATE, Longer(attr.MapCreateAttr(MapType.ARRAY, 4, 4, 1))).enter())


def test_descriptors_from_the_kernel_close_on_exec(numbers: int) -> None:
    assert not os.get_inheritable(numbers)


def test_an_unknown_map_type_is_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgumentError, match="map x: the kernel refused the arguments"):
        bpf.map_create(attr.MapCreateAttr(9999, 4, 4, 1), target="map x")


def test_an_id_that_is_not_there_is_told() -> None:
    with pytest.raises(IdNotFoundError, match="map id 4294967294: there is no such id"):
        bpf.map_get_fd_by_id(0xFFFFFFFE)
    assert bpf.map_get_next_id(0x7FFFFFFE) is None


def test_the_chosen_call_fails_and_no_other(numbers: int) -> None:
    with fail_call(2, errno.ENOMEM):
        bpf.map_update_elem(numbers, b"key1", b"val1")
        with pytest.raises(SyscallError) as caught:
            bpf.map_update_elem(numbers, b"key2", b"val2")
        bpf.map_update_elem(numbers, b"key3", b"val3")

    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(KeyNotFoundError):
        bpf.map_lookup_elem(numbers, b"key2", 4)


def test_an_interrupted_call_is_made_again(numbers: int) -> None:
    with fail_call(1, errno.EINTR):
        bpf.map_update_elem(numbers, b"key1", b"val1")

    assert bpf.map_lookup_elem(numbers, b"key1", 4) == b"val1"


def test_only_a_verification_is_tried_again_after_eagain(numbers: int) -> None:
    assert ATTEMPTS > 1
    with fail_call(1, errno.EAGAIN), pytest.raises(SyscallError):
        bpf.map_update_elem(numbers, b"key1", b"val1")


def test_bpffs_is_told_by_path_and_by_descriptor(bpffs: Path) -> None:
    assert fs.is_bpffs(bpffs)
    with Descriptor(fs.openat2(bpffs, resolve=fs.Resolve.NO_SYMLINKS)) as place:
        assert fs.is_bpffs(place.fileno())
    assert [m.fs_type for m in fs.mounts() if m.mount_point == str(bpffs)] == ["bpf"]


def test_a_bpffs_can_be_mounted(tmp_path: Path) -> None:
    fs.mount_bpffs(tmp_path)
    try:
        assert fs.is_bpffs(tmp_path)
    finally:
        isolation.umount(tmp_path)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """The file of a namespace that a thread of ours made and holds."""
    made, done = threading.Event(), threading.Event()

    def hold() -> None:
        netns.unshare()
        made.set()
        done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    made.wait()
    yield Path(f"/proc/self/task/{holder.native_id}/ns/net")
    done.set()
    holder.join()


def test_a_namespace_is_entered_and_left_even_after_an_error(elsewhere: Path) -> None:
    home, there, inside = netns.inode(), netns.inode(elsewhere), 0

    def enter_and_fail() -> None:
        nonlocal inside
        with netns.enter(elsewhere):
            inside = netns.inode()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        enter_and_fail()

    assert inside == there != home
    assert netns.inode() == home


def test_what_is_no_namespace_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NamespaceNotFoundError, match="this is not a network namespace"):
        enter(tmp_path / "file")


def enter(name: Path) -> None:
    """Go there and come back."""
    with netns.enter(name):
        pass
