"""Legacy files on ctransformers: the same weights as in transformers, the same answers, and limits that hold."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trained_models as trained

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.ctransformers.engine import CtransformersEngine, CtransformersSession
from llmrun.engines.types import Delta, Done, EngineName, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import UsageError
from llmrun.models.ggml.info import read_ggml_info

pytestmark = pytest.mark.ctransformers

GREEDY = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=40, seed=1)
FOLDERS = {"llama": trained.LLAMA, "gpt2": trained.GPT2, "gpt_neox": trained.GPT_NEOX}
KINDS = tuple(FOLDERS)
WRITERS: dict[str, Callable[[], bytes]] = {
    "llama": trained.legacy_llama,
    "gpt2": trained.legacy_gpt2,
    "gpt_neox": trained.legacy_gpt_neox,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("legacy")
    paths = {kind: folder / f"tiny-{kind}.bin" for kind in KINDS}
    for kind, path in paths.items():
        path.write_bytes(WRITERS[kind]())
    return paths


def load(path: Path, kind: str, **more: Any) -> CtransformersSession:
    plan = LoadPlan(
        engine=EngineName.CTRANSFORMERS, model_path=str(path), context_length=256, threads=2, model_type=kind
    )
    return CtransformersEngine().load(replace(plan, **more))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def session(files: dict[str, Path], kind: str) -> Iterator[CtransformersSession]:
    loaded = load(files[kind], kind)
    yield loaded
    loaded.close()


def write(session: CtransformersSession, text: str = trained.QUESTION, **options: Any) -> tuple[str, Done]:
    tokens = session.tokenize([Segment(text=text, special=False)])
    events = list(session.generate(tokens, replace(GREEDY, **options), Cancellation()))
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


def test_the_reader_knows_them(files: dict[str, Path], kind: str) -> None:
    assert read_ggml_info(files[kind]).architecture == kind


def test_what_was_learnt_is_said(session: CtransformersSession) -> None:
    text, done = write(session)
    assert text == trained.ANSWER
    assert done.finish_reason is FinishReason.STOP


def test_another_engine_says_the_same(session: CtransformersSession, kind: str) -> None:
    """Token ids equal, logits within 1e-3 of the largest, greedy text equal."""
    pytest.importorskip("torch")
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    numpy: Any = import_module("numpy")
    from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer

    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDERS[kind], dtype=torch.float32).eval()
    tokens = HuggingFaceTokenizer(FOLDERS[kind]).tokenize([Segment(text=trained.QUESTION, special=False)])
    assert session.tokenize([Segment(text=trained.QUESTION, special=False)]) == tokens
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0, -1].numpy()
    session._model.cut_back(0)
    session._model.process(tokens)
    found = session._model.logits(numpy)
    assert abs(found - expected).max() <= 1e-3 * abs(expected).max()


def test_only_what_is_new_is_processed(session: CtransformersSession) -> None:
    first, _ = write(session)
    again, done = write(session)
    assert (again, done.stats.cached_tokens) == (first, done.stats.prompt_tokens - 1)


def test_a_stop_text(session: CtransformersSession) -> None:
    text, done = write(session, stop=("lo",))
    assert (text, done.finish_reason) == (" Os", FinishReason.STOP)


def test_limits_are_kept(session: CtransformersSession) -> None:
    assert write(session, max_tokens=2)[1].finish_reason is FinishReason.LENGTH
    text = "x" * 240
    _, done = write(session, text=text, max_tokens=None)
    assert done.stats.prompt_tokens + done.stats.completion_tokens <= session.context_length


def test_the_same_seed_gives_the_same(session: CtransformersSession) -> None:
    options: dict[str, Any] = {"temperature": 20.0, "top_k": 50, "repeat_penalty": 1.2, "seed": 4}
    assert write(session, **options)[0] == write(session, **options)[0]
    others = {write(session, **{**options, "seed": seed})[0] for seed in range(5)}
    assert len(others) > 1


@pytest.mark.parametrize("text", ["😀" * 50, "日本語 " * 20, "\u202e\x1b[31m"])
def test_characters_of_several_bytes(session: CtransformersSession, text: str) -> None:
    """The library's own class makes room for one token a character, and writes beyond it."""
    tokens = session.tokenize([Segment(text=text, special=False)])
    assert b"".join(session._model.token_bytes(token) for token in tokens).decode().strip() == text.strip()


def test_text_does_not_steer(session: CtransformersSession, kind: str) -> None:
    mark = "</s>" if kind == "llama" else "<|endoftext|>"
    special = session.tokenize([Segment(text=mark, special=True)])
    plain = session.tokenize([Segment(text=mark, special=False)])
    assert session._model.eos in special
    assert session._model.eos not in plain


def test_what_it_cannot_do_is_said(session: CtransformersSession) -> None:
    with pytest.raises(UsageError, match="schema or a grammar"):
        write(session, json_schema="{}")
    with pytest.raises(UsageError, match="NUL"):
        session.tokenize([Segment(text="a\0b", special=False)])


def test_log_probabilities(session: CtransformersSession) -> None:
    tokens = session.tokenize([Segment(text=trained.QUESTION, special=False)])
    events = list(session.generate(tokens, replace(GREEDY, logprobs=2), Cancellation()))
    found = [token for event in events if isinstance(event, Delta) for token in event.logprobs]
    assert "".join(token.text for token in found) == trained.ANSWER
    assert all(token.top[0][0] == token.id for token in found)


def test_it_stops_when_told_to(session: CtransformersSession) -> None:
    cancel = Cancellation()
    tokens = session.tokenize([Segment(text="x" * 100, special=False)])
    timer = threading.Timer(0.01, cancel.request)
    timer.start()
    began = time.monotonic()
    events = list(session.generate(tokens, replace(GREEDY, max_tokens=None, temperature=1), cancel))
    timer.cancel()
    assert isinstance(events[-1], Done)
    assert time.monotonic() - began < 3
