"""docs/hooks.md: a row for each hook, without an empty cell, with tests that are there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from bpfpin.hooks import Hook

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_hooks", ROOT / "scripts" / "gen_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_registry_gives() -> None:
    made = script()
    page = made.PAGE.read_text()

    assert page == made.generate(page), "run: make generate"


def test_no_cell_is_empty() -> None:
    made = script()
    rows = made.rows()

    assert rows
    assert {len(row) for row in rows} == {len(made.COLUMNS)}
    assert all(cell.strip() for row in rows for cell in row)


@pytest.mark.parametrize("hook", Hook, ids=lambda hook: hook.value)
def test_each_hook_has_a_function_and_tests(hook: Hook) -> None:
    made = script()
    tests = made.tests_of(hook)
    text = (ROOT / tests.file).read_text()

    assert made.attach_cell(hook)
    assert all(f"def {name}(" in text for name in tests.names)
