"""One CPU's value of an element that has one for each CPU.

BPF_F_CPU (Linux 7.0) reads and writes just that value. Before, the kernel only knows the values of
all CPUs together: they are read, one is changed, and all are written. What programs on other CPUs
counted between the two is lost then.
"""

from __future__ import annotations

from bpfpin.errors import KeyNotFoundError
from bpfpin.objects.elements import Elements
from bpfpin.objects.percpu import stride_of
from bpfpin.syscall.refusal import InvalidArgumentError
from bpfpin.uapi import UpdateFlag

CPU_SHIFT = 32  # the upper half of the flags is the CPU


def read(elements: Elements, key: bytes, cpu: int, size: int, *, named: object) -> bytes:
    """Return the *size* bytes of one CPU; `KeyNotFoundError`.

    Reading all of them costs a copy, but no second call where the kernel has no BPF_F_CPU.
    """
    at = cpu * stride_of(size)
    return elements.lookup(key, named=named)[at : at + size]


def write(
    elements: Elements, key: bytes, cpu: int, value: bytes, *, flags: UpdateFlag, named: object
) -> None:
    """Write the value of one CPU; those of the others stay, or are zero if the key is new."""
    of_cpu = int(flags) | UpdateFlag.CPU | cpu << CPU_SHIFT
    try:
        elements.update_part(key, value, of_cpu, named=named)
    except InvalidArgumentError:
        elements.update(key, _among_others(elements, key, cpu, value), flags, named=named)


def _among_others(elements: Elements, key: bytes, cpu: int, value: bytes) -> bytes:
    try:
        whole = bytearray(elements.lookup(key))
    except KeyNotFoundError:
        whole = bytearray(elements.value_size)
    at = cpu * stride_of(len(value))
    whole[at : at + len(value)] = value
    return bytes(whole)
