"""What a model thinks is told from what it answers, whatever the pieces that both come in."""

import random

import pytest

from llmrun.engines.conversation.reasoning import ReasoningSplitter, opening_mark

HARMONY = (
    "<|channel|>analysis<|message|>thinks<|end|><|start|>assistant<|channel|>analysis<|message|> more<|end|>"
    "<|start|>assistant<|channel|>final<|message|>says<|return|>"
)
ANSWERS = [
    pytest.param("says", "", "says", id="no reasoning"),
    pytest.param("<think>thinks</think>says", "thinks", "says", id="DeepSeek-R1, Qwen3"),
    pytest.param("\n <think>\nthinks\n</think>\n\nsays\n", "\nthinks\n", "\n\nsays\n", id="lines around the marks"),
    pytest.param("<think></think>says", "", "says", id="empty reasoning"),
    pytest.param("<think>a</think>\n<think>b</think>says", "ab", "says", id="reasoning twice"),
    pytest.param("<think>\na\n</think>\n<answer>\nsays\n</answer>", "\na\n", "\nsays\n", id="Hunyuan"),
    pytest.param("<think>a</think>\n\n<response>\nsays\n</response>\n", "a", "\nsays\n\n", id="ERNIE"),
    pytest.param("<thinking>a</thinking><output>says</output>", "a", "says", id="Reflection"),
    pytest.param("<thought>a</thought>says", "a", "says", id="EXAONE Deep"),
    pytest.param("<seed:think>a</seed:think>says", "a", "says", id="Seed-OSS"),
    pytest.param("[THINK]a[/THINK]says", "a", "says", id="Magistral"),
    pytest.param("◁think▷a◁/think▷says", "a", "says", id="Kimi-VL"),
    pytest.param("<|channel>thought\na\n<channel|>says", "\na\n", "says", id="Gemma 4"),
    pytest.param("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>says<|END_RESPONSE|>", "a", "says", id="Cohere"),
    pytest.param(
        "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nsays\n\n<|end_of_solution|>",
        "\n\na\n\n",
        "\n\nsays\n\n",
        id="Sky-T1",
    ),
    pytest.param("<|open|>think<|sep|>a<|close|>think<|sep|><|open|>response<|sep|>says", "a", "says", id="Kimi K3"),
    pytest.param(HARMONY, "thinks more", "says", id="harmony"),
    pytest.param("<|channel|>commentary<|message|>says<|end|>", "", "says", id="harmony, a preamble"),
    pytest.param("use <think>x</think>", "", "use <think>x</think>", id="a mark in an answer is text"),
    pytest.param("Phi ends with <|end|>.", "", "Phi ends with <|end|>.", id="so is one of harmony"),
    pytest.param("<think>a</think>use <think>b</think>", "a", "use <think>b</think>", id="also behind reasoning"),
    pytest.param("<think>a </thin b", "a </thin b", "", id="cut within reasoning"),
    pytest.param("<think>a</thi", "a</thi", "", id="cut within a mark"),
    pytest.param("<thi", "", "<thi", id="cut within the first mark"),
    pytest.param("<thin ice", "", "<thin ice", id="nearly a mark"),
    pytest.param("  indented\n", "", "  indented\n", id="white space at the start stays"),
    pytest.param("a < b <", "", "a < b <", id="a lone bracket"),
    pytest.param("", "", "", id="nothing"),
]


def split(splitter: ReasoningSplitter, pieces: list[str]) -> tuple[str, str]:
    found = [got for piece in pieces for got in splitter.feed(piece)] + splitter.finish()
    assert all(piece.text for piece in found)
    return tuple("".join(piece.text for piece in found if piece.kind == kind) for kind in ("reasoning", "answer"))  # type: ignore[return-value]


def cut(text: str, seed: int) -> list[str]:
    random.seed(seed)
    places = sorted(random.sample(range(len(text) + 1), min(len(text), random.randint(0, 12))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(("text", "reasoning", "answer"), ANSWERS)
def test_reasoning_is_split_from_the_answer(text: str, reasoning: str, answer: str) -> None:
    assert split(ReasoningSplitter(), [text]) == (reasoning, answer)
    assert split(ReasoningSplitter(), list(text)) == (reasoning, answer)
    for seed in range(20):
        assert split(ReasoningSplitter(), cut(text, seed)) == (reasoning, answer)


def test_a_prompt_may_end_within_reasoning() -> None:
    assert split(ReasoningSplitter("<think>"), ["thin", "ks</th", "ink>says"]) == ("thinks", "says")


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        pytest.param("<|im_start|>assistant\n<think>\n", "<think>", id="think"),
        pytest.param("<|assistant|><seed:think>", "<seed:think>", id="Seed-OSS"),
        pytest.param("<|im_start|>assistant\n", "", id="none"),
        pytest.param("<|im_start|>assistant\n<think>\n\n</think>\n\n", "", id="reasoning that is switched off"),
    ],
)
def test_the_mark_at_the_end_of_a_prompt(prompt: str, mark: str) -> None:
    assert opening_mark(prompt) == mark


def test_text_goes_on_as_soon_as_it_is_certain() -> None:
    splitter = ReasoningSplitter()
    assert [piece.text for piece in splitter.feed("Hello <")] == ["Hello <"]
    splitter = ReasoningSplitter()
    assert splitter.feed("<thi") == []
    assert [piece.text for piece in splitter.feed("nk>a </")] == ["a "]
