"""Decode and prefill through llmrun's worker against llama_cpp.Llama, in turns of seconds, both models kept loaded.

The speed of a shared machine drifts by a tenth within a minute, so turns must be short for a ratio to mean anything.
Prints a line per round, in tokens per second: prefill and decode of llmrun; prefill and decode of the library's own
token generator, which makes no text; decode of the library's streamed text, which is the job that llmrun does.

Usage: python library_speed.py MODEL THREADS ROUNDS
"""

import sys
import time
from collections.abc import Callable

from llama_cpp import Llama

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Done, EngineName, LoadPlan, SamplingOptions, Segment

DECODED = 96
PAUSE_SECONDS = 0.3  # until the OpenMP threads of the other side have stopped spinning
model, threads, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
llama = Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False, flash_attn=True)
worker = WorkerClient(EngineName.LLAMA_CPP)
worker.load(
    LoadPlan(engine=EngineName.LLAMA_CPP, model_path=model, context_length=2048, context_is_fixed=True, threads=threads)
)
options = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=DECODED, seed=0)


def prompt(index: int) -> list[Segment]:
    """Return some 512 tokens whose first one is new each time, so that no cache of an earlier round helps."""
    return [Segment(text=f"{index} " + "The quick brown fox jumps over the lazy dog. " * 51, special=False)]


def ours(index: int) -> tuple[float, float]:
    """Return prefill and decode through the worker."""
    for event in worker.generate(prompt(index), options):
        if isinstance(event, Done):
            stats = event.stats
    decode = (stats.completion_tokens - 1) / stats.decode_seconds
    return stats.prompt_tokens / stats.prefill_seconds, decode


def theirs(index: int) -> tuple[float, float]:
    """Return prefill and decode through the library's own generator, without turning tokens into text."""
    tokens = worker.tokenize(prompt(index))
    started = time.perf_counter()
    times = []
    for _token in llama.generate(tokens, temp=0.0, reset=True):
        times.append(time.perf_counter())
        if len(times) == DECODED:
            break
    return len(tokens) / (times[0] - started), (DECODED - 1) / (times[-1] - times[0])


def theirs_as_text(index: int) -> tuple[float]:
    """Return decode through the library's streamed completion."""
    chunks = llama.create_completion(prompt(index + 1000)[0].text, temperature=0, max_tokens=DECODED, stream=True)
    times = [time.perf_counter() for _chunk in chunks]
    return ((len(times) - 1) / (times[-1] - times[0]),)


SIDES: list[Callable[[int], tuple[float, ...]]] = [ours, theirs, theirs_as_text]
for index in range(rounds + 1):
    results = {}
    for side in SIDES if index % 2 else SIDES[::-1]:
        time.sleep(PAUSE_SECONDS)
        results[side] = side(index)
    if index:
        print(*(value for side in SIDES for value in results[side]), flush=True)
worker.close()
