"""The child process that tries a build of llama.cpp.

Called as `python -m llmrun.engines.install.verify_child FOLDER MODEL THREADS`; FOLDER holds the unpacked wheel, or is
empty for the installed package. It loads the model, decodes one batch and then some single tokens, so that both the
matrix and the vector kernels run, and prints one JSON object on standard output. When the build uses instructions that
this CPU has not, or does not get right, this process dies, and nothing else.
"""

import ctypes
import math
import sys
import time
from typing import Any

from llmrun.engines.trials.reporting import report

__all__ = ["try_llama_cpp"]

_BATCH_TOKENS = 64
_SINGLE_TOKENS = 8


def try_llama_cpp(folder: str, model_path: str, threads: int) -> dict[str, Any]:
    """Try the build and return what was seen.

    Raises:
        SystemExit: It refuses the model, or computes nonsense.
    """
    if folder:
        sys.path.insert(0, folder)
    from llmrun.engines.llama_cpp.native import load_native

    native = load_native()
    api = native.api
    model_params = api.llama_model_default_params()
    model = api.llama_model_load_from_file(model_path.encode(), model_params)
    if not model:
        raise SystemExit(f"the model for the test was refused: {native.cause()}")
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, _BATCH_TOKENS, _BATCH_TOKENS
    params.n_threads = params.n_threads_batch = threads
    context = api.llama_init_from_model(model, params)
    if not context:
        raise SystemExit(f"no context could be made for the test: {native.cause()}")
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    started = time.perf_counter()
    _decode(api, context, list(range(_BATCH_TOKENS)), vocabulary)
    prefill_seconds = time.perf_counter() - started
    for token in range(_SINGLE_TOKENS):
        _decode(api, context, [token], vocabulary)
    return {
        "features": api.llama_print_system_info().decode("utf-8", "replace").strip(),
        "gpu_offload": bool(api.llama_supports_gpu_offload()),
        "prefill_seconds": prefill_seconds,
    }


def _decode(api: Any, context: Any, tokens: list[int], vocabulary: int) -> None:
    array = (ctypes.c_int32 * len(tokens))(*tokens)  # a batch only points at it, so it must outlive the call
    status = api.llama_decode(context, api.llama_batch_get_one(array, len(tokens)))
    if status != 0:
        raise SystemExit(f"llama_decode returned {status} for {len(tokens)} tokens")
    logits = api.llama_get_logits_ith(context, -1)
    if not all(math.isfinite(logits[index]) for index in range(vocabulary)):
        raise SystemExit("the logits are not finite numbers")


if __name__ == "__main__":
    report(lambda: try_llama_cpp(sys.argv[1], sys.argv[2], int(sys.argv[3])))
