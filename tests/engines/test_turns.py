"""The turns of a conversation, by counts: of the next one, only what is new is processed, whatever the seed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, Done, EngineName, LoadPlan, SamplingOptions, Segment, Stats

FIRST = SamplingOptions(
    temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=24, seed=1, repeatable=True
)
BLOCK_TOKENS = 128  # of vLLM's cache on a processor
REAL = [
    pytest.param(EngineName.LLAMA_CPP, marks=pytest.mark.engine, id="llama-cpp"),
    pytest.param(EngineName.PYTORCH, marks=pytest.mark.pytorch, id="pytorch"),
]


def user(text: str) -> list[Segment]:
    return [
        Segment(text="<|im_start|>user\n", special=True),
        Segment(text=text, special=False),
        Segment(text="<|im_end|>\n<|im_start|>assistant\n", special=True),
    ]


def end_of_turn(text: str) -> list[Segment]:
    return [Segment(text=text, special=False), Segment(text="<|im_end|>\n", special=True)]


class Chat:
    """A conversation with one worker."""

    def __init__(self, worker: WorkerClient) -> None:
        self.worker = worker
        self.segments: list[Segment] = []

    def turn(self, text: str, options: SamplingOptions) -> tuple[str, Stats]:
        self.segments += user(text)
        events = list(self.worker.generate(self.segments, options))
        assert isinstance(events[-1], Done)
        said = "".join(event.text for event in events if isinstance(event, Delta))
        self.segments += end_of_turn(said)
        return said, events[-1].stats


@pytest.fixture
def chat(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chat]:
    """A conversation with a model that keeps long prompts on disk too, where the engine can."""
    engine: EngineName = request.param
    model: Path = request.getfixturevalue("real_model" if engine is EngineName.LLAMA_CPP else "twin")
    plan = LoadPlan(
        engine=engine,
        model_path=str(model),
        context_length=2048,
        threads=2,
        cache_folder=str(tmp_path / "prefixes"),
        estimated_bytes=3 << 30,
    )
    worker = WorkerClient(engine)
    try:
        worker.load(plan)
        yield Chat(worker)
    finally:
        worker.close()


def two_turns(chat: Chat, *, continues: bool) -> tuple[int, int, str]:
    """Return how many tokens were processed of the second turn, how many were new in it, and what was said."""
    _, first = chat.turn("Hello there, what is your name?", FIRST)
    assert first.cached_tokens == 0
    question = "word " * 280 + "What did I say?"
    new = len(chat.worker.tokenize(user(question))) + len(chat.worker.tokenize(end_of_turn("")))
    said, second = chat.turn(question, replace(FIRST, continues=continues))
    assert second.prompt_tokens - new == first.prompt_tokens + first.completion_tokens
    return second.prompt_tokens - second.cached_tokens, new, said


@pytest.mark.parametrize("chat", REAL, indirect=True)
def test_the_next_turn_processes_only_what_is_new(chat: Chat) -> None:
    """One token more at most: the last one of the answer, after which nothing had to be computed."""
    processed, new, said = two_turns(chat, continues=True)
    assert new <= processed <= new + 1
    again = Chat(chat.worker)
    list(chat.worker.generate([Segment(text="Something else", special=False)], FIRST))
    assert two_turns(again, continues=True)[2] == said


@pytest.mark.parametrize("chat", REAL, indirect=True)
def test_what_is_no_next_turn_is_computed_as_if_nothing_had_been_before(chat: Chat) -> None:
    processed, new, _ = two_turns(chat, continues=False)
    assert processed > new + 1


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("chat", [EngineName.VLLM], indirect=True)
def test_vllm_processes_what_is_new_and_the_rest_of_a_block(chat: Chat) -> None:
    chat.turn("word " * 200 + "What did I say?", FIRST)
    held = len(chat.worker.tokenize(chat.segments))
    _, second = chat.turn("And then?", replace(FIRST, continues=True))
    assert second.cached_tokens == held // BLOCK_TOKENS * BLOCK_TOKENS
