"""The kernel's version and its configuration file, whatever is in it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bpfpin.errors import ObjectNotFoundError, UsageError
from bpfpin.loading import symbols
from bpfpin.loading.symbols import as_config, version_code


@pytest.mark.parametrize(
    ("release", "version", "signature", "expected"),
    [
        ("6.18.4-generic", "#1 SMP", "", 0x061204),
        ("7.0-rc1", "#1 SMP", "", 0x070000),
        ("4.9.337", "#1 SMP", "", 0x0409FF),
        ("6.1.0-44-amd64", "#1 SMP Debian 6.1.164-1 (2026-03-09)", "", 0x0601A4),
        ("5.15.0-91-generic", "#101-Ubuntu SMP", "Ubuntu 5.15.0-91.101-generic 5.15.131", 0x050F83),
        ("unheard-of", "", "", 0),
    ],
)
def test_the_version_is_that_of_the_source(
    release: str, version: str, signature: str, expected: int
) -> None:
    assert version_code(release, version, signature) == expected


def test_a_configuration_is_read_plain_or_packed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "config", tmp_path / "config.gz"
    plain.write_bytes(b"CONFIG_A=y\n")
    packed.write_bytes(gzip.compress(b"CONFIG_A=y\n"))

    assert as_config(plain) == as_config(str(packed)) == {"CONFIG_A": "y"}


def test_no_more_is_unpacked_than_a_configuration_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_BYTES", 1 << 20)
    bomb = tmp_path / "config.gz"
    bomb.write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(UsageError, match="more than 1 MiB"):
        as_config(bomb)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    damaged = tmp_path / "config.gz"
    damaged.write_bytes(b"\x1f\x8b" + b"no gzip")
    with pytest.raises(UsageError, match=r"config\.gz is not a gzip file"):
        as_config(damaged)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="no such file"):
        as_config(tmp_path / "config")


def test_a_kernel_without_its_configuration_has_no_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "CONFIG", tmp_path / "config.gz")
    monkeypatch.setattr(symbols, "BOOT", tmp_path)

    assert symbols.running_values({"CONFIG_HZ"}, None) == {}
