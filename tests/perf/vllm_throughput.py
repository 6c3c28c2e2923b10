"""vLLM's own throughput benchmark, `run_vllm` of its `bench throughput`, on the prompts that `llmrun bench` makes.

Usage: python vllm_throughput.py FOLDER THREADS CONTEXT COUNT PROMPT_TOKENS ANSWER_TOKENS

Prints the generated tokens over the whole time, which vLLM calls output tokens/s, and the digest of the token ids. The
settings that decide the speed are llmrun's: nothing is compiled, and steps and blocks of the same size.
"""

import os
import sys
from pathlib import Path

folder, (threads, context, count, prompt_tokens, answer_tokens) = sys.argv[1], map(int, sys.argv[2:])
os.environ |= {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": str(threads),
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

import vllm  # noqa: E402 - the settings come first
from vllm import LLM, EngineArgs, SamplingParams  # noqa: E402
from vllm.benchmarks.datasets import SampleRequest  # noqa: E402
from vllm.benchmarks.throughput import run_vllm  # noqa: E402

from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer  # noqa: E402
from llmrun.engines.measure.workload import Workload  # noqa: E402

KINDS = 3  # prefill, decode and whole requests, in this order: what a repetition of `llmrun bench -b` asks for


def requests(workload: Workload) -> list[SampleRequest]:
    """Return the whole requests of the next repetition of `llmrun bench`."""
    for _ in range((KINDS - 1) * count):
        workload.fresh(1)
    prompts = [{"prompt_token_ids": workload.fresh(prompt_tokens)} for _ in range(count)]
    return [
        SampleRequest(prompt=prompt, prompt_len=prompt_tokens, expected_output_len=answer_tokens) for prompt in prompts
    ]


def greedy(**given: object) -> SamplingParams:
    """Return what the benchmark asks for, but with the most likely token taken each time."""
    return SamplingParams(**(given | {"temperature": 0.0}))


def main() -> None:
    """Measure once, after a warm-up. vLLM starts processes that import this file, so nothing happens while they do."""
    workload = Workload.from_tokenizer(HuggingFaceTokenizer(Path(folder)).tokenize)
    warm_up, measured = requests(workload), requests(workload)
    arguments = EngineArgs(
        model=folder,
        seed=0,
        enforce_eager=True,
        max_model_len=context,
        max_num_seqs=32,
        max_num_batched_tokens=256,
        block_size=128,
        disable_log_stats=True,
    )
    assert LLM  # imported before the name of the sampling parameters is taken
    vllm.SamplingParams = greedy  # the benchmark draws tokens, and drawing takes time that `llmrun bench` does not take
    seconds, _outputs = run_vllm(measured, 1, arguments, False, warmup_requests=warm_up)
    print("result", count * answer_tokens / seconds, workload.digest, flush=True)


if __name__ == "__main__":
    main()
