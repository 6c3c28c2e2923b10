"""Control tokens that mark what a model thinks are in its answer; all others are not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.conversation.reasoning import ReasoningSplitter
from llmrun.engines.types import Delta, EngineName, LoadPlan, SamplingOptions, Segment

MARKED = {"P": "[THINK]", "r": "[/THINK]", "s": "<|other|>"}


@pytest.fixture
def worker() -> Iterator[WorkerClient]:
    client = WorkerClient(EngineName.LLAMA_CPP)
    yield client
    client.close()


@pytest.mark.engine
def test_llama_cpp_gives_the_marks(worker: WorkerClient, tmp_path: Path, real_model: Path) -> None:
    """The model says "Paris"; three of its letters are control tokens now."""
    del real_model  # where there is none, the engine may be missing too
    tokens, types, _ = build.tiny_vocabulary()
    for letter, mark in MARKED.items():
        types[tokens.index(letter)] = 3
        tokens[tokens.index(letter)] = mark
    changes: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    model = build.write_tiny_llama_gguf(tmp_path / "tiny.gguf", answer="Paris", **changes)
    worker.load(LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(model), context_length=512, threads=1))
    segments = [Segment(text="\n", special=True)]
    options = SamplingOptions(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, max_tokens=8, seed=0)
    events = worker.generate(segments, options)
    answer = "".join(event.text for event in events if isinstance(event, Delta))
    assert answer == "[THINK]a[/THINK]i"
    pieces = ReasoningSplitter().feed(answer)
    assert [(piece.kind, piece.text) for piece in pieces] == [("reasoning", "a"), ("answer", "i")]


def folder_tokenizer(folder: Path, *marks: str) -> Any:
    """Return the tokenizer of a folder whose control tokens are these, from 1 on."""
    tokenizers = pytest.importorskip("tokenizers")
    from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer

    names = {name: number for number, name in enumerate(("a", *marks))}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="a"))
    backend.add_special_tokens(list(marks))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return HuggingFaceTokenizer(folder)


def test_folders_give_the_marks(tmp_path: Path) -> None:
    tokenizer = folder_tokenizer(tmp_path, "[THINK]", "[/THINK]", "<|other|>")
    assert [tokenizer.token_bytes(token) for token in range(4)] == [b"a", b"[THINK]", b"[/THINK]", b""]


@pytest.mark.parametrize(
    ("marks", "ends"),
    [
        pytest.param(("<|end|>", "<|other|>"), {1}, id="Phi-3"),
        pytest.param(("<|end|>", "<|return|>", "<|call|>"), {2, 3}, id="gpt-oss"),
        pytest.param(("<|end|>", "<|flush|>", "<|calls|>"), {2, 3}, id="Solar Open"),
    ],
)
def test_the_end_of_reasoning_is_not_that_of_the_answer(tmp_path: Path, marks: tuple[str, ...], ends: set[int]) -> None:
    tokenizer = folder_tokenizer(tmp_path, *marks)
    assert {token for token in range(4) if tokenizer.is_end(token)} == ends
