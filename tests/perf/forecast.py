"""The forecast of engines/speed/forecast.py against what llama.cpp then does, on this machine, for GGUF files.

Measured are the best of many short runs within a few seconds, because a shared machine drifts; the forecast uses the
memory bandwidth that is known for it (measured and kept if it is not). One line for each file and number of threads.

Usage: python forecast.py THREADS SECONDS MODEL…
"""

import ctypes
import sys
import time
from dataclasses import replace
from pathlib import Path

import llama_cpp as native

from llmrun.engines.speed.forecast import forecast_speed
from llmrun.engines.types import EngineName
from llmrun.hardware.bandwidth import learn_bandwidth
from llmrun.hardware.machine import probe_machine
from llmrun.models.gguf.info import read_gguf_info

PROMPT_TOKENS = 256
STEPS = 6


def say_nothing(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Keep llama.cpp's log out of the table."""


def measure(path: Path, threads: int, seconds: float) -> tuple[float, float]:
    """Return the best decode and prefill rates in tokens per second."""
    model = native.llama_model_load_from_file(str(path).encode(), native.llama_model_default_params())
    if not model:
        raise SystemExit(f"{path}: llama.cpp cannot load it")
    wanted = native.llama_context_default_params()
    wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = 1024, 512, 512
    wanted.n_threads = wanted.n_threads_batch = threads
    context = native.llama_init_from_model(model, wanted)
    memory = native.llama_get_memory(context)
    tokens = (native.llama_token * PROMPT_TOKENS)(*(7 * index % 500 for index in range(PROMPT_TOKENS)))

    def run(count: int, times: int = 1) -> float:
        started = time.perf_counter()
        for _ in range(times):
            if native.llama_decode(context, native.llama_batch_get_one(tokens, count)):
                raise SystemExit(f"{path}: llama.cpp cannot decode")
            native.llama_synchronize(context)
        return (time.perf_counter() - started) / (count * times)

    decode: list[float] = []
    prefill: list[float] = []
    stop = time.monotonic() + seconds
    while time.monotonic() < stop or len(prefill) < 2:
        native.llama_memory_clear(memory, False)
        prefill.append(run(PROMPT_TOKENS))
        native.llama_memory_clear(memory, False)
        run(1)
        decode += [run(1, STEPS) for _ in range(4)]
    native.llama_free(context)
    native.llama_model_free(model)
    return 1 / min(decode), 1 / min(prefill)


def main() -> None:
    """Print the table."""
    threads, seconds = int(sys.argv[1]), float(sys.argv[2])
    machine = probe_machine()
    bandwidth = learn_bandwidth(machine)
    cpu = replace(machine.cpu, affinity=min(threads, machine.cpu.affinity))
    machine = replace(machine, cpu=cpu, gpus=(), memory_bandwidth_bytes_per_second=bandwidth)
    silent = native.llama_log_callback(say_nothing)  # a reference that must outlive every call
    native.llama_log_set(silent, ctypes.c_void_p(0))
    native.llama_backend_init()
    print(f"{machine.cpu.name}, {machine.cpu.threads} threads, {(bandwidth or 0) / 1e9:.1f} GB/s")
    for path in map(Path, sys.argv[3:]):
        forecast = forecast_speed(EngineName.LLAMA_CPP, read_gguf_info(path), machine)
        decode, prefill = measure(path, machine.cpu.threads, seconds)
        if forecast is None:
            print(f"{path.name}: no forecast; {decode:.1f} and {prefill:.0f} tokens/s measured")
            continue
        print(
            f"{path.name:24} decode {forecast.decode_tokens_per_second:7.1f} / {decode:7.1f}"
            f" = {forecast.decode_tokens_per_second / decode:4.2f}"
            f"  prefill {forecast.prefill_tokens_per_second or 0:7.0f} / {prefill:7.0f}"
            f" = {(forecast.prefill_tokens_per_second or 0) / prefill:4.2f}  {forecast.limit}",
            flush=True,
        )


main()
