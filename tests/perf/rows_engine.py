"""Decode and prefill: llmrun's worker, and its adapter alone, against llama-bench and the prebuilt xllamacpp."""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator

from bench import HERE, PAUSE_SECONDS, Bench, Helper, answer, output, plan_for, worker_for
from pairs import Row, compare, take_turns
from texts import long_text, starting_text

from llmrun.engines.client import WorkerClient

__all__ = ["measure_against_bench", "measure_against_xllamacpp"]

DECODED = 128
PREFILLED = 512
_PREFILL_TEXT_TOKENS = 505  # with the number in front and the beginning, 512 or a few more
_index = itertools.count(1)


def worker_decode(worker: WorkerClient) -> float:
    """Return the decode rate of an answer that comes through the worker's pipes."""
    _pause()
    stats, _first = answer(worker, starting_text(next(_index)), DECODED)
    return float((stats.completion_tokens - 1) / stats.decode_seconds)


def worker_prefill(worker: WorkerClient) -> float:
    """Return the prefill rate of a prompt that the worker was sent."""
    _pause()
    stats, _first = answer(worker, long_text(next(_index), _PREFILL_TEXT_TOKENS), 1)
    return float((stats.prompt_tokens - stats.cached_tokens) / stats.prefill_seconds)


def bench_rate(bench: Bench, prompt_tokens: int, decoded_tokens: int) -> float:
    """Return what llama-bench measures in one repetition, after its own warm-up."""
    assert bench.peers is not None
    _pause()
    command = [bench.peers.bench, "-m", bench.model, "-t", bench.threads, "-p", prompt_tokens, "-n", decoded_tokens]
    done = json.loads(output([*map(str, command), "-r", "1", "-o", "json"]))
    return float(done[0]["avg_ts"])


def measure_against_bench(bench: Bench) -> Iterator[Row]:
    """Measure the rows against llama-bench."""
    adapter = Helper([sys.executable, HERE / "inprocess_speed.py", bench.model, str(bench.threads)])
    with contextlib.closing(adapter), worker_for(plan_for(bench)) as worker:
        decode = f"decode, {DECODED} tokens: {{}} / llama-bench tg{DECODED}"
        prefill = f"prefill, {PREFILLED} tokens: {{}} / llama-bench pp{PREFILLED}"
        kinds: list[tuple[str, str, str, Callable[[], float], Callable[[], float]]] = [
            (decode, "llmrun's worker", "0.98x", lambda: worker_decode(worker), lambda: bench_rate(bench, 0, DECODED)),
            (
                decode,
                "its adapter in one process",
                "",
                lambda: adapter.ask("decode", next(_index), DECODED)[0],
                lambda: bench_rate(bench, 0, DECODED),
            ),
            (
                prefill,
                "llmrun's worker",
                "0.95x",
                lambda: worker_prefill(worker),
                lambda: bench_rate(bench, PREFILLED, 0),
            ),
            (
                prefill,
                "its adapter in one process",
                "",
                lambda: adapter.ask("prefill", next(_index), _PREFILL_TEXT_TOKENS)[0],
                lambda: bench_rate(bench, PREFILLED, 0),
            ),
        ]
        for name, side, wanted, ours, theirs in kinds:
            yield compare(name.format(side), "tokens/s", take_turns(ours, theirs, bench.pairs), wanted)


def measure_against_xllamacpp(bench: Bench) -> Iterator[Row]:
    """Measure the rows against the prebuilt wheel."""
    assert bench.xllamacpp is not None
    theirs = Helper([bench.xllamacpp, HERE / "xllamacpp_speed.py", bench.model, str(bench.threads)])
    with contextlib.closing(theirs), worker_for(plan_for(bench)) as worker:
        pairs = bench.fewer(0.6)
        taken = take_turns(lambda: worker_decode(worker), lambda: theirs.ask("decode", next(_index), DECODED)[0], pairs)
        yield compare(f"decode, {DECODED} tokens / prebuilt xllamacpp", "tokens/s", taken, "2x with AMX or AVX-512")
        taken = take_turns(
            lambda: worker_prefill(worker),
            lambda: theirs.ask("prefill", next(_index), _PREFILL_TEXT_TOKENS)[0],
            pairs,
        )
        yield compare(f"prefill, {PREFILLED} tokens / prebuilt xllamacpp", "tokens/s", taken, "3x with AMX or AVX-512")


def _pause() -> None:
    import time

    time.sleep(PAUSE_SECONDS)
