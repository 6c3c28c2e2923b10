"""Turn a Hugging Face model folder into the facts that the rest of llmrun plans with: `read_folder_info`.

The folder may be on this disk (`LocalFolder`) or a repository that is read by ranges; only config files and the headers
of the weights are read, no engine is imported, and no code of the model runs. Whatever is read comes from strangers:
the folder is complete and consistent as far as headers can tell, or it is refused with the reason.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmrun.errors import ModelFileError
from llmrun.models.file_source import FileSource
from llmrun.models.hub.choice import hugging_face_files
from llmrun.models.huggingface.checks import check_tensors
from llmrun.models.huggingface.config import Config, open_config
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.json import find_json
from llmrun.models.huggingface.layers import Attention, read_attention
from llmrun.models.huggingface.quantization import Quantization, count_parameters, name_dtype, read_quantization
from llmrun.models.huggingface.safetensors import SafetensorsTensor
from llmrun.models.huggingface.tokenizer import read_tokenizer
from llmrun.models.huggingface.weights import all_tensors, pickled_weights, read_weights
from llmrun.models.types import ModelFile, ModelFormat, ModelInfo

__all__ = ["LocalFolder", "read_folder_info"]

_CONFIG_NAME = "config.json"
_HIGHEST_CONTEXT = 2**31 - 1
# Stored in one tensor for all experts, or in one for each; a shared expert runs for every token and is not among them.
_EXPERT = re.compile(r"\.experts?\.|\.experts_|block_sparse_moe\.(?:input|output)_linear\.")
# Scaling that max_position_embeddings has in it already. Source: _get_and_verify_max_len in vllm/config/model.py
_SCALED_ALREADY = frozenset({"", "default", "su", "longrope", "llama3", "mrope", "proportional"})
_HIGHEST_FACTOR = 10_000


def read_folder_info(source: FileSource, *, family: str | None = None, pickle: bool = False) -> ModelInfo:
    """Read and check a Hugging Face model folder, without its weights and without any engine.

    Args:
        source: The folder or repository.
        family: Catalogue family, which is only handed on.
        pickle: Accept weights that are pickles. They are not opened: what they hold is judged by their size.

    Raises:
        ModelFileError: A file is missing, damaged, incomplete, of an unknown kind, or contradicts another.
        SecurityError: The weights are pickles, or the index names files outside the folder.
        NetworkError: The server failed.
    """
    outer = find_json(source, _CONFIG_NAME)
    if outer is None:
        raise ModelFileError(f"{source.path} has no {_CONFIG_NAME}", fix="name a folder that holds a whole model")
    config = open_config(source.path / _CONFIG_NAME, outer)
    quantization = read_quantization(source, outer, config.values)
    attention = read_attention(config)
    tokenizer = read_tokenizer(source, outer, config.values)
    pickles = pickled_weights(source) if pickle else {}
    tensors = () if pickles else all_tensors(read_weights(source))
    if not tokenizer.present:
        raise ModelFileError(
            f"{source.path} has no tokenizer: neither tokenizer.json nor another vocabulary", fix="download it again"
        )
    odd = () if pickles else check_tensors(config, _architecture(config), attention.layers, tensors, quantization)
    info = _describe(config, attention, quantization, tensors)
    if pickles:
        info = _with_size(info, sum(pickles.values()))
    return replace(
        info,
        chat_template=tokenizer.chat_template,
        family=family,
        files=_files(source),
        remote_code=_brings_code(config) or tokenizer.remote_code,
        special_tokens=tokenizer.special_tokens,
        tokenizer_model=tokenizer.model,
        warnings=(*info.warnings, *odd, *tokenizer.warnings),
    )


def _with_size(info: ModelInfo, size_bytes: int) -> ModelInfo:
    """Return the facts with what the size of pickles tells: 16 bits a weight, as nearly all of them are stored."""
    note = "the weights are pickles: what is in them was not checked"
    return replace(
        info,
        parameters=size_bytes // 2,
        tensor_bytes=size_bytes,
        tensor_types=(("F16", size_bytes),),
        warnings=(*info.warnings, note),
    )


def _describe(
    config: Config, attention: Attention, quantization: Quantization, tensors: Sequence[SafetensorsTensor]
) -> ModelInfo:
    """Return what config.json and the tensors say."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.size_bytes
    context_length, warnings = _context_length(config)
    experts, experts_used, expert_bytes = _experts(config, tensors)
    return ModelInfo(
        format=quantization.format,
        architecture=_architecture(config),
        name=_name(config.outer),
        parameters=count_parameters(tensors, quantization),
        quantization=_quantization_name(quantization, sizes),
        context_length=context_length,
        layers=attention.layers,
        embedding_length=attention.embedding_length,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        key_length=attention.key_length,
        value_length=attention.value_length,
        sliding_window=attention.sliding_window,
        sliding_window_layers=attention.sliding_window_layers,
        window_key_length=attention.window_key_length,
        window_value_length=attention.window_value_length,
        vocabulary_size=config.need("vocab_size"),
        tensor_bytes=sum(tensor.size_bytes for tensor in tensors),
        tensor_types=tuple(sizes.most_common()),
        experts=experts,
        experts_used=experts_used,
        expert_bytes=expert_bytes,
        warnings=warnings,
    )


def _brings_code(config: Config) -> bool:
    return bool(config.outer.get("auto_map")) or bool(config.values.get("auto_map"))


def _architecture(config: Config) -> str:
    listed = config.outer.get("architectures")
    if listed is None and config.model_type:
        return ""  # a base model that was saved without its class; engines decide by model_type
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], str) or not listed[0].isidentifier():
        raise ModelFileError(f"{config.path}: architectures must name the model's class, and is {str(listed)[:80]}")
    return listed[0][:200]


def _name(outer: Mapping[str, Any]) -> str | None:
    name = outer.get("_name_or_path")
    # Training scripts leave their own folders here.
    return name[:200] if isinstance(name, str) and name and not name.startswith(("/", ".", "~")) else None


def _quantization_name(quantization: Quantization, sizes: Counter[str]) -> str | None:
    return name_dtype(sizes) if quantization.format is ModelFormat.PYTORCH else quantization.name


def _files(source: FileSource) -> tuple[ModelFile, ...]:
    return tuple(
        ModelFile(path=source.path / name, size_bytes=source.sizes[name]) for name in hugging_face_files(source.sizes)
    )


def _context_length(config: Config) -> tuple[int | None, tuple[str, ...]]:
    """Return the tokens that the model takes, stretched as its rope scaling says, and what is odd."""
    base = config.whole("max_position_embeddings", lowest=1, highest=_HIGHEST_CONTEXT)
    scaling = config.values.get("rope_scaling") or config.values.get("rope_parameters")
    if base is None or not isinstance(scaling, dict) or "gemma3" in config.model_type:
        return base, ()
    kind = scaling.get("rope_type", scaling.get("type", ""))
    factor = scaling.get("factor")
    if not isinstance(kind, str) or kind in _SCALED_ALREADY or factor is None:
        return base, ()
    if not isinstance(factor, int | float) or not 1 <= factor <= _HIGHEST_FACTOR:
        return base, (f"rope scaling by {str(factor)[:20]} is not one: ignored",)
    original = scaling.get("original_max_position_embeddings")
    if kind == "yarn" and original is not None:
        start = config.check_whole("original_max_position_embeddings", original, lowest=1, highest=_HIGHEST_CONTEXT)
        return min(max(base, round((start or 0) * factor)), _HIGHEST_CONTEXT), ()
    return min(round(base * factor), _HIGHEST_CONTEXT), ()


def _experts(config: Config, tensors: Sequence[SafetensorsTensor]) -> tuple[int, int, int]:
    """Return how many experts there are, how many a token uses, and the bytes of all of them."""
    mixture = config.part("ffn_config")
    count = config.check_whole("moe_num_experts", mixture.get("moe_num_experts"), highest=2**16)
    used = config.check_whole("moe_top_k", mixture.get("moe_top_k"), highest=2**16)
    count = config.largest("num_experts", highest=2**16) if count is None else count
    used = config.largest("num_experts_per_tok", highest=2**16) if used is None else used
    expert_bytes = sum(tensor.size_bytes for tensor in tensors if _EXPERT.search(tensor.name))
    if not count or not expert_bytes:
        return 0, 0, 0
    return count, min(used or 0, count), expert_bytes
