"""Write a model of an old family once more, as the LLaMA that it is: `converted_copy`.

For engines that only read folders. The copy is kept in the cache under a name made of what the original's files are
(path, size, time), so that it is made once, and again when the original changes. It appears under that name whole or
not at all: the files are written into a folder beside it, which is renamed last. Its weight files are as large as the
original's, and one of them is in memory at a time.
"""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmrun.engines.old_families.mapping import FamilyMapping
from llmrun.engines.old_families.tensors import tensors_by_file
from llmrun.errors import ModelFileError, StorageError
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.json import find_json

__all__ = ["converted_copy"]

_VERSION = 1
_COPIED = (
    *("generation_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "tokenizer.json"),
    *("chat_template.jinja", "chat_template.json"),
)
_SPARE_BYTES = 64 * 1024**2


def converted_copy(
    folder: Path,
    mapping: FamilyMapping,
    cache_folder: Path,
    progress: Callable[[float], None],
    *,
    pickle: bool = False,
) -> Path:
    """Return a folder with the same model as LLaMA, after making it if it is not there.

    Args:
        folder: The original.
        mapping: From `find_mapping`.
        cache_folder: Where copies are kept.
        progress: Gets the share that has been written.
        pickle: Read pickled weights where there are no others.

    Raises:
        ModelFileError: A tensor is missing or left over, or the model cannot be stored as plain LLaMA.
        SecurityError: The only weights are pickles, and they were not asked for.
        StorageError: There is no room for it, or it cannot be written.
    """
    if mapping.alibi:
        raise ModelFileError(
            f"{folder} cannot be stored as LLaMA: its positions are ALiBi, and LLaMA's are rotary",
            fix="--engine pytorch, which has both",
        )
    source = LocalFolder(folder)
    target = cache_folder / _name(source)
    if target.is_dir():
        return target
    _check_room(source, cache_folder)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=cache_folder))
    try:
        _write(source, mapping, made, progress, pickle=pickle)
        _move(made, target)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}", fix="llmrun models cache show"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _name(source: LocalFolder) -> str:
    """Return a name that changes whenever the original does."""
    rows = [f"{_VERSION} {source.path.resolve()}"]
    for name, size_bytes in sorted(source.sizes.items()):
        rows.append(f"{name} {size_bytes} {(source.path / name).stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _check_room(source: LocalFolder, cache_folder: Path) -> None:
    needed = sum(size for name, size in source.sizes.items() if name.endswith((".safetensors", ".bin"))) + _SPARE_BYTES
    free = shutil.disk_usage(cache_folder).free
    if free < needed:
        raise StorageError(
            f"a copy of {source.path} takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {cache_folder}",
            fix="llmrun models cache clear, or LLMRUN_CACHE_DIR on a larger disk",
        )


def _move(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, and its copy is the same
            raise


def _write(
    source: LocalFolder,
    mapping: FamilyMapping,
    made: Path,
    progress: Callable[[float], None],
    *,
    pickle: bool,
) -> None:
    places: dict[str, str] = {}
    count, total_bytes = len(mapping.tensor_names()), 0
    for number, (_, tensors) in enumerate(tensors_by_file(source.path, mapping, pickle=pickle), start=1):
        name = f"model-{number:05}.safetensors"
        state = dict(_counted(tensors, len(places), count, progress))
        total_bytes += sum(tensor.nbytes for tensor in state.values())
        if state:
            _save(state, made / name)
        places |= dict.fromkeys(state, name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": places}
    _write_file(made / "model.safetensors.index.json", json.dumps(index).encode())
    _write_file(made / "config.json", json.dumps(dict(mapping.config), indent=2).encode())
    _write_file(made / "tokenizer_config.json", json.dumps(_tokenizer_settings(source), indent=2).encode())
    for other in _COPIED:
        if other in source.sizes:
            _write_file(made / other, source.read(other, 0, source.sizes[other]))


def _counted(
    tensors: Iterator[tuple[str, Any]], before: int, count: int, progress: Callable[[float], None]
) -> Iterator[tuple[str, Any]]:
    for number, pair in enumerate(tensors, start=before + 1):
        progress(min(number / count, 1.0))
        yield pair


def _save(state: dict[str, Any], path: Path) -> None:
    save_file: Any = importlib.import_module("safetensors.torch").save_file
    _write_file(path, b"")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(path), metadata={"format": "pt"})
    path.chmod(0o600)


def _write_file(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _tokenizer_settings(source: LocalFolder) -> dict[str, Any]:
    """Return the settings without what leads to the tokenizer's own code."""
    settings = dict(find_json(source, "tokenizer_config.json") or {})
    settings.pop("auto_map", None)
    return settings | {"tokenizer_class": "LlamaTokenizer"}
