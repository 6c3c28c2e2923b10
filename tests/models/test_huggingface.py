"""Facts of Hugging Face folders, against what their publishers state."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from folder_builder import TINY_CONFIG, Tensors, folder, sharded, tiny_tensors
from folder_cases import WHOLE
from folder_sketches import SKETCHED

from llmrun.errors import ModelFileError
from llmrun.models.huggingface.info import LocalFolder, read_folder_info
from llmrun.models.types import ModelFormat, ModelInfo, SpecialTokens


def read(config: Mapping[str, Any], tensors: Tensors) -> ModelInfo:
    return read_folder_info(folder(config, tensors))


@pytest.mark.parametrize(("config", "tensors", "facts"), WHOLE)
def test_whole_models_have_their_published_facts(
    config: dict[str, Any], tensors: Tensors, facts: dict[str, Any]
) -> None:
    info = read(config, tensors)
    assert {name: getattr(info, name) for name in facts} == facts
    assert info.format is ModelFormat.PYTORCH
    assert info.quantization == "bf16"
    assert info.architecture == config["architectures"][0]
    assert info.tensor_types == (("BF16", info.tensor_bytes),)
    assert info.warnings == ()


@pytest.mark.parametrize(("config", "tensors", "facts"), SKETCHED)
def test_facts_are_the_published_ones(config: dict[str, Any], tensors: Tensors, facts: dict[str, Any]) -> None:
    info = read(config, tensors)
    assert {name: getattr(info, name) for name in facts} == facts


def test_a_repository_costs_few_reads() -> None:
    source = sharded()
    info = read_folder_info(source, family="tiny")
    assert info.family == "tiny"
    assert info.parameters == read_folder_info(folder()).parameters
    assert [str(file.path) for file in info.files] == [f"acme/model/{name}" for name in sorted(source.sizes)]
    assert len([name for name, _, _ in source.reads if name.endswith(".safetensors")]) == 2
    assert len(source.reads) == len({name for name, _, _ in source.reads})
    assert "tokenizer.json" not in {name for name, _, _ in source.reads}


def test_the_same_from_a_disk(tmp_path: Path) -> None:
    made = sharded()
    path = made.write(tmp_path / "blobs")
    links = tmp_path / "snapshot"
    links.mkdir()
    for name in made.sizes:
        (links / name).symlink_to(path / name)
    (links / "nowhere.json").symlink_to(tmp_path / "missing")
    for place in (path, links):
        info = read_folder_info(LocalFolder(place))
        assert info.parameters == read_folder_info(made).parameters
        assert {file.path.parent for file in info.files} == {place}


TEMPLATE = "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("files", "template", "warned"),
    [
        pytest.param({"tokenizer_config.json": {"chat_template": TEMPLATE}}, TEMPLATE, False, id="text"),
        pytest.param(
            {"tokenizer_config.json": {"chat_template": [
                {"name": "rag", "template": "no"}, {"name": "default", "template": TEMPLATE}]}},
            TEMPLATE, False, id="named",
        ),
        pytest.param(
            {"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "no"}, 7, {"name": "x"}]}},
            None, True, id="no default",
        ),
        pytest.param(
            {"tokenizer_config.json": {"chat_template": "no"}, "chat_template.jinja": TEMPLATE}, TEMPLATE, False,
            id="a file of its own wins",
        ),
        pytest.param({"chat_template.json": {"chat_template": TEMPLATE}}, TEMPLATE, False, id="json"),
        pytest.param({"tokenizer_config.json": {"chat_template": 5}}, None, False, id="no text"),
        pytest.param({}, None, False, id="none"),
    ],
)  # fmt: skip
def test_chat_template(files: dict[str, Any], template: str | None, warned: bool) -> None:
    made = folder()
    for name, content in files.items():
        made.put(name, content)
    info = read_folder_info(made)
    assert info.chat_template == template
    assert bool(info.warnings) == warned


def test_special_tokens_from_wherever_they_are() -> None:
    made = folder().put(
        "tokenizer_config.json",
        {"bos_token": {"content": "<s>", "special": True}, "add_bos_token": True, "pad_token": None,
         "added_tokens_decoder": {"2": {"content": "</s>"}}},
    )  # fmt: skip
    made.put("special_tokens_map.json", {"unk_token": "<unk>", "pad_token": "<pad>"})
    made.put("generation_config.json", {"eos_token_id": [2, 5], "pad_token_id": 0})
    assert read_folder_info(made).special_tokens == SpecialTokens(
        bos="<s>", eos="</s>", unk="<unk>", pad=None, bos_id=1, eos_id=2, add_bos=True
    )


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        pytest.param({"tokenizer_class": "LlamaTokenizerFast"}, "llama", id="llama"),
        pytest.param({"tokenizer_class": "GPT2Tokenizer"}, "gpt2", id="gpt2"),
        pytest.param({"tokenizer_class": "PreTrainedTokenizerFast"}, "tokenizers", id="generic"),
        pytest.param({}, "tokenizers", id="unsaid"),
    ],
)
def test_tokenizer_kind(settings: dict[str, Any], kind: str) -> None:
    assert read_folder_info(folder().put("tokenizer_config.json", settings)).tokenizer_model == kind


@pytest.mark.parametrize(
    ("name", "key"),
    [pytest.param("config.json", "config", id="model"), pytest.param("tokenizer_config.json", "x", id="tokenizer")],
)
def test_remote_code_is_seen(name: str, key: str) -> None:
    made = folder()
    assert not read_folder_info(made).remote_code
    made.put(name, json.loads(made.heads[name]) | {"auto_map": {key: "evil.Evil"}})
    assert read_folder_info(made).remote_code


@pytest.mark.parametrize(
    ("scaling", "context_length", "warned"),
    [
        pytest.param({"type": "linear", "factor": 4.0}, 512, False, id="linear"),
        pytest.param({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1}, 128, False, id="llama3"),
        pytest.param({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256, False, id="yarn"),
        pytest.param({"type": "linear", "factor": 1e300}, 128, True, id="beyond reason"),
        pytest.param({"type": "linear", "factor": float("nan")}, 128, True, id="not a number"),
        pytest.param({"type": "longrope", "short_factor": [1.0]}, 128, False, id="longrope"),
        pytest.param(None, 128, False, id="none"),
    ],
)  # fmt: skip
def test_context_length(scaling: object, context_length: int, warned: bool) -> None:
    info = read(TINY_CONFIG | {"rope_scaling": scaling}, tiny_tensors())
    assert info.context_length == context_length
    assert bool(info.warnings) == warned


def test_a_context_that_no_engine_can_count_is_refused() -> None:
    with pytest.raises(ModelFileError, match="max_position_embeddings"):
        read(TINY_CONFIG | {"max_position_embeddings": 2**31}, tiny_tensors())
