"""Help pages: every command has one that says what it is for, with examples, and fits a terminal of 80 columns."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.main import get_command

from llmrun.cli.app import build_app

Run = Callable[..., Any]


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


ALL = dict(commands(get_command(build_app())))


@pytest.mark.parametrize("words", ALL, ids=lambda words: " ".join(words) or "llmrun")
def test_a_page_for_every_command(llmrun: Run, words: tuple[str, ...]) -> None:
    result = llmrun(*words, "--help", env={"COLUMNS": "80"})
    assert (result.code, result.errors) == (0, "")
    lines = result.text.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert "\\b" not in result.text
    assert "\b" not in result.text
    assert "\x1b" not in result.text
    assert lines[2].startswith("  ")  # what it is for
    # `llmrun … COMMAND` at the beginning of a line, or behind a pipe
    name = re.escape(" ".join(("llmrun", *words)))
    assert any(re.search(rf"(^  |[|(] ?|  ){name}( |$|\))", line) for line in lines[2:]), result.text


@pytest.mark.parametrize("words", ALL, ids=lambda words: " ".join(words) or "llmrun")
def test_every_option_and_argument_says_what_it_does(words: tuple[str, ...]) -> None:
    for param in ALL[words].params:
        assert (param.help or "").strip(), f"{' '.join(words)} {param.name}"
        if param.param_type_name == "option" and not param.is_flag:
            assert param.metavar, f"{' '.join(words)} {param.name} has no name for its value"


def test_no_command_but_the_one_that_was_asked_for_is_imported(llmrun: Run) -> None:
    shown = llmrun("run", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"}).errors
    assert "llmrun.cli.options" in shown
    for module in ("cli.chat", "cli.config_show", "cli.completion", "cli.replay", "manifest", "shorten", "first_use"):
        assert f"llmrun.{module}" not in shown, module
