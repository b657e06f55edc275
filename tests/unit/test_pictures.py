"""The pictures in docs/ are what they are shown as."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]


def test_the_picture_of_the_readme_shows_one_map_for_xdp_tc_and_a_cgroup() -> None:
    path = "docs/images/shared-map.svg"
    said = [text.strip() for text in ET.parse(ROOT / path).getroot().itertext()]

    assert f"]({path})" in (ROOT / "README.md").read_text()
    assert said.count("shared by 4") == said.count("xdp_stats_map") == 1
    assert {"xdp_stats", "tc_stats", "cgroup_ingress", "cgroup_egress"} <= set(said)
