"""`which-backend` through the real command: the choice, its reasons, other machines, bad input."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

Run = Callable[..., Any]
MACHINES = Path(__file__).parents[1] / "machines"

# Machines whose GPU has room for the unquantized weights.
WITH_CUDA = {"h200-server", "rtx-3060-desktop", "rtx-4090-desktop", "t4-cloud-vm", "wsl2-rtx-3080-desktop"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf())
    return path


def test_without_a_model_it_shows_machine_and_engines(llmrun: Run) -> None:
    result = llmrun("which-backend", timeout=400)  # every engine that is installed is tried, once
    assert result.code == 0, result.errors
    for word in ("processor", "memory", "bandwidth", "llama-cpp", "ctransformers", "pytorch", "vllm"):
        assert word in result.text
    assert max(map(len, result.text.splitlines())) <= 80


def test_the_choice_comes_first_and_every_engine_has_a_verdict(llmrun: Run, model: Path) -> None:
    result = llmrun("which-backend", model)
    first, *rest = result.text.splitlines()
    document = json.loads(llmrun("which-backend", model, "--json").stdout)
    assert document["version"] == 1
    assert {verdict["engine"] for verdict in document["verdicts"]} == {"llama-cpp", "ctransformers", "pytorch", "vllm"}
    assert all(verdict["eligible"] or verdict["reasons"] for verdict in document["verdicts"])
    if document["chosen"] is None:
        assert result.code == 6
        assert "llmrun install llama-cpp" in result.text
    else:
        assert result.code == 0
        assert first.startswith("llama-cpp for ")
        assert document["plan"]["context_length"] == 256
    assert any("[format]" in line for line in rest)
    assert max(map(len, rest[1:])) <= 80  # the second line is a path


@pytest.mark.parametrize(
    ("profile", "model_name", "chosen"),
    [
        pytest.param("h200-server", "llama-2-chat", "vllm", id="llama-2-chat on an H200"),
        pytest.param("h200-server", "baichuan-chat", "pytorch", id="baichuan-chat on an H200: vllm dropped it"),
        pytest.param("raspberry-pi-5-8gb", "smollm2-135m-instruct", "llama-cpp", id="a Raspberry Pi"),
    ],
)
def test_other_machines(llmrun: Run, profile: str, model_name: str, chosen: str) -> None:
    result = llmrun("which-backend", model_name, "--machine", MACHINES / f"{profile}.json", "--json")
    document = json.loads(result.stdout)
    assert (result.code, document["chosen"]) == (0, chosen), document["because"]


def test_a_machine_that_was_saved_can_be_asked(llmrun: Run, tmp_path: Path) -> None:
    saved = tmp_path / "here.json"
    assert llmrun("which-backend", "--save-machine", saved, timeout=400).code == 0  # tries every engine, too
    result = llmrun("which-backend", "smollm2-135m-instruct", "--machine", saved)
    assert result.code == 0, result.errors
    assert result.text.startswith("llama-cpp for smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["llama-2-chatt"], 3, "llama-2-chat", id="unknown name, with the nearest"),
        pytest.param(["./no-such.gguf"], 3, "no-such.gguf", id="missing file"),
        pytest.param(["org/repo", "--offline"], 3, "llmrun models pull org/repo", id="not here and not known"),
        pytest.param(["smollm2-135m-instruct", "--engine", "ollama"], 2, "ollama", id="unknown engine"),
        pytest.param(["--machine", "/no/such/file"], 2, "cannot read the machine file", id="missing machine file"),
        pytest.param(["--machine", __file__], 2, "machine", id="a machine file that is none"),
    ],
)
def test_bad_input(llmrun: Run, arguments: list[str], code: int, said: str) -> None:
    result = llmrun("which-backend", *arguments)
    assert result.code == code, result.errors
    assert said in result.errors
    assert "Traceback" not in result.errors
    assert result.stdout == b""


@pytest.mark.parametrize("profile", sorted(MACHINES.glob("*.json")), ids=lambda path: path.stem)
def test_every_profile_gets_an_answer_for_a_small_model(llmrun: Run, profile: Path) -> None:
    result = llmrun("which-backend", "smollm2-135m-instruct", "--machine", profile)
    assert result.code == 0, result.text
    engine = "vllm" if profile.stem in WITH_CUDA else "llama-cpp"
    assert result.text.startswith(f"{engine} for smollm2-135m-instruct")


def test_a_container_of_2_gib_gets_what_fits_or_a_clear_no(llmrun: Run) -> None:
    result = llmrun("which-backend", "llama-2-chat", "--machine", MACHINES / "container-2-cores-2gib.json")
    assert result.code == 6
    assert "no engine for llama-2-chat" in result.text
    assert "[memory]" in result.text


def test_a_machine_file_that_is_a_pipe_is_refused(llmrun: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    result = llmrun("which-backend", "--machine", tmp_path / "fifo.json", timeout=20)
    assert result.code == 2


def test_ascii_terminals_get_words_for_marks(llmrun: Run, model: Path) -> None:
    result = llmrun("which-backend", model, env={"PYTHONIOENCODING": "ascii"})
    assert "?" not in result.text
    assert "no  vllm" in result.text or "yes vllm" in result.text
