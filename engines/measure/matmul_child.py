"""A process of its own that multiplies matrices, to find out how fast this machine can at best: prints one JSON object.

Usage: python -m llmrun.engines.measure.matmul_child THREADS. What is installed is used, and the fastest counts:
PyTorch's products (oneDNN) of 8-bit integers, bfloat16 and float32, ggml's of the types that models are stored in, and
numpy's of float32. Each is the work of a prompt's layer: 512 tokens by a square matrix of weights that do not all fit
into the innermost cache.

Source: a product of m by k and k by n takes 2·m·n·k operations.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["main"]

_TOKENS, _WIDTH = 512, 2048
_SECONDS = 0.4
_Trial = tuple[str, Callable[[], object]]


def main() -> None:
    """Measure, and print the best of all."""
    threads = int(sys.argv[1])
    best: dict[str, Any] = {"flops": 0.0, "source": None}
    for find in (_torch_trials, _ggml_trials, _numpy_trials):
        with contextlib.suppress(Exception):  # what is not installed, or too old, is no candidate
            for name, multiply in find(threads):
                rate = _measure(multiply)
                if rate > best["flops"]:
                    best = {"flops": rate, "source": f"{name}, {threads} thread{'s' if threads > 1 else ''}"}
    print(json.dumps(best))  # noqa: T201 - what this process is for


def _measure(multiply: Callable[[], object]) -> float:
    """Return the operations per second of the fastest of the products made within the time."""
    multiply()
    fastest = float("inf")
    end = time.perf_counter() + _SECONDS
    while (began := time.perf_counter()) < end:
        multiply()
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * _TOKENS * _WIDTH * _WIDTH / fastest


def _torch_trials(threads: int) -> Iterator[_Trial]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    with torch.inference_mode():
        tokens, weights = torch.randn(_TOKENS, _WIDTH), torch.randn(_WIDTH, _WIDTH)
        yield "PyTorch float32", lambda: tokens @ weights
        half = tokens.bfloat16(), weights.bfloat16()
        yield "PyTorch bfloat16", lambda: half[0] @ half[1]
        whole = [torch.randint(-128, 127, each.shape, dtype=torch.int8) for each in (tokens, weights)]
        yield "PyTorch int8", lambda: torch._int_mm(whole[0], whole[1])


def _numpy_trials(threads: int) -> Iterator[_Trial]:
    del threads  # its library heeds OMP_NUM_THREADS
    numpy: Any = importlib.import_module("numpy")
    draw = numpy.random.default_rng(0)
    tokens = draw.standard_normal((_TOKENS, _WIDTH), dtype=numpy.float32)
    weights = draw.standard_normal((_WIDTH, _WIDTH), dtype=numpy.float32)
    yield "numpy float32", lambda: tokens @ weights


class _InitParams(ctypes.Structure):
    """Source: struct ggml_init_params in ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_GGML_TYPES = {"Q8_0": 8, "Q4_0": 2, "BF16": 30, "F16": 1}  # enum ggml_type in ggml.h
_GGML_BYTES = 256 << 20


def _ggml_trials(threads: int) -> Iterator[_Trial]:
    """Multiply with the library that llama.cpp computes with, as it is without weights in another layout."""
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "lib" if spec else Path()
    base = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(next(folder.glob("libggml-cpu.*"))))
    pointer = ctypes.c_void_p
    base.ggml_init.restype = base.ggml_new_tensor_2d.restype = base.ggml_mul_mat.restype = pointer
    base.ggml_new_graph.restype = pointer
    base.ggml_init.argtypes = (_InitParams,)
    base.ggml_new_tensor_2d.argtypes = (pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    base.ggml_mul_mat.argtypes = (pointer, pointer, pointer)
    base.ggml_new_graph.argtypes = (pointer,)
    base.ggml_build_forward_expand.argtypes = (pointer, pointer)
    cpu.ggml_graph_compute_with_ctx.argtypes = (pointer, pointer, ctypes.c_int)
    cpu.ggml_cpu_init()
    for name, number in _GGML_TYPES.items():
        context = base.ggml_init(_InitParams(_GGML_BYTES, None, False))
        weights = base.ggml_new_tensor_2d(context, number, _WIDTH, _WIDTH)
        tokens = base.ggml_new_tensor_2d(context, 0, _WIDTH, _TOKENS)
        graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(graph, base.ggml_mul_mat(context, weights, tokens))
        yield f"ggml {name}", partial(_compute, cpu, context, graph, threads)


def _compute(cpu: Any, context: int, graph: int, threads: int) -> None:
    cpu.ggml_graph_compute_with_ctx(context, graph, threads)


if __name__ == "__main__":
    main()
