"""InternLM and Baichuan as LLaMA: tiny random models under their original names give the logits of the formulas."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.old_families.mapping import find_mapping
from llmrun.errors import ModelFileError, SecurityError

pytestmark = pytest.mark.pytorch
NAMES = ("internlm-7b", "internlm-20b", "internlm2", "baichuan-7b", "baichuan2-7b", "baichuan-13b", "baichuan2-13b")
TOKENS = [1, 17, 42, 42, 5, 93, 60, 8, 33, 2, 71, 71, 12]


@pytest.fixture(scope="module")
def models() -> Any:
    """What needs torch, imported only where the marker has seen that torch is there."""
    pytest.importorskip("torch")
    import old_family_models

    return old_family_models


def load(folder: Path, **settings: Any) -> Any:
    import torch

    from llmrun.engines.old_families.model import load_llama

    mapping = find_mapping(folder)
    assert mapping is not None
    return load_llama(folder, mapping, dtype=torch.float32, **settings)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("shards", [1, 3])
def test_logits_are_those_of_the_published_formulas(tmp_path: Path, models: Any, kind: str, shards: int) -> None:
    import torch

    weights = models.write_model(tmp_path, kind, shards=shards)
    expected = models.reference_logits(kind, weights, TOKENS)
    with torch.inference_mode():
        found = load(tmp_path)(torch.tensor([TOKENS])).logits[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", NAMES)
def test_one_token_at_a_time_gives_the_same(tmp_path: Path, models: Any, kind: str) -> None:
    """With a cache of a fixed size, as an engine decodes: most of its places are empty."""
    import torch
    import transformers

    weights = models.write_model(tmp_path, kind)
    expected = models.reference_logits(kind, weights, TOKENS)
    model = load(tmp_path)
    cache = transformers.StaticCache(config=model.config, max_cache_len=64)
    rows = []
    with torch.inference_mode():
        rows.append(model(torch.tensor([TOKENS[:4]]), past_key_values=cache).logits[0])
        for place in range(4, len(TOKENS)):
            place_ids = torch.tensor([[place]])
            made = model(torch.tensor([[TOKENS[place]]]), past_key_values=cache, position_ids=place_ids)
            rows.append(made.logits[0])
    torch.testing.assert_close(torch.cat(rows), expected, atol=1e-5, rtol=1e-5)


def test_every_difference_matters(tmp_path: Path, models: Any) -> None:
    """The references differ from each other, so that none of them can be right by mistake."""
    import torch

    weights = models.weights_of("baichuan2-7b")
    plain = models.reference_logits("baichuan-7b", weights, TOKENS)
    normalised = models.reference_logits("baichuan2-7b", weights, TOKENS)
    assert not torch.allclose(plain, normalised, atol=1e-2)
    biased = models.weights_of("internlm-7b")
    unbiased = {name: tensor for name, tensor in biased.items() if not name.endswith(".bias")}
    first = models.reference_logits("internlm-7b", biased, TOKENS)
    assert not torch.allclose(first, models.reference_logits("internlm-7b", unbiased, TOKENS), atol=1e-2)
    wide = models.weights_of("baichuan-13b")
    rotated = models.rotate(torch.ones(5, 4, 8), 1e4)
    assert not torch.allclose(rotated, torch.ones(5, 4, 8), atol=1e-2)
    assert models.reference_logits("baichuan-13b", wide, TOKENS).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "alibi", "normalised", "biased"),
    [
        pytest.param("internlm-7b", False, False, True, id="internlm-7b"),
        pytest.param("internlm-20b", False, False, False, id="internlm-20b"),
        pytest.param("internlm2", False, False, False, id="internlm2"),
        pytest.param("baichuan-7b", False, False, False, id="baichuan-7b"),
        pytest.param("baichuan2-7b", False, True, False, id="baichuan2-7b"),
        pytest.param("baichuan-13b", True, False, False, id="baichuan-13b"),
        pytest.param("baichuan2-13b", True, True, False, id="baichuan2-13b"),
    ],
)
def test_what_each_is(tmp_path: Path, models: Any, kind: str, alibi: bool, normalised: bool, biased: bool) -> None:
    models.write_model(tmp_path, kind)
    found = find_mapping(tmp_path)
    assert found is not None
    assert (found.alibi, found.normalised_head, found.config["attention_bias"]) == (alibi, normalised, biased)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_others_are_left_alone(tmp_path: Path, models: Any) -> None:
    models.write_model(tmp_path, "baichuan-7b")
    change_config(tmp_path, architectures=["LlamaForCausalLM"])
    assert find_mapping(tmp_path) is None
    change_config(tmp_path, architectures=["BaiChuanForCausalLM"], quantization_config={"quant_method": "gptq"})
    assert find_mapping(tmp_path) is None
    (tmp_path / "config.json").unlink()
    assert find_mapping(tmp_path) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"hidden_size": 33}, "do not fit", id="width and heads"),
        pytest.param({"vocab_size": "many"}, "vocab_size", id="not a number"),
        pytest.param({"num_hidden_layers": None}, "num_hidden_layers", id="missing"),
    ],
)
def test_a_config_that_cannot_be(tmp_path: Path, models: Any, values: dict[str, Any], said: str) -> None:
    models.write_model(tmp_path, "baichuan-7b")
    change_config(tmp_path, **values)
    with pytest.raises(ModelFileError, match=said):
        find_mapping(tmp_path)


def drop(weights: Any) -> None:
    del weights["model.layers.1.self_attn.o_proj.weight"]


def rename(weights: Any) -> None:
    weights["model.layers.0.mlp.gate.weight"] = weights.pop("model.layers.0.mlp.gate_proj.weight")


def narrow(weights: Any) -> None:
    weights["model.layers.0.self_attn.W_pack.weight"] = weights["model.layers.0.self_attn.W_pack.weight"][:-1]


def thin(weights: Any) -> None:
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"][:-1]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(drop, "incomplete.*layers.1.self_attn.o_proj", id="missing"),
        pytest.param(rename, "no place for.*mlp.gate.weight", id="renamed"),
        pytest.param(narrow, "W_pack.weight must have 96 rows", id="packed rows"),
        pytest.param(thin, "up_proj.weight must be", id="shape"),
    ],
)
def test_damaged_weights(tmp_path: Path, models: Any, damage: Any, said: str) -> None:
    from safetensors.torch import save_file

    weights = models.write_model(tmp_path, "baichuan-7b")
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=said):
        load(tmp_path)


def test_pickles_only_when_asked_for(tmp_path: Path, models: Any) -> None:
    import torch

    weights = models.write_model(tmp_path, "baichuan2-7b")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(SecurityError, match="pickle"):
        load(tmp_path)
    with torch.inference_mode():
        found = load(tmp_path, pickle=True)(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(found, models.reference_logits("baichuan2-7b", weights, TOKENS), atol=1e-5, rtol=1e-5)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, models: Any) -> None:
    """Even when pickles are allowed, only data is read."""
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    models.write_model(tmp_path, "baichuan-7b")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Evil()}))
    with pytest.raises(ModelFileError, match="cannot be read as weights"):
        load(tmp_path, pickle=True)
    assert not (tmp_path / "ran").exists()
