"""What models/ hands to the rest of llmrun: references, files and facts read from headers. Plain frozen values."""

from dataclasses import field
from enum import StrEnum
from pathlib import Path

from llmrun.values import value

__all__ = ["LocalModel", "ModelFile", "ModelFormat", "ModelInfo", "ModelRef", "RefKind", "Segment", "SpecialTokens"]


class RefKind(StrEnum):
    """The four ways to name a model on the command line."""

    CATALOGUE = "catalogue"
    PATH = "path"
    HUB = "hub"
    PYPI = "pypi"


@value
class ModelRef:
    """What the user typed, parsed; nothing has been looked up yet.

    Attributes:
        text: Exactly what was typed, for messages.
        kind: Which of the four forms it has.
        name: Catalogue name, path, `ORG/REPO`, or distribution name.
        tag: What follows the colon: a catalogue tag (`13b-q5_k_m`), or a file name or quantization on the hub.
        revision: Branch, tag or commit on the hub; the version for a distribution.
    """

    text: str
    kind: RefKind
    name: str
    tag: str | None = None
    revision: str | None = None


class ModelFormat(StrEnum):
    """How the weights are stored. `pytorch` is a Hugging Face folder with unquantized safetensors."""

    GGUF = "gguf"
    GGML = "ggml"
    PYTORCH = "pytorch"
    GPTQ = "gptq"
    AWQ = "awq"
    FP8 = "fp8"
    FP4 = "fp4"
    BNB = "bnb"


@value
class ModelFile:
    """One file of a model on disk. `sha256` is known only when it was verified or recorded at download."""

    path: Path
    size_bytes: int
    sha256: str | None = None


@value
class LocalModel:
    """A reference that has been resolved to files on this disk.

    Attributes:
        ref: What the user typed.
        path: The file to load (the first one of a split GGUF), or the folder for Hugging Face formats.
        files: Every file of the model.
        family: Catalogue family, when the reference or the file name leads to one; chooses a chat template
            for models that carry none.
        source: Where it was found: `path`, `huggingface-cache`, `llmrun-cache`.
    """

    ref: ModelRef
    path: Path
    files: tuple[ModelFile, ...]
    family: str | None = None
    source: str = "path"


@value
class SpecialTokens:
    """The texts of the tokens that frame a prompt, as chat templates want them; None when the header has none."""

    bos: str | None = None
    eos: str | None = None
    unk: str | None = None
    pad: str | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool | None = None


@value
class ModelInfo:
    """What the headers of a model say. No weights were loaded to fill it.

    Attributes:
        format: How the weights are stored.
        architecture: `general.architecture` of a GGUF (`llama`), the model type of a legacy GGML file, or the class
            name in config.json.
        architecture_source: What told the model type of a legacy file: `header`, `catalogue`, `file name`,
            `--model-type` or `assumed`; None for other formats.
        name: The model's own name for itself, or None.
        parameters: Number of weights, counted over the tensors.
        quantization: The file's main type (`Q4_1`, `bf16`), or None when it cannot be told.
        context_length: Tokens the model was trained for, or None when the header does not say.
        layers: Transformer blocks.
        embedding_length: Width of the residual stream (E in the memory formulas).
        heads: Attention heads (H); the largest over the layers.
        kv_heads: Key/value heads for each layer, length `layers`; 0 for a layer that keeps no KV cache.
        key_length: Size of one key head (k_len); value_length likewise.
        sliding_window: Window in tokens, or None.
        sliding_window_layers: For each layer, whether it uses the window; empty when there is no window.
        window_key_length: Size of one key head in the layers with a window, where it differs from `key_length`, or
            None; window_value_length likewise.
        feed_forward_length: Width of the widest feed-forward part that one token passes through, all experts that it
            uses together; 0 when unknown.
        state_bytes: What the layers that keep a state of fixed size in place of a KV cache take for one sequence.
        vocabulary_size: Tokens (V).
        tensor_bytes: Bytes of all tensor data.
        tensor_types: Bytes of tensor data for each type, largest first: `(("Q4_1", 80_000_000), …)`; of safetensors the
            names of their dtypes (`BF16`).
        experts: Number of experts of a mixture-of-experts model, 0 otherwise; experts_used likewise.
        expert_bytes: Bytes of the tensors of all experts, of which a token reads experts_used / experts.
        tokenizer_model: `gpt2`, `llama`, …
        tokenizer_pre: Pre-tokenizer name, or None.
        chat_template: The Jinja source the file carries, or None.
        special_tokens: The frame of a prompt.
        family: Catalogue family, or None.
        files: Every file of the model.
        remote_code: The model brings code along that would have to run (`auto_map` in config.json).
        warnings: What was odd but not fatal (`general.name is not valid UTF-8: replaced`), for a notice.
    """

    format: ModelFormat
    architecture: str
    architecture_source: str | None = None
    name: str | None = None
    parameters: int
    quantization: str | None
    context_length: int | None
    layers: int
    embedding_length: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    sliding_window: int | None = None
    sliding_window_layers: tuple[bool, ...] = ()
    window_key_length: int | None = None
    window_value_length: int | None = None
    feed_forward_length: int = 0
    state_bytes: int = 0
    vocabulary_size: int
    tensor_bytes: int
    tensor_types: tuple[tuple[str, int], ...]
    experts: int = 0
    experts_used: int = 0
    expert_bytes: int = 0
    tokenizer_model: str | None = None
    tokenizer_pre: str | None = None
    chat_template: str | None = None
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)
    family: str | None = None
    files: tuple[ModelFile, ...] = ()
    remote_code: bool = False
    warnings: tuple[str, ...] = ()


@value
class Segment:
    """A piece of a rendered prompt.

    Attributes:
        text: What to tokenize; never empty.
        special: Whether the texts of control tokens in it become those tokens. Where it is False they stay text.
    """

    text: str
    special: bool
