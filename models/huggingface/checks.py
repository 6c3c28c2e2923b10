"""Hold the tensors of a model folder against its config.json, where a contradiction is certain.

An engine that misses a tensor fills it with random numbers, and one that gets a tensor too many ignores it; both
answer nonsense and end with exit code 0. So what a configuration promises must be there: every layer, an embedding
table of the stated width, and in architectures whose layers are all alike, the same modules in each layer, of the
shapes that follow from the configuration. Where layers may differ, nothing is concluded from a difference.
"""

import re
from collections import Counter
from collections.abc import Sequence

from llmrun.errors import ModelFileError
from llmrun.models.huggingface.config import Config
from llmrun.models.huggingface.quantization import Quantization
from llmrun.models.huggingface.safetensors import SafetensorsTensor
from llmrun.models.types import ModelFormat

__all__ = ["check_tensors"]

_AGAIN = "download it again, or take it from another publisher"
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.(.+)$")
_NOT_TEXT = re.compile(r"(?:^|[._])(?:vision|visual|audio|image|encoder|mtp|nextn|projector|speech|talker|vit)")
_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight")
# One layer is run several times.
_SHARED_LAYERS = frozenset({"albert", "hrm_text", "zamba"})
_FLOATS = ("F32", "F16", "BF16")
_HEADS = ("lm_head.", "embed_out.", "output.")
# A table that is narrower or shared in another way than hidden_size says.
_OWN_WIDTH_KEYS = ("word_embed_proj_dim", "embedding_size", "embedding_fraction", "text_embed_dim")

_LLAMA_LIKE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "input_layernorm")
_DENSE = (*_LLAMA_LIKE, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
# What each layer has, where all layers are alike. Source: the modeling files of transformers 5.19.0
_MODULES: dict[str, tuple[str, ...]] = {
    "LlamaForCausalLM": _DENSE,
    "MistralForCausalLM": _DENSE,
    "Qwen2ForCausalLM": _DENSE,
    "Qwen3ForCausalLM": (*_DENSE, "self_attn.q_norm", "self_attn.k_norm"),
    "GemmaForCausalLM": _DENSE,
    "Gemma2ForCausalLM": (*_DENSE, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "Gemma3ForCausalLM": (*_DENSE, "pre_feedforward_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
    "MixtralForCausalLM": (*_LLAMA_LIKE, "post_attention_layernorm"),
    "Phi3ForCausalLM": ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    "PhiForCausalLM": ("self_attn.q_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2", "input_layernorm"),
    "GPT2LMHeadModel": ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"),
    "GPTNeoXForCausalLM": ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "StableLmForCausalLM": (*_LLAMA_LIKE, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
# Whose shapes follow from five numbers of the configuration.
_PLAIN_SHAPES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_NEEDS_NORM = frozenset(name for name, modules in _MODULES.items() if "input_layernorm" in modules)


def check_tensors(
    config: Config,
    architecture: str,
    layers: int,
    tensors: Sequence[SafetensorsTensor],
    quantization: Quantization,
) -> tuple[str, ...]:
    """Refuse tensors that cannot be those of the model that config.json describes; return what is odd.

    Raises:
        ModelFileError: A layer or module is missing, or a shape contradicts the configuration.
    """
    _check_packing(config, tensors, quantization)
    warnings = _check_table(config, tensors)
    if config.outer.get("is_encoder_decoder") is True or config.values.get("is_encoder_decoder") is True:
        return warnings
    if config.outer.get("auto_map") or config.values.get("block_configs") or config.model_type in _SHARED_LAYERS:
        return warnings  # code of its own, or layers that are left out or used again: the names mean what they like
    modules = _modules_by_layer(tensors)
    if modules:
        _check_layers(config, layers, modules)
        _check_alike(config, architecture, layers, modules)
    if architecture in _PLAIN_SHAPES and quantization.format is ModelFormat.PYTORCH:
        _check_shapes(config, tensors)
    _check_ends(config, architecture, tensors)
    return warnings


def _check_packing(config: Config, tensors: Sequence[SafetensorsTensor], quantization: Quantization) -> None:
    packed = [tensor.name for tensor in tensors if tensor.name.endswith((".qweight", ".weight_packed", "_proj.B"))]
    if packed and quantization.format is ModelFormat.PYTORCH:
        raise ModelFileError(
            f"{config.path} has no quantization_config, but the weights are quantized ({packed[0][:100]})", fix=_AGAIN
        )
    integers = quantization.format in (ModelFormat.GPTQ, ModelFormat.AWQ)
    if integers and not packed and not any(tensor.dtype in ("I8", "U8") for tensor in tensors):
        raise ModelFileError(
            f"{config.path} says that the weights are quantized with {quantization.format}, but not one of them is",
            fix=_AGAIN,
        )


def _check_table(config: Config, tensors: Sequence[SafetensorsTensor]) -> tuple[str, ...]:
    """Compare the table of token embeddings with hidden_size and vocab_size."""
    tables = [
        tensor
        for tensor in tensors
        if tensor.name.endswith(_TABLES) and len(tensor.shape) == 2 and tensor.dtype in _FLOATS
        if not _NOT_TEXT.search(tensor.name)
    ]
    if len(tables) != 1 or any(key in config.values for key in _OWN_WIDTH_KEYS):
        return ()
    rows, width = tables[0].shape
    stated_width, stated_rows = config.whole("hidden_size"), config.whole("vocab_size")
    if stated_width is not None and width != stated_width:
        raise ModelFileError(
            f"{config.path} says hidden_size {stated_width:,}, but {tables[0].name[:100]} is {width:,} wide", fix=_AGAIN
        )
    if stated_rows is not None and rows < stated_rows:
        raise ModelFileError(
            f"{config.path} says vocab_size {stated_rows:,}, but {tables[0].name[:100]} has {rows:,} rows", fix=_AGAIN
        )
    if stated_rows is not None and rows > stated_rows:
        return (f"{tables[0].name[:100]} has {rows:,} rows for {stated_rows:,} tokens",)
    return ()


def _modules_by_layer(tensors: Sequence[SafetensorsTensor]) -> dict[int, set[str]]:
    """Return the modules of each layer: `{0: {"self_attn.q_proj", …}}`."""
    found: dict[int, set[str]] = {}
    for tensor in tensors:
        match = _LAYER.search(tensor.name)
        if match and not _NOT_TEXT.search(tensor.name[: match.start()]):
            found.setdefault(int(match[1]), set()).add(_module_of(match[2]))
    return found


def _module_of(name: str) -> str:
    """Return the module that a tensor belongs to: `self_attn.q_proj` of `self_attn.q_proj.weight`."""
    return name.split(".weight.", 1)[0] if ".weight." in name else name.rpartition(".")[0]


def _check_layers(config: Config, layers: int, modules: dict[int, set[str]]) -> None:
    missing = [index for index in range(layers) if index not in modules]
    if missing:
        raise ModelFileError(
            f"{config.path} says {layers} layers, but the weights have none of layer {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            fix=_AGAIN,
        )
    if config.values is not config.outer:
        return  # another tower, with more layers than the language model, may be among them
    # Layers that guess tokens ahead are stored after the others.
    ahead = [config.values.get(key) for key in ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")]
    allowed = layers + max(
        (count for count in ahead if type(count) is int), default=1 if "deepseek" in config.model_type else 0
    )
    if max(modules) >= allowed:
        raise ModelFileError(
            f"{config.path} says {layers} layers, but the weights have layer {max(modules)}", fix=_AGAIN
        )


def _check_alike(config: Config, architecture: str, layers: int, modules: dict[int, set[str]]) -> None:
    """Every layer has the modules that its architecture wants, and what almost all others have."""
    wanted = set(_MODULES.get(architecture, ()))
    if not wanted:
        return
    counts = Counter(module for index in range(layers) for module in modules[index])
    # The experts of a pruned mixture may differ in number; all else is the same in each layer.
    wanted |= {module for module, count in counts.items() if 2 * count > layers and ".experts." not in module}
    for index in range(layers):
        lacking = sorted(module for module in wanted - modules[index] if "rotary" not in module)
        if lacking:
            raise ModelFileError(
                f"{config.path.parent} is incomplete: layer {index} has no {lacking[0][:100]}, "
                f"which {architecture} needs",
                fix=_AGAIN,
            )


def _check_shapes(config: Config, tensors: Sequence[SafetensorsTensor]) -> None:
    """Compare the matrices of each layer with what the configuration says they are."""
    wanted = _plain_shapes(config)
    for tensor in tensors if wanted else ():
        match = _LAYER.search(tensor.name)
        shape = wanted.get(match[2]) if match else None
        if shape is not None and tensor.dtype in _FLOATS and tuple(tensor.shape) != shape:
            found, stated = (" x ".join(f"{size:,}" for size in sizes) for sizes in (tensor.shape, shape))
            raise ModelFileError(
                f"{config.path} wants {tensor.name[:100]} to be {stated}, and it is {found}", fix=_AGAIN
            )


def _plain_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer of LLaMA, as (rows, columns); none where a number is missing."""
    width, inner = config.whole("hidden_size"), config.whole("intermediate_size")
    heads = config.whole("num_attention_heads")
    if width is None or inner is None or not heads:
        return {}
    size = config.whole("head_dim") or width // heads
    keys = (config.whole("num_key_value_heads") or heads) * size
    return {
        "self_attn.q_proj.weight": (heads * size, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, heads * size),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }


def _check_ends(config: Config, architecture: str, tensors: Sequence[SafetensorsTensor]) -> None:
    """The table, the last norm and the output layer are there, in architectures that are known to have them."""
    if architecture not in _NEEDS_NORM:
        return
    names = [tensor.name.removeprefix("model.") for tensor in tensors]
    tied = config.outer.get("tie_word_embeddings", config.find("tie_word_embeddings")) is True
    needed = {"embed_tokens.": "embed_tokens", "norm.": "norm"}
    if architecture == "PhiForCausalLM":
        needed = {"embed_tokens.": "embed_tokens", "final_layernorm.": "final_layernorm"}
    lacking = [label for start, label in needed.items() if not any(name.startswith(start) for name in names)]
    if not tied and not any(name.startswith(_HEADS) for name in names):
        lacking.append("lm_head")
    if lacking:
        raise ModelFileError(
            f"{config.path.parent} is incomplete: it has no {lacking[0]}, which {architecture} needs", fix=_AGAIN
        )
