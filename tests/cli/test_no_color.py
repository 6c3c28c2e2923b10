"""With NO_COLOR nothing on a terminal is coloured, whoever draws it. Source: https://no-color.org"""

import json
import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_servers as fake
import pytest
from gguf_builder import build_gguf
from pty_output import read_to_end

PROGRAM = Path(sys.executable).with_name("llmrun")
MACHINE = str(Path(__file__).parents[1] / "machines" / "rtx-4090-desktop.json")
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9]+)*m")


@pytest.fixture
def hub(environment: dict[str, str]) -> Iterator[fake.FakeHub]:
    with fake.FakeHub() as server:
        environment["HF_ENDPOINT"] = server.url
        server.add("org/repo", "model.Q4_K_M.gguf", build_gguf())
        yield server


@pytest.fixture
def at_terminal(environment: dict[str, str]) -> Callable[..., str]:
    """Run the program with a terminal for all its files, where somebody types; return all that was shown."""

    def run(*arguments: str, typed: bytes = b"", env: dict[str, str]) -> str:
        variables = {name: value for name, value in environment.items() if name != "NO_COLOR"}
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(PROGRAM, [str(PROGRAM), *arguments], variables | {"TERM": "xterm-256color"} | env)
        os.write(terminal, typed)
        got = read_to_end(terminal)
        os.waitpid(pid, 0)
        return str(got.decode(errors="replace"))

    return run


def test_a_progress_bar_has_colours_and_without_them_none(at_terminal: Callable[..., str], hub: fake.FakeHub) -> None:
    plain = at_terminal("models", "pull", "org/repo", env={"NO_COLOR": "1"})
    assert "━" in plain
    assert COLOUR.findall(plain) == []
    at_terminal("models", "rm", "org/repo", "--yes", env={})
    assert COLOUR.search(at_terminal("models", "pull", "org/repo", env={}))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["run", "--help"], id="help of a command"),
        pytest.param(["run", "--no-such-option"], id="an error of the parser"),
        pytest.param(["models", "list"], id="a list"),
        pytest.param(["which-backend", "org/repo", "--machine", MACHINE], id="which engine"),
        pytest.param(["config", "show"], id="settings"),
        pytest.param(["run", "/no/such/model.gguf", "hi"], id="an error"),
        pytest.param(["run", "org/repo", "hi", "--raw", "--engine", "fake"], id="a question and an answer"),
    ],
)
def test_no_colour_where_none_is_wanted(
    at_terminal: Callable[..., str], hub: fake.FakeHub, arguments: list[str]
) -> None:
    shown = at_terminal(*arguments, typed=b"y\n", env={"NO_COLOR": "1"})
    assert shown
    assert COLOUR.findall(shown) == []


def test_a_conversation(at_terminal: Callable[..., str], hub: fake.FakeHub) -> None:
    answer = "# Title\n\n**bold** and `code`\n\n```python\nprint(1)\n```\n"
    at_terminal("models", "pull", "org/repo", env={})
    typed = b"hi\r/exit\r"
    script = {"NO_COLOR": "1", "LLMRUN_FAKE": json.dumps({"answer": answer})}
    shown = at_terminal("chat", "org/repo", "--engine", "fake", typed=typed, env=script)
    assert "print(1)" in shown
    assert COLOUR.findall(shown) == []
