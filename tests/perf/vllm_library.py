"""What vLLM alone does with a folder: `LLM.generate`, called as its documentation says.

Usage: python vllm_library.py FOLDER THREADS CONTEXT

For every line on standard input: `many COUNT TOKENS` prints tokens of all answers over the whole time, `decode TOKENS`
the decode rate of one answer, `quit` ends vLLM and its processes. The settings that decide the speed are llmrun's:
nothing is compiled, and the same context and threads.
"""

import itertools
import os
import sys
import time

folder, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.environ |= {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "OMP_NUM_THREADS": str(threads),
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

from texts import questions, starting_text  # noqa: E402 - the settings come first
from vllm import LLM, SamplingParams  # noqa: E402

numbers = itertools.count(1)


def many(llm: LLM, count: int, tokens: int) -> float:
    """Return the tokens of all answers over the whole time."""
    started = time.perf_counter()
    texts = [f"{next(numbers)} {text}" for text in questions(count)]
    made = llm.generate(texts, SamplingParams(temperature=0, max_tokens=tokens), use_tqdm=False)
    return sum(len(each.outputs[0].token_ids) for each in made) / (time.perf_counter() - started)


def single(llm: LLM, tokens: int) -> float:
    """Return the decode rate: the time of the first token is that of an answer that has no other."""
    text = starting_text(next(numbers))
    seconds, counts = [], []
    for limit in (1, tokens):
        started = time.perf_counter()
        made = llm.generate([f"{limit} {text}"], SamplingParams(temperature=0, max_tokens=limit), use_tqdm=False)
        seconds.append(time.perf_counter() - started)
        counts.append(len(made[0].outputs[0].token_ids))
    return (counts[1] - counts[0]) / (seconds[1] - seconds[0])


def main() -> None:
    """Answer the lines. vLLM starts processes that import this file, so nothing of this happens while they do."""
    llm = LLM(folder, enforce_eager=True, max_model_len=context, max_num_seqs=32, seed=0)
    for line in sys.stdin:
        what, *words = line.split()
        if what == "quit":
            break
        rate = many(llm, int(words[0]), int(words[1])) if what == "many" else single(llm, int(words[0]))
        print(rate, flush=True)
    llm.llm_engine.engine_core.shutdown()
    print(0, flush=True)


if __name__ == "__main__":
    main()
