"""Which of a catalogue model's variants suits a machine: format, size and quantization, before anything is downloaded.

Without a file there is no header to read, so the size of the weights is estimated from the parameter count and the bits
that a quantization spends on a weight. The order: what runs on the best engine the machine has, then the largest
quantization that fits, because below the size that memory allows quality only falls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrun.hardware.types import GpuVendor, Machine
from llmrun.models.catalogue import Candidate
from llmrun.models.types import ModelFormat

__all__ = ["VariantChoice", "choose_variant", "estimate_bits", "estimate_weights_bytes", "fits_machine"]

_SHARE = 0.9
_OVERHEAD = 1.15
"""Room for the KV cache of a short chat and for compute buffers, as a factor on the weights; the exact plan is made
from the header once the file is here."""
_BITS = {
    "none": 16.0,
    "bf16": 16.0,
    "f16": 16.0,
    "q8_0": 8.5,
    "8-bit": 8.5,
    "int8": 8.5,
    "fp8": 8.5,
    "q6_k": 6.56,
    "q5_1": 6.0,
    "q5_k_m": 5.7,
    "q5_k_s": 5.57,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_k_m": 4.89,
    "iq4_nl": 4.68,
    "q4_k_s": 4.67,
    "q4_0": 4.5,
    "iq4_xs": 4.46,
    "mxfp4": 4.5,
    "mxfp4_moe": 4.5,
    "fp4": 4.5,
    "4-bit": 4.5,
    "int4": 4.5,
    "q3_k_l": 4.3,
    "q3_k_m": 4.0,
    "iq3_m": 3.76,
    "iq3_s": 3.66,
    "q3_k_s": 3.64,
    "iq3_xs": 3.5,
    "iq3_xxs": 3.25,
    "q2_k": 3.16,
    "iq2_m": 2.93,
    "iq2_s": 2.74,
    "iq2_xs": 2.59,
    "iq2_xxs": 2.38,
    "iq1_m": 2.15,
    "iq1_s": 2.0,
}
"""Bits per weight. Source: measured on Llama 3.1 8B in llama.cpp's tools/quantize/README.md; the legacy types (q4_0 to
q8_0) from their block sizes in ggml, 18 to 34 bytes for 32 weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantChoice:
    """A variant, what it is estimated to need, and what else was looked at.

    Attributes:
        candidate: The variant.
        need_bytes: Weights and working memory.
        free_bytes: What the machine has for it: GPU memory or main memory.
        fits: Whether it does; when nothing fits, the smallest variant is returned with False.
    """

    candidate: Candidate
    need_bytes: int
    free_bytes: int
    fits: bool


def estimate_weights_bytes(candidate: Candidate) -> int:
    """Return the size of the weights: parameters · bits / 8, or the known size of a known file."""
    if candidate.variant.size_bytes is not None:
        return candidate.variant.size_bytes
    bits = estimate_bits(candidate.quantization, candidate.variant.format)
    return int(candidate.variant.parameters_billion * 1e9 * bits / 8)


def estimate_bits(quantization: str | None, format_: ModelFormat = ModelFormat.GGUF) -> float:
    """Return the bits that a quantization spends on a weight, on average over the tensors of a model."""
    name = (quantization or "none").lower().removeprefix("ud-")
    if name in _BITS:
        return _BITS[name]
    # Q4_K_XL, Q3_K_XL …: the medium mix with some tensors kept larger
    base = name.rsplit("_", 1)[0]
    for known in (f"{base}_m", base, f"{base}_s"):
        if known in _BITS:
            return _BITS[known] * 1.03
    return {ModelFormat.FP8: 8.5, ModelFormat.PYTORCH: 16.0}.get(format_, 4.5)


def fits_machine(weights_bytes: int, format_: ModelFormat, machine: Machine) -> bool:
    """Return whether weights of that size, with room to work, fit what the machine has free."""
    return int(weights_bytes * _OVERHEAD) <= _free_bytes(format_, machine)


def choose_variant(
    candidates: Sequence[Candidate], machine: Machine, is_runnable: Callable[[Candidate], bool]
) -> VariantChoice | None:
    """Return the variant to run here, or None if no engine could run any of them.

    Args:
        candidates: From `catalogue.resolve_tag`, in its default order: the first size is the one that was meant.
        machine: Whose memory counts.
        is_runnable: Whether some engine is eligible for a candidate on that machine, memory left aside.
    """
    runnable = [candidate for candidate in candidates if is_runnable(candidate)]
    if not runnable:
        return None
    size = runnable[0].variant.parameters_billion  # runnable keeps the order of the candidates
    same_size = [candidate for candidate in runnable if candidate.variant.parameters_billion == size]
    choices = [_measure(candidate, machine) for candidate in same_size]
    fitting = [choice for choice in choices if choice.fits]
    if not fitting:
        return min(choices, key=lambda choice: choice.need_bytes)
    return max(fitting, key=lambda choice: (_preference(choice, machine), choice.need_bytes))


def _measure(candidate: Candidate, machine: Machine) -> VariantChoice:
    need = int(estimate_weights_bytes(candidate) * _OVERHEAD)
    free = _free_bytes(candidate.variant.format, machine)
    return VariantChoice(candidate=candidate, need_bytes=need, free_bytes=free, fits=need <= free)


def _free_bytes(format_: ModelFormat, machine: Machine) -> int:
    main = int(machine.memory.available_bytes * _SHARE)
    # A GPU that works on main memory adds none.
    on_gpu = int(sum(gpu.free_bytes or 0 for gpu in machine.gpus if not gpu.unified_memory) * _SHARE)
    # llama.cpp divides a model between GPU and processor; the other formats want to be in one place.
    return main + on_gpu if format_ is ModelFormat.GGUF else max(main, on_gpu)


def _preference(choice: VariantChoice, machine: Machine) -> int:
    """Rank formats: unquantized weights where an NVIDIA GPU has room for them (vLLM), else GGUF, else the rest."""
    format_ = choice.candidate.variant.format
    free = sum(gpu.free_bytes or 0 for gpu in machine.gpus if gpu.vendor is GpuVendor.NVIDIA)
    fits_gpu = choice.need_bytes <= free * _SHARE
    quantized = (choice.candidate.quantization or "none") != "none"
    if format_ is ModelFormat.PYTORCH and not quantized and fits_gpu and machine.system == "linux":
        return 3
    if format_ is ModelFormat.GGUF:
        return 2
    return 1 if not quantized else 0
