"""The configuration file: what wins over what, and what is wrong with it in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

Run = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf())
    return path


@pytest.fixture
def config(environment: dict[str, str]) -> Callable[[str | bytes], Path]:
    def write(text: str | bytes) -> Path:
        path = Path(environment["XDG_CONFIG_HOME"], "llmrun", "config.toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def sampling(llmrun: Run, model: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    result = llmrun("run", model, "hi", "--engine", "fake", "--json", *arguments, env=env)
    assert result.code == 0, result.errors
    return json.loads(result.stdout)["sampling"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "arguments", "env", "expected"),
    [
        pytest.param("temperature = 0.25", [], {}, 0.25, id="for every command"),
        pytest.param("temperature = 0.25\n[run]\ntemperature = 0.5", [], {}, 0.5, id="for one command"),
        pytest.param("temperature = 0.25", [], {"LLMRUN_TEMPERATURE": "0.75"}, 0.75, id="the environment wins"),
        pytest.param("temperature = 0.25", ["--temperature", "1"], {"LLMRUN_TEMPERATURE": "0.75"}, 1.0, id="the line"),
        pytest.param("[models]\nquiet = true", [], {}, 0.7, id="for other commands"),
    ],
)
def test_what_wins(
    llmrun: Run,
    model: Path,
    config: Callable[[str | bytes], Path],
    text: str,
    arguments: list[str],
    env: dict[str, str],
    expected: float,
) -> None:
    config(text)
    assert sampling(llmrun, model, *arguments, env=env)["temperature"] == expected


def test_options_are_called_as_on_the_command_line(
    llmrun: Run, model: Path, config: Callable[[str | bytes], Path]
) -> None:
    config('json = true\nmax-tokens = 7\nstop = ["a", "b"]')
    result = llmrun("run", model, "hi", "--engine", "fake")
    found = json.loads(result.stdout)["sampling"]
    assert (found["max_tokens"], found["stop"]) == (7, ["a", "b"])
    assert json.loads(llmrun("models", "list").stdout)["version"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("temprature = 1", "did you mean temperature?", id="misspelt"),
        pytest.param("run = 1", "belong into a table: [run]", id="a command"),
        pytest.param("[run]\n[run.x]\ny = 1", "no option --x", id="a table that is nothing"),
        pytest.param("temperature = ", "is not TOML", id="no TOML"),
        pytest.param(b"\xff\xfe", "is not TOML", id="not UTF-8"),
        pytest.param('temperature = "warm"', "temperature", id="not a number"),
        pytest.param("temperature = -1", "temperature", id="out of range"),
    ],
)
def test_what_is_wrong_is_said(
    llmrun: Run, model: Path, config: Callable[[str | bytes], Path], text: str | bytes, said: str
) -> None:
    config(text)
    result = llmrun("run", model, "hi", "--engine", "fake")
    assert result.code == 2
    assert said in result.errors
    assert "Traceback" not in result.errors
    assert result.stdout == b""


def test_a_file_that_was_named_must_be_there(llmrun: Run, model: Path, tmp_path: Path) -> None:
    result = llmrun("run", model, "hi", "--engine", "fake", env={"LLMRUN_CONFIG": str(tmp_path / "none.toml")})
    assert result.code == 2
    assert "none.toml cannot be read" in result.errors
