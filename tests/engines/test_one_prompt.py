"""One prompt, one meaning: fifty conversations become the same token ids on every engine.

The reference is llama.cpp with the GGUF; the other engines read the twin of that file, rendered with the template that
the twin itself carries.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conversations import conversations

from llmrun.engines.client import WorkerClient
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.prompting import conversation_prompt
from llmrun.engines.selection.subject import local_subject
from llmrun.engines.types import EngineName, LoadPlan, Segment
from llmrun.models.prompt.conversation import Message, RenderedPrompt
from llmrun.models.prompt.render import TemplateRenderer
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk

pytestmark = pytest.mark.engine
TWIN_ENGINES = [
    pytest.param(EngineName.PYTORCH, marks=pytest.mark.pytorch, id="pytorch"),
    pytest.param(EngineName.VLLM, marks=[pytest.mark.vllm, pytest.mark.slow], id="vllm"),
]
CONVERSATIONS = conversations()
CONTROL = {0, 1, 2}  # <|endoftext|>, <|im_start|>, <|im_end|>

Render = Callable[[Path, Sequence[Message]], RenderedPrompt]


@pytest.fixture(scope="module")
def render() -> Iterator[Render]:
    """Make a prompt of a conversation, as `llmrun run` does for a model on this disk."""
    renderer = TemplateRenderer()
    prepared: dict[Path, Any] = {}

    def make(path: Path, messages: Sequence[Message]) -> RenderedPrompt:
        if path not in prepared:
            ref = parse_reference(str(path))
            model = find_on_disk(ref)
            assert model is not None
            subject = local_subject(ref, model, PlanRequest())
            prepared[path] = SimpleNamespace(info=subject.info, subject=subject, model=model)
        return conversation_prompt(prepared[path], messages, renderer)

    yield make
    renderer.close()


def tokenizer_of(engine: EngineName, path: Path) -> WorkerClient:
    """Return a worker that has loaded the vocabulary, and no weights."""
    worker = WorkerClient(engine)
    plan = LoadPlan(engine=engine, model_path=str(path), context_length=8192, threads=1, vocabulary_only=True)
    try:
        worker.load(plan)
    except BaseException:
        worker.close()
        raise
    return worker


@pytest.fixture(scope="module")
def reference(real_model: Path, render: Render) -> list[list[int]]:
    """The ids that llama.cpp gives each conversation."""
    worker = tokenizer_of(EngineName.LLAMA_CPP, real_model)
    try:
        return [worker.tokenize(render(real_model, messages).segments) for messages in CONVERSATIONS]
    finally:
        worker.close()


def test_there_are_fifty_and_they_differ(reference: list[list[int]]) -> None:
    assert len(reference) == len({tuple(ids) for ids in reference}) == 50


@pytest.mark.parametrize("engine", TWIN_ENGINES)
def test_every_engine_gives_the_ids_of_llama_cpp(
    engine: EngineName, twin: Path, real_model: Path, render: Render, reference: list[list[int]]
) -> None:
    worker = tokenizer_of(engine, twin)
    try:
        for messages, expected in zip(CONVERSATIONS, reference, strict=True):
            prompt = render(twin, messages)
            assert prompt.text == render(real_model, messages).text
            assert worker.tokenize(prompt.segments) == expected, messages
    finally:
        worker.close()


def test_control_tokens_are_only_those_of_the_template(reference: list[list[int]]) -> None:
    """However much of what was written looks like one: each turn is opened and closed once, and the last is opened."""
    for messages, ids in zip(CONVERSATIONS, reference, strict=True):
        # a template that gets no system message begins with one of its own
        turns = len(messages) + (messages[0].role != "system")
        assert ids.count(1) == turns + 1, messages
        assert ids.count(2) == turns, messages
        assert 0 not in ids, messages


@pytest.mark.parametrize("engine", TWIN_ENGINES)
def test_text_that_is_no_template(engine: EngineName, twin: Path, real_model: Path) -> None:
    """Without a template: the same ids for special and for ordinary text, whole and in pieces."""
    texts = [message.content for messages in CONVERSATIONS for message in messages]
    ours, theirs = tokenizer_of(engine, twin), tokenizer_of(EngineName.LLAMA_CPP, real_model)
    try:
        for text in texts:
            for segments in (
                [Segment(text=text, special=False)],
                [Segment(text=text, special=True)],
                [Segment(text=text[:3], special=True), Segment(text=text[3:], special=False)],
            ):
                assert ours.tokenize(segments) == theirs.tokenize(segments), segments
    finally:
        ours.close()
        theirs.close()
