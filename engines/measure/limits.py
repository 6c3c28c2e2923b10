"""The limits that physics sets: how fast this machine reads memory and multiplies, and what share an engine reaches.

A token is decoded by reading every weight that takes part, and the keys and values so far, once: decoding is held up by
memory, and its share is MBU (model bandwidth utilization). A prompt is multiplied by every weight but those of the
output: prefill is held up by arithmetic, and its share is MFU (model FLOP/s utilization). Both limits are measured, on
as many threads as the engine had; a model that lives in the caches can be above the first, and kernels that are better
than those of the measured product above the second.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

from llmrun.engines.installed.kept import keep, read_kept
from llmrun.engines.memory.kv import KV_BYTES
from llmrun.engines.speed.forecast import bytes_per_token, weights_per_prompt_token
from llmrun.engines.types import EngineName
from llmrun.hardware.bandwidth import measure_bandwidth, read_bandwidth
from llmrun.hardware.types import Machine
from llmrun.models.types import ModelInfo

__all__ = ["Limits", "decode_bytes", "measure_again", "measure_limits", "prefill_operations"]

_FOLDER = "matrix-product"
_CHILD_SECONDS = 120.0
_MEASUREMENTS = 3  # other programs can only make one slower


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What was measured on so many threads; None where it could not be.

    Attributes:
        bytes_per_second: Main memory read at best, now or earlier: other programs and machines can only slow it down.
        bytes_per_second_now: The same as it was measured at the start.
        bytes_per_second_seen: Every measurement of it: at the start, and whenever an engine was done.
        operations_per_second: Of the fastest matrix product that could be made here; operations_source says which.
    """

    threads: int
    bytes_per_second: float | None = None
    bytes_per_second_now: float | None = None
    bytes_per_second_seen: tuple[float, ...] = ()
    operations_per_second: float | None = None
    operations_source: str | None = None


def measure_limits(machine: Machine, threads: int, stamps: str) -> Limits:
    """Measure memory, which other programs and machines slow down, each time; the product a few times.

    Args:
        machine: This one.
        threads: How many the engine has.
        stamps: What changes when other libraries are installed, that could multiply faster.
    """
    now = measure_bandwidth(threads)
    known = read_bandwidth(machine) if threads == machine.cpu.threads else None
    best = max(now, known or 0.0)
    product = _product(machine, threads, stamps)
    return Limits(
        threads=threads,
        bytes_per_second=best or None,
        bytes_per_second_now=now or None,
        bytes_per_second_seen=(now,) if now else (),
        operations_per_second=product[0] if product else None,
        operations_source=product[1] if product else None,
    )


def measure_again(limits: Limits) -> Limits:
    """Return the limits with one more measurement of memory: whether the machine is still what it was at the start."""
    now = measure_bandwidth(limits.threads)
    return replace(limits, bytes_per_second_seen=(*limits.bytes_per_second_seen, now)) if now else limits


def _product(machine: Machine, threads: int, stamps: str) -> tuple[float, str] | None:
    """Return the fastest product of this and earlier measurements; after a few there is no further one."""
    key = f"{threads}\n{machine.cpu.name}\n{os.uname().release if hasattr(os, 'uname') else ''}\n{stamps}"
    kept = read_kept(_FOLDER, key)
    best: dict[str, Any] = {"flops": 0.0, "source": None, "times": 0}
    if isinstance(kept, dict) and kept.keys() == best.keys():
        best = kept
    try:
        if best["times"] < _MEASUREMENTS:
            found = (_run_child(threads) or best) | {"times": best["times"] + 1}
            best = (found if found["flops"] > best["flops"] else best) | {"times": found["times"]}
            keep(_FOLDER, key, best)
        return (float(best["flops"]), str(best["source"])) if best["flops"] else None
    except (KeyError, TypeError, ValueError):
        return None


def _run_child(threads: int) -> dict[str, Any] | None:
    number = str(threads)
    environment = os.environ | {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number, "MKL_NUM_THREADS": number}
    command = [sys.executable, "-P", "-m", "llmrun.engines.measure.matmul_child", number]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=_CHILD_SECONDS,
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return found if isinstance(found, dict) else None


def decode_bytes(engine: EngineName, info: ModelInfo, kv_type: str, context: float) -> float:
    """Return what one step reads: the weights that take part, and keys and values of `context` tokens on average."""
    element = KV_BYTES[kv_type] if engine is EngineName.LLAMA_CPP else KV_BYTES["f16"]
    length = info.key_length + info.value_length
    kept = context if info.sliding_window is None else min(context, info.sliding_window)
    cells = sum(
        heads * (kept if layer < len(info.sliding_window_layers) and info.sliding_window_layers[layer] else context)
        for layer, heads in enumerate(info.kv_heads)
    )
    return bytes_per_token(engine, info) + cells * length * element


def prefill_operations(engine: EngineName, info: ModelInfo, context: float) -> float:
    """Return what one token of a prompt takes: 2 for each weight, and 4·heads·length for each token before it.

    Source: PaLM, appendix B (https://arxiv.org/abs/2204.02311), without the output, which only the last token needs.
    """
    attention = 2 * info.heads * (info.key_length + info.value_length) * context
    return 2 * weights_per_prompt_token(engine, info) + attention * sum(1 for heads in info.kv_heads if heads)
