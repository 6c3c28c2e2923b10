"""The child process that tries a build of llama.cpp.

Called as `python -m llmrun.engines.install.verify_child FOLDER MODEL THREADS`; FOLDER holds the unpacked wheel, or is
empty for the installed package. It loads the model, decodes batches and single tokens, so that both the matrix and the
vector kernels run, and prints one JSON object on standard output. When the build uses instructions that this CPU has
not, or does not get right, this process dies, and nothing else.

It does so twice: as models are always loaded, and with the weights left as they are in the file, so that llama.cpp's
plain kernels multiply by them. Repacked weights (llama.cpp's, llmrun's, and those for AMX) must give nearly the same
logits; how near is settled by activations that are rounded to 8 bits on either way.
"""

import ctypes
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from llmrun.engines.trials.reporting import report

__all__ = ["try_llama_cpp"]

_BATCHES = (37, 27, 3, 2)  # tokens; an odd number, then others in the same cache
_SINGLE_TOKENS = 8
# Of the logits' own spread; correct kernels were seen to differ by 0.015 on the model for the trial.
_LARGEST_DIFFERENCE = 0.15


def try_llama_cpp(folder: str, model_path: str, threads: int) -> dict[str, Any]:
    """Try the build and return what was seen.

    Raises:
        SystemExit: It refuses the model, or computes nonsense.
    """
    if folder:
        sys.path.insert(0, folder)
    from llmrun.engines.llama_cpp.native import load_native

    native = load_native()
    started = time.perf_counter()
    repacked = _compute_logits(native, model_path, threads, repack=True)
    seconds = time.perf_counter() - started
    plain = _compute_logits(native, model_path, threads, repack=False)
    difference = max(_difference(one, other) for one, other in zip(repacked, plain, strict=True))
    if difference > _LARGEST_DIFFERENCE:
        raise SystemExit(f"repacked weights give other logits than plain ones, by {difference:.2f} of their spread")
    return {
        "features": native.api.llama_print_system_info().decode("utf-8", "replace").strip(),
        "gpu_offload": bool(native.api.llama_supports_gpu_offload()),
        "prefill_seconds": seconds,
        "difference": difference,
    }


def _compute_logits(native: Any, model_path: str, threads: int, *, repack: bool) -> list[list[float]]:
    """Return the last logits of every batch."""
    api = native.api
    model_params = api.llama_model_default_params()
    model_params.use_extra_bufts = repack
    model = api.llama_model_load_from_file(model_path.encode(), model_params)
    if not model:
        raise SystemExit(f"the model for the test was refused: {native.cause()}")
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, max(_BATCHES), max(_BATCHES)
    params.n_threads = params.n_threads_batch = threads
    context = api.llama_init_from_model(model, params)
    if not context:
        raise SystemExit(f"no context could be made for the test: {native.cause()}")
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    batches = [*(list(range(count)) for count in _BATCHES), *([token] for token in range(_SINGLE_TOKENS))]
    return [_decode(api, context, tokens, vocabulary) for tokens in batches]


def _difference(logits: Sequence[float], expected: Sequence[float]) -> float:
    """Return the root mean square of the difference, in standard deviations of what is expected."""
    mean = math.fsum(expected) / len(expected)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in expected))
    apart = math.sqrt(math.fsum((one - other) ** 2 for one, other in zip(logits, expected, strict=True)))
    return apart / spread if spread else apart


def _decode(api: Any, context: Any, tokens: list[int], vocabulary: int) -> list[float]:
    array = (ctypes.c_int32 * len(tokens))(*tokens)  # a batch only points at it, so it must outlive the call
    status = api.llama_decode(context, api.llama_batch_get_one(array, len(tokens)))
    if status != 0:
        raise SystemExit(f"llama_decode returned {status} for {len(tokens)} tokens")
    pointer = api.llama_get_logits_ith(context, -1)
    logits = [float(pointer[index]) for index in range(vocabulary)]
    if not all(math.isfinite(value) for value in logits):
        raise SystemExit("the logits are not finite numbers")
    return logits


if __name__ == "__main__":
    report(lambda: try_llama_cpp(sys.argv[1], sys.argv[2], int(sys.argv[3])))
