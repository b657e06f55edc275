"""What holds for every verb: options, errors, exit codes, start-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bpfpin.cli.group import Group
from bpfpin.cli.main import COMMANDS, ROOT
from bpfpin.version import __version__
from support.cli import run_cli
from support.wait import HANG_S

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
HEAVY = ("rich", "pyroute2", "prometheus_client")


def imported_by(code: str) -> set[str]:
    """Return the top modules that a fresh interpreter has loaded after *code*."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_starting_loads_nothing_heavy(option: str) -> None:
    loaded = imported_by(f"from bpfpin.cli.main import main; main([{option!r}])")

    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_library_alone_loads_neither_tables_nor_netlink() -> None:
    assert imported_by("import bpfpin").isdisjoint({*HEAVY, "click"})


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]

    assert project["version"] == __version__
    assert run_cli("--version").stdout == f"bpfpin {__version__}\n"
    assert run_cli("--version", "-o", "json").json == {"schema": 1, "version": __version__}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_of_the_table_has_help(verb: str) -> None:
    result = run_cli(verb, "--help")

    assert result.exit_code == 0
    assert "Global options:" in result.stdout


def test_the_help_lists_every_verb_with_its_line() -> None:
    text = " ".join(run_cli("--help").stdout.split())

    assert all(f"{name} {verb.help}" in text for name, verb in COMMANDS.items())


def test_an_unknown_verb_is_a_usage_error_with_the_near_ones() -> None:
    result = run_cli("stast")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("bpfpin: bpfpin has no verb 'stast'; did you mean stats")


def test_bpfpin_alone_shows_its_help() -> None:
    result = run_cli()

    assert (result.exit_code, result.stdout) == (0, run_cli("--help").stdout)


@pytest.mark.parametrize("verbs", [["load"], ["map", "dump"], ["lab"]])
def test_help_shows_what_the_option_of_a_verb_shows(verbs: list[str]) -> None:
    assert run_cli("help", *verbs).stdout == run_cli(*verbs, "--help").stdout


def test_help_of_a_wrong_verb_is_a_usage_error_with_the_near_ones() -> None:
    result = run_cli("help", "map", "dmup")

    assert result.exit_code == 2
    assert "bpfpin map has no verb 'dmup'; did you mean dump?" in result.stderr


def test_the_version_is_a_verb_too() -> None:
    assert run_cli("version").stdout == run_cli("--version").stdout
    assert run_cli("version", "-o", "json").json == run_cli("--version", "-o", "json").json


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(redirection: str) -> None:
    command = f"{sys.executable} -P -m bpfpin version {redirection}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_a_full_disk_behind_stdout_is_told_and_is_a_failure() -> None:
    command = f"{sys.executable} -P -m bpfpin version > /dev/full"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert result.stderr == "bpfpin: stdout cannot be written: No space left on device\n"


def completions(*words: str, shell: str = "bash") -> list[str]:
    """Return what Tab would offer for the last of *words*."""
    asked = {
        "_BPFPIN_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(["bpfpin", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = run_cli(env=asked)
    assert result.exit_code == 0, result.stderr
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


def test_a_shell_completes_verbs_options_and_devices() -> None:
    assert completions("ma") == ["map"]
    assert completions("map", "du") == ["dump"]
    assert completions("load", "--dry") == ["--dry-run"]
    assert "lo" in completions("load", "--dev", "l")


def values_offered(group: Group = ROOT, *words: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each option and argument of each verb, with what Tab offers for its value."""
    ctx = click.Context(group, obj={})
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        for parameter in command.get_params(ctx):
            offered = parameter.shell_complete(click.Context(command, ctx), "")
            yield " ".join([*words, name, parameter.opts[0]]), [str(i.value) for i in offered]
        if isinstance(command, Group):
            yield from values_offered(command, *words, name)


def test_a_shell_completes_the_value_of_every_option_and_argument() -> None:
    offered = dict(values_offered())

    devices = {place for place in offered if place.endswith(" --dev")}
    assert devices >= {f"{verb} --dev" for verb in ("load", "stats", "action", "doctor", "graph")}
    assert [place for place in sorted(devices) if "lo" not in offered[place]] == []
    assert offered["action --flag"] == ["any", "noexist", "exist"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(shell: str) -> None:
    assert f"_BPFPIN_COMPLETE={shell}_complete" in run_cli("completion", shell).stdout


def test_bash_completes_with_the_printed_script() -> None:
    """The function of the script is called as bash calls it at a Tab."""
    path = f"PATH={Path(sys.executable).parent}:$PATH\n"
    call = (
        'eval "$(bpfpin completion bash)"\nCOMP_WORDS=(bpfpin sta) COMP_CWORD=1\n'
        'complete -p bpfpin >/dev/null && _bpfpin_completion bpfpin && echo "${COMPREPLY[@]}"'
    )
    result = subprocess.run(
        ["bash", "-c", path + call], capture_output=True, text=True, check=False
    )

    assert (result.stdout.strip(), result.returncode) == ("state status stats", 0), result.stderr


@pytest.mark.parametrize("group", [["map"], ["lab"]])
def test_a_group_alone_is_a_usage_error_with_its_verbs(group: list[str]) -> None:
    result = run_cli(*group)

    assert result.exit_code == 2
    assert "give a verb: " in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "json", "check", "/nonexistent.o"],
        ["check", "-o", "json", "/nonexistent.o"],
        ["check", "/nonexistent.o", "--output=json"],
        ["-o", "table", "check", "-ojson", "/nonexistent.o"],
    ],
)
def test_global_options_stand_before_and_after_the_verb(words: list[str]) -> None:
    result = run_cli(*words)

    assert (result.exit_code, result.json["error"]["exit"]) == (4, 4)


def test_global_options_stand_between_a_verb_and_its_subverb() -> None:
    result = run_cli("map", "-o", "json", "get", "name-of-nothing", "0")

    assert result.exit_code == 2
    assert result.json["error"]["type"] == "UsageError"


@pytest.mark.parametrize(
    "words",
    [["--nosuch"], ["nosuch"], ["check"], ["map"], ["map", "nosuch"], ["stats", "--count", "x"]],
)
@pytest.mark.parametrize("output", ["json", "ndjson"])
def test_a_usage_error_is_one_document_too(words: list[str], output: str) -> None:
    result = run_cli(*words, "-o", output)
    error = result.json["error"]

    assert (result.exit_code, error["exit"], result.json["schema"]) == (2, 2, 1)
    assert set(error) == {"type", "exit", "message", "hint", "differences"}
    assert error["message"] in result.stderr


def test_words_after_two_dashes_do_not_choose_the_output() -> None:
    assert run_cli("check", "--nosuch", "--", "-o", "json").stdout == ""


def test_an_output_format_that_the_verb_lacks_is_a_usage_error() -> None:
    result = run_cli("map", "list", "-o", "ndjson")

    assert result.exit_code == 2
    assert "list has no output format 'ndjson'; it has: table, json" in result.stderr


def test_debug_shows_where_an_error_came_from() -> None:
    plain, debug = run_cli("check", "/nonexistent.o"), run_cli("check", "/nonexistent.o", "--debug")

    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.exit_code == plain.exit_code == 4


def test_an_error_is_coloured_when_it_is_asked_for() -> None:
    assert "\x1b" not in run_cli("check", "/nonexistent.o").stderr
    assert "\x1b[1;31mbpfpin:" in run_cli("--color", "always", "check", "/nonexistent.o").stderr


def test_a_closed_pipe_is_a_quiet_end() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "bpfpin", "check", "builtin:xdp_pass"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no Path method opens a device plainly
        done = subprocess.run(
            [sys.executable, "-m", "bpfpin", "check", "builtin:xdp_pass"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_a_signal_ends_a_command_with_its_code_and_document(
    number: signal.Signals, exit_code: int
) -> None:
    """The object comes through a pipe that nobody writes to, so the command waits."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "-o", "json", "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        try:
            assert waiting.stderr is not None
            assert waiting.stderr.readline() == "waiting\n"
            waiting.send_signal(number)
            stdout, _ = waiting.communicate(timeout=HANG_S)
        finally:
            waiting.kill()

    assert waiting.returncode == exit_code
    assert f'"exit": {exit_code}' in stdout


WAITING = """
import signal, sys, types
from bpfpin.cli.context import bpfpin_command
from bpfpin.cli.group import Verb
from bpfpin.cli.main import COMMANDS, main

@bpfpin_command("wait")
def command(context):
    context.out.say("waiting")
    signal.pause()

module = types.ModuleType("waiting")
module.command = command
sys.modules["waiting"] = module
COMMANDS["wait"] = Verb("waiting", "Wait.")
sys.exit(main())
"""


def test_what_a_command_returns_is_the_exit_status() -> None:
    code = WAITING.replace("signal.pause()", "return 10")
    done = subprocess.run([sys.executable, "-c", code, "wait"], check=False, capture_output=True)

    assert done.returncode == 10


def test_an_error_of_ours_is_told_as_such() -> None:
    code = WAITING.replace("signal.pause()", "raise IndexError('oops')")
    done = subprocess.run(
        [sys.executable, "-c", code, "wait"], check=False, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert "internal error: IndexError: oops" in done.stderr
