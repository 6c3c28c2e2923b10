"""Turn a GGUF header into the facts that the rest of llmrun plans with: `read_gguf_info`.

All checks run first, so a `ModelInfo` of a GGUF is a promise that native code will not abort on its header.
"""

from collections import Counter
from pathlib import Path

from llmrun.models.gguf.checks import check_architecture, check_embedding_table, check_model
from llmrun.models.gguf.header import read_gguf_header
from llmrun.models.gguf.layers import read_cached_blocks, read_sliding_window
from llmrun.models.gguf.sizes import read_expert_bytes, read_feed_forward_length, read_state_bytes
from llmrun.models.gguf.types import FILE_TYPE_NAMES, GgufHeader
from llmrun.models.gguf.values import find_array, find_text, find_whole, find_whole_or_each, need_whole
from llmrun.models.gguf.vocabulary import TOKENS_KEY, read_chat_templates, read_texts
from llmrun.models.gguf.vocabulary_checks import TOKENIZER_KEY, check_vocabulary, has_vocabulary, read_special_id
from llmrun.models.types import ModelFile, ModelFormat, ModelInfo, SpecialTokens

__all__ = ["describe_gguf", "read_gguf_info"]

_GUESSED = 1_024  # a bit that llama.cpp adds to a file type that it made up itself (llama.h)


def read_gguf_info(path: Path, *, family: str | None = None) -> ModelInfo:
    """Read and check a GGUF model, in milliseconds and without native code.

    Args:
        path: The file, or any part of a split model.
        family: Catalogue family, which is only handed on.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: The file is not a model, is damaged or incomplete, or is of an unknown kind.
    """
    return describe_gguf(read_gguf_header(path), family=family)


def describe_gguf(header: GgufHeader, *, family: str | None = None) -> ModelInfo:
    """Check a header that has been read, and return its facts.

    Raises:
        ModelFileError: A key is missing, impossible, or contradicts another.
    """
    warnings = _check(header)
    architecture = check_architecture(header)
    blocks = need_whole(header, f"{architecture}.block_count")
    heads = max(find_whole_or_each(header, f"{architecture}.attention.head_count", blocks) or (0,))
    key_length, value_length = _head_lengths(header, architecture, heads)
    window = read_sliding_window(header, architecture, blocks)
    tensor_types = _tensor_types(header)
    kv_heads = _kv_heads(header, architecture, blocks)
    return ModelInfo(
        format=ModelFormat.GGUF,
        architecture=architecture,
        name=find_text(header, "general.name"),
        parameters=sum(tensor.elements for tensor in header.tensors),
        quantization=_quantization(header, tensor_types),
        context_length=need_whole(header, f"{architecture}.context_length"),
        layers=blocks,
        embedding_length=need_whole(header, f"{architecture}.embedding_length"),
        heads=heads,
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        sliding_window=window.tokens if window else None,
        sliding_window_layers=window.blocks if window else (),
        window_key_length=find_whole(header, f"{architecture}.attention.key_length_swa") if window else None,
        window_value_length=find_whole(header, f"{architecture}.attention.value_length_swa") if window else None,
        feed_forward_length=read_feed_forward_length(header, architecture, blocks),
        state_bytes=read_state_bytes(header, architecture, kv_heads),
        vocabulary_size=_vocabulary_size(header, architecture),
        tensor_bytes=sum(tensor.size_bytes for tensor in header.tensors),
        tensor_types=tensor_types,
        experts=find_whole(header, f"{architecture}.expert_count") or 0,
        experts_used=max(find_whole_or_each(header, f"{architecture}.expert_used_count", blocks) or (0,)),
        expert_bytes=read_expert_bytes(header),
        tokenizer_model=find_text(header, TOKENIZER_KEY),
        tokenizer_pre=find_text(header, "tokenizer.ggml.pre"),
        chat_template=read_chat_templates(header).get("default"),
        special_tokens=_special_tokens(header),
        family=family,
        files=tuple(ModelFile(path=path, size_bytes=size_bytes) for path, size_bytes in header.parts),
        warnings=warnings,
    )


def _check(header: GgufHeader) -> tuple[str, ...]:
    """Run every check; return what is odd but not fatal."""
    check_model(header)
    warnings = [*header.warnings, *check_vocabulary(header)]
    if has_vocabulary(header):
        check_embedding_table(header, _vocabulary_size(header, check_architecture(header)))
    templates = read_chat_templates(header)
    if templates and "default" not in templates:
        warnings.append(f"the file has no default chat template, only {', '.join(sorted(templates))}")
    return tuple(warnings)


def _vocabulary_size(header: GgufHeader, architecture: str) -> int:
    tokens = find_array(header, TOKENS_KEY)
    if tokens is not None:
        return tokens.count
    return find_whole(header, f"{architecture}.vocab_size") or 0


def _head_lengths(header: GgufHeader, architecture: str, heads: int) -> tuple[int, int]:
    """Return the size of one key head and one value head as the KV cache stores them.

    Multi-head latent attention caches one compressed vector in place of keys and values: its value length is 0.
    Source: is_mla and has_v in llama.cpp's src/llama-kv-cache.cpp; the defaults in llama_model_base::load_hparams.
    """
    embedding = need_whole(header, f"{architecture}.embedding_length")
    default = embedding // heads if heads else 0
    key = find_whole(header, f"{architecture}.attention.key_length")
    value = find_whole(header, f"{architecture}.attention.value_length")
    latent = find_whole(header, f"{architecture}.attention.key_length_mla")
    return (default if key is None else key), (0 if latent else default if value is None else value)


def _kv_heads(header: GgufHeader, architecture: str, blocks: int) -> tuple[int, ...]:
    key = f"{architecture}.attention.head_count"
    heads = find_whole_or_each(header, key, blocks) or (0,) * blocks
    kv_heads = find_whole_or_each(header, f"{key}_kv", blocks) or heads
    cached = read_cached_blocks(header, architecture, blocks)
    return tuple(count if keeps else 0 for count, keeps in zip(kv_heads, cached, strict=True))


def _tensor_types(header: GgufHeader) -> tuple[tuple[str, int], ...]:
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type_name] += tensor.size_bytes
    return tuple(sizes.most_common())


def _quantization(header: GgufHeader, tensor_types: tuple[tuple[str, int], ...]) -> str | None:
    file_type = find_whole(header, "general.file_type")
    if file_type is not None and file_type & ~_GUESSED in FILE_TYPE_NAMES:
        return FILE_TYPE_NAMES[file_type & ~_GUESSED]
    return tensor_types[0][0] if tensor_types else None


def _special_tokens(header: GgufHeader) -> SpecialTokens:
    ids = {name: read_special_id(header, name) for name in ("bos", "eos", "unk", "pad")}
    tokens = find_array(header, TOKENS_KEY)
    known = [index for index in ids.values() if index is not None]
    texts = read_texts(header, tokens, known) if tokens is not None else {}
    add_bos = header.metadata.get("tokenizer.ggml.add_bos_token")
    return SpecialTokens(
        bos=texts.get(-1 if ids["bos"] is None else ids["bos"]),
        eos=texts.get(-1 if ids["eos"] is None else ids["eos"]),
        unk=texts.get(-1 if ids["unk"] is None else ids["unk"]),
        pad=texts.get(-1 if ids["pad"] is None else ids["pad"]),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        add_bos=add_bos if isinstance(add_bos, bool) else None,
    )
