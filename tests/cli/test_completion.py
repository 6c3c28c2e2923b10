"""Completion, by the protocols of the shells; and in a real bash, at a real Tab."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
FOLDER = Path(sys.executable).parent
BASH = shutil.which("bash")


def asked_by_bash(llmrun: Run, line: str) -> list[str]:
    """Ask as the script for bash does: the line up to the cursor, of which the last word is to be completed."""
    words = line if not line.endswith(" ") else line + '""'
    result = llmrun(env={"_LLMRUN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "-1"})
    assert (result.code, result.errors) == (0, "")
    return result.text.split()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("llmrun whi", ["which-backend"], id="a command"),
        pytest.param("llmrun models pu", ["pull"], id="a command of a command"),
        pytest.param("llmrun run --on-", ["--on-overflow"], id="an option"),
        pytest.param("llmrun run smoll", ["smollm2-135m-instruct"], id="a model"),
        pytest.param("llmrun run llama-2-chat:7b-q4_1", ["llama-2-chat:7b-q4_1"], id="a tag"),
        pytest.param("llmrun models show vicuna-v1.5-", ["vicuna-v1.5-16k"], id="a model of another command"),
        pytest.param("llmrun run m --draft smoll", ["smollm2-135m-instruct"], id="a model of an option"),
        pytest.param("llmrun run m --engine v", ["vllm"], id="an engine"),
        pytest.param("llmrun run m --engine=py", ["pytorch"], id="an engine after a sign"),
        pytest.param("llmrun install ", ["llama-cpp", "ctransformers", "pytorch", "vllm"], id="engines to install"),
        pytest.param("llmrun run m --lookup o", ["on", "off"], id="a value"),
        pytest.param("llmrun completion ", ["bash", "zsh", "fish", "powershell"], id="shells"),
        pytest.param("llmrun run ./", [], id="a path, which the shell completes"),
        pytest.param("llmrun run nothing-like-it:", [], id="no such model"),
        pytest.param("llmrun run m 'not clo", [], id="an open quotation mark"),
    ],
)
def test_what_is_completed(llmrun: Run, line: str, expected: list[str]) -> None:
    assert asked_by_bash(llmrun, line) == expected


def test_files_and_models_on_this_disk(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").touch()
    (tmp_path / "mine.txt").touch()
    snapshot = tmp_path / "huggingface/hub/models--org--mine/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "mine.Q4_0.gguf").touch()
    asked = {"_LLMRUN_COMPLETE": "complete_bash", "COMP_CWORD": "-1"}

    def ask(line: str) -> list[str]:
        variables = environment | asked | {"COMP_WORDS": line}
        done = subprocess.run([FOLDER / "llmrun"], env=variables, cwd=tmp_path, capture_output=True, text=True)
        return done.stdout.split()

    assert ask("llmrun run mine") == ["mine.gguf"]
    assert ask("llmrun run org/m") == ["org/mine:mine.Q4_0.gguf"]


def test_a_broken_configuration_file_is_no_matter_for_a_tab(llmrun: Run, environment: dict[str, str]) -> None:
    path = Path(environment["XDG_CONFIG_HOME"], "llmrun", "config.toml")
    path.parent.mkdir(parents=True)
    path.write_text("nonsense = ")
    assert asked_by_bash(llmrun, "llmrun ru") == ["run"]
    assert llmrun("completion", "bash").code == 0


@pytest.mark.parametrize(
    ("shell", "variables", "expected"),
    [
        pytest.param(
            "zsh",
            {"_TYPER_COMPLETE_ARGS": "llmrun run m --engine p"},
            """_arguments '*: :(("pytorch"))'\n""",
            id="zsh",
        ),
        pytest.param("zsh", {"_TYPER_COMPLETE_ARGS": "llmrun run ./"}, "_files\n", id="zsh, a path"),
        pytest.param(
            "fish",
            {"_TYPER_COMPLETE_ARGS": "llmrun run smoll", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
            "smollm2-135m-instruct\tchat, gguf, pytorch\n",
            id="fish",
        ),
        pytest.param(
            "powershell",
            {"_TYPER_COMPLETE_ARGS": "llmrun run m --lookup a", "_TYPER_COMPLETE_WORD_TO_COMPLETE": "a"},
            "auto::: \n",
            id="powershell",
        ),
    ],
)
def test_other_shells(llmrun: Run, shell: str, variables: dict[str, str], expected: str) -> None:
    result = llmrun(env=variables | {"_LLMRUN_COMPLETE": f"complete_{shell}"})
    assert (result.code, result.text) == (0, expected), result.errors
    script = llmrun("completion", shell)
    assert script.code == 0
    assert f"complete_{shell}" in script.text


@pytest.mark.parametrize(("typed", "code"), [("fish", 1), ("fish -", 0)])
def test_fish_is_told_when_it_is_to_complete_files(llmrun: Run, typed: str, code: int) -> None:
    line = "llmrun run ./" if code else "llmrun run -"
    variables = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
    assert llmrun(env=variables | {"_LLMRUN_COMPLETE": "complete_fish"}).code == code


def test_a_shell_that_is_none(llmrun: Run) -> None:
    result = llmrun("completion", "tcsh")
    assert result.code == 2
    assert "bash, zsh, fish, powershell" in result.errors


@pytest.mark.skipif(BASH is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        pytest.param("llmrun which-b", "llmrun which-backend ", id="a command"),
        pytest.param("llmrun run smoll", "llmrun run smollm2-135m-instruct ", id="a model"),
        pytest.param("llmrun run smollm2-135m-instruct:135m-q", "135m-instruct:135m-q4_1 ", id="a tag"),
        pytest.param("llmrun run m --engine=py", "--engine=pytorch ", id="an engine"),
        pytest.param("llmrun run ./only", "llmrun run ./only-one.bin ", id="a path"),
    ],
)
def test_a_real_bash_at_a_real_tab(environment: dict[str, str], tmp_path: Path, typed: str, shown: str) -> None:
    assert BASH is not None
    (tmp_path / "only-one.bin").touch()
    script = subprocess.run([FOLDER / "llmrun", "completion", "bash"], capture_output=True, text=True, env=environment)
    (tmp_path / "script").write_text(script.stdout + "PS1='READY> '\nbind 'set enable-bracketed-paste off'\n")
    variables = environment | {"PATH": f"{FOLDER}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(tmp_path)}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(BASH, [BASH, "--noprofile", "--rcfile", str(tmp_path / "script"), "-i"], variables)
    try:
        read_until(terminal, "READY> ")
        os.write(terminal, f"{typed}\t".encode())
        assert shown in read_until(terminal, shown)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, text: str) -> str:
    got, deadline = "", time.monotonic() + 20
    while text not in got and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            got += os.read(terminal, 4096).decode(errors="replace")
    return got
