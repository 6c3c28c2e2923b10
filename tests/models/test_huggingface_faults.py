"""Folders that are damaged, incomplete, contradictory or hostile: each is refused with its reason."""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder_builder import TINY_CONFIG, MemoryFolder, Tensors, folder, header_of, rows_of, sharded, tiny_tensors

from llmrun.errors import LlmrunError, ModelFileError, ModelNotFoundError, SecurityError
from llmrun.models.huggingface.info import LocalFolder, read_folder_info
from llmrun.models.types import ModelInfo

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def refused(made: MemoryFolder, kind: type[LlmrunError] = ModelFileError) -> LlmrunError:
    with pytest.raises(kind) as caught:
        read_folder_info(made)
    assert caught.value.exit_code == (9 if kind is SecurityError else 4)
    return caught.value


def without(name: str) -> Tensors:
    return {key: value for key, value in tiny_tensors().items() if key != name}


def renamed(name: str, other: str) -> Tensors:
    return {other if key == name else key: value for key, value in tiny_tensors().items()}


LACKING = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        pytest.param(without(LACKING), "layer 1 has no self_attn.k_proj", id="missing in one layer"),
        pytest.param(renamed(LACKING, "model.layers.1.self_attn.key.weight"), "layer 1 has no", id="renamed"),
        pytest.param(
            {name.replace("k_proj", "key"): value for name, value in tiny_tensors().items()},
            "layer 0 has no self_attn.k_proj",
            id="renamed in every layer",
        ),
        pytest.param(without("model.norm.weight"), "it has no norm", id="last norm"),
        pytest.param(without("lm_head.weight"), "it has no lm_head", id="output"),
        pytest.param(without("model.embed_tokens.weight"), "it has no embed_tokens", id="table"),
        pytest.param(
            {name: value for name, value in tiny_tensors().items() if "layers.1" not in name},
            "says 2 layers, but the weights have none of layer 1",
            id="a layer missing",
        ),
        pytest.param({}, "without a single tensor", id="none at all"),
    ],
)
def test_faults_22_a_tensor_is_missing_or_renamed(tensors: Tensors, said: str) -> None:
    error = refused(folder(tensors=tensors))
    assert said in error.message
    assert "again" in (error.fix or "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("self_attn.k_proj", "to be 8 x 16, and it is 7 x 16", id="keys"),
        pytest.param("mlp.down_proj", "to be 16 x 32, and it is 7 x 16", id="feed forward"),
    ],
)
def test_faults_22_a_tensor_of_another_shape(name: str, said: str) -> None:
    tensors = tiny_tensors() | {f"model.layers.1.{name}.weight": ("BF16", (7, 16))}
    assert said in refused(folder(tensors=tensors)).message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"hidden_size": 32}, "says hidden_size 32, but model.embed_tokens.weight is 16 wide", id="width"),
        pytest.param({"vocab_size": 41}, "says vocab_size 41, but model.embed_tokens.weight has 40 rows", id="rows"),
        pytest.param({"num_hidden_layers": 1}, "says 1 layers, but the weights have layer 1", id="fewer layers"),
        pytest.param({"num_hidden_layers": 3}, "says 3 layers, but the weights have none of layer 2", id="more layers"),
        pytest.param({"num_hidden_layers": 0}, "num_hidden_layers must be", id="no layers"),
        pytest.param({"num_hidden_layers": 10**9}, "num_hidden_layers must be", id="10^9 layers"),
        pytest.param({"num_attention_heads": "4"}, "num_attention_heads must be", id="a text"),
        pytest.param({"num_attention_heads": True}, "num_attention_heads must be", id="a switch"),
        pytest.param({"num_attention_heads": [4]}, "lists 1 layers of 2", id="a short list"),
        pytest.param({"num_attention_heads": [0, 0]}, "no layer has attention heads", id="no heads"),
        pytest.param({"num_attention_heads": 64, "num_key_value_heads": 64}, "too many for a width", id="64 heads"),
        pytest.param({"num_key_value_heads": 3}, "4 attention heads cannot share 3", id="heads that do not divide"),
        pytest.param({"head_dim": -1}, "head_dim must be", id="negative"),
        pytest.param({"layer_types": ["full_attention"]}, "layer_types lists 1 layers of 2", id="layer types"),
        pytest.param({"architectures": []}, "architectures must name", id="no class"),
        pytest.param({"architectures": ["os.system('x')"]}, "architectures must name", id="no name"),
        pytest.param({"vocab_size": None}, "does not say vocab_size", id="no vocabulary"),
    ],
)
def test_a_config_that_cannot_be_true(changes: dict[str, Any], said: str) -> None:
    assert said in refused(folder(TINY_CONFIG | changes)).message


def test_more_rows_than_tokens_are_only_odd() -> None:
    info = read_folder_info(folder(TINY_CONFIG | {"vocab_size": 39}))
    assert info.warnings == ("model.embed_tokens.weight has 40 rows for 39 tokens",)


def test_faults_23_a_missing_shard() -> None:
    error = refused(sharded().drop(SECOND))
    assert f"incomplete: 1 of its 2 weight files are missing: {SECOND}" in error.message
    assert error.fix == "download it again"


def test_faults_23_a_truncated_shard() -> None:
    made = sharded()
    made.sizes[SECOND] -= 1
    error = refused(made)
    assert SECOND in error.message
    assert "is incomplete" in error.message


def test_shards_without_their_index() -> None:
    assert f"{INDEX} is missing" in refused(sharded().drop(INDEX)).message
    assert "part 1 of 2 of its weights is missing" in refused(sharded().drop(INDEX).drop(FIRST)).message


def test_an_index_that_promises_more_than_there_is() -> None:
    made = sharded()
    index = json.loads(made.heads[INDEX])
    index["weight_map"]["model.ghost.weight"] = FIRST
    assert "the first is model.ghost.weight of" in refused(made.put(INDEX, index)).message


def test_a_tensor_in_two_shards() -> None:
    made = sharded().put_tensors(FIRST, tiny_tensors())
    assert f"is in {FIRST} and in {SECOND}" in refused(made).message


@pytest.mark.parametrize(
    "index",
    [
        pytest.param({}, id="empty"),
        pytest.param({"weight_map": []}, id="list"),
        pytest.param({"weight_map": {}}, id="no tensors"),
        pytest.param({"weight_map": {"x": 5}}, id="number"),
    ],
)
def test_an_index_without_a_map(index: dict[str, Any]) -> None:
    assert "must have a weight_map" in refused(sharded().put(INDEX, index)).message


@pytest.mark.parametrize(
    "name",
    [
        *("../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors"),
        *("", "..", "x\0.safetensors", "pytorch_model.bin", "config.json"),
    ],
)
def test_faults_24_an_index_that_leads_out_of_the_folder(name: str) -> None:
    made = sharded().put(INDEX, {"weight_map": {"x": FIRST, "y": name}})
    error = refused(made, SecurityError)
    assert repr(name) in error.message
    assert not [read for read in made.reads if read[0].endswith(".safetensors")]


def test_faults_25_pickles_are_refused_without_advice_to_switch_safety_off() -> None:
    made = folder().drop("model.safetensors").put("pytorch_model.bin", b"PK\x03\x04archive/data.pkl")
    made.drop("tokenizer.json")  # the refusal that matters comes first
    error = refused(made, SecurityError)
    assert "pytorch_model.bin" in error.message
    assert "safetensors" in (error.fix or "")
    assert "unsafe" not in (error.fix or "") + error.message
    assert "pytorch_model.bin" not in {name for name, _, _ in made.reads}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("adapter_model.safetensors", "is an adapter (LoRA)", id="adapter"),
        pytest.param("model-q4_0.gguf", "only GGUF", id="gguf"),
        pytest.param("README.md", "has no weights", id="nothing"),
    ],
)
def test_a_folder_without_weights(name: str, said: str) -> None:
    assert said in refused(folder().drop("model.safetensors").put(name, b"x")).message


def test_weights_under_other_names() -> None:
    made = folder().drop("model.safetensors").put_tensors("gptq_model.safetensors", tiny_tensors())
    made.put("consolidated.safetensors", b"not read").put("adapter_model.safetensors", b"not read")
    assert read_folder_info(made).layers == 2


def test_no_config_and_no_tokenizer() -> None:
    assert "has no config.json" in refused(folder().drop("config.json")).message
    assert "has no tokenizer" in refused(folder().drop("tokenizer.json")).message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", INDEX])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer", id="lfs"),
        pytest.param(b"<html>login</html>", "a web page", id="html"),
        pytest.param(b"[1]", "must hold a JSON object", id="list"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="depth bomb"),
        pytest.param(b'{"a":' + b"[]," * 1_000_001, "too many parts", id="width bomb"),
        pytest.param(b"{\xff}", "not UTF-8", id="not UTF-8"),
        pytest.param(b'{"a": ', "not valid JSON", id="cut"),
    ],
)
def test_faults_03_damaged_json(name: str, content: bytes, said: str) -> None:
    error = refused(sharded().put(name, content))
    assert said in error.message
    assert name in error.message


def test_json_that_is_too_large_is_not_read() -> None:
    made = folder().put("config.json", b"{", 16 * 1024**2 + 1)
    assert "more than the 16 MiB" in refused(made).message
    assert made.reads == []


def test_faults_02_only_regular_files_are_opened(tmp_path: Path) -> None:
    place = folder().write(tmp_path / "model")
    (place / "chat_template.jinja").mkdir()
    os.mkfifo(place / "generation_config.json")
    assert read_folder_info(LocalFolder(place)).layers == 2
    (place / "config.json").unlink()
    os.mkfifo(place / "config.json")
    with pytest.raises(ModelFileError, match=r"has no config.json"):
        read_folder_info(LocalFolder(place))


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="is not a folder"):
        LocalFolder(tmp_path / "file")
    for name in ("missing", "nul\0"):
        with pytest.raises(ModelNotFoundError):
            LocalFolder(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_bytes(b"{}"), id="shorter"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_a_file_that_changes_after_it_was_listed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    place = LocalFolder(folder().write(tmp_path / "model"))
    change(place.path / "config.json")
    with pytest.raises(ModelFileError, match="changed while it was read"):
        read_folder_info(place)


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = LocalFolder(folder().write(tmp_path / "model"))
    whole = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, length: whole(descriptor, min(length, 7)))
    assert read_folder_info(place).parameters == read_folder_info(folder()).parameters


def change_value(random_: random.Random, made: MemoryFolder) -> None:
    """Put an odd value into a JSON file or into the row of a tensor."""
    name = random_.choice([key for key in made.heads if key != "tokenizer.json"])
    if name.endswith(".json"):
        values = json.loads(made.heads[name])
        values[random_.choice(list(values))] = random_.choice(ODD)
        made.put(name, values)
        return
    rows = json.loads(made.heads[name][8:])
    row = rows[random_.choice(list(rows))]
    row[random_.choice(list(row))] = random_.choice(ODD)
    header = header_of(rows)
    made.put(name, header, made.sizes[name] + len(header) - len(made.heads[name]))


def change_bytes(random_: random.Random, made: MemoryFolder) -> None:
    """Damage some bytes of a file, cut it, or give it another length."""
    name = random_.choice([key for key in made.heads if key != "tokenizer.json"])
    head = bytearray(made.heads[name])
    kind = random_.randrange(3)
    if kind == 0:
        for _ in range(random_.randint(1, 4)):
            head[random_.randrange(len(head))] = random_.randrange(256)
        made.put(name, bytes(head), made.sizes[name])
    elif kind == 1:
        made.put(name, bytes(head[: random_.randrange(len(head))]))
    else:
        made.sizes[name] = random_.randrange(2 * made.sizes[name])


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.5, 2**31, 2**63, 10**40, 1e308, float("inf"), float("nan"), "", "4", "LLLG"),
    *([], [1], [None, {}], [[]], ["mamba", "sliding_attention"], {}, {"factor": "x", "type": "linear"}),
    *({"model_type": "gemma3_text"}, {"quant_method": "gptq", "bits": 4}, {"load_in_4bit": 1}, {"a": {"b": [1]}}),
]
EXTRA = {
    "rope_scaling": {"type": "linear", "factor": 2.0},
    **dict.fromkeys(("layer_types", "text_config", "head_dim", "kv_lora_rank", "qk_rope_head_dim", "block_configs")),
    **dict.fromkeys(("sliding_window", "sliding_window_pattern", "num_experts", "num_experts_per_tok", "v_head_dim")),
    **dict.fromkeys(("attn_config", "ffn_config", "quantization_config", "auto_map", "use_sliding_window", "n_layer")),
    **dict.fromkeys(("attn_layer_period", "full_attn_idxs", "linear_attn_config", "num_kv_shared_layers")),
    **dict.fromkeys(("max_window_layers", "swa_head_dim", "global_head_dim", "multi_query_attention")),
}


@pytest.mark.parametrize("seed", range(6))
def test_random_corruption_ends_in_an_error_of_ours_or_in_facts(seed: int) -> None:
    random_ = random.Random(seed)
    outcomes: set[bool] = set()
    start = time.monotonic()
    for _ in range(100):
        made = sharded() if random_.random() < 0.5 else folder()
        made.put("config.json", TINY_CONFIG | EXTRA).put("generation_config.json", {"eos_token_id": 2})
        for _ in range(random_.randint(0, 2)):
            change_value(random_, made)
        if random_.random() < 0.5:
            change_bytes(random_, made)
        try:
            info = read_folder_info(made)
        except LlmrunError:
            outcomes.add(False)
        else:
            assert isinstance(info, ModelInfo)
            assert len(info.kv_heads) == info.layers
            assert hash(info)  # nothing that can be changed got in
            outcomes.add(True)
    assert time.monotonic() - start < 30
    assert outcomes == {True, False}


def test_the_builder_makes_what_the_reader_takes() -> None:
    assert rows_of(tiny_tensors())["model.norm.weight"]["dtype"] == "BF16"
    assert read_folder_info(folder()).warnings == ()


OWN_NAMES = {
    "model.embed_tokens.weight": ("BF16", (40, 16)),
    "model.layers.0.mixer.weight": ("BF16", (16,)),
    "lm_head.weight": ("BF16", (40, 16)),
}


def test_nothing_is_concluded_from_the_names_of_a_model_with_code_of_its_own() -> None:
    assert "none of layer 1" in refused(folder(tensors=OWN_NAMES)).message
    info = read_folder_info(folder(TINY_CONFIG | {"auto_map": {"AutoModel": "own.Own"}}, OWN_NAMES))
    assert info.remote_code


def test_a_second_tower_may_have_more_layers() -> None:
    nested = {key: value for key, value in TINY_CONFIG.items() if key != "architectures"}
    config = {"architectures": ["SeeingForConditionalGeneration"], "model_type": "seeing", "text_config": nested}
    tower = {f"model.retina.layers.{index}.mlp.weight": ("BF16", (8,)) for index in range(9)}
    info = read_folder_info(folder(config, tiny_tensors() | tower))
    assert (info.layers, info.embedding_length) == (2, 16)


def test_a_stale_index_beside_a_single_file_is_not_followed() -> None:
    made = folder().put(INDEX, {"weight_map": {"x": "../y.safetensors"}})
    assert read_folder_info(made).layers == 2


def test_the_index_of_a_model_with_very_many_tensors_may_be_long() -> None:
    made = sharded()
    index = json.loads(made.heads[INDEX]) | {"metadata": {"note": "x" * 17 * 1024**2}}
    assert read_folder_info(made.put(INDEX, index)).layers == 2
