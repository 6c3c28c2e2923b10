"""Legacy files through llmrun's worker against ctransformers called directly, in turns, both kept loaded."""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import HERE, PAUSE_SECONDS, Bench, Helper, answer, busy_core, once
from pairs import Row, compare, take_turns
from texts import long_text, starting_text

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.folders import cache_folder

__all__ = ["measure_ctransformers"]

_KINDS = {"llama": "LLaMA of 134 M weights", "gpt2": "GPT-2 of 124 M weights"}
_DECODED = 48
_PREFILL_TEXT_TOKENS = 40  # of other vocabularies; in the made ones a letter is a token, so that there are 180
_index = itertools.count(1)


def measure_ctransformers(bench: Bench) -> Iterator[Row]:
    """Measure decode and prefill of both, alone; and decode beside a program that keeps a core busy."""
    for kind, name in _KINDS.items():
        model = _legacy_model(bench, kind)
        direct = Helper([sys.executable, HERE / "ctransformers_speed.py", model, kind, str(bench.threads)])
        with contextlib.closing(direct), _worker_for(model, kind, bench.threads) as worker:
            for what, rival in (("text", "streaming text"), ("tokens", "making token ids only")):
                taken = take_turns(
                    lambda worker=worker: decode(worker),
                    lambda what=what, direct=direct: direct.ask(what, next(_index), _DECODED)[0],
                    bench.pairs,
                )
                title = f"decode, {_DECODED} tokens, {name}, Q4_0 / ctransformers {rival}"
                yield compare(title, "tokens/s", taken, "0.97x")
            taken = take_turns(
                lambda worker=worker: prefill(worker),
                lambda direct=direct: direct.ask("prefill", next(_index), _PREFILL_TEXT_TOKENS)[0],
                bench.fewer(0.5),
            )
            yield compare(f"prefill, {name}, Q4_0 / ctransformers", "tokens/s", taken)
            with busy_core():
                taken = take_turns(
                    lambda worker=worker: decode(worker),
                    lambda direct=direct: direct.ask("text", next(_index), _DECODED)[0],
                    bench.fewer(0.3),
                )
            yield compare(f"decode with one core kept busy, {name}, Q4_0 / ctransformers", "tokens/s", taken)


def decode(worker: WorkerClient) -> float:
    """Return the decode rate of an answer that comes through the worker's pipes."""
    time.sleep(PAUSE_SECONDS)
    stats, _first = answer(worker, starting_text(next(_index)), _DECODED)
    return float((stats.completion_tokens - 1) / stats.decode_seconds)


def prefill(worker: WorkerClient) -> float:
    """Return the prefill rate of a prompt that is new from its first token on."""
    stats, _first = answer(worker, long_text(next(_index), _PREFILL_TEXT_TOKENS), 1)
    return float((stats.prompt_tokens - stats.cached_tokens) / stats.prefill_seconds)


@contextlib.contextmanager
def _worker_for(model: Path, kind: str, threads: int) -> Iterator[WorkerClient]:
    worker = WorkerClient(EngineName.CTRANSFORMERS)
    try:
        worker.load(
            LoadPlan(
                engine=EngineName.CTRANSFORMERS,
                model_path=str(model),
                context_length=1024,
                threads=threads,
                model_type=kind,
            )
        )
        yield worker
    finally:
        worker.close()


def _legacy_model(bench: Bench, kind: str) -> Path:
    """Return a model of random weights, made once."""
    target = cache_folder("peers", "models") / f"random-{kind}-q4_0.bin"
    if not target.exists():
        part = bench.scratch / target.name
        once([sys.executable, HERE / "legacy_model.py", kind, part])
        part.replace(target)
    return target
