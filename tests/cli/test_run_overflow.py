"""`run --on-overflow` through the real command: what is cut, what is said, what never is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import legacy_models as legacy
import pytest

Run = Callable[..., Any]
ECHO = {"LLMRUN_ENGINE": "fake"}
LONG = "".join(f"{number:04d} " for number in range(2000)).encode()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(4096)})))
    return path


def document(llmrun: Run, model: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    result = llmrun("run", model, *arguments, "--raw", "--json", env=ECHO | options.pop("env", {}), **options)
    assert result.code == 0, result.errors
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("policy", "place"), [("drop-oldest", "the beginning"), ("drop-middle", "the middle")])
def test_attached_text_is_cut_and_the_counts_are_said(llmrun: Run, model: Path, policy: str, place: str) -> None:
    arguments = ("run", model, "What is this?", "--raw", "--on-overflow", policy, "--max-tokens", "96")
    result = llmrun(*arguments, stdin=LONG, env=ECHO)
    assert result.code == 0, result.errors
    # 10,000 bytes (one of them trailing), two newlines, 13 bytes typed; the engine that tests use has a token per byte.
    assert f"llmrun: 6,015 of 10,015 tokens left out of {place} of the attached text" in result.errors
    assert "the context holds 4,096, of which 96 are for the answer" in result.errors
    found = document(llmrun, model, "What is this?", "--on-overflow", policy, "--max-tokens", "96", stdin=LONG)
    assert found["overflow"] == {
        "policy": policy,
        "prompt_tokens": 10_015,
        "left_out_tokens": 6_015,
        "reserved_tokens": 96,
    }
    assert found["usage"]["prompt_tokens"] == 4_000


def test_both_ends_or_the_end_are_there_and_so_is_what_was_typed(llmrun: Run, model: Path) -> None:
    for policy, start in (("drop-middle", "0000 0001"), ("drop-oldest", "[...]\n")):
        result = llmrun("run", model, "Why?", "--raw", "--dry-run", "--on-overflow", policy, stdin=LONG, env=ECHO)
        assert result.code == 0, result.errors
        assert result.text.startswith(start)
        assert result.text.endswith("1998 1999 \n\nWhy?\n")
        assert result.text.count("[...]") == 1
        assert "llmrun: 3,072 tokens" in result.errors


def test_files_and_standard_input_are_one_text(llmrun: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A" * 3000)
    (tmp_path / "b.txt").write_text("B" * 3000)
    found = document(
        llmrun,
        model,
        *("--file", str(tmp_path / "a.txt"), "--file", str(tmp_path / "b.txt")),
        *("--on-overflow", "drop-middle", "--dry-run"),
        stdin=b"C" * 3000,
    )
    assert (found["prompt"][0], found["prompt"][-1], "B" in found["prompt"]) == ("A", "C", False)
    assert found["token_count"] == 3072


def test_whole_characters(llmrun: Run, model: Path) -> None:
    text = "日本語👩‍👩‍👧" * 1000
    found = document(llmrun, model, "--on-overflow", "drop-middle", "--dry-run", stdin=text.encode())
    head, tail = found["prompt"].split("\n[...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert (head[-1:] == "\u200d", tail[:1] == "\u200d") == (False, False)


def test_what_was_typed_is_never_cut(llmrun: Run, model: Path) -> None:
    for policy in ("drop-oldest", "drop-middle"):
        result = llmrun("run", model, "x" * 5000, "--raw", "--on-overflow", policy, env=ECHO)
        assert (result.code, result.stdout) == (10, b"")
        assert "5,000 tokens and the context holds 4,096" in result.errors


def test_what_fits_is_sent_as_it_is(llmrun: Run, model: Path) -> None:
    found = document(llmrun, model, "--on-overflow", "drop-oldest", stdin=b"x" * 3000)
    assert found["overflow"] is None
    assert found["usage"]["prompt_tokens"] == 3000


def test_an_error_by_default_and_in_the_environment_otherwise(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "--raw", stdin=LONG, env=ECHO)
    assert result.code == 10
    assert "10,000 tokens and the context holds 4,096" in result.errors
    assert "--on-overflow" in result.errors
    assert document(llmrun, model, stdin=LONG, env={"LLMRUN_ON_OVERFLOW": "drop-oldest"})["overflow"]
    wrong = llmrun("run", model, "hi", "--on-overflow", "stop", env=ECHO)
    assert wrong.code == 2
    assert "error, drop-oldest, drop-middle" in wrong.errors


def assert_it_fills(result: Any, room: int) -> None:
    """The counts agree with each other, and what is left fills the room up to a few tokens."""
    assert result.code == 0, result.errors
    found = json.loads(result.stdout)
    cut = found["overflow"]
    assert found["usage"]["prompt_tokens"] == cut["prompt_tokens"] - cut["left_out_tokens"]
    assert room - 4 <= found["usage"]["prompt_tokens"] <= room


@pytest.mark.engine
def test_with_a_real_tokenizer(llmrun: Run, real_model: Path) -> None:
    words = "It was a dark and stormy night; the rain fell in torrents. " * 400
    result = llmrun(
        *("run", real_model, "Summarize.", "--context-length", "600", "--on-overflow", "drop-middle"),
        *("--max-tokens", "8", "--json", "--system", "Be brief."),
        stdin=words.encode(),
    )
    assert_it_fills(result, 600 - 8)


@pytest.mark.pytorch
def test_on_a_folder_with_pytorch(llmrun: Run, twin: Path) -> None:
    words = "It was a dark and stormy night; the rain fell in torrents. " * 100
    result = llmrun(
        *("run", twin, "Summarize.", "--engine", "pytorch", "--context-length", "300", "--json"),
        *("--on-overflow", "drop-oldest", "--max-tokens", "4"),
        stdin=words.encode(),
        timeout=300,
    )
    assert_it_fills(result, 300 - 4)


@pytest.mark.ctransformers
def test_on_a_legacy_file_with_ctransformers(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "gpt2.bin"
    path.write_bytes(legacy.write(legacy.ALL["gpt2"]))
    arguments = ("run", path, "Why?", "--raw", "--json", "--on-overflow", "drop-middle", "--max-tokens", "4")
    result = llmrun(*arguments, stdin=b"one two three four " * 500, timeout=120)
    assert result.code == 0, result.errors
    found = json.loads(result.stdout)
    cut, context = found["overflow"], found["plan"]["context_length"]
    assert found["usage"]["prompt_tokens"] == cut["prompt_tokens"] - cut["left_out_tokens"]
    assert context - 4 - 4 <= found["usage"]["prompt_tokens"] <= context - 4
