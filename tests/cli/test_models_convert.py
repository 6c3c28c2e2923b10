"""`llmrun models convert` and what other commands say of legacy files, by the real program."""

import json
import os
import signal
import subprocess
import sys
import time
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


def test_a_disk_that_is_full_in_the_middle(old: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """A limit on the size of files stands for the disk: the write itself fails, after the look at the free space."""
    program = Path(sys.executable).with_name("llmrun")
    command = ["bash", "-c", 'ulimit -f 20; exec "$0" models convert "$1"', str(program), str(old)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (8, ""), done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(tmp_path) == [old.name]


def test_ctrl_c_leaves_nothing_behind(start_llmrun: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "wide.bin"
    path.write_bytes(legacy.write(legacy.Legacy(model_type="llama", magic="ggjt", version=3, file_type=2, width=1024)))
    process = start_llmrun("models", "convert", path)
    until = time.monotonic() + 30
    while not any(name.endswith(".part") for name in files_of(tmp_path)) and time.monotonic() < until:
        assert process.poll() is None
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert time.monotonic() - pressed < 2  # promised: 1 s; the rest is room for a busy machine
    assert (process.returncode, stdout) == (130, b"")
    assert b"Traceback" not in stderr
    assert files_of(tmp_path) == [path.name]


def files_of(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())


def test_show_says_what_told_the_model_type(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "pythia-70m.bin"
    path.write_bytes(legacy.write(legacy.ALL["gpt_neox"]))
    shown = llmrun("models", "show", path)
    assert shown.code == 0, shown.errors
    assert "architecture  gpt_neox (told by: file name)" in shown.text
    header = json.loads(llmrun("models", "show", path, "--json").text)["header"]
    assert (header["architecture"], header["architecture_source"]) == ("gpt_neox", "file name")
    assert (header["format"], header["layers"], header["context_length"]) == ("ggml", 2, 64)
