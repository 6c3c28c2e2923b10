"""The reader of the formats before GGUF: every type and container in detail, and what told the model type."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import legacy_models as legacy
import pytest
from legacy_models import Legacy

from llmrun.errors import ModelFileError, ModelNotFoundError, UsageError
from llmrun.models.ggml.header import read_ggml_header
from llmrun.models.ggml.info import read_ggml_info
from llmrun.models.ggml.vocabulary import read_tokens
from llmrun.models.types import ModelFormat

PLAIN_GPT2 = Legacy(model_type="gpt2")
PLAIN_NEOX = Legacy(model_type="gpt_neox")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(model: Legacy, name: str = "m.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(legacy.write(model))
        return path

    return write


@pytest.mark.parametrize("name", legacy.ALL)
def test_every_type_and_container(write: Any, name: str) -> None:
    model = legacy.ALL[name]
    path = write(model, f"{name}.bin")
    info = read_ggml_info(path)
    assert (info.format, info.architecture) == (ModelFormat.GGML, model.model_type)
    assert (info.layers, info.embedding_length, info.heads) == (2, 32, 2)
    assert info.kv_heads == (model.kv_heads,) * 2
    assert (info.key_length, info.value_length) == (16, 16)
    assert info.vocabulary_size == len(model.tokens)
    assert info.context_length == (None if model.model_type in ("llama", "falcon") else legacy.CONTEXT)
    assert info.feed_forward_length == (96 if model.model_type == "llama" else 128)
    assert info.quantization == {0: "F32", 1: "F16", 2: "Q4_0", 7: "Q8_0"}[model.file_type % 1000]
    assert dict(info.tensor_types).keys() <= {"F32", info.quantization}
    assert 0 < info.tensor_bytes < path.stat().st_size
    assert info.files[0].size_bytes == path.stat().st_size
    assert info.warnings == ()


@pytest.mark.parametrize("name", legacy.ALL)
def test_the_tensors_lie_where_the_file_has_them(write: Any, name: str) -> None:
    header = read_ggml_header(write(legacy.ALL[name]))
    data = header.path.read_bytes()
    last = header.tensors[-1]
    assert last.offset + last.size_bytes == len(data)
    for tensor in header.tensors:
        name_at = data.rindex(tensor.name.encode(), 0, tensor.offset)
        gap = tensor.offset - name_at - len(tensor.name)
        assert 0 <= gap < 32
        if len(tensor.dimensions) == 1 and not tensor.name.endswith(("bias", "/b")):
            assert data[tensor.offset : tensor.offset + 4] == struct.pack("<f", 1.0)


@pytest.mark.parametrize("name", legacy.ALL)
def test_tokens_are_read_when_they_are_asked_for(write: Any, name: str) -> None:
    model = legacy.ALL[name]
    header = read_ggml_header(write(model))
    tokens = list(read_tokens(header))
    assert [text for text, _ in tokens] == list(model.tokens)
    scored = model.magic != "ggml" or model.model_type == "replit"
    assert [score for _, score in tokens] == [-float(number) if scored else 0.0 for number in range(len(tokens))]
    if model.model_type not in ("llama", "falcon"):
        assert header.special["<|endoftext|>"] == model.tokens.index(b"<|endoftext|>")


def test_special_tokens(write: Any) -> None:
    llama = read_ggml_info(write(legacy.ALL["llama-ggjt-3"])).special_tokens
    assert (llama.bos, llama.eos, llama.bos_id, llama.eos_id, llama.add_bos) == ("<s>", "</s>", 1, 2, True)
    gpt2 = read_ggml_info(write(PLAIN_GPT2)).special_tokens
    assert (gpt2.bos_id, gpt2.eos_id, gpt2.eos, gpt2.add_bos) == (259, 259, "<|endoftext|>", False)
    none = read_ggml_info(write(replace(PLAIN_GPT2, tokens=(b"a", b"b")))).special_tokens
    assert (none.eos, none.eos_id) == (None, None)


def test_grouped_heads_are_counted_in_the_tensors(write: Any) -> None:
    info = read_ggml_info(write(replace(legacy.ALL["llama-ggjt-3"], kv_heads=1)))
    assert info.kv_heads == (1, 1)
    assert info.warnings == ("ctransformers reads no llama with 2 query heads to a key head: convert it",)


def test_a_name_that_makes_ctransformers_count_other_heads_is_warned_of(write: Any) -> None:
    info = read_ggml_info(write(legacy.ALL["llama-ggjt-3"], "llama-2-70b.bin"))
    assert len(info.warnings) == 1
    assert "without `70b`" in info.warnings[0]


@pytest.mark.parametrize(
    ("model", "file_name", "family", "asked", "told"),
    [
        pytest.param(legacy.ALL["starcoder"], "gpt2.bin", "gpt-2", None, ("starcoder", "header"), id="tokens first"),
        pytest.param(legacy.ALL["dolly-v2"], "m.bin", None, None, ("dolly-v2", "header"), id="dolly by its tokens"),
        pytest.param(PLAIN_GPT2, "gpt2.bin", "starcoder", None, ("starcoder", "catalogue"), id="catalogue"),
        pytest.param(PLAIN_GPT2, "ggml-model.bin", "gpt-2", None, ("gpt2", "catalogue"), id="catalogue gpt-2"),
        pytest.param(PLAIN_GPT2, "GPT-2-medium.bin", None, None, ("gpt2", "file name"), id="file name"),
        pytest.param(PLAIN_GPT2, "WizardCoder-15B.bin", None, None, ("starcoder", "file name"), id="another name"),
        pytest.param(PLAIN_NEOX, "pythia-70m.bin", None, None, ("gpt_neox", "file name"), id="neox by name"),
        pytest.param(PLAIN_NEOX, "dolly-v2-3b.bin", None, None, ("dolly-v2", "file name"), id="dolly by name"),
        pytest.param(PLAIN_GPT2, "gpt2.bin", None, "StarCoder", ("starcoder", "--model-type"), id="asked"),
        pytest.param(PLAIN_GPT2, "m.bin", None, "gpt_bigcode", ("starcoder", "--model-type"), id="another spelling"),
        pytest.param(PLAIN_NEOX, "m.bin", None, "GPT-NeoX", ("gpt_neox", "--model-type"), id="asked neox"),
        pytest.param(legacy.ALL["gptj"], "starcoder.bin", "starcoder", "gptj", ("gptj", "header"), id="tensors rule"),
    ],
)
def test_what_tells_the_model_type(
    write: Any, model: Legacy, file_name: str, family: str | None, asked: str | None, told: tuple[str, str]
) -> None:
    info = read_ggml_info(write(model, file_name), family, asked)
    assert (info.architecture, info.architecture_source) == told
    assert info.warnings == ()


@pytest.mark.parametrize(("model", "taken"), [(PLAIN_GPT2, "gpt2"), (PLAIN_NEOX, "gpt_neox")], ids=["gpt2", "neox"])
def test_what_nothing_tells_is_said(write: Any, model: Legacy, taken: str) -> None:
    info = read_ggml_info(write(model))
    assert (info.architecture, info.architecture_source) == (taken, "assumed")
    assert len(info.warnings) == 1
    assert "--model-type" in info.warnings[0]


def test_model_type_cannot_contradict_the_tensors(write: Any) -> None:
    with pytest.raises(ModelFileError, match="is a gptj by its tensors, and no llama"):
        read_ggml_info(write(legacy.ALL["gptj"]), model_type="llama")
    with pytest.raises(UsageError, match="no type of a legacy file") as caught:
        read_ggml_info(write(legacy.ALL["gptj"]), model_type="bert")
    assert "gpt_neox" in (caught.value.fix or "")


def test_the_catalogue_knows_the_context_length(write: Any) -> None:
    assert read_ggml_info(write(legacy.ALL["llama-ggjt-3"]), "llama-2-chat").context_length == 4096
    assert read_ggml_info(write(legacy.ALL["llama-ggjt-3"]), "vicuna-v1.3").context_length == 2048


@pytest.mark.parametrize(
    ("model", "why"),
    [
        pytest.param(replace(legacy.ALL["llama-ggjt-2"], file_type=2), "before June 2023", id="ggjt 2 q4_0"),
        pytest.param(replace(legacy.ALL["llama-ggjt-1"], file_type=7), "before June 2023", id="ggjt 1 q8_0"),
        pytest.param(replace(legacy.ALL["llama-ggmf-1"], file_type=2), "before June 2023", id="ggmf q4_0"),
        pytest.param(Legacy(model_type="falcon", magic="ggjt", version=3), "tokenizer.json", id="falcon, no merges"),
    ],
)
def test_what_no_engine_reads_any_more_is_refused(write: Any, model: Legacy, why: str) -> None:
    with pytest.raises(ModelFileError, match=why) as caught:
        read_ggml_info(write(model))
    assert caught.value.fix


def test_a_falcon_without_merges_runs_with_its_tokenizer_beside_it(write: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    info = read_ggml_info(write(Legacy(model_type="falcon", magic="ggjt", version=3)))
    assert (info.architecture, info.architecture_source) == ("falcon", "header")


def test_a_llama_from_before_march_2023(write: Any) -> None:
    """Its tokens have no scores, and ctransformers reads four bytes of each text as one."""
    with pytest.raises(ModelFileError, match="before March 2023"):
        read_ggml_info(write(Legacy(model_type="llama")))


def test_faults_01_to_03_what_is_no_legacy_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_ggml_info(tmp_path / "none.bin")
    with pytest.raises(ModelFileError, match="folder"):
        read_ggml_info(tmp_path)
    for name, data, what in (
        ("a", b"", "empty"),
        ("b", b"GGUF\3\0\0\0" + bytes(32), "GGUF"),
        ("c", b"algg\1\0\0\0" + bytes(32), "LoRA"),
        ("d", b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
        ("e", b"tjgg\4\0\0\0" + bytes(32), "version 4"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelFileError, match=what):
            read_ggml_info(tmp_path / name)


def test_faults_06_one_byte_short(write: Any) -> None:
    path = write(legacy.ALL["gptj"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="is incomplete: 1 bytes of its tensor") as caught:
        read_ggml_info(path)
    assert caught.value.fix == "download the file again"
