"""The table of features names a test for each that is ours, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| (?P<name>.+?) \| (?P<ours>[^|]+) \|.*\| `(?P<file>[^`:]+)::(?P<test>\w+)` \|")
TABLE = [
    line
    for line in (ROOT / "docs" / "features.md").read_text().splitlines()
    if line.startswith("|") and not line.startswith(("| |", "|---"))
]


@pytest.mark.parametrize("line", TABLE)
def test_each_feature_of_ours_is_held_by_a_test(line: str) -> None:
    row = ROW.fullmatch(line)

    assert row is not None
    assert line.count(" | ") == 6
    assert row["ours"] == "yes"
    assert f"def {row['test']}(" in (ROOT / row["file"]).read_text()


def test_the_table_is_not_empty() -> None:
    assert len(TABLE) > 40
