"""Batches on the real engines, through the real command: each answer is that of a single run, and limits hold."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trained_models as trained

pytestmark = pytest.mark.engine

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
QUESTIONS = (
    "What is the capital of France?",
    "Count from one to five.",
    "Say hello in Spanish.",
    "What do bees make?",
    "How many legs does a spider have?",
    "Name three colours.",
)
GREEDY = ("--temperature", "0", "--context-length", "1024", "--offline")


def write_requests(path: Path, *more: dict[str, Any]) -> Path:
    requests: list[dict[str, Any]] = [{"prompt": question, "max_tokens": 12} for question in QUESTIONS]
    path.write_text("".join(json.dumps(request) + "\n" for request in (*requests, *more)))
    return path


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {record["id"]: record for record in lines}
    assert len(found) == len(lines)
    return found


def check_answers(results: dict[str, dict[str, Any]], engine: str) -> None:
    """Every request was answered, with what was asked of it."""
    for number in range(1, len(QUESTIONS) + 1):
        record = results[str(number)]
        assert record["error"] is None
        assert record["engine"] == engine
        assert 0 < record["usage"]["completion_tokens"] <= 12
        assert record["usage"]["prompt_tokens"] > 10
    assert len({results[str(number)]["text"] for number in range(1, len(QUESTIONS) + 1)}) == len(QUESTIONS)
    assert results["long"]["error"]["exit_code"] == 10
    assert "1,024" in results["long"]["error"]["message"]
    probability = results["probability"]
    assert len(probability["logprobs"]) == probability["usage"]["completion_tokens"] == 3
    assert all(len(token["top"]) == 2 and token["logprob"] <= 0 for token in probability["logprobs"])
    assert "".join(token["text"] for token in probability["logprobs"]) == probability["text"]


MORE = (
    {"id": "long", "prompt": "word " * 3000},
    {"id": "probability", "prompt": "Say yes.", "max_tokens": 3, "logprobs": 2},
)


def test_llama_cpp(llmrun: Run, real_model: Path, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    constrained = {"id": "json", "prompt": "A person, as JSON.", "json_schema": schema, "max_tokens": 40}
    requests = write_requests(tmp_path / "r", *MORE, constrained)
    for name, parallel in (("together", ()), ("alone", ("--parallel", "1"))):
        command = ("run", real_model, "--batch", requests, "--output", tmp_path / name)
        done = llmrun(*command, *GREEDY, *parallel, timeout=120)
        assert done.code == 12, done.errors
        results = read_results(tmp_path / name)
        check_answers(results, "llama-cpp")
        assert isinstance(results["json"]["value"]["age"], int)
    for question, record in zip(QUESTIONS[:2], (results["1"], results["2"]), strict=True):
        single = llmrun("run", real_model, question, "--max-tokens", "12", *GREEDY)
        assert single.text.rstrip("\n") == record["text"].rstrip("\n")


@pytest.mark.pytorch
def test_pytorch(llmrun: Run, twin: Path, tmp_path: Path) -> None:
    requests = write_requests(tmp_path / "r", *MORE)
    done = llmrun(
        "run", twin, "--engine", "pytorch", "--batch", requests, "--output", tmp_path / "o", *GREEDY, timeout=180
    )
    assert done.code == 12, done.errors
    results = read_results(tmp_path / "o")
    check_answers(results, "pytorch")
    single = llmrun("run", twin, QUESTIONS[0], "--engine", "pytorch", "--max-tokens", "12", *GREEDY)
    assert single.text.rstrip("\n") == results["1"]["text"].rstrip("\n")


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm(llmrun: Run, twin: Path, tmp_path: Path) -> None:
    seeded = (
        {"id": f"seeded {n}", "prompt": f"{n} " + "word " * 400, "temperature": 0.8, "max_tokens": 4} for n in range(4)
    )
    requests = write_requests(tmp_path / "r", *MORE, *seeded)  # more than are taken in at once
    done = llmrun(
        "run", twin, "--engine", "vllm", "--batch", requests, "--output", tmp_path / "o", *GREEDY, timeout=300
    )
    assert done.code == 12, done.errors
    results = read_results(tmp_path / "o")
    check_answers(results, "vllm")
    assert all(results[f"seeded {n}"]["error"] is None for n in range(4))


@pytest.mark.ctransformers
def test_ctransformers(llmrun: Run, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(trained.legacy_gpt2())
    requests = [{"prompt": trained.QUESTION}, {"prompt": trained.QUESTION, "max_tokens": 1}]
    requests.append({"prompt": trained.QUESTION, "json_schema": {"type": "object"}})
    (tmp_path / "r").write_text("".join(json.dumps(request) + "\n" for request in requests))
    command = ("run", tmp_path / "model.bin", "--raw", "--batch", tmp_path / "r", "--output", tmp_path / "o")
    done = llmrun(*command, "--temperature", "0")
    assert done.code == 12, done.errors
    results = read_results(tmp_path / "o")
    assert results["1"]["text"] == trained.ANSWER
    assert results["2"]["finish_reason"] == "length"
    assert (results["3"]["error"]["exit_code"], results["3"]["error"]["code"]) == (2, "usage")


def test_prompts_are_cut_between_others(llmrun: Run, real_model: Path, tmp_path: Path) -> None:
    long = [{"id": f"long {n}", "prompt": f"{n} " + "word " * 1500, "max_tokens": 4} for n in range(2)]
    requests = write_requests(tmp_path / "r", *long)
    command = ("run", real_model, "--batch", requests, "--output", tmp_path / "o", "--on-overflow", "drop-middle")
    done = llmrun(*command, *GREEDY, timeout=120)
    assert done.code == 0, done.errors
    results = read_results(tmp_path / "o")
    for record in (results["long 0"], results["long 1"]):
        assert record["overflow"]["left_out_tokens"] > 400
        assert record["usage"]["prompt_tokens"] <= 1020
    assert results["1"]["overflow"] is None


def test_the_engine_is_killed_from_outside(start_llmrun: Start, real_model: Path, tmp_path: Path) -> None:
    import psutil

    path = tmp_path / "r"
    path.write_text(
        "".join(json.dumps({"prompt": f"{n}: {QUESTIONS[n % 6]}", "max_tokens": 40}) + "\n" for n in range(48))
    )
    process = start_llmrun("run", real_model, "--batch", path, "--output", tmp_path / "o", *GREEDY)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (tmp_path / "o").exists() and (tmp_path / "o").read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.02)
    workers = [child for child in psutil.Process(process.pid).children() if "worker" in " ".join(child.cmdline())]
    assert len(workers) == 1
    os.kill(workers[0].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"it is started again" in errors
    results = read_results(tmp_path / "o")
    assert len(results) == 48
    assert all(record["error"] is None and record["text"] for record in results.values())
