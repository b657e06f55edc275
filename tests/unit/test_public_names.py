"""The names of `bpfpin`: all there, all errors among them, and light to import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bpfpin
from bpfpin import errors

HEAVY = {"rich", "pyroute2", "prometheus_client", "numpy"}


@pytest.mark.parametrize("name", bpfpin.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(bpfpin, name)

    assert name in dir(bpfpin)
    assert name == "__version__" or inspect.getdoc(found)


def test_the_names_are_sorted_and_each_is_there_once() -> None:
    assert sorted(set(bpfpin.__all__)) == bpfpin.__all__


def test_every_error_is_a_public_name() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.BpfError)
    }

    assert kinds - set(bpfpin.__all__) == set()


def test_every_error_stands_in_the_tree_of_the_docstring() -> None:
    kinds = [name for name in bpfpin.__all__ if name.endswith("Error")]

    assert [name for name in kinds if f"{name}" not in str(errors.__doc__)] == []


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = bpfpin.nosuch  # type: ignore[attr-defined]


def modules_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after *code*."""
    show = f"{code}\nimport sys; print('\\n', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import bpfpin",
        "import sys; sys.argv[1:] = ['--version']; from bpfpin.cli.main import main; main()",
        "import bpfpin; bpfpin.Map, bpfpin.read_object, bpfpin.attach_xdp, bpfpin.deploy",
    ],
    ids=["library", "version", "names"],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    loaded = modules_after(code)

    assert "bpfpin" in loaded
    assert HEAVY & loaded == set()


def test_importing_the_library_loads_none_of_its_layers() -> None:
    ours = {name for name in modules_after("import bpfpin") if name.startswith("bpfpin.")}

    assert ours == set()


def test_the_stub_and_the_snapshot_of_the_api_are_those_of_the_source() -> None:
    script = Path(__file__).parents[2] / "scripts" / "gen_public_names.py"
    command = [sys.executable, str(script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), "a changed API is shown by: make generate"


@pytest.mark.parametrize("name", bpfpin.__all__)
def test_no_module_or_folder_takes_the_place_of_a_public_name(name: str) -> None:
    root = Path(bpfpin.__file__).parent

    assert not (root / name).exists()
    assert not (root / f"{name}.py").exists()


def test_everything_imports_with_a_star() -> None:
    assert "bpfpin.objects.maps.map" in modules_after("from bpfpin import *")
