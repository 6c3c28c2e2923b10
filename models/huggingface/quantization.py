"""Tell how the weights of a model folder are quantized, and count its weights.

The method is in config.json (`quantization_config`), or in a file of its own that older tools wrote. What it is called
is not always what it holds: compressed-tensors and ModelOpt are containers for several formats, so their settings
decide. A method that is not known here is refused by name; engines warn about it and then answer nonsense.

Parameters are counted over tensors. A packed tensor counts the weights that it holds (a 32-bit word holds 32 / bits of
them, a byte of a 4-bit format two); scales, zero points and group indices, and buffers such as rotary frequencies and
causal masks, count nothing. So a quantized model counts what the model it was made from counts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.errors import ModelFileError
from llmrun.models.file_source import FileSource
from llmrun.models.huggingface.json import find_json
from llmrun.models.huggingface.safetensors import SafetensorsTensor
from llmrun.models.types import ModelFormat

__all__ = ["Quantization", "count_parameters", "name_dtype", "read_quantization"]

_KNOWN = "gptq, awq, fp8, fbgemm_fp8, mxfp4, nvfp4, bitsandbytes, compressed-tensors, modelopt"
_FIX = "take an unquantized version of the model, or one quantized with gptq, awq or fp8"

_WORD_SUFFIXES = (".qweight", ".weight_packed")
_BYTE_SUFFIXES = (".weight", ".weight_packed", "_blocks")
_HELPERS = (
    *(".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_zero_point"),
    *(".weight_g_idx", ".weight_shape", ".weight_global_scale", ".input_global_scale", ".input_scale", ".k_scale"),
    *(".v_scale", ".q_scale", ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".SCB"),
    *(".weight.nested_quant_map", ".weight_format", ".pre_quant_scale", "_proj_scales", ".input_scale_ub"),
    *("gate_up_proj_scale", "down_proj_scale", "_scale_inv"),
)
_BUFFERS = (".inv_freq", ".masked_bias", ".cos_cached", ".sin_cached")
_MASKS = (".attn.bias", ".attention.bias")
_DTYPE_NAMES = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What a file says of the method: `name` in lower case with dashes, `values` its settings."""

    path: Path
    values: Mapping[str, Any]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the weights are stored.

    Attributes:
        format: What engines tell apart.
        name: `Int4`, `4-bit`, `fp8`, `mxfp4`, as catalogues write it; None for unquantized weights.
        bits: Bits of one packed weight, or None where each has a number of its own.
    """

    format: ModelFormat
    name: str | None = None
    bits: int | None = None


_FP8 = Quantization(format=ModelFormat.FP8, name="fp8")


def read_quantization(source: FileSource, outer: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization:
    """Return how a folder's weights are quantized.

    Args:
        source: The folder.
        outer: The whole config.json.
        text: Its part for the language model.

    Raises:
        ModelFileError: The method is not known, or its settings are not what it writes.
    """
    path, settings = source.path / "config.json", outer.get("quantization_config") or text.get("quantization_config")
    if settings is None:
        settings = outer.get("compression_config")
    if settings is None:
        path, settings = _settings_of_own_file(source)
    if not settings:
        return Quantization(format=ModelFormat.PYTORCH)
    if not isinstance(settings, dict):
        raise ModelFileError(f"{path}: quantization_config must be an object")
    method = settings.get("quant_method")
    if method is None:
        method = _guess_method(settings)
    name = method.lower().replace("_", "-") if isinstance(method, str) else ""
    reader = _READERS.get(name)
    if reader is None:
        raise _unknown(path, f"the quantization method {str(method)[:40]!r}")
    return reader(_Settings(path=path, values=settings, name=name))


def _settings_of_own_file(source: FileSource) -> tuple[Path, Any]:
    gptq = find_json(source, "quantize_config.json")
    if gptq is not None:
        return source.path / "quantize_config.json", {"quant_method": "gptq", **gptq}
    awq = find_json(source, "quant_config.json")
    if awq is not None and ("w_bit" in awq or "bits" in awq):
        return source.path / "quant_config.json", {"quant_method": "awq", **awq}
    modelopt = find_json(source, "hf_quant_config.json")
    if modelopt is not None:
        inner = modelopt.get("quantization")
        return source.path / "hf_quant_config.json", {
            **(inner if isinstance(inner, dict) else {}),
            "quant_method": "modelopt",
        }
    return source.path / "config.json", None


def _guess_method(settings: Mapping[str, Any]) -> str | None:
    """Return the method of settings from before it had to be named."""
    if "load_in_4bit" in settings or "load_in_8bit" in settings:
        return "bitsandbytes"
    if "config_groups" in settings:
        return "compressed-tensors"
    return "modelopt" if "quant_algo" in settings else None


def _gptq_or_awq(settings: _Settings) -> Quantization:
    return _integers(
        settings.path, ModelFormat(settings.name), settings.values.get("bits", settings.values.get("w_bit", 4))
    )


def _fp4(settings: _Settings) -> Quantization:
    return Quantization(format=ModelFormat.FP4, name=settings.name, bits=4)


def _integers(path: Path, kind: ModelFormat, bits: object) -> Quantization:
    if type(bits) is not int or bits not in range(2, 9):
        raise ModelFileError(f"{path}: {kind} with {str(bits)[:20]} bits is not known; 2 to 8 are")
    return Quantization(format=kind, name=f"Int{bits}", bits=bits)


def _bitsandbytes(settings: _Settings) -> Quantization:
    four = settings.values.get("load_in_4bit", settings.values.get("_load_in_4bit", False))
    bits = 4 if four is True or settings.name.endswith("4bit") else 8
    return Quantization(format=ModelFormat.BNB, name=f"{bits}-bit", bits=bits)


def _compressed(settings: _Settings) -> Quantization:
    """Return what a container of compressed-tensors or of ModelOpt's newer exports holds."""
    groups = settings.values.get("config_groups")
    found = (
        [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        if isinstance(groups, dict)
        else []
    )
    weights = next((entry for entry in found if isinstance(entry, dict)), None)
    if weights is None:
        raise _unknown(settings.path, "compressed-tensors without quantized weights")
    bits, kind = weights.get("num_bits"), weights.get("type")
    if kind == "float" and bits == 8:
        return _FP8
    if kind == "float" and bits == 4:
        own = str(settings.values.get("format", ""))
        return Quantization(format=ModelFormat.FP4, name="mxfp4" if own.startswith("mxfp4") else "nvfp4", bits=4)
    if kind == "int":
        return _integers(settings.path, ModelFormat.GPTQ, bits)
    raise _unknown(
        settings.path, f"compressed-tensors with {str(bits)[:20]}-bit weights of the type {str(kind)[:20]!r}"
    )


def _modelopt(settings: _Settings) -> Quantization:
    algorithm = settings.values.get("quant_algo")
    if algorithm is None and isinstance(settings.values.get("config_groups"), dict):
        return _compressed(settings)
    wanted = str(algorithm).upper() if algorithm is not None else {"modelopt-fp4": "NVFP4"}.get(settings.name, "FP8")
    if wanted in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO"):
        return _FP8
    if wanted in ("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4"):
        return Quantization(format=ModelFormat.FP4, name="nvfp4", bits=4)
    if wanted in ("W4A16_AWQ", "W4A8_AWQ"):
        return Quantization(format=ModelFormat.AWQ, name="Int4", bits=4)
    raise _unknown(settings.path, f"ModelOpt's {wanted[:40]!r}")


_READERS: Mapping[str, Callable[[_Settings], Quantization]] = {
    "gptq": _gptq_or_awq,
    "awq": _gptq_or_awq,
    "fp8": lambda _: _FP8,
    "fbgemm-fp8": lambda _: _FP8,
    "mxfp4": _fp4,
    "nvfp4": _fp4,
    "bitsandbytes": _bitsandbytes,
    "bitsandbytes-4bit": _bitsandbytes,
    "bitsandbytes-8bit": _bitsandbytes,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "modelopt-fp8": _modelopt,
}


def _unknown(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path} names {what}, which is not known; known are {_KNOWN}", fix=_FIX)


def count_parameters(tensors: Iterable[SafetensorsTensor], quantization: Quantization) -> int:
    """Return the number of weights; see the top of this module for what counts."""
    return sum(_weights_in(tensor, quantization) for tensor in tensors)


def _weights_in(tensor: SafetensorsTensor, quantization: Quantization) -> int:
    name = tensor.name
    if name.endswith(_BUFFERS) or (name.endswith(_MASKS) and len(tensor.shape) == 4):
        return 0
    if quantization.name is None:
        return tensor.elements
    if name.endswith(_HELPERS) or ".quant_state." in name:
        return 0
    bits = quantization.bits
    if bits and tensor.dtype in ("I32", "U32") and name.endswith(_WORD_SUFFIXES):
        return tensor.elements * 32 // bits
    if bits and bits <= 4 and tensor.dtype == "U8" and name.endswith(_BYTE_SUFFIXES):
        return tensor.elements * 8 // bits
    return tensor.elements


def name_dtype(sizes: Counter[str]) -> str | None:
    """Return the type of most of the data as people write it: `bf16`."""
    if not sizes:
        return None
    dtype = sizes.most_common(1)[0][0]
    return _DTYPE_NAMES.get(dtype, dtype.lower())
