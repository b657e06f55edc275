"""Arrays of maps that read by formats, ctypes and NamedTuples, and what numpy cannot have."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest

from bpfpin import Map, MapSpec, MapType
from bpfpin.btf.btf import Btf
from bpfpin.btf.types import Array, Int, Member, Struct
from bpfpin.btf.write import BtfBuilder
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.of_format import format_codec
from bpfpin.objects.maps.numpy_arrays import dtype_of
from bpfpin.syscall.cpu import possible_cpus


class Counters(NamedTuple):
    """What is counted."""

    packets: Annotated[int, "Q"]
    load: Annotated[float, "d"]


class Record(ctypes.Structure):
    """The same for ctypes."""

    _fields_ = (("packets", ctypes.c_uint64), ("load", ctypes.c_double))


class Narrow(ctypes.Structure):
    """One with bit-fields."""

    _fields_ = (("low", ctypes.c_uint32, 3), ("high", ctypes.c_uint32, 5), ("all", ctypes.c_uint32))


@pytest.fixture
def plain() -> Iterator[Map]:
    """A map without BTF: four bytes to sixteen."""
    with Map.create(MapSpec("plain", MapType.HASH, 4, 16, 8)) as made:
        made[b"\7\0\0\0"] = b"\1" + bytes(7) + b"\0\0\0\0\0\0\xf8\x3f"
        yield made


def test_a_map_without_btf_is_two_arrays(plain: Map) -> None:
    with Map.from_id(plain.id, key_format="I", value_format="Qd") as held:
        keys, values = held.to_numpy()

        assert keys.tolist() == [7]
        assert values.dtype.names == ("f0", "f1")
        assert values["f0"].tolist() == [1]
        assert values["f1"].tolist() == [1.5]
        keys, values = keys + 1, values.copy()
        values["f0"] = 9
        held.update_arrays(keys, values)
        assert held[8] == (9, 1.5)


@pytest.mark.parametrize("kind", [Counters, Record])
def test_types_of_the_caller_name_the_fields(plain: Map, kind: Any) -> None:
    with Map.from_id(plain.id, value_format=kind) as held:
        keys, values = held.to_numpy()

        assert keys.dtype == np.dtype("V4")
        assert (values["packets"].tolist(), values["load"].tolist()) == ([1], [1.5])
        held.update_arrays(keys, values)


def test_per_cpu_values_of_a_format_have_a_second_dimension() -> None:
    with Map.create(MapSpec("cpus", MapType.PERCPU_ARRAY, 4, 4, 3)) as made:
        made[1] = [bytes([cpu, 0, 0, 0]) for cpu in range(possible_cpus())]
        with Map.from_id(made.id, value_format="I") as held:
            _, values = held.to_numpy()

            assert values.shape == (3, possible_cpus())
            assert values[1].tolist() == list(range(possible_cpus()))


@pytest.mark.parametrize(
    "form",
    ["I", "<I", ">I", "!H", "b", "?", "d", "4s", "c", "QQ", "BI", "@BHQ", "=BHQ", "<BxH", "3H",
     "2xI", "q 2i", "5sB", "e", "nN", "IxxxxQ"],
)  # fmt: skip
def test_an_array_reads_as_the_format_does(form: str) -> None:
    made = format_codec(form, None)
    data = bytes(range(1, made.size + 1)).replace(b"\2", b"\1")
    items = made.decode(data)

    array = np.frombuffer(data, dtype_of(made))[0]
    read = array.tolist() if array.dtype.names else array.item()
    if made.is_single and array.dtype.names:  # type: ignore[attr-defined]  # there is padding
        (read,) = read
    assert read == items


def test_what_numpy_cannot_have_is_named() -> None:
    builder = BtfBuilder()
    u32 = builder.add(Int("unsigned int", 4, 32))
    wide = builder.add(Int("unsigned __int128", 16, 128))
    inner = builder.add(Struct("inner", 4, (Member("low", u32, 0, 3), Member("high", u32, 3, 5))))
    two = builder.add(Array(inner, u32, 2))
    whole = builder.add(
        Struct("whole", 48, (Member("id", wide, 0), Member("in", two, 128), Member("n", u32, 192)))
    )
    made = codec(Btf.parse(builder.build()).ref(whole), 48)

    with pytest.raises(TypeError) as caught:
        dtype_of(made)

    message = str(caught.value)
    assert message.startswith("numpy has no type for id (128 bits), in[].low (3 bits), in[].high")
    with pytest.raises(TypeError, match=r"low, high \(.*bitfield"):
        dtype_of(format_codec(Narrow, 8))
    with pytest.raises(TypeError, match="'p' of the format"):
        dtype_of(format_codec("4p", 4))


def test_without_numpy_the_extra_is_named(plain: Map) -> None:
    program = f"""
import sys
sys.modules["numpy"] = None
import bpfpin
with bpfpin.Map.from_id({plain.id}) as held:
    for call in (held.to_numpy, held.to_numpy):
        try:
            call()
        except bpfpin.MissingExtraError as error:
            print(isinstance(error, ImportError), error.name, error)
"""
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, check=True)

    assert done.stdout == "True numpy numpy is not installed: pip install 'bpfpin[numpy]'\n" * 2
