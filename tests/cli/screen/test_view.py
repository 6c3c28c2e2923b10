"""Answers on a terminal: reasoning, the exact text, the line below, and what is said in between."""

from typing import Any

import pytest
from rich.color import ColorSystem

from llmrun.cli.chat.screen.pane import Paint
from llmrun.cli.chat.screen.rows import row_cells
from llmrun.cli.chat.screen.status import notice_rows, status_rows
from llmrun.cli.chat.screen.thinking import Thinking
from llmrun.cli.chat.screen.view import ScreenView
from llmrun.cli.chat.turns import AnswerStatus

THOUGHT = "<think>\nHm, *so*.\n\nYes.\n</think>\n\nIt **is**.\n"


def view_on(terminal: Any, *, think: Any = "dim", plain: bool = False) -> ScreenView:
    return ScreenView(
        Paint(ColorSystem.EIGHT_BIT),
        terminal.write,
        lambda text: terminal.write(text + "\n"),
        think=think,
        plain=plain,
        size=terminal.size,
    )


def show(view: ScreenView, text: str, *, step: int = 0, cancelled: bool = False) -> None:
    view.begin()
    for start in range(0, len(text), step or len(text) or 1):
        view.feed(text[start : start + (step or len(text))])
    view.end(cancelled=cancelled)


@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize(
    ("think", "shown"),
    [
        pytest.param("dim", ["", "Hm, *so*.", "", "Yes.", "thought for 0 s", "", "It is."], id="dim"),
        pytest.param("show", ["", "Hm, *so*.", "", "Yes.", "thought for 0 s", "", "It is."], id="show"),
        pytest.param("hide", ["", "thought for 0 s", "", "It is."], id="hide"),
    ],
)
def test_reasoning(new_terminal: Any, think: str, shown: list[str], step: int) -> None:
    terminal = new_terminal()
    show(view_on(terminal, think=think), THOUGHT, step=step)
    assert terminal.lines() == shown
    assert ("\x1b[2mH" in terminal.written) == (think == "dim")


def test_reasoning_tells_how_long_it_took(new_terminal: Any, new_pane: Any) -> None:
    terminal = new_terminal()
    now = iter([0.0, 0.0, 3.2, 12.3])
    thinking = Thinking(new_pane(terminal), "hide", lambda: next(now))
    thinking.feed("a")
    assert terminal.lines() == ["thinking, 0 s"]
    thinking.feed("b")
    assert terminal.lines() == ["thinking, 3 s"]
    thinking.finish()
    assert terminal.lines() == ["thought for 12 s"]


def test_reasoning_that_was_stopped(new_terminal: Any) -> None:
    terminal = new_terminal()
    show(view_on(terminal), "<think>\nHm", cancelled=True)
    assert terminal.lines() == ["", "Hm", "thought for 0 s", "", "(stopped)"]


def test_reasoning_after_some_of_the_answer(new_terminal: Any) -> None:
    terminal = new_terminal()
    text = "<|channel|>final<|message|>Wait.<|end|><|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
    show(view_on(terminal), text + "<|start|>assistant<|channel|>final<|message|>Done.", step=3)
    assert terminal.lines() == ["", "Wait.", "Hm.", "thought for 0 s", "", "Done."]


@pytest.mark.parametrize("step", [0, 1])
def test_plain_is_the_exact_text(new_terminal: Any, step: int) -> None:
    terminal = new_terminal()
    show(view_on(terminal, plain=True), "# A *b*\n\n\tc\x1b[1m\u202e\n| d |", step=step)
    assert terminal.written == "\n# A *b*\n\n\tc[1m\n| d |\n"


def test_a_stopped_answer_is_marked(new_terminal: Any) -> None:
    terminal = new_terminal()
    show(view_on(terminal), "Half a", cancelled=True)
    assert terminal.lines() == ["", "Half a", "(stopped)"]


@pytest.mark.parametrize("plain", [False, True])
def test_a_notice_has_a_line_of_its_own(new_terminal: Any, plain: bool) -> None:
    terminal = new_terminal()
    view = view_on(terminal, plain=plain)
    view.begin()
    view.feed("The first")
    view.notice("something happened")
    view.feed(" and the **second**")
    view.end(cancelled=False)
    second = "and the **second**" if plain else "and the second"
    assert [line.strip() for line in terminal.lines()] == ["", "The first", "something happened", second]


def test_a_notice_in_code(new_terminal: Any) -> None:
    terminal = new_terminal()
    view = view_on(terminal)
    view.begin()
    view.feed("```\nx = 1 +")
    view.notice("something happened")
    view.feed(" 2\ny\n```\n")
    view.end(cancelled=False)
    assert terminal.lines() == ["", "─" * 24, "x = 1 +", "something happened", " 2", "y", "─" * 24]


STATUS = AnswerStatus(
    completion_tokens=245,
    decode_tokens_per_second=38.24,
    first_seconds=0.314,
    context_used=1204,
    context_length=8192,
    engine="llama-cpp",
)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        pytest.param(80, ["245 tokens · 38.2 tokens/s · TTFT 314 ms · 1,204 / 8,192 · llama-cpp"], id="80"),
        pytest.param(60, ["245 tok · 38.2 tok/s · 314 ms · 1,204 / 8,192 · llama-cpp"], id="60"),
        pytest.param(40, ["245 tok · 38.2 tok/s · 314 ms", "1,204 / 8,192 · llama-cpp"], id="40"),
    ],
)
def test_the_line_below_an_answer(columns: int, shown: list[str]) -> None:
    rows = status_rows(STATUS, columns)
    assert ["".join(text for text, _ in row) for row in rows] == shown
    assert all(row_cells(row) <= columns for row in rows)


def test_no_speed_of_one_token() -> None:
    status = AnswerStatus(
        completion_tokens=1,
        decode_tokens_per_second=0,
        first_seconds=0,
        context_used=9,
        context_length=4096,
        engine="vllm",
    )
    assert status_rows(status, 80)[0][0][0] == "1 token · 9 / 4,096 · vllm"


def test_notices_wrap_below_their_second_column() -> None:
    rows = notice_rows("commands\n  /set X   show the options, or change one", 30)
    assert ["".join(text for text, _ in row) for row in rows] == [
        "commands",
        "  /set X   show the options,",
        "           or change one",
    ]


def test_notices_are_inert() -> None:
    assert "".join(text for row in notice_rows("a\x1b[31mb\u202e\x07", 80) for text, _ in row) == "a[31mb"


def test_without_colours_there_are_bold_and_dim(new_terminal: Any) -> None:
    terminal = new_terminal()
    view = ScreenView(Paint(None), terminal.write, print, think="dim", plain=False, size=terminal.size)
    show(view, "**a** `b`\n\n```py\ndef f(): pass\n```")
    assert "\x1b[1ma\x1b[0m b" in terminal.written
    assert "\x1b[3" not in terminal.written.replace("\x1b[3m", "")
