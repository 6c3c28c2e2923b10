"""`llmrun chat` in a terminal, as somebody who types sees it."""

import os
import signal
import termios
from collections.abc import Callable
from typing import Any

import pytest

ANSWER = "# Tides\n\nThe **Moon** pulls.\n\n- water\n- `rock`\n"
RENDERED = ["Tides", "", "The Moon pulls.", "", "• water", "• rock"]
SLOW = {"answer": "one two three " * 200, "token_seconds": 0.002}


def is_echoing(descriptor: int) -> bool:
    flags = termios.tcgetattr(descriptor)[3]
    return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)


def behind_turn(lines: list[str], turn: str) -> list[str]:
    return lines[lines.index(f"> {turn}") + 1 :]


def test_a_conversation(start_chat: Callable[..., Any]) -> None:
    chat = start_chat(answer=ANSWER)
    chat.prompt(1)
    chat.press("why tides?\r")
    shown = behind_turn(chat.prompt(2), "why tides?")
    assert shown[:7] == ["", *RENDERED]
    assert shown[7].startswith(f"{len(ANSWER.encode())} tokens · ")
    assert shown[7].endswith(" · fake")
    assert shown[8:] == ["", ">"]
    chat.press("\x04")
    assert chat.wait() == 0
    assert is_echoing(chat.theirs)


def test_the_exact_text(start_chat: Callable[..., Any]) -> None:
    chat = start_chat("--plain", answer=ANSWER)
    chat.prompt(1)
    chat.press("hi\r")
    assert behind_turn(chat.prompt(2), "hi")[:7] == ["", *ANSWER.rstrip("\n").split("\n")]


@pytest.mark.parametrize("plain", [False, True])
def test_an_answer_cannot_drive_the_terminal(start_chat: Callable[..., Any], plain: bool) -> None:
    answer = "a\x1b[2J\x1b]52;c;cm0gLXJm\x07b \x9b31m\u202ec [/foo] :smile: \x1b[6n"
    chat = start_chat(*(["--plain"] if plain else []), answer=answer)
    chat.prompt(1)
    chat.press("hi\r")
    assert behind_turn(chat.prompt(2), "hi")[1] == "a[2J]52;c;cm0gLXJmb 31mc [/foo] :smile: [6n"


def test_ctrl_c_stops_an_answer_and_keeps_it(start_chat: Callable[..., Any]) -> None:
    chat = start_chat(**SLOW)
    chat.prompt(1)
    chat.press("count\r")
    chat.look(lambda lines: "three one" in "".join(lines))
    chat.press("\x03")
    lines = chat.prompt(2)
    assert "(stopped)" in lines
    assert behind_turn(lines, "count")[1].startswith("one two three")


def test_what_is_typed_meanwhile_waits_for_the_prompt(start_chat: Callable[..., Any]) -> None:
    chat = start_chat(**(SLOW | {"answer": "one two three " * 20}))
    chat.prompt(1)
    chat.press("count\r")
    chat.look(lambda lines: "three one" in "".join(lines))
    assert not is_echoing(chat.theirs)
    chat.press("typed ahead")
    lines = chat.look(lambda lines: lines[-1] == "> typed ahead")
    answer = " ".join(behind_turn(lines, "count")).split("280 tokens")[0]
    assert answer.split() == ["one", "two", "three"] * 20


def test_a_window_that_is_resized(start_chat: Callable[..., Any]) -> None:
    chat = start_chat(size=(40, 24), **(SLOW | {"answer": "one two three " * 60}))
    chat.prompt(1)
    chat.press("count\r")
    for columns in (50, 77, 120):
        words = len(" ".join(chat.terminal.lines()).split())
        chat.look(lambda lines, words=words: len(" ".join(lines).split()) > words + 20)
        chat.resize(columns, 24)
    lines = chat.prompt(2)
    assert " ".join(behind_turn(lines, "count")).split("840 tok")[0].split() == ["one", "two", "three"] * 60


def test_the_editor_gives_its_text_to_the_prompt(start_chat: Callable[..., Any], environment: dict[str, str]) -> None:
    environment["VISUAL"] = "sed -i s/draft/text/"
    chat = start_chat(answer="yes")
    chat.prompt(1)
    chat.press("a draft")
    chat.look(lambda lines: lines[-1] == "> a draft")
    chat.press("\x18\x05")
    chat.look(lambda lines: lines[-1] == "> a text")
    chat.press("\r")
    assert "yes" in behind_turn(chat.prompt(2), "a text")


@pytest.mark.parametrize("in_answer", [False, True])
def test_the_terminal_is_as_before_when_the_chat_is_ended(start_chat: Callable[..., Any], in_answer: bool) -> None:
    chat = start_chat(**SLOW)
    chat.prompt(1)
    if in_answer:
        chat.press("count\r")
        chat.look(lambda lines: "three one" in "".join(lines))
    os.kill(chat.process.pid, signal.SIGTERM)
    assert chat.wait() == 128 + signal.SIGTERM
    assert is_echoing(chat.theirs)


def test_a_long_paste_is_shortened_on_the_screen(start_chat: Callable[..., Any]) -> None:
    chat = start_chat(answer="yes")
    chat.prompt(1)
    chat.press("\x1b[200~" + "\n".join(f"line {number}" for number in range(200)) + "\x1b[201~")
    chat.look(lambda lines: lines[-1] == "  line 199")
    chat.press("\r")
    lines = chat.prompt(2)
    assert behind_turn(lines, "line 0")[:7] == [
        "  line 1",
        "  line 2",
        "  (194 more lines)",
        "  line 197",
        "  line 198",
        "  line 199",
        "",
    ]
