"""Speeds of llmrun's adapter in one process, without pipes and without anybody who shows the text.

Usage: python inprocess_speed.py MODEL THREADS [LOOKUP]
Lines on standard input: `prefill INDEX TOKENS`, `decode INDEX TOKENS`: tokens per second, the best known way to count;
`single COUNT TOKENS`, `many COUNT TOKENS`: tokens of all answers over the whole time.
"""

import sys
import time

from bench import greedy
from texts import long_text, questions, starting_text

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.engine import LlamaCppEngine
from llmrun.engines.protocol import BatchRequest, generate_one_by_one
from llmrun.engines.types import Done, EngineName, LoadPlan, Segment, Stats

model, threads = sys.argv[1], int(sys.argv[2])
session = LlamaCppEngine().load(
    LoadPlan(
        engine=EngineName.LLAMA_CPP,
        model_path=model,
        context_length=4096,
        threads=threads,
        lookup=sys.argv[3] if len(sys.argv) > 3 else "off",
    )
)


def tokens_of(text: str) -> list[int]:
    return session.tokenize([Segment(text=text, special=False)])


def answer(text: str, tokens: int) -> Stats:
    for event in session.generate(tokens_of(text), greedy(tokens), Cancellation()):
        if isinstance(event, Done):
            return event.stats
    raise SystemExit("no Done")


def many(count: int, tokens: int, *, at_once: bool) -> float:
    requests = [
        BatchRequest(id=str(index), tokens=tokens_of(text), options=greedy(tokens))
        for index, text in enumerate(questions(count))
    ]
    started = time.perf_counter()
    if at_once:
        events = session.generate_many(requests, count, Cancellation())
    else:
        events = generate_one_by_one(session, requests, Cancellation())
    written = sum(event.stats.completion_tokens for _id, event in events if isinstance(event, Done))
    return written / (time.perf_counter() - started)


for line in sys.stdin:
    what, first, second = line.split()
    if what == "prefill":
        stats = answer(long_text(int(first), int(second)), 1)
        print((stats.prompt_tokens - stats.cached_tokens) / stats.prefill_seconds, flush=True)
    elif what == "decode":
        stats = answer(starting_text(int(first)), int(second))
        print((stats.completion_tokens - 1) / stats.decode_seconds, flush=True)
    else:
        print(many(int(first), int(second), at_once=what == "many"), flush=True)
