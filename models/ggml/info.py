"""Turn a legacy file into the facts that the rest of llmrun plans with: `read_ggml_info`."""

import re
from collections import Counter
from pathlib import Path

from llmrun.errors import ModelFileError
from llmrun.models.ggml.header import read_ggml_header
from llmrun.models.ggml.types import LEGACY_TENSOR_TYPES, QUANTIZATION_FACTOR, WEIGHT_TYPES, GgmlHeader
from llmrun.models.gguf.types import FILE_TYPE_NAMES
from llmrun.models.types import ModelFile, ModelFormat, ModelInfo, SpecialTokens

__all__ = ["describe_ggml", "is_grouped_70b", "read_ggml_info"]

# Source: the pattern in models/llms/llama-ggml.cc of ctransformers 0.2.27, which is all that it knows of grouped heads
_SEVENTY = re.compile(r"(?:\b|_)70b(?:\b|_)", re.IGNORECASE)


def read_ggml_info(path: Path, family: str | None = None, model_type: str | None = None) -> ModelInfo:
    """Read and check a legacy model, in milliseconds and without native code.

    Args:
        path: The file.
        family: Catalogue family; tells the model type and the context length where the file does not.
        model_type: What the user says that it is.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: It is no legacy model, is damaged or incomplete, or no engine reads it any more.
        UsageError: There is no such model type.
    """
    return describe_ggml(read_ggml_header(path, family=family, model_type=model_type), family=family)


def describe_ggml(header: GgmlHeader, *, family: str | None = None) -> ModelInfo:
    """Return the facts of a file that has been read.

    Raises:
        ModelFileError: It needs another file beside it, which is not there.
    """
    shape = header.shape
    if header.model_type == "falcon" and not shape.merges:
        _need_merges(header)
    sizes: Counter[str] = Counter()
    parameters = 0
    for tensor in header.tensors:
        kind = LEGACY_TENSOR_TYPES[tensor.type_number]
        sizes[kind.name] += tensor.size_bytes
        parameters += tensor.size_bytes // kind.block_bytes * kind.block_size
    head = shape.width // shape.heads
    return ModelInfo(
        format=ModelFormat.GGML,
        architecture=header.model_type,
        architecture_source=header.type_source.value,
        parameters=parameters,
        quantization=_quantization(header),
        context_length=shape.context or _catalogue_context(family, parameters),
        layers=shape.layers,
        embedding_length=shape.width,
        heads=shape.heads,
        kv_heads=(shape.kv_heads,) * shape.layers,
        key_length=head,
        value_length=head,
        feed_forward_length=shape.feed_forward,
        vocabulary_size=shape.vocabulary,
        tensor_bytes=sum(sizes.values()),
        tensor_types=tuple(sizes.most_common()),
        tokenizer_model="llama" if header.model_type in ("llama", "replit") else "gpt2",
        special_tokens=_special_tokens(header),
        family=family,
        files=(ModelFile(path=header.path, size_bytes=header.size_bytes),),
        warnings=header.warnings + _warnings(header),
    )


def is_grouped_70b(path: Path) -> bool:
    """Return whether ctransformers takes a llama for one with eight query heads to a key head, by its file's name."""
    return _SEVENTY.search(str(path)) is not None


def _quantization(header: GgmlHeader) -> str:
    recipe = header.shape.file_type % QUANTIZATION_FACTOR
    if header.model_type in ("llama", "falcon"):
        return FILE_TYPE_NAMES[recipe]
    return LEGACY_TENSOR_TYPES[WEIGHT_TYPES[recipe]].name


def _warnings(header: GgmlHeader) -> tuple[str, ...]:
    """Say when ctransformers, which counts no key heads, will take the file for what it is not."""
    if header.model_type != "llama":
        return ()
    each = header.shape.heads // header.shape.kv_heads
    if each not in (1, 8):
        return (f"ctransformers reads no llama with {each} query heads to a key head: convert it",)
    if is_grouped_70b(header.path) != (each == 8):
        wanted = "with" if each == 8 else "without"
        return (f"ctransformers reads this file only under a path {wanted} `70b` in it: rename it, or convert it",)
    return ()


def _catalogue_context(family: str | None, parameters: int) -> int | None:
    """Return the context length of the family's legacy file that is nearest in size, or None."""
    if family is None:
        return None
    from llmrun.errors import ModelNotFoundError
    from llmrun.models.catalogue import find_family

    try:
        variants = [variant for variant in find_family(family).variants if variant.format is ModelFormat.GGML]
    except ModelNotFoundError:
        return None
    nearest = min(variants, key=lambda variant: abs(variant.parameters_billion * 1e9 - parameters), default=None)
    return nearest.context_length if nearest else None


def _special_tokens(header: GgmlHeader) -> SpecialTokens:
    if header.model_type == "llama":
        return SpecialTokens(bos="<s>", eos="</s>", unk="<unk>", bos_id=1, eos_id=2, add_bos=True)
    if header.model_type == "falcon":
        # Source: falcon_token_eos in models/ggml/libfalcon.cpp of ctransformers 0.2.27
        return SpecialTokens(eos="<|endoftext|>", eos_id=11, add_bos=False)
    end = header.special.get("<|endoftext|>")
    text = "<|endoftext|>" if end is not None else None
    return SpecialTokens(bos=text, eos=text, bos_id=end, eos_id=end, add_bos=False)


def _need_merges(header: GgmlHeader) -> None:
    """Refuse a falcon whose merges are nowhere: the loader ends the process then."""
    beside = header.path.with_name("tokenizer.json")
    if not beside.is_file():
        raise ModelFileError(
            f"{header.path} is an old falcon file without merges, and needs the model's tokenizer.json beside it",
            fix=f"download tokenizer.json of the model into {header.path.parent}",
        )
