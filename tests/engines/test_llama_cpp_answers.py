"""Answers that a schema or a grammar shapes, and log probabilities, on the real library."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.engine import LlamaCppEngine, LlamaCppSession
from llmrun.engines.protocol import BatchRequest, Failure
from llmrun.engines.types import Delta, Done, EngineName, LoadPlan, SamplingOptions, Segment, TokenLogprob
from llmrun.errors import UsageError

pytestmark = pytest.mark.engine

PROMPT = "<|im_start|>user\nDescribe a person as JSON.<|im_end|>\n<|im_start|>assistant\n"
GREEDY = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=60, seed=1)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
)


@pytest.fixture(scope="module")
def session() -> Iterator[LlamaCppSession]:
    path = os.environ.get("LLMRUN_TEST_MODEL")
    if not path:
        pytest.skip("LLMRUN_TEST_MODEL names no file (make test sets it)")
    plan = LoadPlan(engine=EngineName.LLAMA_CPP, model_path=path, context_length=1024, threads=2)
    loaded = LlamaCppEngine().load(plan)
    yield loaded
    loaded.close()


def answer(session: LlamaCppSession, options: SamplingOptions) -> tuple[str, list[TokenLogprob], Done]:
    tokens = session.tokenize([Segment(text=PROMPT, special=True)])
    events = list(session.generate(tokens, options, Cancellation()))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert isinstance(events[-1], Done)
    return "".join(delta.text for delta in deltas), [each for delta in deltas for each in delta.logprobs], events[-1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_is_followed(session: LlamaCppSession, temperature: float) -> None:
    text, _, done = answer(session, replace(GREEDY, json_schema=SCHEMA, temperature=temperature, max_tokens=200))
    value = json.loads(text)
    assert isinstance(value["name"], str)
    assert isinstance(value["age"], int)
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("lookup", ["a", "b"])
def test_a_grammar_is_followed(session: LlamaCppSession, lookup: str) -> None:
    text, _, _ = answer(session, replace(GREEDY, grammar='root ::= ("yes" | "no") " " "indeed"', seed=ord(lookup)))
    assert text in ("yes indeed", "no indeed")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(replace(GREEDY, grammar="nonsense"), id="no grammar"),
        pytest.param(replace(GREEDY, grammar='other ::= "x"'), id="no root"),
        pytest.param(replace(GREEDY, json_schema="{"), id="no JSON"),
        pytest.param(replace(GREEDY, json_schema="3"), id="no schema"),
        pytest.param(replace(GREEDY, json_schema="{}", grammar='root ::= "x"'), id="both"),
    ],
)
def test_what_cannot_be_used_is_refused(session: LlamaCppSession, options: SamplingOptions) -> None:
    with pytest.raises(UsageError):
        answer(session, options)
    assert answer(session, GREEDY)[0]


def test_one_bad_grammar_among_many(session: LlamaCppSession) -> None:
    tokens = session.tokenize([Segment(text=PROMPT, special=True)])
    requests = [
        BatchRequest(id="good", tokens=tokens, options=replace(GREEDY, json_schema=SCHEMA)),
        BatchRequest(id="bad", tokens=tokens, options=replace(GREEDY, grammar="nonsense")),
    ]
    ends = {name: event for name, event in session.generate_many(requests, 2, Cancellation()) if _is_end(event)}
    assert isinstance(ends["good"], Done)
    assert isinstance(ends["bad"], Failure)


def _is_end(event: object) -> bool:
    return isinstance(event, Done | Failure)


def test_log_probabilities_are_those_of_the_model(session: LlamaCppSession) -> None:
    text, tokens, done = answer(session, replace(GREEDY, logprobs=3, max_tokens=12))
    assert len(tokens) == done.stats.completion_tokens == 12
    assert "".join(token.text for token in tokens) == text
    for token in tokens:
        assert token.top[0][0] == token.id  # greedy takes the likeliest
        assert [each[2] for each in token.top] == sorted((each[2] for each in token.top), reverse=True)
        assert sum(math.exp(each[2]) for each in token.top) <= 1 + 1e-9
        assert math.isclose(token.logprob, token.top[0][2])


def test_log_probabilities_do_not_depend_on_sampling(session: LlamaCppSession) -> None:
    _, plain, _ = answer(session, replace(GREEDY, logprobs=1, max_tokens=1))
    _, shaped, _ = answer(
        session, replace(GREEDY, logprobs=1, max_tokens=1, temperature=2, top_k=1, repeat_penalty=1.3)
    )
    assert math.isclose(plain[0].top[0][2], shaped[0].top[0][2], rel_tol=1e-6)


def test_nothing_is_reported_unasked(session: LlamaCppSession) -> None:
    assert answer(session, GREEDY)[1] == []
    assert answer(session, replace(GREEDY, logprobs=0))[1][0].top == ()
