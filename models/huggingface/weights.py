"""Find the weights of a model folder, and read the headers of all their files.

`model.safetensors` alone, or the shards that `model.safetensors.index.json` names, or safetensors files with names of
their own. Complete or refused: an engine fills a missing tensor with random numbers and answers nonsense. Refused too:
a folder whose only weights are pickles, and an index that leads out of the folder.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from llmrun.errors import ModelFileError, SecurityError
from llmrun.models.file_source import FileSource
from llmrun.models.hub.choice import is_pickle_only
from llmrun.models.huggingface.json import find_json
from llmrun.models.huggingface.safetensors import (
    MAX_TENSORS,
    SafetensorsHeader,
    SafetensorsTensor,
    read_safetensors_header,
)

__all__ = ["INDEX_NAME", "all_tensors", "pickled_weights", "read_weights"]

INDEX_NAME = "model.safetensors.index.json"
_SINGLE_NAME = "model.safetensors"
_ADAPTER_NAME = "adapter_model.safetensors"
_MAX_SHARDS = 2_000
_MAX_INDEX_BYTES = 48 * 1024**2  # a row for each of as many tensors as a model may have
_AGAIN = "download it again"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_SHOWN_NAMES = 5


def read_weights(source: FileSource) -> tuple[SafetensorsHeader, ...]:
    """Read the headers of all weight files of a folder, sorted by file name.

    Raises:
        ModelFileError: A file or tensor is missing or damaged, or there are no weights.
        SecurityError: The only weights are pickles, or the index names a file outside the folder.
        NetworkError: The server failed.
    """
    index = None if _SINGLE_NAME in source.sizes else find_json(source, INDEX_NAME, max_bytes=_MAX_INDEX_BYTES)
    promised = _read_index(source, index) if index is not None else {}
    names = sorted(set(promised.values())) if promised else _unlisted_names(source)
    headers = tuple(read_safetensors_header(source, name) for name in names)
    present: dict[str, str] = {}
    for header in headers:
        _add_tensors(source, present, header)
    missing = sorted(name for name in promised if name not in present)
    if missing:
        raise ModelFileError(
            f"{source.path} is incomplete: {len(missing):,} of the {len(promised):,} tensors that {INDEX_NAME} names "
            f"are in none of its files, the first is {missing[0][:100]} of {promised[missing[0]]}",
            fix=_AGAIN,
        )
    if not present:
        raise ModelFileError(f"{source.path} has weight files without a single tensor", fix=_AGAIN)
    return headers


def _add_tensors(source: FileSource, present: dict[str, str], header: SafetensorsHeader) -> None:
    for tensor in header.tensors:
        other = present.setdefault(tensor.name, header.name)
        if other != header.name:
            raise ModelFileError(f"{source.path}: tensor {tensor.name[:100]} is in {other} and in {header.name}")
    if len(present) > MAX_TENSORS:
        raise ModelFileError(f"{source.path} has more than {MAX_TENSORS:,} tensors")


def _read_index(source: FileSource, index: Mapping[str, Any]) -> dict[str, str]:
    """Return the file of each tensor, after checking that the files are in this folder."""
    path, weights = source.path / INDEX_NAME, index.get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise ModelFileError(f"{path} must have a weight_map with the file of each tensor", fix=_AGAIN)
    names = sorted(set(weights.values()))
    for name in names:
        _check_shard_name(source, name)
    if len(names) > _MAX_SHARDS:
        raise ModelFileError(f"{path} names {len(names):,} files, more than the {_MAX_SHARDS:,} of any model")
    if len(weights) > MAX_TENSORS:
        raise ModelFileError(f"{path} names more than {MAX_TENSORS:,} tensors")
    missing = [name for name in names if name not in source.sizes]
    if missing:
        raise ModelFileError(
            f"{source.path} is incomplete: {len(missing)} of its {len(names)} weight files are missing: "
            f"{_listed(missing)}",
            fix=_AGAIN,
        )
    return weights


def _check_shard_name(source: FileSource, name: str) -> None:
    safe = name and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0", ":"))
    if not safe:
        raise SecurityError(
            f"{source.path / INDEX_NAME} names {name[:100]!r} as a weight file, "
            "which would be outside the model's folder",
            fix="do not use this model: take it from another publisher",
        )
    if not name.endswith(".safetensors"):
        raise SecurityError(
            f"{source.path / INDEX_NAME} names {name[:100]!r} as a weight file, which is not a safetensors file",
            fix="do not use this model: take it from another publisher",
        )


def _unlisted_names(source: FileSource) -> list[str]:
    """Return the weight files of a folder without an index."""
    if _SINGLE_NAME in source.sizes:
        return [_SINGLE_NAME]
    found = sorted(name for name in source.sizes if name.endswith(".safetensors") and "/" not in name)
    names = [name for name in found if name != _ADAPTER_NAME]
    if not names:
        _refuse_without_weights(source, adapter=bool(found))
    # The original format of some publishers, beside the same weights under other names.
    others = [name for name in names if not name.startswith("consolidated")]
    names = others or names
    parts = [match for match in map(_SHARD.fullmatch, names) if match]
    for match in parts[:1]:
        count = int(match["count"])
        numbers = {int(part["number"]) for part in parts if part["stem"] == match["stem"]}
        missing = [number for number in range(1, min(count, _MAX_SHARDS) + 1) if number not in numbers]
        what = f"part {missing[0]} of {count} of its weights" if missing else INDEX_NAME
        raise ModelFileError(f"{source.path} is incomplete: {what} is missing", fix=_AGAIN)
    return names


def _refuse_without_weights(source: FileSource, *, adapter: bool) -> NoReturn:
    names = sorted(source.sizes)
    if adapter:
        raise ModelFileError(
            f"{source.path} is an adapter (LoRA), not a model: it changes another model's weights",
            fix="merge it into its base model, and name the folder of the result",
        )
    if is_pickle_only(names):
        raise SecurityError(
            f"{source.path} has its weights only as pickles ({_listed(_pickles(names))}), which can run any code when "
            "they are loaded",
            fix="a version of the model with .safetensors or .gguf files; --allow-pickle loads these",
        )
    if any(name.endswith(".gguf") for name in names):
        raise ModelFileError(f"{source.path} has no safetensors files, only GGUF", fix="name the .gguf file")
    raise ModelFileError(f"{source.path} has no weights: not one .safetensors file", fix=_AGAIN)


def pickled_weights(source: FileSource) -> dict[str, int]:
    """Return the sizes in bytes of the pickles of a folder that has no other weights; empty when it has."""
    if not is_pickle_only(source.sizes):
        return {}
    return {name: source.sizes[name] for name in _pickles(sorted(source.sizes)) if not name.startswith("training_")}


def _pickles(names: list[str]) -> list[str]:
    return [name for name in names if name.lower().endswith((".bin", ".pt", ".pth", ".ckpt"))]


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + rest


def all_tensors(headers: tuple[SafetensorsHeader, ...]) -> tuple[SafetensorsTensor, ...]:
    """Return the tensors of all files in one sequence."""
    return tuple(tensor for header in headers for tensor in header.tensors)
