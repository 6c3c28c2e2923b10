"""The llama-cpp adapter on the real library: contract, tokens, limits, damaged files, cancellation."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, Done, EngineName, Event, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import EngineCrashedError, ModelFileError

pytestmark = pytest.mark.engine

CHAT = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"


def plan(path: Path, **changes: Any) -> LoadPlan:
    values = {"engine": EngineName.LLAMA_CPP, "model_path": str(path), "context_length": 2048, "threads": 2}
    return LoadPlan(**(values | changes))  # type: ignore[arg-type]


def options(**changes: Any) -> SamplingOptions:
    values = {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "max_tokens": 64,
        "seed": 0,
    }
    return SamplingOptions(**(values | changes))


@pytest.fixture
def worker() -> Iterator[WorkerClient]:
    client = WorkerClient(EngineName.LLAMA_CPP)
    yield client
    client.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    return build.write_tiny_llama_gguf(tmp_path / "tiny.gguf", answer="Paris")


def ask(worker: WorkerClient, text: str, *, special: bool = True, **changes: Any) -> tuple[str, Done]:
    return collect(worker.generate([Segment(text=text, special=special)], options(**changes)))


def collect(events: Iterator[Event]) -> tuple[str, Done]:
    *deltas, done = events
    assert isinstance(done, Done)
    return "".join(delta.text for delta in deltas if isinstance(delta, Delta)), done


def test_it_answers_and_stops_by_itself(worker: WorkerClient, tiny: Path) -> None:
    worker.load(plan(tiny))
    text, done = ask(worker, CHAT)
    assert text == "Paris"
    assert (done.finish_reason, done.stats.completion_tokens) == (FinishReason.STOP, 5)


def test_stop_texts_across_tokens_and_limits(worker: WorkerClient, tiny: Path) -> None:
    worker.load(plan(tiny))
    assert ask(worker, CHAT, stop=("ri",))[0] == "Pa"
    text, done = ask(worker, CHAT, max_tokens=2)
    assert (text, done.finish_reason) == ("Pa", FinishReason.LENGTH)


def test_control_tokens_only_in_special_segments(worker: WorkerClient, tiny: Path) -> None:
    worker.load(plan(tiny, vocabulary_only=True))
    special = worker.tokenize([Segment(text="<|im_end|>", special=True)])
    text = worker.tokenize([Segment(text="<|im_end|>", special=False)])
    assert special == [2]
    assert len(text) > 5
    assert 2 not in text


@pytest.mark.parametrize("emitted", [True, False], ids=["template writes it", "template leaves it out"])
def test_bos_comes_once(worker: WorkerClient, tmp_path: Path, emitted: bool) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "bos.gguf", **{"tokenizer.ggml.add_bos_token": True})
    worker.load(plan(path, vocabulary_only=True))
    tokens = worker.tokenize([Segment(text="<|im_start|>x" if emitted else "x", special=True)])
    assert tokens.count(1) == 1
    assert tokens[0] == 1


def test_a_second_request_reuses_what_it_shares_and_says_the_same(worker: WorkerClient, tiny: Path) -> None:
    worker.load(plan(tiny))
    first = ask(worker, CHAT)
    ask(worker, CHAT + "Paris<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")
    assert ask(worker, CHAT)[0] == first[0]


def test_the_context_grows_with_the_answer_and_changes_nothing(tmp_path: Path) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "random.gguf", **{"llama.context_length": 4096})
    answers = []
    for fixed in (True, False):
        client = WorkerClient(EngineName.LLAMA_CPP)
        try:
            client.load(plan(path, context_length=4096, context_is_fixed=fixed))
            answers.append(ask(client, "once", max_tokens=None))
        finally:
            client.close()
    (text_fixed, done_fixed), (text_grown, done_grown) = answers
    assert text_grown == text_fixed
    assert done_grown.finish_reason is done_fixed.finish_reason
    assert done_grown.stats.completion_tokens == done_fixed.stats.completion_tokens
    if done_grown.finish_reason is FinishReason.CONTEXT:
        assert done_grown.stats.prompt_tokens + done_grown.stats.completion_tokens == 4096


def test_a_seed_repeats_an_answer_and_another_seed_does_not(worker: WorkerClient, tmp_path: Path) -> None:
    worker.load(plan(build.write_tiny_llama_gguf(tmp_path / "random.gguf")))
    hot: dict[str, Any] = {"temperature": 2.0, "max_tokens": 40}
    one, again, other = (ask(worker, "once", seed=seed, **hot)[0] for seed in (1, 1, 2))
    assert one == again != other


def test_split_files(worker: WorkerClient, tmp_path: Path) -> None:
    worker.load(plan(build.write_tiny_llama_gguf(tmp_path / "split.gguf", answer="Paris", split_max_tensors=8)))
    assert ask(worker, CHAT)[0] == "Paris"


def test_weights_that_are_not_finite(worker: WorkerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = build.tiny_weights

    def damaged(answer: str | None, seed: int) -> Any:
        weights = sound(answer, seed)
        weights["output_norm.weight"][3] = float("nan")
        return weights

    monkeypatch.setattr(build, "tiny_weights", damaged)
    worker.load(plan(build.write_tiny_llama_gguf(tmp_path / "nan.gguf")))
    with pytest.raises(ModelFileError, match="look damaged"):
        ask(worker, "once")


def test_what_only_the_library_finds_keeps_its_words(worker: WorkerClient, tmp_path: Path) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "pre.gguf", **{"tokenizer.ggml.pre": "no-such-pre"})
    with pytest.raises(ModelFileError, match="no-such-pre"):
        worker.load(plan(path))


def test_a_file_cut_short_while_it_is_mapped(worker: WorkerClient, tiny: Path) -> None:
    worker.load(plan(tiny))
    with tiny.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises((EngineCrashedError, ModelFileError)) as caught:
        ask(worker, CHAT)
    if isinstance(caught.value, EngineCrashedError):
        assert "cut short or replaced" in caught.value.message


def test_cancelling_in_the_middle_of_the_prompt(worker: WorkerClient, real_model: Path) -> None:
    worker.load(plan(real_model, context_length=8192))
    worker.send_generate([Segment(text="word " * 7000, special=False)], options())
    time.sleep(0.5)
    began = time.monotonic()
    rest = list(worker.cancel())
    assert time.monotonic() - began < 1
    assert isinstance(rest[-1], Done)
    assert rest[-1].finish_reason is FinishReason.CANCELLED
    assert rest[-1].stats.completion_tokens == 0
    assert ask(worker, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", max_tokens=4)[0]


def test_greedy_text_is_that_of_the_library_called_directly(worker: WorkerClient, real_model: Path) -> None:
    prompt = "<|im_start|>user\nName three primary colours.<|im_end|>\n<|im_start|>assistant\n"
    program = (
        "import sys\nfrom llama_cpp import Llama\n"
        "llama = Llama(sys.argv[1], n_ctx=2048, n_threads=2, n_threads_batch=2, flash_attn=True, verbose=False)\n"
        "out = llama.create_completion(sys.argv[2], temperature=0, top_k=1, max_tokens=32)\n"
        "sys.stdout.write(out['choices'][0]['text'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, real_model, prompt], capture_output=True, timeout=120
    )
    worker.load(plan(real_model))
    assert ask(worker, prompt, max_tokens=32)[0] == done.stdout.decode(), done.stderr.decode()


def test_importing_the_adapter_loads_no_engine_and_no_numpy() -> None:
    program = (
        "import sys, llmrun.engines.llama_cpp.engine, llmrun.engines.worker, llmrun.engines.client\n"
        "print([m for m in ('llama_cpp', 'numpy', 'jinja2', 'torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


MANY_ENGINES = """
import gc, sys
from llmrun.engines.llama_cpp.engine import LlamaCppEngine
from llmrun.engines.types import EngineName, LoadPlan
plan = LoadPlan(engine=EngineName.LLAMA_CPP, model_path=sys.argv[1], context_length=256, threads=1)
session = LlamaCppEngine().load(plan)
for _ in range(50):
    LlamaCppEngine()
gc.collect()
filler = [bytes(size) for size in range(1, 4000)]
for _ in range(20):
    session._context.make_room(64)
    session._context.close()
print("alive")
"""


def test_the_library_never_calls_what_is_gone(tiny: Path) -> None:
    """It logs through the callback of whoever came last, also when that one is no longer there."""
    done = subprocess.run([sys.executable, "-c", MANY_ENGINES, tiny], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
