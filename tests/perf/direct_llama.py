"""The same job through llama_cpp.Llama: what llmrun's speed is compared with.

Usage: python direct_llama.py MODEL QUESTION THREADS [--speed]
"""

import sys
import time

from llama_cpp import Llama

model, question, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
llama = Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False, flash_attn=True)

if "--speed" in sys.argv:
    tokens = (llama.tokenize(b"The quick brown fox jumps over the lazy dog. " * 60))[:512]
    best_prefill = best_decode = 0.0
    for _ in range(3):
        llama.reset()
        started = time.perf_counter()
        times = []
        for _token in llama.generate(tokens, temp=0.0, reset=True):
            times.append(time.perf_counter())
            if len(times) == 128:
                break
        best_prefill = max(best_prefill, 512 / (times[0] - started))
        best_decode = max(best_decode, 127 / (times[-1] - times[0]))
    print(best_prefill, best_decode)
else:
    for chunk in llama.create_chat_completion(
        [{"role": "user", "content": question}], temperature=0, max_tokens=128, stream=True
    ):
        text = chunk["choices"][0]["delta"].get("content")
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
