"""The same conversation, greedily continued by every engine: what each library says by itself, and how far they agree.

llama.cpp reads the GGUF and rounds activations to 8 bits; PyTorch and vLLM read its twin in 16 bits. So a close call
between two tokens may be decided otherwise, and from there on the answers differ. What is asserted is that nothing but
close calls is.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, EngineName, LoadPlan, SamplingOptions, Segment, TokenLogprob

pytestmark = pytest.mark.engine

TOKENS = 24
CLOSE = 0.35  # nats between the first choice of one engine and that of another, as the first one sees them
QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "Write a short poem about the sea.",
    "Why do cats purr?",
    "What is 2 + 2?",
    "Translate 'good morning' into Spanish.",
    "Describe a bicycle to someone who has never seen one.",
    "Wie heißt die Hauptstadt von Österreich? 🇦🇹",
)
GREEDY = SamplingOptions(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    repeat_penalty=1.0,
    max_tokens=TOKENS,
    seed=0,
    repeatable=True,
    logprobs=5,
)
DIRECT_VLLM = """
import json, os, sys
os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2",
               "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(sys.argv[1], enforce_eager=True, max_model_len=1024, max_num_seqs=4, seed=0)
    params = SamplingParams(temperature=0, max_tokens=int(sys.argv[2]))
    for ids in json.load(sys.stdin):
        made = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)
        print("answer", json.dumps(list(made[0].outputs[0].token_ids)), flush=True)
    llm.llm_engine.engine_core.shutdown()
"""


def chat(question: str) -> list[Segment]:
    return [
        Segment(text="<|im_start|>user\n", special=True),
        Segment(text=question, special=False),
        Segment(text="<|im_end|>\n<|im_start|>assistant\n", special=True),
    ]


class Answers:
    """What an engine says to all questions."""

    def __init__(self, engine: EngineName, path: Path) -> None:
        plan = LoadPlan(
            engine=engine, model_path=str(path), context_length=1024, threads=2, lookup="off", estimated_bytes=3 << 30
        )
        worker = WorkerClient(engine)
        try:
            worker.load(plan)
            self.prompts = [worker.tokenize(chat(question)) for question in QUESTIONS]
            self.tokens = [self._ask(worker, question) for question in QUESTIONS]
        finally:
            worker.close()

    @staticmethod
    def _ask(worker: WorkerClient, question: str) -> list[TokenLogprob]:
        events = worker.generate(chat(question), GREEDY)
        return [token for event in events if isinstance(event, Delta) for token in event.logprobs]


@pytest.fixture(scope="module")
def llama(real_model: Path) -> Answers:
    return Answers(EngineName.LLAMA_CPP, real_model)


@pytest.fixture(scope="module")
def vllm(twin: Path) -> Answers:
    return Answers(EngineName.VLLM, twin)


@pytest.fixture(scope="module")
def pytorch(twin: Path) -> Answers:
    return Answers(EngineName.PYTORCH, twin)


def disagreement(one: list[TokenLogprob], other: list[TokenLogprob]) -> tuple[int, float]:
    """Return how many tokens are the same, and how close the call was behind them, in nats; 0.0 without one."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine.id != theirs.id:
            seen = {number: logprob for number, _text, logprob in mine.top}
            return index, mine.logprob - seen.get(theirs.id, float("-inf"))
    return min(len(one), len(other)), 0.0


def check_agreement(one: Answers, other: Answers) -> None:
    found = [disagreement(mine, theirs) for mine, theirs in zip(one.tokens, other.tokens, strict=True)]
    same = sum(length == len(mine) for (length, _gap), mine in zip(found, one.tokens, strict=True))
    said = (
        f"{same} of {len(found)} answers of {TOKENS} tokens are the same; (tokens before a close call, nats): {found}"
    )
    print(said)
    assert max(gap for _length, gap in found) < CLOSE, said
    assert sum(length for length, _gap in found) / sum(map(len, one.tokens)) > 0.5, said


@pytest.mark.pytorch
def test_pytorch_and_llama_cpp_differ_in_close_calls_only(llama: Answers, pytorch: Answers) -> None:
    check_agreement(llama, pytorch)
    check_agreement(pytorch, llama)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_and_llama_cpp_differ_in_close_calls_only(llama: Answers, vllm: Answers) -> None:
    check_agreement(llama, vllm)
    check_agreement(vllm, llama)


@pytest.mark.vllm
@pytest.mark.pytorch
@pytest.mark.slow
def test_vllm_and_pytorch_differ_in_close_calls_only(pytorch: Answers, vllm: Answers) -> None:
    check_agreement(pytorch, vllm)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_says_what_it_says_when_called_directly(vllm: Answers, twin: Path, tmp_path: Path) -> None:
    script = tmp_path / "direct.py"
    script.write_text(DIRECT_VLLM)
    done = subprocess.run(
        [sys.executable, script, twin, str(TOKENS)],
        input=json.dumps(vllm.prompts),
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    direct = [json.loads(line.removeprefix("answer ")) for line in lines]
    assert len(direct) == len(QUESTIONS), done.stderr[-2000:]
    end = 2  # <|im_end|>, which ends an answer and is no part of it
    assert [[token.id for token in answer] for answer in vllm.tokens] == [
        [token for token in answer if token != end] for answer in direct
    ]
