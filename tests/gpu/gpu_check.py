"""`make gpu-check`: every engine on a real NVIDIA GPU, compared with the processor, as a Markdown table.

The engines are those that `make` installed: llama.cpp is built for CUDA where its toolkit is here, and PyTorch and vLLM
are the builds for the driver. Each answers the same question greedily on the GPU; llama-cpp and pytorch do once more on
the processor, and vllm is compared with pytorch's answer there. Tokens need not agree to the end: arithmetic differs,
and a close call falls one way or the other. So the table says how many agree before the first that does not.

Usage: python tests/gpu/gpu_check.py [--tokens N] [--document FILE.md]
Ends with 0 when every engine that is here answered on the GPU, with 1 when one failed, with 2 when there is no GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.engines.installed.facts import EngineFacts, probe_engines
from llmrun.engines.types import EngineName
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.types import GPU, GpuVendor

PROGRAM = Path(sys.executable).with_name("llmrun")
QUESTION = "Why is the sky blue? Explain it to a child."
HEADING = (
    "| engine | where | start (s) | prefill (tokens/s) | decode (tokens/s) | tokens as on the processor |\n"
    "|---|---|---|---|---|---|"
)
_LIMIT_SECONDS = 900
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}

Ask = Callable[[Sequence[str], Mapping[str, str]], dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What one run said, or why it failed."""

    engine: EngineName
    on_gpu: bool
    tokens: tuple[int, ...] = ()
    start_seconds: float = 0.0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    failure: str | None = None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--document", type=Path, help="write what is printed into this file too")
    given = parser.parse_args(arguments)
    machine = probe_machine()
    gpus = [gpu for gpu in machine.gpus if gpu.vendor is GpuVendor.NVIDIA]
    if not gpus:
        print("gpu-check: no NVIDIA GPU was found; nothing was checked", file=sys.stderr)
        return 2
    models = {"gguf": os.environ.get("LLMRUN_TEST_MODEL", ""), "folder": os.environ.get("LLMRUN_TEST_TWIN", "")}
    answers, notes = check(probe_engines(machine), models, given.tokens, ask)
    text = render(gpus, answers, notes)
    print(text)
    if given.document:
        given.document.write_text(text + "\n", encoding="utf-8")
    return int(any(answer.failure for answer in answers))


def check(
    facts: Mapping[EngineName, EngineFacts], models: Mapping[str, str], tokens: int, ask: Ask
) -> tuple[list[Answer], list[str]]:
    """Have every engine that is here answer, on the GPU and, where it can, on the processor."""
    answers: list[Answer] = []
    notes: list[str] = []
    for engine, model in (
        (EngineName.LLAMA_CPP, models["gguf"]),
        (EngineName.PYTORCH, models["folder"]),
        (EngineName.VLLM, models["folder"]),
    ):
        found = facts.get(engine)
        if found is None or not found.installed:
            notes.append(f"{engine.value} is not installed: `llmrun install {engine.value}`")
        elif not model:
            notes.append(f"{engine.value} was left out: its model is missing")
        elif found.gpu_support is False:
            notes.append(f"{engine.value} {found.version} is built without support for this GPU")
        else:
            answers += _both(engine, model, tokens, ask)
    return answers, notes


def _both(engine: EngineName, model: str, tokens: int, ask: Ask) -> list[Answer]:
    answers = [_answer(engine, model, tokens, ask, on_gpu=True)]
    if engine is not EngineName.VLLM:  # its builds for GPUs run on nothing else
        answers.append(_answer(engine, model, tokens, ask, on_gpu=False))
    return answers


def _answer(engine: EngineName, model: str, tokens: int, ask: Ask, *, on_gpu: bool) -> Answer:
    layers = [] if engine is EngineName.VLLM else ["--gpu-layers", "-1" if on_gpu else "0"]
    command = ["run", model, QUESTION, "--engine", engine.value, "--temperature", "0", "--max-tokens", str(tokens)]
    try:
        document = ask([*command, "--logprobs", "0", "--json", "--no-cache", *layers], {} if on_gpu else _NO_GPU)
    except RuntimeError as error:
        return Answer(engine, on_gpu, failure=str(error))
    timings = document["timings"]
    return Answer(
        engine,
        on_gpu,
        tokens=tuple(token["id"] for token in document["logprobs"]),
        start_seconds=sum(timings["start_seconds"].values()),
        prefill_rate=timings["prefill_tokens_per_second"],
        decode_rate=timings["decode_tokens_per_second"],
    )


def ask(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the program, and return its JSON document.

    Raises:
        RuntimeError: It failed; says with what.
    """
    done = subprocess.run(
        [PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_LIMIT_SECONDS,
        env={**os.environ, **environment},
        encoding="utf-8",
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise RuntimeError(f"exit code {done.returncode}: {lines[0][:300]}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two answers begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((number for number, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def render(gpus: Sequence[GPU], answers: Sequence[Answer], notes: Sequence[str]) -> str:
    """Return the table, with what it was measured on above it and what is missing below it."""
    gpu = gpus[0]
    more = f", one of {len(gpus)}" if len(gpus) > 1 else ""
    lines = [
        f"Checked on {time.strftime('%Y-%m-%d')}: {gpu.name}{more}, compute capability {gpu.compute_capability}, "
        f"driver {gpu.driver}.",
        "",
        HEADING,
        *(_row(answer, answers) for answer in answers),
    ]
    return "\n".join([*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])])


def _row(answer: Answer, answers: Sequence[Answer]) -> str:
    where = "GPU" if answer.on_gpu else "processor"
    if answer.failure is not None:
        return f"| {answer.engine.value} | {where} | failed: {answer.failure} | - | - | - |"
    against = EngineName.PYTORCH if answer.engine is EngineName.VLLM else answer.engine
    reference = next(
        (each for each in answers if each.engine is against and not each.on_gpu and each.failure is None), None
    )
    same = "-"
    if answer.on_gpu and reference is not None:
        same = f"{agreement(answer.tokens, reference.tokens)} of {len(answer.tokens)}"
    return (
        f"| {answer.engine.value} | {where} | {answer.start_seconds:.1f} | {answer.prefill_rate:,.0f} | "
        f"{answer.decode_rate:,.1f} | {same} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
