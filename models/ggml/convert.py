"""Write the GGUF of a legacy llama: the same weights, byte for byte, under the names and with the facts of today.

Nothing is quantized again. The blocks of all types have been the same since June 2023, and files from before that have
only types that never changed; others are refused when the header is read. What legacy files never said has to come from
elsewhere: the epsilon of the norms, the context length, the base of the rotation.

The whole is written beside its target under another name, flushed, checked by whoever asked for it, and then renamed:
a file under the final name is always whole.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.errors import ModelFileError, StorageError, UsageError
from llmrun.models.ggml.header import read_ggml_header
from llmrun.models.ggml.tokens import read_spm_vocabulary
from llmrun.models.ggml.types import GgmlHeader, GgmlTensorPlace
from llmrun.models.ggml.vocabulary import read_tokens
from llmrun.models.store.errors import NO_SPACE, free_bytes
from llmrun.progress import Progress

__all__ = ["LlamaFacts", "convert_llama", "default_target", "read_convertible", "tensor_name"]

_ALIGNMENT = 32
_CHUNK_BYTES = 8 << 20
_HEADER_ROOM_BYTES = 8 << 20
_QUANTIZATION_VERSION = 2  # Source: GGML_QNT_VERSION (ggml.h)
_SUFFIXES = (".bin", ".ggmlv3", ".ggml")
_WHOLE = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
_IN_LAYER = {
    "attention_norm": "attn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaFacts:
    """What a legacy file does not say of its model.

    Attributes:
        name: Of the model.
        context_length: Tokens that it was trained for.
        rms_epsilon: Of its norms.
        rope_base: Of the rotation of its positions.
        chat_template: Jinja source, or None.
    """

    name: str
    context_length: int
    rms_epsilon: float
    rope_base: float
    chat_template: str | None = None


def default_target(path: Path) -> Path:
    """Return where a conversion goes when nothing is said: `NAME.ggmlv3.q4_0.bin` becomes `NAME.q4_0.gguf`."""
    stem = path.name
    for suffix in _SUFFIXES:
        head, found, tail = stem.rpartition(suffix)
        if found and (not tail or tail.startswith(".")):
            stem = head + tail
    return path.with_name(f"{stem}.gguf")


def read_convertible(path: Path) -> GgmlHeader:
    """Read a legacy file that can become a GGUF.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: It is no legacy model, is damaged, or is of another kind than llama.
    """
    header = read_ggml_header(path)
    if header.model_type != "llama":
        raise ModelFileError(
            f"{path} is a {header.model_type}, and only models of the llama kind are converted",
            fix=f"run it as it is: llmrun run {path} --engine ctransformers",
        )
    return header


def tensor_name(legacy: str) -> str:
    """Return the name in a GGUF of a llama's tensor: `layers.0.attention.wq.weight` is `blk.0.attn_q.weight`."""
    stem = legacy.removesuffix(".weight")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.weight"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_IN_LAYER[part]}.weight"


def convert_llama(
    header: GgmlHeader,
    target: Path,
    facts: LlamaFacts,
    *,
    overwrite: bool,
    progress: Progress,
    check: Callable[[Path], None],
) -> None:
    """Write the GGUF of a llama.

    Args:
        header: What the legacy file says.
        target: Where it is to be.
        facts: What the file does not say.
        overwrite: Whether a file that is there may be replaced.
        progress: Shows how much was written.
        check: Gets the finished file under a temporary name; whatever it raises keeps it from being put in place.

    Raises:
        UsageError: There is a file already, or the target is the legacy file itself.
        ModelFileError: The vocabulary is of another tokenizer, or the file changed meanwhile.
        StorageError: The disk is full, or cannot be written.
    """
    _check_target(header, target, overwrite=overwrite)
    vocabulary = read_spm_vocabulary(header.path, read_tokens(header))
    wanted = sum(tensor.size_bytes for tensor in header.tensors) + _HEADER_ROOM_BYTES
    free = free_bytes(target.parent)
    if free < wanted:
        raise StorageError(
            f"{target.name} needs {wanted:,} bytes, and {free:,} are free in {target.parent}",
            fix="make room, or name a file on another disk: --output FILE",
        )
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    with _storage(target):
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    try:
        with _storage(target):
            _write_header(partial, header, facts, vocabulary)
        _append_tensors(header, partial, target, progress)
        check(partial)
        with _storage(target):
            os.replace(partial, target)  # noqa: PTH105 - says what it is
            _flush_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _check_target(header: GgmlHeader, target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}")
    if target.exists() and (target.is_dir() or target.samefile(header.path)):
        raise UsageError(f"{target} is {'a folder' if target.is_dir() else 'the file to be converted'}")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already", fix="--force replaces it; --output FILE names another")


def _write_header(partial: Path, header: GgmlHeader, facts: LlamaFacts, vocabulary: Any) -> None:
    """Write everything but the weights, with the `gguf` package."""
    import numpy
    from gguf import GGMLQuantizationType, GGUFWriter

    shape = header.shape
    writer = GGUFWriter(None, "llama")
    writer.add_name(facts.name)
    writer.add_context_length(facts.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(facts.rope_base)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(facts.rms_epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(shape.file_type)
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary.texts)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    if facts.chat_template is not None:
        writer.add_chat_template(facts.chat_template)
    for tensor in header.tensors:
        rows_first = tuple(reversed(tensor.dimensions))
        kind = GGMLQuantizationType(tensor.type_number)
        name = tensor_name(tensor.name)
        writer.add_tensor_info(name, rows_first, numpy.dtype("float32"), tensor.size_bytes, raw_dtype=kind)
    writer.write_header_to_file(path=partial)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _append_tensors(header: GgmlHeader, partial: Path, target: Path, progress: Progress) -> None:
    """Copy the weights behind the header, each at a multiple of the alignment, and flush them to the disk."""
    progress.begin(f"writing {target.name}", sum(tensor.size_bytes for tensor in header.tensors))
    try:
        with _storage(target), header.path.open("rb", buffering=0) as source, partial.open("ab", buffering=0) as sink:
            _write(sink.fileno(), bytes(-os.fstat(sink.fileno()).st_size % _ALIGNMENT))
            for tensor in header.tensors:
                for chunk in _chunks(source.fileno(), header.path, tensor):
                    _write(sink.fileno(), chunk)
                    progress.advance(len(chunk))
                _write(sink.fileno(), bytes(-tensor.size_bytes % _ALIGNMENT))
            os.fsync(sink.fileno())
    finally:
        progress.finish()


def _chunks(descriptor: int, path: Path, tensor: GgmlTensorPlace) -> Iterator[bytes]:
    position, end = tensor.offset, tensor.offset + tensor.size_bytes
    while position < end:
        chunk = os.pread(descriptor, min(_CHUNK_BYTES, end - position), position)
        if not chunk:
            raise ModelFileError(f"{path} became shorter while it was read", fix="download the file again")
        yield chunk
        position += len(chunk)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage(target: Path) -> Iterator[None]:
    """Turn what the operating system says about the files into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageError(
                f"the disk is full: cannot write {target}; nothing was left of it",
                fix="make room, or name a file on another disk: --output FILE",
            ) from error
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
