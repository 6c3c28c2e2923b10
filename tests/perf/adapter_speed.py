"""Prefill of 512 and decode of 128 tokens through llmrun's worker: the best of three, in tokens per second.

Usage: python adapter_speed.py MODEL THREADS
"""

import sys

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Done, EngineName, LoadPlan, SamplingOptions, Segment

model, threads = sys.argv[1], int(sys.argv[2])
worker = WorkerClient(EngineName.LLAMA_CPP)
worker.load(
    LoadPlan(engine=EngineName.LLAMA_CPP, model_path=model, context_length=2048, context_is_fixed=True, threads=threads)
)
options = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=128, seed=0)
best_prefill = best_decode = 0.0
for round_ in range(3):
    # another first word each time, so that nothing of the last round's cache can be used again
    text = f"{round_} " + "The quick brown fox jumps over the lazy dog. " * 52
    tokens = worker.tokenize([Segment(text=text, special=False)])
    for event in worker.generate([Segment(text=text, special=False)], options):
        if isinstance(event, Done):
            stats = event.stats
            best_prefill = max(best_prefill, stats.prompt_tokens / stats.prefill_seconds)
            if stats.completion_tokens > 64:
                best_decode = max(best_decode, (stats.completion_tokens - 1) / stats.decode_seconds)
worker.close()
print(best_prefill, best_decode)
