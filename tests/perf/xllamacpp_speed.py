"""Speeds of the prebuilt xllamacpp, as its own server counts them.

Usage: PYTHON_WITH_XLLAMACPP xllamacpp_speed.py MODEL THREADS
Lines on standard input: `prefill INDEX TOKENS`, `decode INDEX TOKENS`; answered with tokens per second.
"""

import os
import sys

import xllamacpp
from texts import long_text, starting_text

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = 2048
parameters.n_parallel = 1
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(sys.argv[2])
server = xllamacpp.Server(parameters)

for line in sys.stdin:
    what, index, tokens = line.split()
    prefill = what == "prefill"
    text = long_text(int(index), int(tokens)) if prefill else starting_text(int(index))
    request = {"prompt": text, "n_predict": 1 if prefill else int(tokens), "temperature": 0}
    timings = server.handle_completions({**request, "cache_prompt": False, "ignore_eos": True})["timings"]
    print(timings["prompt_per_second" if prefill else "predicted_per_second"], flush=True)
os._exit(0)
