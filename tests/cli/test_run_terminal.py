"""What a terminal gets to see: text that cannot drive it, in a real pseudo-terminal."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf_builder as build
import pytest

PROGRAM = Path(sys.executable).with_name("llmrun")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(4096)})))
    return path


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        pytest.param("plain [bold]text[/bold] [/foo] :smile:", "plain [bold]text[/bold] [/foo] :smile:", id="markup"),
        pytest.param("\x1b[31mred\x1b[0m", "[31mred[0m", id="escape sequences"),
        pytest.param("\x1b]52;c;cm0gLXJm\x07x", "]52;c;cm0gLXJmx", id="OSC 52, the clipboard"),
        pytest.param("a\x9b31mb\x90c\x85d", "a31mbcd", id="C1"),
        pytest.param("abc\rxyz\x08\x7f", "abcxyz", id="carriage return, backspace, delete"),
        pytest.param("user\u202etxt.exe\u2066!", "usertxt.exe!", id="bidi overrides"),
        pytest.param("日本語 😀 grüße", "日本語 😀 grüße", id="letters and emoji pass"),
        pytest.param("one\ttwo\nthree", "one\ttwo\r\nthree", id="tab and newline pass"),
        pytest.param("x" * 300, "x" * 300, id="a long line is not cut or broken"),
        pytest.param("1234567 'quoted' None True", "1234567 'quoted' None True", id="no highlighting"),
    ],
)
def test_output_is_inert(in_terminal: Callable[..., tuple[str, int]], model: Path, answer: str, shown: str) -> None:
    env = {"LLMRUN_ENGINE": "fake", "LLMRUN_FAKE": json.dumps({"answer": answer})}
    assert in_terminal("run", model, "hi", env=env) == (shown + "\r\n", 0)


def test_a_pipe_gets_the_text_as_it_is(environment: dict[str, str], model: Path) -> None:
    env = environment | {"LLMRUN_ENGINE": "fake", "LLMRUN_FAKE": json.dumps({"answer": "\x1b[31mred\u202e"})}
    done = subprocess.run(
        [PROGRAM, "run", model, "hi"], stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=30
    )
    assert done.stdout.decode() == "\x1b[31mred\u202e\n"


def test_errors_are_inert_too(environment: dict[str, str], tmp_path: Path) -> None:
    name = f"{tmp_path}/\x1b[31mno\nsuch.gguf"
    done = subprocess.run(
        [PROGRAM, "run", name, "hi", "--engine", "fake"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=30,
    )
    assert done.returncode in (2, 3)
    assert b"\x1b" not in done.stderr
