"""How the demo shows a scene: commands that can be copied, in 80 columns."""

from __future__ import annotations

import shlex

import pytest

from bpfpin.apps.demo import Scene
from bpfpin.cli.demo import _joined, _wrapped

LONG = (
    "bpfpin load builtin:cgroup_stats --cgroup /sys/fs/cgroup/unified/bpfpin-demo0"
    " --map xdp_stats_map=/sys/fs/bpf/demo0/xdp_stats_map"
)


@pytest.mark.parametrize("command", ["bpfpin lab up demo0", LONG])
def test_a_long_command_is_broken_where_a_shell_goes_on(command: str) -> None:
    lines = _wrapped(command)

    assert max(map(len, lines)) <= 80
    assert shlex.split("\n".join(lines).replace("\\\n", ""))[1:] == shlex.split(command)


def test_an_option_and_its_value_stay_on_one_line() -> None:
    assert not any(line.rstrip(" \\").endswith(("--map", "--cgroup")) for line in _wrapped(LONG))


def test_remarks_belong_to_the_command_before_them() -> None:
    parts = [Scene("Title"), Scene("", "a", ("1",)), Scene("", lines=("# 2",)), Scene("", "b")]

    assert _joined(parts) == [Scene("Title", "a", ("1", "# 2")), Scene("", "b")]
