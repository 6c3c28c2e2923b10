"""Write models/huggingface/types.json from the transformers that is installed where this runs.

Usage: python tests/tools/folder_types.py models/huggingface/types.json

Each model type gets what its publishers leave out of config.json: its own names for the common keys, the values that
stand for missing keys, and the kinds of layers in one period. Types that wrap a language model name that model's type.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

KEYS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("max_position_embeddings", "sliding_window", "attention_chunk_size", "use_sliding_window", "max_window_layers"),
    *("kv_lora_rank", "qk_rope_head_dim", "num_experts_per_tok", "tie_word_embeddings", "multi_query"),
)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
TEXT = ("text_config", "llm_config", "language_config", "thinker_config")


def period_of(kinds: list[str]) -> list[str] | None:
    """Return the shortest period; many models make an exception of the last layer."""
    for end in (len(kinds), len(kinds) - 1):
        for length in range(1, len(kinds) // 2 + 1):
            if all(kinds[index] == kinds[index % length] for index in range(end)):
                return kinds[:length]
    return None


def row_of(kind: Any) -> dict[str, Any] | None:
    """Return what one configuration class says; None for what is no language model."""
    text = [part.model_type for key, part in (kind.sub_configs or {}).items() if key in TEXT and part.model_type]
    if text:
        return {"text": text[0]}
    names, values = dict(kind.attribute_map or {}), kind().to_dict()
    needed = [values.get(key, values.get(names.get(key))) for key in ("num_hidden_layers", "vocab_size")]
    if not all(isinstance(value, int) for value in needed):
        return None
    row: dict[str, Any] = {}
    own = {key: other for key, other in names.items() if key in (*KEYS, *EXPERTS) and other != key}
    own = {key: other for key, other in own.items() if not (key in EXPERTS and other in EXPERTS)}
    if own:
        row["names"] = own
    # From the class, not from an instance: an instance has computed some of them for its own width.
    stated = {key: getattr(kind, key, getattr(kind, names.get(key, key), None)) for key in (*KEYS, *EXPERTS)}
    row["defaults"] = {
        key: value
        for key, value in stated.items()
        if isinstance(value, int) and not (key in EXPERTS and names.get(key) in EXPERTS)
    }
    kinds = values.get("layer_types")
    if isinstance(kinds, list) and len(kinds) > 1 and values.get("use_sliding_window") is not False:
        period = period_of(kinds)
        if period and (period != ["full_attention"] or row["defaults"].get("sliding_window")):
            row["layers"] = period
    return row


def main(path: Path) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    rows: dict[str, Any] = {}
    for name in sorted(CONFIG_MAPPING_NAMES):
        with contextlib.suppress(Exception):  # some want other packages, or a network
            row = row_of(CONFIG_MAPPING[name])
            if row is not None:
                rows[name] = row
    about = (
        "For each model_type: other names of the keys of config.json, the values that stand for a missing key, and "
        "the kinds of layers in one period. A model that wraps a language model names its type."
    )
    source = (
        f"attribute_map and the default values of the configuration classes of transformers {transformers.__version__}"
    )
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    head = f'{{\n  "about": {json.dumps(about)},\n  "source": {json.dumps(source)},\n  "types": {{\n'
    path.write_text(f"{head}{lines}\n  }}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
