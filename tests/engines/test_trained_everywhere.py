"""One conversation with the trained tiny models on every engine that reads a format of them: the same tokens.

Folders go to transformers and to the engine of ours above it, GGUF to llama-cpp, legacy files to ctransformers.
"""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trained_gguf
import trained_models as trained

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.convert import ConvertRequest, convert_file
from llmrun.engines.ctransformers.engine import CtransformersEngine
from llmrun.engines.types import Delta, Done, EngineName, LoadPlan, SamplingOptions, Segment
from llmrun.progress import SILENT

QUESTIONS = {
    f"Question: What is the capital of {country}?\nAnswer:": f" {city}."
    for country, city in (("Norway", "Oslo"), ("Japan", "Tokyo"), ("Cuba", "Havana"), ("Nepal", "Kathmandu"))
}
MOST_TOKENS = 30
GREEDY = SamplingOptions(
    temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=MOST_TOKENS, seed=1, logprobs=1
)
FOLDERS = {"llama": trained.LLAMA, "gpt2": trained.GPT2, "gpt_neox": trained.GPT_NEOX}
LEGACY: dict[str, Callable[[], bytes]] = {
    "llama": trained.legacy_llama,
    "gpt2": trained.legacy_gpt2,
    "gpt_neox": trained.legacy_gpt_neox,
}
GGUF: dict[str, Callable[[Path], None]] = {
    "gpt2": trained_gguf.write_gpt2_gguf,
    "gpt_neox": trained_gguf.write_gpt_neox_gguf,
}
Answers = list[tuple[list[int], list[int], str]]


def answers(session: Any) -> Answers:
    """Return the tokens of every question, and tokens and text of its answer."""
    rows: Answers = []
    for question in QUESTIONS:
        prompt = session.tokenize([Segment(text=question, special=False)])
        events = list(session.generate(prompt, GREEDY, Cancellation()))
        assert isinstance(events[-1], Done)
        deltas = [event for event in events if isinstance(event, Delta)]
        written = [token.id for delta in deltas for token in delta.logprobs]
        rows.append((prompt, written, "".join(delta.text for delta in deltas)))
    session.close()
    return rows


def plan(engine: EngineName, path: Path, **more: Any) -> LoadPlan:
    return LoadPlan(engine=engine, model_path=str(path), context_length=256, threads=2, **more)


def by_transformers(kind: str) -> Answers:
    """Choose the likeliest token again and again, with the library itself."""
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDERS[kind])
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDERS[kind], dtype=torch.float32).eval()
    rows: Answers = []
    for question in QUESTIONS:
        begin = [tokenizer.bos_token_id] if kind == "llama" else []
        prompt = [*begin, *tokenizer(question, add_special_tokens=False)["input_ids"]]
        written: list[int] = []
        with torch.inference_mode():
            while len(written) < MOST_TOKENS:
                logits = model(torch.tensor([[*prompt, *written]])).logits[0, -1]
                token = int(logits.argmax())
                if token == tokenizer.eos_token_id:
                    break
                written.append(token)
        rows.append((prompt, written, tokenizer.decode(written)))
    return rows


@pytest.mark.pytorch
@pytest.mark.ctransformers
@pytest.mark.parametrize("kind", FOLDERS)
def test_every_engine_writes_the_same_tokens(kind: str, tmp_path: Path) -> None:
    from llmrun.engines.pytorch.engine import PytorchEngine

    legacy = tmp_path / f"tiny-{kind}.bin"
    legacy.write_bytes(LEGACY[kind]())
    found = {
        "ctransformers": answers(CtransformersEngine().load(plan(EngineName.CTRANSFORMERS, legacy, model_type=kind)))
    }
    found["pytorch"] = answers(PytorchEngine().load(plan(EngineName.PYTORCH, FOLDERS[kind], dtype="float32")))
    if "llama-cpp" in os.environ.get("LLMRUN_REQUIRE_ENGINES", "").replace("1", "llama-cpp"):
        found["llama-cpp"] = by_llama_cpp(kind, legacy, tmp_path / f"tiny-{kind}.gguf")
    prompts_and_tokens = [(prompt, written) for prompt, written, _ in by_transformers(kind)]
    for engine, rows in found.items():
        assert [text for _, _, text in rows] == list(QUESTIONS.values()), engine
        assert [(prompt, written) for prompt, written, _ in rows] == prompts_and_tokens, engine


def by_llama_cpp(kind: str, legacy: Path, target: Path) -> Answers:
    """Run the GGUF: of the llama, the one that is made of its legacy file."""
    from llmrun.engines.llama_cpp.engine import LlamaCppEngine

    if kind == "llama":
        convert_file(ConvertRequest(path=legacy, output=target), progress=SILENT)
    else:
        GGUF[kind](target)
    return answers(LlamaCppEngine().load(plan(EngineName.LLAMA_CPP, target)))
