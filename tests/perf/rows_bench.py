"""`llmrun bench` against the benchmarks of llama.cpp and vLLM, run in turns, and what measuring itself costs."""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench import HERE, PROGRAM, Bench, output, plan_for, worker_for
from pairs import Row, compare, take_turns
from rows_engine import bench_rate
from twin import find_twin

from llmrun.engines.client import WorkerClient
from llmrun.engines.measure.workload import Workload
from llmrun.engines.types import Done, SamplingOptions

__all__ = ["measure_bench"]

PREFILLED, DECODED = 512, 128
AT_ONCE, EACH_PREFILLED, EACH_DECODED = 8, 128, 64
VLLM_AT_ONCE = 16
_CONTEXT = 200
_OWN_COST_TOKENS, _OWN_COST_PAIRS = 32, 40  # short ones: the machine's speed changes within a second


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
        for name, prompt, decoded in (("prefill", EACH_PREFILLED, 0), ("decode", 0, EACH_DECODED)):
            taken = take_turns(
                lambda p=prompt, d=decoded: our_rate(bench, p, d, AT_ONCE),
                lambda p=prompt, d=decoded: batched_rate(bench, p, d),
                pairs,
            )
            title = f"llmrun bench -b {AT_ONCE} / llama-batched-bench: {name}"
            yield compare(title, "tokens/s", taken, "0.95 to 1.05x")
    yield _own_cost(bench)
    yield _against_vllm(bench)


def our_rate(bench: Bench, prompt_tokens: int, decoded_tokens: int, at_once: int = 1) -> float:
    """Return what `llmrun bench` measures in one repetition, after its own warm-up."""
    sizes = ["-p", str(prompt_tokens), "-n", str(decoded_tokens), "-b", str(at_once)]
    rate = "prefill_tokens_per_second" if prompt_tokens else "decode_tokens_per_second"
    return float(_our_row(bench, bench.model, *sizes)["statistics"][rate]["mean"])


def _our_row(bench: Bench, model: str, *arguments: str) -> dict[str, Any]:
    time.sleep(0.3)
    command = [str(PROGRAM), "bench", model, *arguments, "-r", "1", "--threads", str(bench.threads)]
    document = json.loads(output([*command, "--no-limits", "--no-cold-start", "--quiet", "--output", "json"]))
    (row,) = document["rows"]
    return dict(row)


def batched_rate(bench: Bench, prompt_tokens: int, decoded_tokens: int) -> float:
    """Return the rate of all sequences of llama-batched-bench; the context is divided as llmrun divides it."""
    assert bench.peers is not None
    time.sleep(0.3)
    sizes = ("-npp", str(prompt_tokens or 1), "-ntg", str(decoded_tokens or 1), "-npl", str(AT_ONCE))
    settings = ("-c", str(AT_ONCE * 256), "-t", str(bench.threads), "-tb", str(bench.threads))
    command = [bench.peers.batched_bench, "-m", bench.model, *sizes, *settings, "--output-format", "jsonl"]
    found = json.loads(next(line for line in output(command).splitlines() if line.startswith("{")))
    return float(found["speed_pp" if prompt_tokens else "speed_tg"])


def _against_vllm(bench: Bench) -> Row:
    """Compare whole requests with vLLM's own benchmark, which is given the very same token ids."""
    folder = find_twin()
    sizes = [str(VLLM_AT_ONCE), str(EACH_PREFILLED), str(EACH_DECODED)]

    def run_ours() -> float:
        arguments = ("--engine", "vllm", "-b", sizes[0], "-p", sizes[1], "-n", sizes[2])
        row = _our_row(bench, folder, *arguments)
        digests.add(row["tokens_digest"])
        return float(row["statistics"]["throughput_tokens_per_second"]["mean"])

    def run_theirs() -> float:
        time.sleep(0.3)
        command = [sys.executable, HERE / "vllm_throughput.py", folder, str(bench.threads), str(_CONTEXT), *sizes]
        told = next(line.split() for line in output(command).splitlines() if line.startswith("result "))
        digests.add(told[2])
        return float(told[1])

    digests: set[str] = set()
    taken = take_turns(run_ours, run_theirs, bench.fewer(0.5))
    if len(digests) != 1:
        raise SystemExit("the two benchmarks had different token ids")
    name = f"llmrun bench -b {VLLM_AT_ONCE} on vllm / vLLM's `bench throughput`, greedy, the same token ids"
    return compare(name, "tokens/s", taken, "0.95 to 1.05x")


def _own_cost(bench: Bench) -> Row:
    """Compare a worker that notes when each token was there with one that does not."""
    with worker_for(plan_for(bench)) as worker:
        workload = Workload.from_tokenizer(worker.tokenize)
        taken = take_turns(
            lambda: _decode(worker, workload.fresh(1), timed=True),
            lambda: _decode(worker, workload.fresh(1), timed=False),
            _OWN_COST_PAIRS * bench.pairs,
        )
    return compare("decode, the time of each token noted / not noted", "tokens/s", taken, "0.99x")


def _decode(worker: WorkerClient, prompt: list[int], *, timed: bool) -> float:
    options = SamplingOptions(
        temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=_OWN_COST_TOKENS, seed=0, ignore_end=True
    )
    for event in worker.generate(prompt, dataclasses.replace(options, timed=timed)):
        if isinstance(event, Done):
            return (event.stats.completion_tokens - 1) / event.stats.decode_seconds
    raise SystemExit("the worker ended without Done")
