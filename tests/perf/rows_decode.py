"""Decoding in its other forms: bound by memory, many prompts at once, guessing ahead, beside another program."""

import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import HERE, PAUSE_SECONDS, Bench, Helper, answer, busy_core, once, output, plan_for, worker_for
from pairs import Row, compare, take_turns
from texts import FREE, REPEATING, starting_text

from llmrun.engines.client import WorkerClient
from llmrun.folders import cache_folder
from llmrun.hardware.bandwidth import measure_bandwidth

__all__ = ["measure_bandwidth_share", "measure_batch", "measure_contention", "measure_lookup"]

_BIG_TYPES = ("Q8_0", "Q4_0")
_BIG_TOKENS = 48
_PROMPTS = 16
_PROMPT_TOKENS = 64
_REPEATED_TOKENS = 110
_FREE_TOKENS = 200
_BESIDE_TOKENS = 128
_index = itertools.count(1)


def measure_bandwidth_share(bench: Bench) -> Iterator[Row]:
    """Measure bytes of weights read per second, against what the memory gives at that moment."""
    for kind in _BIG_TYPES:
        model = _big_model(bench, kind)
        size = model.stat().st_size / 1e9
        with worker_for(plan_for(bench, str(model))) as worker:

            def weights_read(size: float = size, worker: WorkerClient = worker) -> float:
                time.sleep(PAUSE_SECONDS)
                stats, _first = answer(worker, starting_text(next(_index)), _BIG_TOKENS)
                return float(size * (stats.completion_tokens - 1) / stats.decode_seconds)

            taken = take_turns(weights_read, lambda: measure_bandwidth(bench.threads) / 1e9, bench.fewer(0.5))
        name = f"weights read at decode, {kind}, {size * 1000:.0f} MB / the machine's read bandwidth"
        yield compare(name, "GB/s", taken, "0.85")


def measure_batch(bench: Bench) -> Iterator[Row]:
    """Measure many prompts at once against one by one."""
    helper = Helper([sys.executable, HERE / "inprocess_speed.py", bench.model, str(bench.threads)])
    with contextlib.closing(helper):
        taken = take_turns(
            lambda: helper.ask("many", _PROMPTS, _PROMPT_TOKENS)[0],
            lambda: helper.ask("single", _PROMPTS, _PROMPT_TOKENS)[0],
            bench.fewer(0.3),
            discard=0,
        )
    yield compare(
        f"{_PROMPTS} prompts of {_PROMPT_TOKENS} tokens each: at once / one by one", "tokens/s", taken, "1.8x"
    )


def measure_lookup(bench: Bench) -> Iterator[Row]:
    """Measure answers with guesses from the text, against the same answers without them."""
    with worker_for(plan_for(bench, lookup="auto")) as ours, worker_for(plan_for(bench)) as theirs:

        def rate(worker: WorkerClient, text: str, tokens: int) -> float:
            time.sleep(PAUSE_SECONDS)
            stats, _first = answer(worker, text, tokens, special=True)
            return float((stats.completion_tokens - 1) / stats.decode_seconds)

        for name, texts, tokens, wanted in (
            *((name, (text,), _REPEATED_TOKENS, "1.3x") for name, text in REPEATING.items()),
            ("free text", FREE, _FREE_TOKENS, "0.97x"),
        ):

            def mean_rate(worker: WorkerClient, texts: tuple[str, ...] = texts, tokens: int = tokens) -> float:
                return statistics.harmonic_mean([rate(worker, text, tokens) for text in texts])

            taken = take_turns(
                partial(mean_rate, ours),
                partial(mean_rate, theirs),
                bench.fewer(0.5),
            )
            yield compare(f"decode, {name}: guessing ahead from the text / without", "tokens/s", taken, wanted)


def measure_contention(bench: Bench) -> Iterator[Row]:
    """Measure decode beside a process that keeps one core busy, against decode without it."""
    fixed = plan_for(bench, threads_are_fixed=True)
    for name, plan, wanted in (
        ("llmrun", plan_for(bench), "0.40"),
        ("llmrun with its number of threads fixed", fixed, ""),
    ):
        with worker_for(plan) as worker:
            yield _beside(bench, name, partial(_worker_rate, worker), wanted)
    if bench.peers is not None:
        yield _beside(bench, "llama-bench", partial(_bench_rate, bench), "")


def _worker_rate(worker: WorkerClient) -> float:
    stats, _first = answer(worker, starting_text(next(_index)), _BESIDE_TOKENS)
    return float((stats.completion_tokens - 1) / stats.decode_seconds)


def _bench_rate(bench: Bench) -> float:
    assert bench.peers is not None
    command = (bench.peers.bench, "-m", bench.model, "-t", bench.threads, "-p", 0, "-n", _BESIDE_TOKENS, "-r", 1)
    return float(json.loads(output([*map(str, command), "-o", "json"]))[0]["avg_ts"])


def _beside(bench: Bench, name: str, rate: Callable[[], float], wanted: str) -> Row:
    def disturbed() -> float:
        with busy_core():
            return rate()

    def alone() -> float:
        time.sleep(PAUSE_SECONDS)
        return rate()

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else bench.threads
    title = f"decode with one of {cores} cores kept busy / alone: {name}"
    return compare(title, "tokens/s", take_turns(disturbed, alone, bench.fewer(0.4)), wanted)


def _big_model(bench: Bench, kind: str) -> Path:
    """Return a model of random weights that is larger than the caches, made once."""
    target = cache_folder("peers", "models") / f"random-{kind}.gguf"
    if not target.exists():
        part = bench.scratch / target.name
        once([sys.executable, HERE / "big_model.py", bench.model, kind, part])
        part.replace(target)
    return target
