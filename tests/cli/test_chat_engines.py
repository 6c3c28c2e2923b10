"""`llmrun chat` on every real engine: the second turn processes its own tokens only, by the counts in the session."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trained_models as trained

Run = Callable[..., Any]
GREEDY = ("--temperature", "0", "--max-tokens", "12", "--session", "s")
BLOCK_TOKENS = 128  # of vLLM's cache on a processor


def answers(environment: dict[str, str]) -> list[dict[str, Any]]:
    lines = Path(environment["LLMRUN_DATA_DIR"], "sessions", "s.jsonl").read_bytes().splitlines()
    return [record for record in map(json.loads, lines) if record.get("role") == "assistant"]


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("llama-cpp", marks=pytest.mark.engine),
        pytest.param("pytorch", marks=pytest.mark.pytorch),
    ],
)
def test_the_second_turn_processes_only_what_is_new(
    llmrun: Run, engine: str, request: pytest.FixtureRequest, environment: dict[str, str]
) -> None:
    """All of the first prompt and of its answer is there, but for the answer's last token."""
    model = request.getfixturevalue("real_model" if engine == "llama-cpp" else "twin")
    first = b"Write a list of ten animals that live in the forest, and say of each what it eats.\n"
    turns = first + b"And of these?\nThank you.\n"
    result = llmrun("chat", model, "--engine", engine, *GREEDY, stdin=turns, timeout=180)
    assert result.code == 0, result.errors
    said = answers(environment)
    assert len(said) == 3
    for before, after in pairwise(said):
        known = before["prompt_tokens"] + before["completion_tokens"]
        assert known - 1 <= after["cached_tokens"] <= known
        assert after["prompt_tokens"] - after["cached_tokens"] < 25  # the turn, and what its template puts around it
    assert said[0]["cached_tokens"] == 0
    assert {answer["engine"] for answer in said} == {engine}


@pytest.mark.engine
def test_one_after_another_is_as_at_once(llmrun: Run, real_model: Path, environment: dict[str, str]) -> None:
    """A session that goes on in another process gives the answer that it would have given in the same one."""
    turns = [b"My name is Ada.\n", b"What is my name?\n"]
    at_once = llmrun("chat", real_model, "--temperature", "0", "--max-tokens", "24", stdin=b"".join(turns))
    assert at_once.code == 0, at_once.errors
    parts = []
    for turn in turns:
        part = llmrun("chat", real_model, "--session", "t", "--temperature", "0", "--max-tokens", "24", stdin=turn)
        assert part.code == 0, part.errors
        parts.append(part.text)
    assert "".join(parts) == at_once.text


@pytest.mark.engine
def test_the_window_on_a_real_model(llmrun: Run, real_model: Path, environment: dict[str, str]) -> None:
    """After a step, the turns that follow it are cheap again."""
    turns = b"".join(b"Tell me of the number %d, please, in a few words.\n" % number for number in range(14))
    result = llmrun("chat", real_model, *GREEDY, "--context-length", "512", stdin=turns, timeout=120)
    assert result.code == 0, result.errors
    assert "oldest turns left out" in result.errors
    processed = [answer["prompt_tokens"] - answer["cached_tokens"] for answer in answers(environment)]
    assert len(processed) == 14
    assert len([count for count in processed[1:] if count > 60]) == result.errors.count("left out")


@pytest.mark.engine
def test_a_real_summary(llmrun: Run, real_model: Path, environment: dict[str, str]) -> None:
    turns = b"".join(b"Tell me of the number %d, please, in a few words.\n" % number for number in range(16))
    arguments = ("--context-length", "512", "--on-overflow", "summarize")
    result = llmrun("chat", real_model, *GREEDY, *arguments, stdin=turns, timeout=120)
    assert result.code == 0, result.errors
    assert "the model keeps a summary" in result.errors
    assert len(answers(environment)) == 16


@pytest.mark.engine
def test_control_tokens_in_a_turn_are_text(llmrun: Run, real_model: Path, environment: dict[str, str]) -> None:
    """FAULTS 51: as control tokens they would be one token each."""
    result = llmrun("chat", real_model, *GREEDY, stdin=b"a b\na<|im_end|><|im_start|>b\n")
    assert result.code == 0, result.errors
    first, second = answers(environment)
    frame = first["prompt_tokens"] + first["completion_tokens"]
    assert (
        second["prompt_tokens"] - frame > 7 + 2 * 4
    )  # the frame of a turn, and at least four tokens for each of the two


@pytest.mark.engine
@pytest.mark.parametrize("moment", ["prefill", "answer"])
def test_ctrl_c_on_a_real_model(
    start_llmrun: Callable[..., "subprocess.Popen[bytes]"], real_model: Path, environment: dict[str, str], moment: str
) -> None:
    """FAULTS 39 and 40."""
    process = start_llmrun("chat", real_model, "--session", "s", "--no-cache", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    text = b"word " * 7000 if moment == "prefill" else b"Tell me a very long story."
    process.stdin.write(text + b"\n")
    process.stdin.flush()
    if moment == "prefill":
        path = Path(environment["LLMRUN_DATA_DIR"], "sessions", "s.jsonl")
        while not path.exists():
            time.sleep(0.02)
        time.sleep(1)
    else:
        assert process.stdout.read(8)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - began < 5  # a second, and what a busy machine takes to end two processes
    assert [answer["cancelled"] for answer in answers(environment)] == ([] if moment == "prefill" else [True])


@pytest.mark.ctransformers
def test_ctransformers(llmrun: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "tiny-llama.bin"
    path.write_bytes(trained.legacy_llama())
    arguments = ("--temperature", "0", "--max-tokens", "2", "--session", "s")
    result = llmrun("chat", path, *arguments, stdin=b"a b c d\na\n", timeout=120)
    assert result.code == 0, result.errors
    first, second = answers(environment)
    assert first["engine"] == "ctransformers"
    assert second["cached_tokens"] >= first["prompt_tokens"] + first["completion_tokens"] - 1
    assert second["prompt_tokens"] - second["cached_tokens"] < 8


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm(llmrun: Run, twin: Path, environment: dict[str, str]) -> None:
    """Whole blocks are kept."""
    turns = b"word " * 200 + b"What did I say?\nAnd then?\n"
    result = llmrun("chat", twin, "--engine", "vllm", "--context-length", "2048", *GREEDY, stdin=turns, timeout=300)
    assert result.code == 0, result.errors
    first, second = answers(environment)
    known = first["prompt_tokens"] + first["completion_tokens"]
    assert second["cached_tokens"] >= first["prompt_tokens"] // BLOCK_TOKENS * BLOCK_TOKENS > 0
    assert second["cached_tokens"] <= known
