"""Put the weights of an old family into the LLaMA of transformers: `load_llama`."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrun.engines.old_families.alibi import use_alibi
from llmrun.engines.old_families.mapping import FamilyMapping
from llmrun.engines.old_families.tensors import mapped_tensors
from llmrun.errors import ModelFileError

__all__ = ["load_llama"]


def load_llama(
    folder: Path,
    mapping: FamilyMapping,
    *,
    dtype: Any,
    device: Any = "cpu",
    pickle: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Any:
    """Return a LlamaForCausalLM with the weights of the folder, ready to run.

    Args:
        folder: The model.
        mapping: From `find_mapping`.
        dtype: A torch dtype for the weights.
        device: Where they go.
        pickle: Read pickled weights where there are no others.
        progress: Gets the share that has been read.

    Raises:
        ModelFileError: A tensor is missing or left over, or has another shape than it must.
        SecurityError: The only weights are pickles, and they were not asked for.
    """
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    config = transformers.LlamaConfig.from_dict(dict(mapping.config))
    config._attn_implementation = "sdpa"  # whatever config.json says
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    wanted = dict(model.named_parameters())
    count = len(mapping.tensor_names())
    state: dict[str, Any] = {}
    for name, tensor in mapped_tensors(folder, mapping, pickle=pickle):
        if tensor.shape != wanted[name].shape:
            raise ModelFileError(
                f"{folder}: {name} must be {tuple(wanted[name].shape)} by config.json, and is {tuple(tensor.shape)}",
                fix="download it again",
            )
        state[name] = tensor.to(device=device, dtype=dtype)
        if progress is not None:
            progress(len(state) / count)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    # Computed, not loaded, so that nothing above has given it a place.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    if mapping.alibi:
        use_alibi(model)
    return model.requires_grad_(requires_grad=False).eval()
