"""XDP verdicts as they are typed."""

from __future__ import annotations

import pytest

from bpfpin.errors import UsageError
from bpfpin.map.verdict import CUTTING, parse_verdict, require_willing
from bpfpin.uapi import XdpAction


@pytest.mark.parametrize("word", ["XDP_PASS", "xdp_pass", "PASS", "pass", "Pass", "2"])
def test_a_verdict_is_typed_by_name_or_number_in_any_case(word: str) -> None:
    assert parse_verdict(word) is XdpAction.XDP_PASS


@pytest.mark.parametrize("word", ["", "5", "-1", "02", "XDP_", "allow", "XDP_XDP_PASS", "2.0"])
def test_what_is_no_verdict_is_told_with_those_there_are(word: str) -> None:
    with pytest.raises(UsageError, match=r"XDP_ABORTED \(0\), XDP_DROP \(1\), XDP_PASS \(2\)"):
        parse_verdict(word)


@pytest.mark.parametrize("verdict", [XdpAction.XDP_TX, XdpAction.XDP_REDIRECT])
def test_a_verdict_that_alone_is_of_no_use_is_refused_with_the_reason(verdict: XdpAction) -> None:
    with pytest.raises(UsageError, match=rf"{verdict.name} is rarely intended: it sends"):
        require_willing(verdict, is_forced=False)
    require_willing(verdict, is_forced=True)


def test_only_passing_leaves_the_host_reachable() -> None:
    assert set(XdpAction) - CUTTING == {XdpAction.XDP_PASS}
