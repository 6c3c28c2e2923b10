"""`llmrun bench` against llama-bench, run in turns, and what measuring itself costs."""

import dataclasses
import json
import time
from collections.abc import Iterator

from bench import PROGRAM, Bench, output, plan_for, worker_for
from pairs import Row, compare, take_turns
from rows_engine import bench_rate

from llmrun.engines.client import WorkerClient
from llmrun.engines.measure.workload import Workload
from llmrun.engines.types import Done, SamplingOptions

__all__ = ["measure_bench"]

PREFILLED, DECODED = 512, 128


def measure_bench(bench: Bench) -> Iterator[Row]:
    """Measure the same figures with both programs, and one worker with and without what `bench` asks for."""
    if bench.peers is not None:
        pairs = bench.fewer(0.6)
        for name, prompt, decoded in (("prefill", PREFILLED, 0), ("decode", 0, DECODED)):
            taken = take_turns(
                lambda p=prompt, d=decoded: our_rate(bench, p, d),
                lambda p=prompt, d=decoded: bench_rate(bench, p, d),
                pairs,
            )
            yield compare(f"llmrun bench / llama-bench: {name}", "tokens/s", taken, "0.95 to 1.05x")
    yield _own_cost(bench)


def our_rate(bench: Bench, prompt_tokens: int, decoded_tokens: int) -> float:
    """Return what `llmrun bench` measures in one repetition, after its own warm-up."""
    time.sleep(0.3)
    sizes = ["-p", str(prompt_tokens), "-n", str(decoded_tokens), "-r", "1", "--threads", str(bench.threads)]
    command = [str(PROGRAM), "bench", bench.model, *sizes, "--no-limits", "--no-cold-start", "--quiet"]
    (row,) = json.loads(output([*command, "--output", "json"]))["rows"]
    rate = "prefill_tokens_per_second" if prompt_tokens else "decode_tokens_per_second"
    return float(row["statistics"][rate]["mean"])


def _own_cost(bench: Bench) -> Row:
    """Compare a worker that notes when each token was there with one that does not."""
    with worker_for(plan_for(bench)) as worker:
        workload = Workload.from_tokenizer(worker.tokenize)
        taken = take_turns(
            lambda: _decode(worker, workload.fresh(1), timed=True),
            lambda: _decode(worker, workload.fresh(1), timed=False),
            2 * bench.pairs,
        )
    return compare("decode, the time of each token noted / not noted", "tokens/s", taken, "0.99x")


def _decode(worker: WorkerClient, prompt: list[int], *, timed: bool) -> float:
    options = SamplingOptions(
        temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=DECODED, seed=0, ignore_end=True
    )
    for event in worker.generate(prompt, dataclasses.replace(options, timed=timed)):
        if isinstance(event, Done):
            return (event.stats.completion_tokens - 1) / event.stats.decode_seconds
    raise SystemExit("the worker ended without Done")
