"""Descriptors have one owner."""

from __future__ import annotations

import os

import pytest

from bpfpin.syscall.fd import Descriptor


def pipe_end() -> int:
    """Return one end of a pipe, the other closed."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


def test_a_descriptor_is_closed_by_with_and_again_does_nothing() -> None:
    with Descriptor(pipe_end()) as owner:
        fd = owner.fileno()
    owner.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(ValueError, match="closed"):
        owner.fileno()


def test_a_dropped_descriptor_warns_and_is_closed() -> None:
    owner = Descriptor(pipe_end())
    fd = owner.fileno()
    with pytest.warns(ResourceWarning, match="unclosed <Descriptor"):
        del owner

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_descriptor_does_not_survive_exec() -> None:
    fd = pipe_end()
    os.set_inheritable(fd, True)
    with Descriptor(fd) as owner, owner.duplicate() as copy:
        assert not os.get_inheritable(owner.fileno())
        assert not os.get_inheritable(copy.fileno())


def test_release_leaves_the_number_to_the_caller() -> None:
    owner = Descriptor(pipe_end())
    fd = owner.release()

    assert owner.is_closed
    os.close(fd)
