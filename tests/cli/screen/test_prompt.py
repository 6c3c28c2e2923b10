"""The prompt: what the keys do."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.base import PipeInput
from prompt_toolkit.output import DummyOutput

from llmrun.cli.chat.screen import input as prompt
from llmrun.cli.chat.screen.completion import ChatCompleter
from llmrun.cli.chat.screen.history import open_history
from llmrun.cli.chat.screen.input import ScreenReader
from llmrun.cli.chat.screen.keyboard import Keyboard

NO_TERMINAL = os.open(os.devnull, os.O_RDONLY)
ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_R, UP = "\r", "\x1b\r", "\x03", "\x04", "\x12", "\x1b[A"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as source:
        yield source


@pytest.fixture
def reader(keys: PipeInput, monkeypatch: pytest.MonkeyPatch) -> ScreenReader:
    monkeypatch.setattr(prompt, "_STILL_STOPPING_SECONDS", -1.0)
    return ScreenReader(Keyboard(NO_TERMINAL), InMemoryHistory(), keys, DummyOutput())


@pytest.mark.parametrize(
    ("typed", "turn"),
    [
        pytest.param("hello" + ENTER, "hello", id="a line"),
        pytest.param(ENTER, "", id="nothing"),
        pytest.param("a" + ALT_ENTER + "b" + ENTER, "a\nb", id="Alt-Enter"),
        pytest.param("a\\" + ENTER + "b" + ENTER, "a\nb", id="a backslash goes on"),
        pytest.param("a\\\\" + ENTER, "a\\\\", id="two backslashes do not"),
        pytest.param('"""' + ENTER + "a" + ENTER + "b" + ENTER + '"""' + ENTER, "a\nb", id="quotes"),
        pytest.param('"""a' + ENTER + 'b"""' + ENTER, "a\nb", id="quotes in the same line"),
        pytest.param('say """' + ENTER, 'say """', id="quotes elsewhere"),
        pytest.param("\x1b[200~a\r\nb\rc\n\x1b[201~" + ENTER, "a\nb\nc\n", id="a paste keeps its newlines"),
        pytest.param("ab" + CTRL_C + "c" + ENTER, "c", id="Ctrl-C takes back"),
        pytest.param(CTRL_C + "c" + ENTER, "c", id="one Ctrl-C does not leave"),
        pytest.param(CTRL_C + "c\x7f" + CTRL_C + "d" + ENTER, "d", id="nor do two with something between"),
        pytest.param("日本語😀" + ENTER, "日本語😀", id="wide characters"),
    ],
)
def test_turns(reader: ScreenReader, keys: PipeInput, typed: str, turn: str) -> None:
    keys.send_text(typed)
    assert reader.read() == turn


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(CTRL_D, id="Ctrl-D"),
        pytest.param(CTRL_C + CTRL_C, id="Ctrl-C twice"),
        pytest.param("text" + CTRL_C + CTRL_C + CTRL_C, id="Ctrl-C takes back, then twice"),
    ],
)
def test_leaving(reader: ScreenReader, keys: PipeInput, typed: str) -> None:
    keys.send_text(typed)
    with pytest.raises(EOFError):
        reader.read()


def test_a_ctrl_c_right_after_an_answer_was_meant_for_it(keys: PipeInput, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "_STILL_STOPPING_SECONDS", 1000.0)
    reader = ScreenReader(Keyboard(NO_TERMINAL), InMemoryHistory(), keys, DummyOutput())
    keys.send_text(CTRL_C + CTRL_C + CTRL_C + "here" + ENTER)
    assert reader.read() == "here"


def test_history_and_search(reader: ScreenReader, keys: PipeInput) -> None:
    for turn in ("first", "second", "third"):
        keys.send_text(turn + ENTER)
        assert reader.read() == turn
    keys.send_text(UP + UP + ENTER)
    assert reader.read() == "second"
    keys.send_text(CTRL_R + "fir" + ENTER + ENTER)
    assert reader.read() == "first"


def test_the_history_is_kept_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: PipeInput) -> None:
    monkeypatch.setenv("LLMRUN_DATA_DIR", str(tmp_path / "data"))
    reader = ScreenReader(Keyboard(NO_TERMINAL), open_history(), keys, DummyOutput())
    keys.send_text("secret\\" + ENTER + "two" + ENTER)
    reader.read()
    path = tmp_path / "data" / "chat-history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = ScreenReader(Keyboard(NO_TERMINAL), open_history(), keys, DummyOutput())
    keys.send_text(UP + ENTER)
    assert again.read() == "secret\ntwo"


def test_a_history_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: PipeInput
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chat-history").mkdir()
    monkeypatch.setenv("LLMRUN_DATA_DIR", str(tmp_path / "data"))
    reader = ScreenReader(Keyboard(NO_TERMINAL), open_history(), keys, DummyOutput())
    keys.send_text("hello" + ENTER)
    assert reader.read() == "hello"


def complete(text: str) -> list[str]:
    return [found.text for found in ChatCompleter().get_completions(Document(text), CompleteEvent())]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("LLMRUN_DATA_DIR", "LLMRUN_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_commands_are_completed() -> None:
    assert "help" in complete("/")
    assert complete("/he") == ["help"]
    assert complete("/nosuch") == []
    assert complete("hello /he") == []
    assert complete("/help sta") == ["stats"]
    assert complete("/clear ") == []


def test_files_models_and_sessions_are_completed(folder: Path) -> None:
    (folder / "notes.md").write_text("x")
    assert complete("/file no") == ["tes.md"]
    assert "smollm2-135m-instruct" in complete("/model smol")
    assert complete("/load ") == []


def test_options_and_their_values_are_completed() -> None:
    assert complete("/set temp") == ["temperature"]
    assert complete("/set think h") == ["hide"]
    assert complete("/show pro") == ["prompt"]
