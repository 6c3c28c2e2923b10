"""Unpack the weights of an old family: `mapped_tensors` yields LLaMA's tensors, file by file.

One file is open at a time, and one tensor is in memory at a time. What is missing at the end, left over or of another
shape than the configuration says is an error: an engine would fill it with random numbers. Pickled weights are read
only when they were asked for, and even then as data (`weights_only`), never as code.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmrun.engines.old_families.mapping import FamilyMapping, Packing
from llmrun.errors import ModelFileError
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.weights import read_weights

__all__ = ["map_tensor", "mapped_tensors", "tensors_by_file"]

_AGAIN = "download it again"
_BUFFERS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "future_mask")
_PICKLES = re.compile(r"pytorch_model(?:-\d{5}-of-\d{5})?\.bin")
# InternLM2's names for LLaMA's modules.
_INTERNLM2 = {
    "tok_embeddings": "embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_PACKED = {Packing.STACKED: "self_attn.W_pack.", Packing.GROUPED: "attention.wqkv."}


def mapped_tensors(folder: Path, mapping: FamilyMapping, *, pickle: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of everything that the LLaMA has.

    Args:
        folder: The model.
        mapping: From `find_mapping`.
        pickle: Read pickled weights where there are no others.

    Raises:
        ModelFileError: A tensor is missing, left over, or has another shape than it must.
        SecurityError: The only weights are pickles, and they were not asked for.
    """
    for _, tensors in tensors_by_file(folder, mapping, pickle=pickle):
        yield from tensors


def tensors_by_file(
    folder: Path, mapping: FamilyMapping, *, pickle: bool = False
) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
    """Yield the name of each weight file with the tensors that come of it; each must be used up before the next."""
    missing = set(mapping.tensor_names())
    for name, read in _files(folder, pickle=pickle):
        yield name, _mapped(folder / name, read, mapping, missing)
    if missing:
        first = min(missing)
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise ModelFileError(
            f"{folder} is incomplete: nothing in it makes {first}{more}, which {mapping.architecture} needs", fix=_AGAIN
        )


def _mapped(
    path: Path, read: Callable[[Path], Iterator[tuple[str, Any]]], mapping: FamilyMapping, missing: set[str]
) -> Iterator[tuple[str, Any]]:
    for name, tensor in read(path):
        for new_name, made in map_tensor(name, tensor, mapping, path):
            if new_name not in missing:
                raise ModelFileError(
                    f"{path} has a tensor that {mapping.architecture} has no place for: {name[:100]}", fix=_AGAIN
                )
            missing.remove(new_name)
            yield new_name, made


def map_tensor(name: str, tensor: Any, mapping: FamilyMapping, path: Path) -> list[tuple[str, Any]]:
    """Return what a tensor of the original is in LLaMA: none, one or several tensors; `path` is for messages.

    Raises:
        ModelFileError: Its shape is not what the configuration says.
    """
    if name.endswith(_BUFFERS):
        return []  # computed, not learned
    packed = _PACKED.get(mapping.packing)
    if packed and packed in name:
        _check_rows(name, tensor, mapping, path)
        parts = _split_groups(tensor, mapping) if mapping.packing is Packing.GROUPED else _split(tensor, mapping)
        return [
            (name.replace(packed, f"self_attn.{part}_proj."), made) for part, made in zip("qkv", parts, strict=True)
        ]
    if mapping.packing is Packing.GROUPED:
        name = _internlm2_name(name)
    if name == "lm_head.weight" and mapping.config["tie_word_embeddings"]:
        return []
    if name == "lm_head.weight" and mapping.normalised_head:
        return [(name, _normalise(tensor))]
    return [(name, tensor)]


def _check_rows(name: str, tensor: Any, mapping: FamilyMapping, path: Path) -> None:
    rows = (mapping.query_heads + 2 * mapping.key_heads) * mapping.head_size
    if not tensor.ndim or tensor.shape[0] != rows:
        raise ModelFileError(
            f"{path}: {name[:100]} must have {rows:,} rows by config.json, and its shape is {tuple(tensor.shape)}",
            fix=_AGAIN,
        )


def _split(tensor: Any, mapping: FamilyMapping) -> tuple[Any, ...]:
    """All queries, all keys, all values."""
    sizes = [heads * mapping.head_size for heads in (mapping.query_heads, mapping.key_heads, mapping.key_heads)]
    return tuple(part.contiguous() for part in tensor.split(sizes))


def _split_groups(tensor: Any, mapping: FamilyMapping) -> tuple[Any, ...]:
    """For each key head: its queries, the key, the value."""
    rest = tuple(tensor.shape[1:])
    queries = mapping.query_heads // mapping.key_heads
    groups = tensor.reshape(mapping.key_heads, queries + 2, mapping.head_size, *rest)
    parts = (groups[:, :queries], groups[:, queries], groups[:, queries + 1])
    return tuple(part.reshape(-1, *rest).contiguous() for part in parts)


def _normalise(tensor: Any) -> Any:
    """Divide each row by its length, which Baichuan2's output layer does before its first use."""
    rows = tensor.float()
    return (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).to(tensor.dtype)


def _internlm2_name(name: str) -> str:
    if name.startswith("output."):
        return f"lm_head.{name.removeprefix('output.')}"
    for old, new in _INTERNLM2.items():
        if f".{old}." in name:
            return name.replace(f".{old}.", f".{new}.")
    return name


def _files(folder: Path, *, pickle: bool) -> list[tuple[str, Callable[[Path], Iterator[tuple[str, Any]]]]]:
    """Return the weight files, each with what reads it; the headers of safetensors files are checked first."""
    source = LocalFolder(folder)
    pickles = sorted(name for name in source.sizes if _PICKLES.fullmatch(name))
    if pickle and pickles and not any(name.endswith(".safetensors") for name in source.sizes):
        return [(name, _read_pickle) for name in pickles]
    return [(header.name, _read_safetensors) for header in read_weights(source)]


def _read_safetensors(path: Path) -> Iterator[tuple[str, Any]]:
    safetensors: Any = importlib.import_module("safetensors")
    with safetensors.safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping: it has no __iter__)
            yield name, file.get_tensor(name)


def _read_pickle(path: Path) -> Iterator[tuple[str, Any]]:
    torch: Any = importlib.import_module("torch")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"{path} cannot be read as weights: {line[:200]}", fix=_AGAIN) from error
    yield from found.items()
