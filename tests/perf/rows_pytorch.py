"""The pytorch engine against plain `model.generate` on the same folder: decode, and the start to the first token."""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator

from bench import HERE, PAUSE_SECONDS, PROGRAM, Bench, Command, Helper, answer, first_byte
from pairs import Row, compare, difference, take_turns
from texts import QUESTION, starting_text
from twin import CONTEXT, find_twin, twin_worker

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import EngineName

__all__ = ["measure_pytorch"]

_DECODED = 64
_index = itertools.count(1)


def measure_pytorch(bench: Bench) -> Iterator[Row]:
    """Measure the decode rate against both types that the library may compute in, then the start."""
    folder = find_twin()
    program = HERE / "pytorch_library.py"
    with twin_worker(bench, EngineName.PYTORCH) as worker:
        for dtype in ("float32", "bfloat16"):
            library = Helper([sys.executable, program, folder, str(bench.threads), dtype])
            with contextlib.closing(library):
                taken = take_turns(
                    lambda: decode_rate(worker), lambda library=library: library.ask("decode", _DECODED)[0], bench.pairs
                )
            name = f"pytorch, decode of {_DECODED} tokens: llmrun's worker / `model.generate` in {dtype}"
            yield compare(name, "tokens/s", taken, "1.5x")
    options = ("--temperature", "0", "--max-tokens", "8", "--threads", str(bench.threads), "--quiet")
    ours: Command = [
        *(PROGRAM, "run", folder, QUESTION, "--engine", "pytorch", "--context-length", str(CONTEXT)),
        *options,
    ]
    theirs: Command = [sys.executable, program, folder, str(bench.threads), "bfloat16", "first"]
    taken = take_turns(lambda: _paused(ours), lambda: _paused(theirs), bench.fewer(0.4))
    yield difference(
        "pytorch, cold start to first text: `llmrun run` / importing, loading and generating with transformers",
        "ms",
        [(1000 * mine, 1000 * other) for mine, other in taken],
        "at most +300 ms",
    )


def decode_rate(worker: WorkerClient) -> float:
    """Return the rate of an answer that comes through the worker's pipes."""
    time.sleep(PAUSE_SECONDS)
    stats, _first = answer(worker, starting_text(next(_index)), _DECODED)
    return float((stats.completion_tokens - 1) / stats.decode_seconds)


def _paused(command: Command) -> float:
    time.sleep(PAUSE_SECONDS)
    return float(first_byte(command))
