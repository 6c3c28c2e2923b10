"""The pytorch engine on real weights: the safetensors twin of the test model."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.protocol import BatchRequest
from llmrun.engines.pytorch.engine import PytorchEngine, PytorchSession
from llmrun.engines.types import Delta, Done, EngineName, Event, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import UsageError

pytestmark = pytest.mark.pytorch

GREEDY = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=24, seed=1)
STORY = "<|im_start|>user\nWrite a story about a fox and a bear.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def session(twin: Path) -> Iterator[PytorchSession]:
    plan = LoadPlan(engine=EngineName.PYTORCH, model_path=str(twin), context_length=1024, threads=2, dtype="float32")
    loaded = PytorchEngine().load(plan)
    yield loaded
    loaded.close()


def tokens_of(session: PytorchSession, text: str = STORY) -> list[int]:
    return session.tokenize([Segment(text=text, special=True)])


def write(session: PytorchSession, options: SamplingOptions = GREEDY, text: str = STORY) -> tuple[str, Done]:
    events = list(session.generate(tokens_of(session, text), options, Cancellation()))
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


def test_greedy_text_is_that_of_the_library(session: PytorchSession, twin: Path) -> None:
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        twin, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    ).eval()
    prompt = tokens_of(session)
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        logits = model(ids).logits[0, -1]
    expected = session._tokenizer.backend.decode(out[0, len(prompt) :].tolist())
    assert write(session)[0] == expected
    assert session._sequencer is not None
    session._sequencer._forget()
    with torch.inference_mode():
        ours = session._sequencer._decoder.process(prompt)
    session._sequencer._forget()
    assert (ours - logits).abs().max() < 1e-3


def test_only_what_is_new_is_processed(session: PytorchSession) -> None:
    first, done = write(session)
    assert done.stats.prompt_tokens == len(tokens_of(session))
    again, done = write(session)
    assert again == first
    assert done.stats.cached_tokens == done.stats.prompt_tokens - 1
    longer = STORY + first + "<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    _, done = write(session, text=longer)
    assert done.stats.cached_tokens >= len(tokens_of(session))
    _, done = write(session, text="Something else")
    assert done.stats.cached_tokens == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("words", "cached"), [(1, 0), (60, 64), (300, 256)], ids=["short", "two pieces", "three pieces"]
)
def test_a_repeatable_answer_does_not_depend_on_what_came_before(
    twin: Path, dtype: str, words: int, cached: int
) -> None:
    """To the last bit, even where all of the prompt is there already, or another part of it."""
    torch: Any = import_module("torch")
    plan = LoadPlan(engine=EngineName.PYTORCH, model_path=str(twin), context_length=2048, threads=2, dtype=dtype)
    session = PytorchEngine().load(plan)
    prompt = tokens_of(session, STORY + "word " * words)
    sequencer = session._sequencer
    assert sequencer is not None
    seen: list[Any] = []
    processed = sequencer._decoder.process

    def note(tokens: Any) -> Any:
        seen.append(processed(tokens))
        return seen[-1].clone()

    sequencer._decoder.process = note  # type: ignore[method-assign]
    options = replace(GREEDY, max_tokens=1, repeatable=True)
    ends = []
    for before in ([], prompt, prompt[:-1], prompt[: len(prompt) // 2], [*prompt[:-1], 99, 100]):
        sequencer._forget()
        if before:
            list(session.generate(before, replace(options, repeatable=False), Cancellation()))
        seen.clear()
        list(session.generate(prompt, options, Cancellation()))
        ends.append(seen[-1])
    assert list(session.generate(prompt, options, Cancellation()))[-1].stats.cached_tokens == cached  # type: ignore[union-attr]
    session.close()
    assert all(torch.equal(each, ends[0]) for each in ends)


def test_a_prompt_in_pieces_gives_the_same(session: PytorchSession) -> None:
    text = STORY + "word " * 400
    whole, _ = write(session, text=text)
    assert session._sequencer is not None
    session._sequencer._forget()
    session._sequencer._piece_tokens = 37
    try:
        assert write(session, text=text)[0] == whole
    finally:
        session._sequencer._piece_tokens = 256


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(replace(GREEDY, max_tokens=5), FinishReason.LENGTH, id="length"),
        pytest.param(replace(GREEDY, max_tokens=200, grammar='root ::= "yes"'), FinishReason.STOP, id="stop"),
    ],
)
def test_why_it_ends(session: PytorchSession, options: SamplingOptions, reason: FinishReason) -> None:
    assert write(session, options)[1].finish_reason is reason


def test_a_stop_text_across_tokens(session: PytorchSession) -> None:
    text, _ = write(session)
    middle = text[len(text) // 2 - 4 : len(text) // 2 + 4]
    cut, done = write(session, replace(GREEDY, stop=(middle,)))
    assert cut == text[: text.index(middle)]
    assert done.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("text", "piece", "tokens"),
    [pytest.param(STORY, 5, 1, id="decode"), pytest.param(STORY + "word " * 800, 2, 192, id="prefill")],
)
def test_a_request_to_stop_is_heard_after_the_piece_that_runs(
    session: PytorchSession, monkeypatch: pytest.MonkeyPatch, text: str, piece: int, tokens: int
) -> None:
    """Nothing is computed after it, and no piece is so large that it takes a second."""
    assert session._sequencer is not None
    session._sequencer._forget()
    decoder, cancel, sizes = session._sequencer._decoder, Cancellation(), []
    process = decoder.process

    def watched(part: Any) -> Any:
        sizes.append(len(part))
        if len(sizes) == piece:
            cancel.request()
        return process(part)

    monkeypatch.setattr(decoder, "process", watched)
    events: list[Event] = list(session.generate(tokens_of(session, text), replace(GREEDY, max_tokens=None), cancel))
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason is FinishReason.CANCELLED
    assert (len(sizes), sizes[-1]) == (piece, tokens)
    assert max(sizes) <= 256


def test_the_same_seed_gives_the_same(session: PytorchSession) -> None:
    options = replace(GREEDY, temperature=1.0, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.1, seed=7)
    assert write(session, options)[0] == write(session, options)[0]
    assert write(session, options)[0] != write(session, replace(options, seed=8))[0]


def test_a_schema_is_followed(session: PytorchSession) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    text, _ = write(session, replace(GREEDY, json_schema=json.dumps(schema), max_tokens=40))
    assert isinstance(json.loads(text)["age"], int)
    with pytest.raises(UsageError):
        write(session, replace(GREEDY, grammar="nonsense ::"))


def test_log_probabilities(session: PytorchSession) -> None:
    events = list(session.generate(tokens_of(session), replace(GREEDY, logprobs=2, max_tokens=4), Cancellation()))
    found = [token for event in events if isinstance(event, Delta) for token in event.logprobs]
    assert len(found) == 4
    for token in found:
        assert token.top[0][0] == token.id
        assert math.isclose(token.top[0][2], token.logprob)
        assert sum(math.exp(each[2]) for each in token.top) <= 1


def test_text_of_users_does_not_steer(session: PytorchSession) -> None:
    text = "<|im_end|>"
    assert len(session.tokenize([Segment(text=text, special=True)])) == 1
    assert len(session.tokenize([Segment(text=text, special=False)])) > 1


def test_many_prompts_all_end(session: PytorchSession) -> None:
    requests = [
        BatchRequest(id=str(number), tokens=tokens_of(session, f"Number {number} is"), options=GREEDY)
        for number in range(3)
    ]
    requests.append(BatchRequest(id="long", tokens=list(range(2000)), options=GREEDY))
    ends = [name for name, event in session.generate_many(requests, 4, Cancellation()) if not isinstance(event, Delta)]
    assert sorted(ends) == ["0", "1", "2", "long"]


def test_quantizing_is_refused_where_it_cannot_be_done(twin: Path) -> None:
    torch: Any = import_module("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU can do it")
    plan = LoadPlan(engine=EngineName.PYTORCH, model_path=str(twin), context_length=64, threads=1, quantization="4-bit")
    with pytest.raises(UsageError, match="GPUs only"):
        PytorchEngine().load(plan)
