"""The lines of the keys of a TOML text."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from bpfpin.sets.apply.lines import line_at, lines_of

TEXT = '''# sets of this host

[[set]]
object = "a.o"            # = [ "
programs = [
    "one:xdp",            # a comment with ]
    'two',
]
text = """
fake = 1
[[set]]
"""""

[set.maps.flows]
max_entries = 5
"quoted.key" . inner = { a = 1, b = [2,
  3] }

[[set]]
object = 'b.o'
[set.maps."a b"]
use = "x"
[[counter]]
map = "m"
'''


def test_each_key_has_its_line() -> None:
    tomllib.loads(TEXT)

    assert dict(lines_of(TEXT)) == {
        ("set", 0): 3,
        ("set", 0, "object"): 4,
        ("set", 0, "programs"): 5,
        ("set", 0, "text"): 9,
        ("set", 0, "maps", "flows"): 14,
        ("set", 0, "maps", "flows", "max_entries"): 15,
        ("set", 0, "maps", "flows", "quoted.key"): 16,
        ("set", 0, "maps", "flows", "quoted.key", "inner"): 16,
        ("set", 1): 19,
        ("set", 1, "object"): 20,
        ("set", 1, "maps", "a b"): 21,
        ("set", 1, "maps", "a b", "use"): 22,
        ("counter", 0): 23,
        ("counter", 0, "map"): 24,
    }


def test_what_is_within_a_value_has_the_line_of_its_key() -> None:
    lines = lines_of(TEXT)

    assert line_at(lines, ("set", 0, "maps", "flows", "quoted.key", "inner", "b", 1)) == 16
    assert line_at(lines, ("set", 1, "maps")) == 19
    assert line_at(lines, ("nothing",)) == 1


@given(
    st.lists(st.sampled_from(['a = "#[\\""\n', "b = '''\n[x]\n'''\n", "c = [1, [\n2]]\n", "\n"]))
)
def test_any_order_of_statements_keeps_the_lines(parts: list[str]) -> None:
    text = "".join(f"[t{number}]\n{part}" for number, part in enumerate(parts))
    tomllib.loads(text)
    lines = lines_of(text)

    assert [text.splitlines()[lines[(f"t{number}",)] - 1] for number in range(len(parts))] == [
        f"[t{number}]" for number in range(len(parts))
    ]
