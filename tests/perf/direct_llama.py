"""The same job through llama_cpp.Llama: what llmrun's speed is compared with.

Usage: python direct_llama.py MODEL QUESTION THREADS
"""

import sys

from llama_cpp import Llama

model, question, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
llama = Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False, flash_attn=True)

for chunk in llama.create_chat_completion(
    [{"role": "user", "content": question}], temperature=0, max_tokens=128, stream=True
):
    text = chunk["choices"][0]["delta"].get("content")
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
