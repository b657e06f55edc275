"""The measures of `scripts/measure_house.py`, on a tiny package made for each of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from measures import public, run, structure, words
from measures.row import Row
from measures.source import Source

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_house.py"
Measure = Callable[[Source], Iterator[Row]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[dict[str, str]], Source]:
    """Return a function that makes a package of files, given by path and text."""

    def make_package(files: dict[str, str]) -> Source:
        package = tmp_path / "src" / "bpfpin"
        for name, text in {"__init__.py": "", **files}.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return Source(tmp_path)

    return make_package


Make = Callable[[dict[str, str]], Source]


def rows(measure: Measure, source: Source) -> dict[str, Row]:
    """Return the rows of a measure by name."""
    return {each.name: each for each in measure(source)}


def places(row: Row) -> list[str]:
    """Return the findings of a row as FILE:LINE, without the package's folder."""
    return [f"{each.file.removeprefix('src/bpfpin/')}:{each.line}" for each in row.findings]


def figures(measure: Measure, source: Source) -> dict[str, float | None]:
    """Return the figures of a measure by row."""
    return {name: each.figure for name, each in rows(measure, source).items()}


def test_modules_are_the_files_that_are_not_init(make: Make) -> None:
    source = make({"one.py": "", "pins/__init__.py": "", "pins/plan.py": ""})

    assert figures(structure.modules, source) == {"modules": 2}


def test_late_imports_imports_for_types_and_public_names_are_importers(make: Make) -> None:
    source = make(
        {
            "__init__.py": 'HOMES = {"late": "work"}',
            "late.py": "def work():\n    from bpfpin import typed",
            "typed.py": "if TYPE_CHECKING:\n    from bpfpin.leaf import Leaf",
            "leaf.py": "",
            "twice.py": "from bpfpin.leaf import Leaf\nimport bpfpin.late",
        }
    )

    row = rows(structure.importers, source)["one-importer"]

    assert places(row) == ["typed.py:1"]
    assert row.findings[0].text == "only late imports it"


def test_a_verb_has_its_table_as_importer_in_the_second_row_alone(make: Make) -> None:
    source = make({"main.py": 'VERBS = {"load": "bpfpin.load"}', "load.py": ""})

    assert figures(structure.importers, source) == {"one-importer": 0, "one-importer-tables": 1}


def test_import_lines_are_a_share_of_all_lines(make: Make) -> None:
    source = make({"one.py": "from os import (\n    path,\n)\n\n\n\n\n\nprint(path)\n\n"})

    assert figures(structure.import_lines, source) == {"import-lines": 30.0}


def test_folders_that_import_each_other_are_a_cycle(make: Make) -> None:
    source = make(
        {
            "apps/one/a.py": "from bpfpin.apps.two import b",
            "apps/two/b.py": "def late():\n    from bpfpin.apps.one.a import x",
            "apps/two/inner/c.py": "import bpfpin.apps.two.b",
            "apps/two/d.py": "import bpfpin.apps.two.inner.c",
            "base.py": "import bpfpin.apps.two.b",
        }
    )

    measured = rows(structure.folder_cycles, source)

    assert {name: row.figure for name, row in measured.items()} == {
        "folder-cycles": 1,
        "folder-cycles-inner": 1,
        "folder-cycles-layers": 0,
    }
    assert places(measured["folder-cycles"]) == ["apps/one/a.py:1", "apps/two/b.py:2"]


def test_a_cycle_of_three_folders_is_found(make: Make) -> None:
    source = make(
        {
            "apps/one/a.py": "import bpfpin.apps.two.b",
            "apps/two/b.py": "import bpfpin.apps.three.c",
            "apps/three/c.py": "import bpfpin.apps.one.a",
        }
    )

    assert rows(structure.folder_cycles, source)["folder-cycles"].figure == 1


def test_layers_that_import_each_other_are_a_cycle(make: Make) -> None:
    source = make(
        {"low/a.py": "import bpfpin.high.b", "high/b.py": "import bpfpin.low.c", "low/c.py": ""}
    )

    assert figures(structure.folder_cycles, source) == {
        "folder-cycles": 0,
        "folder-cycles-inner": 0,
        "folder-cycles-layers": 1,
    }


def test_a_class_name_of_two_modules_has_two_meanings(make: Make) -> None:
    source = make(
        {
            "one.py": "class Place: ...\nclass _Row: ...",
            "two.py": "class Place: ...\nclass _Row: ...\nclass Once: ...",
        }
    )

    assert figures(structure.class_names, source) == {"class-names": 2, "class-names-classes": 4}


def test_files_that_name_a_map_type_are_counted(make: Make) -> None:
    source = make(
        {
            "uapi.py": "MapType.HASH",
            "one.py": "if kind is MapType.HASH or kind is MapType.ARRAY: ...",
            "two.py": "def kind(word: str) -> MapType:\n    return MapType(word)",
        }
    )

    assert figures(structure.map_type_facts, source) == {"map-type-facts": 1}


@pytest.mark.parametrize(
    "text",
    [
        "is_xdp = hook is Hook.XDP",
        "same = hook == Hook.XDP.value",
        "WORDS = {Hook.XDP: 'xdp'}",
        "BOTH = frozenset({Hook.TCX_INGRESS, Hook.TCX_EGRESS})",
        "if program.type in (ProgramType.SCHED_CLS, other): ...",
        "match hook:\n    case Hook.XDP: ...",
        "if hook.is_cgroup: ...",
        "if edge.hook == 'xdp': ...",
        "is_tc = word in ('tc-egress',) or 'tc-ingress' == word",
        "if kind != AttachType.CGROUP_DEVICE: ...",
    ],
)
def test_a_decision_or_a_table_by_hook_is_counted(make: Make, text: str) -> None:
    assert figures(structure.hook_branches, make({"one.py": text})) == {"hook-branches": 1}


@pytest.mark.parametrize(
    "text",
    [
        "attach(program, Hook.XDP)",
        "attach(program, 'xdp')",
        "is_device = edge.hook == 'device'",
        "if kind is ProgramType.KPROBE: ...",
        "if kind is AttachType.TRACE_FENTRY: ...",
        "def of(hook: Hook) -> str:\n    return Registry[hook].words",
    ],
)
def test_what_does_not_ask_for_the_hook_is_not_counted(make: Make, text: str) -> None:
    assert figures(structure.hook_branches, make({"one.py": text})) == {"hook-branches": 0}


def test_vague_names_are_a_share_of_what_is_bound(make: Make) -> None:
    text = """
        def read(held, path):
            found = open(path)
            for each in found:
                size = len(each)
            with path as lines, path as more:
                pass
            return [line for line in lines if (text := line)]
        """

    source = make({"one.py": text})

    # found, each, size, lines, more, line, text; and the parameters held and path.
    assert figures(words.vague_names, source) == {"vague": 28.6, "vague-parameters": 50.0}
    assert places(rows(words.vague_names, source)["vague"]) == ["one.py:3", "one.py:4"]


def test_phrases_are_counted_in_docstrings_comments_and_messages_only(make: Make) -> None:
    text = '''
        """What is held, and what
        becomes of it."""
        # Nobody is told, who
        # is no reader.
        told = f"{name!r} is no map; there is no such map, and it is no longer kept"
        '''

    measured = rows(words.phrases, make({"one.py": text}))

    assert {name: row.figure for name, row in measured.items()} == {
        "phrases": 6,
        "phrases-what-is": 2,
        "phrases-is-no-x": 2,
        "phrases-who": 1,
        "phrases-told": 1,
        "phrases-there-is-no-x": 1,
    }
    assert places(measured["phrases-what-is"]) == ["one.py:2", "one.py:2"]
    assert places(measured["phrases-is-no-x"]) == ["one.py:5", "one.py:6"]


def test_comments_are_a_share_of_the_lines_of_code(make: Make) -> None:
    text = '''
        """A docstring is no code."""

        # A reason.
        first = 1  # and its source
        second = 2  # noqa: E501
        third = 3
        fourth = """
        # no comment
        """
        '''

    # Two comments; three lines, and one of three lines.
    assert figures(words.comment_lines, make({"one.py": text})) == {"comments": 33.3}


API = {
    "__init__.py": """
        from bpfpin.maps import Map, open_map
        __all__ = ["Map", "open_map"]
        """,
    "maps.py": '''
        from __future__ import annotations
        from dataclasses import dataclass
        from bpfpin.options import Options as Choices
        Source = Path | Handle
        class Handle: ...
        class Base:
            def pin(self, path, *, mode: Mode):
                """Pin it at *path*."""
        @dataclass
        class Map(Base):
            """A map.

            Args:
                name: Its name.
            """
            name: str
            size: int
            _kept: int = 0
            def _own(self, thing): ...
        def open_map(source: Source, *names: str, options: "Choices", **more: Map) -> Map | None:
            """Open *source*: names and more."""
        ''',
    "options.py": "class Options: ...",
}


def test_a_parameter_is_named_where_its_docstring_has_the_word(make: Make) -> None:
    row = rows(public.public_parameters, make(API))["parameters"]

    assert [each.text for each in row.findings] == [
        "Base.pin(mode)",
        "Map(size)",
        "open_map(options)",
    ]
    assert row.figure == 62.5  # of eight
    assert row.is_met is False


def test_types_of_public_signatures_are_public(make: Make) -> None:
    row = rows(public.public_types, make(API))["types"]

    assert [each.text for each in row.findings] == ["Handle, in open_map", "Options, in open_map"]
    assert places(row) == ["maps.py:6", "options.py:1"]


def test_public_names_may_be_in_one_table_alone(make: Make) -> None:
    init = 'HOMES = {"maps": "Map open_map"}\nNAMES = {}\n__all__ = sorted(NAMES)\n'

    source = make(API | {"__init__.py": init})

    assert public.PublicNames(source).names == ["Map", "open_map"]
    assert figures(public.public_parameters, source) == {
        "parameters": 62.5,
        "parameters-unknown": 0,
    }


def test_a_public_name_that_leads_nowhere_is_shown(make: Make) -> None:
    source = make({"__init__.py": 'from bpfpin.errors import Gone\n__all__ = ["Gone", "lost"]'})

    row = rows(public.public_parameters, source)["parameters-unknown"]

    assert [each.text for each in row.findings] == ["Gone", "lost"]


def test_a_record_without_constructor_fields_takes_those_of_its_base(make: Make) -> None:
    source = make(
        {
            "__init__.py": "from bpfpin.one import Info\n__all__ = ['Info']",
            "one.py": """
                class Base(NamedTuple):
                    name: str
                    kept: int = field(init=False)
                    NAMES: ClassVar[int] = 1
                class Info(Base):
                    def __init__(self, words): ...
                    @property
                    def first(self) -> Base: ...
                    @first.setter
                    def first(self, value): ...
                """,
        }
    )

    row = rows(public.public_parameters, source)["parameters"]

    assert [each.text for each in row.findings] == ["Base(name)", "Info.__init__(words)"]
    assert figures(public.public_types, source) == {"types": 1}


def test_a_file_is_executed_if_a_function_of_it_is_called(make: Make, tmp_path: Path) -> None:
    make(
        {
            "cli/__init__.py": "",
            "cli/main.py": """
                import threading
                import bpfpin.called, bpfpin.started, bpfpin.only_imported
                def main():
                    from bpfpin.called import work
                    from bpfpin.started import wait
                    thread = threading.Thread(target=wait)
                    thread.start()
                    thread.join()
                    return work()
                """,
            "called.py": "def work():\n    return 0",
            "started.py": "def wait(): ...",
            "only_imported.py": "class Thing:\n    size = 1\ndef unused(): ...",
        }
    )

    files = run.traced(tmp_path, "load")

    executed = {path.removeprefix("src/bpfpin/") for path in files["executed"]}
    assert executed == {"called.py", "cli/main.py", "started.py"}
    assert {Path(each).name for each in set(files["imported"]) - set(files["executed"])} == {
        "__init__.py",
        "only_imported.py",
    }


def test_cpu_time_is_of_the_process_and_those_that_it_waits_for() -> None:
    bare = [sys.executable, "-c", "pass"]
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"

    assert run.cpu_seconds(bare) > 0
    assert run.cpu_seconds([sys.executable, "-c", nested]) >= 0.5


def test_a_check_that_fails_has_no_figure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Makefile").write_text("check:\n\t@exit 3\n")
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("ruff", "mypy"):
        (tools / tool).symlink_to("/bin/true")

    (failed,) = run.check_cpu(tmp_path)
    (tmp_path / "Makefile").write_text("check:\n\t@true\n")
    (passed,) = run.check_cpu(tmp_path)

    assert (failed.figure, failed.is_met) == (None, None)
    assert "make check failed with exit status 2" in capfd.readouterr().err
    assert passed.figure is not None
    assert passed.is_met is True


def test_a_target_that_is_not_met_fails_only_a_check(make: Make, tmp_path: Path) -> None:
    make({"one.py": "class Place: ...", "two.py": "class Place: ..."})

    table, check, places_ = (
        run_script("--root", tmp_path, *more)
        for more in ((), ("--check",), ("--list", "class-names"))
    )

    assert (table.returncode, check.returncode) == (0, 1)
    assert table.stdout == check.stdout
    (line,) = [each for each in table.stdout.splitlines() if each.endswith(" class-names")]
    assert line.split()[-5:] == ["1", "<=", "0", "no", "class-names"]
    assert places_.stdout == "src/bpfpin/one.py:1: Place\nsrc/bpfpin/two.py:1: Place\n"


def test_a_measure_that_does_not_exist_gets_the_list_of_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "src" / "bpfpin").mkdir(parents=True)
    (tmp_path / "src" / "bpfpin" / "__init__.py").touch()

    answer = run_script("--root", tmp_path, "--list", "nothing")

    assert answer.returncode == 1
    assert "no measure 'nothing'; there are: modules one-importer" in answer.stderr


def run_script(*argv: object) -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own."""
    command = [sys.executable, str(SCRIPT), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
