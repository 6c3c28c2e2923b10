"""Many prompts at once: the same answers as one by one, joins, limits of memory, failures, cancellation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from greedy import greedy_options

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.engine import LlamaCppEngine, LlamaCppSession
from llmrun.engines.llama_cpp.parallel import choose_share
from llmrun.engines.protocol import BatchEvent, BatchRequest, Failure
from llmrun.engines.types import Delta, Done, EngineName, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import PromptTooLongError, UsageError

QUESTIONS = (
    "Name three primary colours.",
    "What is the capital of France?",
    "Write a sentence about the sea.",
    "Count from one to ten.",
    "Why is the sky blue?",
    "Say hello in Spanish.",
    "What do bees make?",
    "Name a famous painter and one of his paintings.",
    "How many legs does a spider have?",
    "Give me a recipe for pancakes.",
)


options = greedy_options


def load(path: Path, **changes: Any) -> LlamaCppSession:
    values: dict[str, Any] = {"context_length": 4096, "threads": 2, "threads_are_fixed": True}
    return LlamaCppEngine().load(LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(path), **(values | changes)))


@pytest.fixture
def session(real_model: Path) -> Iterator[LlamaCppSession]:
    loaded = load(real_model)
    yield loaded
    loaded.close()


def chat(session: LlamaCppSession, question: str, system: str = "") -> list[int]:
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return session.tokenize(
        [Segment(text=f"{text}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", special=True)]
    )


def gather(events: Iterator[tuple[str, BatchEvent]]) -> dict[str, tuple[str, Done | Failure]]:
    texts: dict[str, str] = {}
    ends: dict[str, Done | Failure] = {}
    for name, event in events:
        assert name not in ends, "nothing follows the end of an answer"
        if isinstance(event, Delta):
            texts[name] = texts.get(name, "") + event.text
        elif isinstance(event, Done | Failure):
            ends[name] = event
    return {name: (texts.get(name, ""), end) for name, end in ends.items()}


def one(session: LlamaCppSession, tokens: Sequence[int], wanted: SamplingOptions) -> str:
    events = session.generate(tokens, wanted, Cancellation())
    return "".join(event.text for event in events if isinstance(event, Delta))


def many(
    session: LlamaCppSession, prompts: Sequence[Sequence[int]], wanted: Sequence[SamplingOptions], parallel: int
) -> dict[str, tuple[str, Done | Failure]]:
    requests = [
        BatchRequest(id=str(index), tokens=tokens, options=choice)
        for index, (tokens, choice) in enumerate(zip(prompts, wanted, strict=True))
    ]
    return gather(session.generate_many(iter(requests), parallel, Cancellation()))


@pytest.mark.parametrize(
    ("needs", "parallel", "cells", "expected"),
    [
        pytest.param([300] * 4, 4, 8192, (512, 4), id="no more than they need"),
        pytest.param([300] * 4, 4, 1024, (512, 2), id="no more than the plan has"),
        pytest.param([1024], 16, 1024, (1024, 1), id="one that needs all of it"),
        pytest.param([300, 300, 300, 4000], 4, 4096, (512, 3), id="a large one waits for the small ones"),
        pytest.param([300, 700], 4, 4096, (768, 2), id="room for the largest where all fit"),
        pytest.param([100], 1, 100, (100, 1), id="a context smaller than a step"),
    ],
)
def test_shares(needs: list[int], parallel: int, cells: int, expected: tuple[int, int]) -> None:
    assert choose_share(needs, parallel, cells) == expected


@pytest.mark.engine
def test_greedy_answers_are_those_of_one_by_one(session: LlamaCppSession) -> None:
    prompts = [chat(session, question) for question in QUESTIONS]
    wanted = [options(max_tokens=8 + 5 * (index % 4)) for index in range(len(prompts))]  # they end at different times
    single = [one(session, tokens, choice) for tokens, choice in zip(prompts, wanted, strict=True)]
    together = many(session, prompts, wanted, 4)
    assert [together[str(index)][0] for index in range(len(prompts))] == single


@pytest.mark.engine
def test_every_answer_has_its_own_sampling_and_stop_texts(session: LlamaCppSession) -> None:
    prompt = chat(session, "Count from one to ten.")
    wanted = [
        options(temperature=0.9, seed=1),
        options(temperature=0.9, seed=2),
        options(temperature=0.9, seed=1),
        options(repeat_penalty=1.5),
        options(stop=("three", "3")),
    ]
    single = [one(session, prompt, choice) for choice in wanted]
    together = many(session, [prompt] * len(wanted), wanted, 8)
    assert [together[str(index)][0] for index in range(len(wanted))] == single
    assert single[0] == single[2] != single[1]


@pytest.mark.engine
def test_a_common_beginning_is_processed_once(session: LlamaCppSession) -> None:
    system = "You are a helpful assistant that answers questions of children about the world. " * 6
    prompts = [chat(session, question, system) for question in QUESTIONS[:5]]
    single = [one(session, tokens, options()) for tokens in prompts]
    together = many(session, prompts, [options()] * 5, 3)
    assert [together[str(index)][0] for index in range(5)] == single
    for name, (_, end) in together.items():
        assert isinstance(end, Done)
        assert (end.stats.cached_tokens > 80) == (name != "0")
        assert end.stats.completion_tokens > 0
        assert end.stats.prefill_seconds > 0


@pytest.mark.engine
def test_an_answer_that_outgrows_its_share_goes_on(tmp_path: Path) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "random.gguf", **{"llama.context_length": 1024})
    session = load(path, context_length=1024)
    try:
        prompts = [session.tokenize([Segment(text=text, special=False)]) for text in ("once", "upon", "a time")]
        endless = options(max_tokens=None)
        single = [one(session, tokens, endless) for tokens in prompts]
        together = many(session, prompts, [endless] * 3, 3)
        assert [together[str(index)][0] for index in range(3)] == single
        assert any(
            isinstance(end, Done) and end.stats.prompt_tokens + end.stats.completion_tokens > 512
            for _, end in together.values()
        ), "none of them left its share: the test tests nothing"
    finally:
        session.close()


@pytest.mark.engine
def test_requests_that_cannot_be_answered_do_not_stop_the_others(session: LlamaCppSession) -> None:
    prompts = [[1] * 5000, chat(session, QUESTIONS[0]), [], chat(session, QUESTIONS[1])]
    together = many(session, prompts, [options(max_tokens=3)] * 4, 2)
    kinds = [type(end.error) if isinstance(end, Failure) else type(end) for _, end in map(together.get, "0123")]  # type: ignore[misc]
    assert kinds == [PromptTooLongError, Done, UsageError, Done]


@pytest.mark.engine
def test_cancelling_ends_all_of_them(session: LlamaCppSession) -> None:
    prompts = [chat(session, question) for question in QUESTIONS]
    cancel = Cancellation()
    ends: dict[str, FinishReason] = {}
    requests = [
        BatchRequest(id=str(index), tokens=tokens, options=options(max_tokens=500))
        for index, tokens in enumerate(prompts)
    ]
    for count, (name, event) in enumerate(session.generate_many(requests, 3, cancel)):
        if count == 5:
            cancel.request()
        if isinstance(event, Done):
            ends[name] = event.finish_reason
    assert set(ends) == {str(index) for index in range(len(prompts))}
    finished = [name for name, end in ends.items() if end is not FinishReason.CANCELLED]
    assert len(finished) <= 1, "an answer of a word or two may be complete before"
    assert one(session, prompts[1], options(max_tokens=3)), "the session is as good as new"


@pytest.mark.engine
def test_leaving_early_frees_everything(session: LlamaCppSession) -> None:
    prompts = [chat(session, question) for question in QUESTIONS[:4]]
    requests = [BatchRequest(id=str(index), tokens=tokens, options=options()) for index, tokens in enumerate(prompts)]
    events = session.generate_many(requests, 2, Cancellation())
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert one(session, prompts[0], options(max_tokens=3))
