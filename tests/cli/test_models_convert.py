"""`llmrun models convert` and what other commands say of legacy files, by the real program."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import legacy_models as legacy
import pytest

Run = Callable[..., Any]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "vicuna-7b-v1.3.ggmlv3.q8_0.bin"
    path.write_bytes(legacy.write(legacy.ALL["llama-ggjt-3-q8_0"]))
    return path


@pytest.mark.engine
def test_the_path_is_the_result(llmrun: Run, old: Path, tmp_path: Path) -> None:
    done = llmrun("models", "convert", old)
    new = tmp_path / "vicuna-7b-v1.3.q8_0.gguf"
    assert (done.code, done.text) == (0, f"{new}\n")
    assert "running it once with llama-cpp" in done.errors
    assert new.read_bytes()[:4] == b"GGUF"
    shown = json.loads(llmrun("models", "show", new, "--json").text)
    assert (shown["family"], shown["header"]["quantization"]) == ("vicuna-v1.3", "Q8_0")
    assert shown["header"]["has_chat_template"] is True
    again = llmrun("models", "convert", old)
    assert (again.code, again.text) == (2, "")
    assert "is there already" in again.errors
    assert "--force" in again.errors
    answer = llmrun("run", new, "Hello", "--max-tokens", "4", "--quiet")
    assert answer.code == 0, answer.errors


@pytest.mark.engine
def test_json_and_quiet(llmrun: Run, old: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    done = llmrun("models", "convert", old, "--output", target, "--json", "--quiet", "--context-length", "64")
    assert (done.code, done.errors) == (0, "")
    assert json.loads(done.text) == {
        "version": 1,
        "path": str(target),
        "size_bytes": target.stat().st_size,
        "loaded": True,
        "quantization": "Q8_0",
        "context_length": 64,
    }


@pytest.mark.parametrize(
    ("data", "what"),
    [
        pytest.param(legacy.write(legacy.ALL["gptj"]), "only models of the llama kind", id="another type"),
        pytest.param(legacy.write(legacy.ALL["llama-ggjt-3"])[:-1], "incomplete", id="06 one byte short"),
        pytest.param(b"GGUF\3\0\0\0" + bytes(64), "GGUF", id="a GGUF"),
    ],
)
def test_what_cannot_be_converted(llmrun: Run, tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    done = llmrun("models", "convert", path)
    assert (done.code, done.text) == (4, "")
    assert what in done.errors
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["m.bin"]


def test_show_says_what_told_the_model_type(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "pythia-70m.bin"
    path.write_bytes(legacy.write(legacy.ALL["gpt_neox"]))
    shown = llmrun("models", "show", path)
    assert shown.code == 0, shown.errors
    assert "architecture  gpt_neox (told by: file name)" in shown.text
    header = json.loads(llmrun("models", "show", path, "--json").text)["header"]
    assert (header["architecture"], header["architecture_source"]) == ("gpt_neox", "file name")
    assert (header["format"], header["layers"], header["context_length"]) == ("ggml", 2, 64)
