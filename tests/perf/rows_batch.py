"""`llmrun run --batch` by the real command: against one by one on llama-cpp, against `LLM.generate` on vllm."""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import HERE, PROGRAM, Bench, Helper, once, output
from pairs import Row, compare, take_turns
from texts import questions
from twin import CONTEXT, find_twin

__all__ = ["measure_batch_command", "measure_batch_vllm"]

_REQUESTS = 32
_TOKENS = 64
_PAUSE_SECONDS = 1.5  # the other side's threads look for more work for so long
_index = itertools.count(1)


def measure_batch_command(bench: Bench) -> Iterator[Row]:
    """Measure the tokens per second that the command tells, with its own choice and one after another."""
    common = (bench.model, "--threads", str(bench.threads))
    taken = take_turns(
        lambda: command_rate(bench, *common),
        lambda: command_rate(bench, *common, "--parallel", "1"),
        bench.fewer(0.4),
    )
    name = f"`run --batch` of {_REQUESTS} on llama-cpp, {_TOKENS} tokens each: as it comes / `--parallel 1`"
    yield compare(name, "tokens/s", taken, "1.5x")


def measure_batch_vllm(bench: Bench) -> Iterator[Row]:
    """Measure the command, with a model that stays loaded, against the library on the same folder."""
    twin = find_twin()
    common = (twin, "--engine", "vllm", "--threads", str(bench.threads), "--context-length", str(CONTEXT))
    library = Helper([sys.executable, HERE / "vllm_library.py", twin, str(bench.threads), str(CONTEXT)])
    try:
        taken = take_turns(
            lambda: command_rate(bench, *common, "--keep-alive", "2m"),
            lambda: library.ask("many", _REQUESTS, _TOKENS)[0],
            bench.fewer(0.5),
        )
    finally:
        once([PROGRAM, "stop", "--all"])
        with contextlib.suppress(SystemExit, OSError):
            library.ask("quit")
        library.close()
    name = f"`run --batch` of {_REQUESTS} on vllm, {_TOKENS} tokens each: the command / `LLM.generate`"
    yield compare(name, "tokens/s", taken, "0.95x")


def command_rate(bench: Bench, *arguments: str) -> float:
    """Return the tokens per second of a batch, from the moment when the model is loaded to the last result on disk."""
    time.sleep(_PAUSE_SECONDS)
    number = next(_index)
    requests, results = bench.scratch / f"requests-{number}.jsonl", bench.scratch / f"results-{number}.jsonl"
    write_requests(requests, [f"{number} {index} {text}" for index, text in enumerate(questions(_REQUESTS))])
    fixed = ("--raw", "--temperature", "0", "--max-tokens", str(_TOKENS), "--quiet", "--json", "--no-cache")
    document = json.loads(output([PROGRAM, "run", *arguments, "--batch", requests, "--output", results, *fixed]))
    return float(document["tokens_per_second"])


def write_requests(path: Path, prompts: Sequence[str]) -> None:
    """Write a batch."""
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
