"""Measured choice through the real commands: `bench --save`, `which-backend --measure`, and what `run` makes of it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.installed.facts import probe_engines
from llmrun.engines.measure.speeds import MeasuredSpeed
from llmrun.engines.measure.store import keep_speed
from llmrun.engines.types import EngineName
from llmrun.hardware.machine import probe_machine
from llmrun.models.gguf.info import read_gguf_info
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk


@pytest.fixture
def own_model(real_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(real_model, tmp_path / "model.gguf"))


def plant(path: Path, engine: EngineName, decode: float) -> None:
    """Keep a measurement as if it had been made."""
    machine = probe_machine()
    model = find_on_disk(parse_reference(str(path)))
    assert model is not None
    speed = MeasuredSpeed(
        engine=engine,
        created="2026-11-20",
        load_seconds=0.1,
        prompt_tokens=256,
        answer_tokens=64,
        prefill=(500.0, 501.0, 499.0),
        decode=(decode, 1.01 * decode, 0.99 * decode),
    )
    keep_speed(speed, model, read_gguf_info(path), probe_engines(machine)[engine], machine)


def chosen(llmrun: Callable[..., Any], model: Path) -> tuple[str, str]:
    document = json.loads(llmrun("which-backend", model, "--json").stdout)
    return document["chosen"], document["because"]


@pytest.mark.engine
@pytest.mark.pytorch
def test_what_was_measured_is_used_and_forgotten(
    llmrun: Callable[..., Any], own_model: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", environment["LLMRUN_CACHE_DIR"])
    assert chosen(llmrun, own_model) == ("llama-cpp", "the fastest engine for gguf files")
    plant(own_model, EngineName.LLAMA_CPP, 28.9)
    plant(own_model, EngineName.PYTORCH, 41.2)
    assert chosen(llmrun, own_model) == ("pytorch", "measured 41.2 against 28.9 tokens/s on 2026-11-20")
    text = llmrun("which-backend", own_model).text
    assert "41.2 tokens/s" in text
    assert "measured on 2026-11-20; prompts 500 tokens/s" in text
    ran = llmrun("run", own_model, "Hello", "--dry-run", "--json", timeout=120)
    assert json.loads(ran.stdout)["engine"]["name"] == "pytorch"
    other_machine = llmrun("which-backend", own_model, "--save-machine", environment["LLMRUN_CACHE_DIR"] + "/m.json")
    assert other_machine.code == 0
    elsewhere = llmrun("which-backend", own_model, "--machine", environment["LLMRUN_CACHE_DIR"] + "/m.json", "--json")
    assert json.loads(elsewhere.stdout)["chosen"] == "llama-cpp"
    own_model.touch()
    assert chosen(llmrun, own_model) == ("llama-cpp", "the fastest engine for gguf files")


def test_what_bench_keeps_and_what_not(llmrun: Callable[..., Any], own_model: Path, tmp_path: Path) -> None:
    steady = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.02, "prefill_seconds": 0.2})}
    noisy = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.02, "prefill_seconds": 0.2, "wobble": 3})}
    arguments = ("bench", own_model, "--engine", "fake", "-p", "8", "-n", "8", "--no-limits", "--no-cold-start")
    folder = tmp_path / "cache" / "measured"
    assert (
        "is not kept: too noisy, or a single repetition" in llmrun(*arguments, "-r", "1", "--save", env=steady).errors
    )
    assert "is not kept: too noisy" in llmrun(*arguments, "-r", "3", "--save", env=noisy).errors
    deep = llmrun(*arguments, "-r", "3", "-d", "16", "--save", env=steady)
    assert "only what is measured with the defaults" in deep.errors
    assert "kept" not in llmrun(*arguments, "-r", "3", env=steady).errors
    assert not folder.exists()
    kept = llmrun(*(each for each in arguments if each != "--no-limits"), "-r", "4", "--save", env=steady)
    assert "fake, 8 + 8 is kept, and counts when an engine is chosen for this model" in kept.errors
    (file,) = folder.iterdir()
    speed = json.loads(file.read_text())["value"]["speed"]
    assert speed["answer_tokens"] == 8
    assert len(speed["memory_seen"]) == 2  # before and after


def test_what_cannot_be_kept_is_not_said_to_be(llmrun: Callable[..., Any], own_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "measured").touch()
    env = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.02, "prefill_seconds": 0.2})}
    sizes = ("--engine", "fake", "-p", "8", "-n", "8", "-r", "3", "--no-limits", "--no-cold-start")
    done = llmrun("bench", own_model, *sizes, "--save", env=env)
    assert done.code == 0
    assert "fake, 8 + 8 is not kept: the cache cannot be written" in done.errors


@pytest.mark.engine
@pytest.mark.pytorch
def test_after_an_interruption_what_was_measured_is_kept(
    start_llmrun: Callable[..., "subprocess.Popen[bytes]"], own_model: Path
) -> None:
    process = start_llmrun("which-backend", own_model, "--measure")
    assert process.stderr is not None
    seen = b""
    deadline = time.monotonic() + 120
    while b"pytorch" not in seen and time.monotonic() < deadline:
        seen += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == b""
    assert b"llama-cpp, 256 + 64 is " in errors  # kept, or too noisy on a busy machine


def test_what_is_measured_in_other_types_is_not_kept(llmrun: Callable[..., Any], own_model: Path) -> None:
    env = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.02, "prefill_seconds": 0.2})}
    sizes = ("--engine", "fake", "-p", "8", "-n", "8", "-r", "3", "--no-limits", "--no-cold-start")
    done = llmrun("bench", own_model, *sizes, "--dtype", "float32", "--save", env=env)
    assert "is not kept: only what is measured with the defaults" in done.errors


@pytest.mark.engine
def test_measuring_says_what_it_kept(llmrun: Callable[..., Any], own_model: Path) -> None:
    done = llmrun("which-backend", own_model, "--measure", "--engine", "llama-cpp", timeout=180)
    assert done.code == 0
    assert "llama-cpp, 256 + 64 is" in done.errors
    assert llmrun("which-backend", "--measure").code == 2


@pytest.mark.engine
def test_a_faster_quantization_on_this_disk_is_told_of(
    llmrun: Callable[..., Any],
    own_model: Path,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", environment["LLMRUN_CACHE_DIR"])
    other = Path(shutil.copy(own_model, tmp_path / "faster.gguf"))
    plant(own_model, EngineName.LLAMA_CPP, 30.0)
    plant(other, EngineName.LLAMA_CPP, 60.0)
    text = " ".join(llmrun("which-backend", own_model).text.split())
    assert f"llmrun run {other}" in text
    assert "measured to be faster here as Q4_1 (60.0 tokens/s, prompts 500) than as Q4_1 (30.0" in text
    assert "measured to be faster here" not in " ".join(llmrun("which-backend", other).text.split())
