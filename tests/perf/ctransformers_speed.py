"""Speeds of ctransformers called directly: its class `LLM`, as its README shows it.

Usage: python ctransformers_speed.py MODEL.bin TYPE THREADS
Lines on standard input: `text INDEX TOKENS` streams an answer as text, `tokens INDEX TOKENS` makes token ids only, both
greedy: tokens per second from the first token of the answer to the last one; `prefill INDEX TOKENS` processes a prompt.
"""

import sys
import time

from ctransformers.llm import LLM, Config
from texts import long_text, starting_text

path, kind, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = LLM(path, kind, config=Config(context_length=1024, threads=threads, batch_size=512 if kind == "llama" else 8))
GREEDY = {"top_k": 1, "repetition_penalty": 1.0}


def rate(times: list[float], count: int) -> float:
    return (count - 1) / (times[-1] - times[0])


def stream(index: int, count: int) -> float:
    texts = model(starting_text(index), max_new_tokens=count, stream=True, **GREEDY)
    times = [time.perf_counter() for _text in texts]
    if len(times) < 0.8 * count:  # a few tokens end inside a character, and come with the next one
        raise SystemExit("the answer ended too early")
    return rate(times, count)


def make_tokens(index: int, count: int) -> float:
    times = []
    for _token in model.generate(model.tokenize(starting_text(index)), **GREEDY):
        times.append(time.perf_counter())
        if len(times) == count:
            break
    return rate(times, len(times))


def prefill(index: int, count: int) -> float:
    tokens = model.tokenize(long_text(index, count))
    model.reset()
    started = time.perf_counter()
    model.eval(tokens)
    return len(tokens) / (time.perf_counter() - started)


MEASURES = {"text": stream, "tokens": make_tokens, "prefill": prefill}
for line in sys.stdin:
    what, first, second = line.split()
    print(MEASURES[what](int(first), int(second)), flush=True)
