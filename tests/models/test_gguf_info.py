"""Facts of a model from its header, and every header that native code would abort on."""

import math
import os
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from gguf_builder import Raw, Tensor, build_gguf, f32, llama_pairs, text, u32, write_tiny_llama_gguf

from llmrun.errors import ModelFileError
from llmrun.models.gguf.header import read_gguf_header
from llmrun.models.gguf.info import read_gguf_info
from llmrun.models.gguf.vocabulary import read_chat_templates, read_control_tokens
from llmrun.models.types import ModelFormat, ModelInfo

ATTENTION = "llama.attention."
TOKENS = ["a", "b", "ab", "<|end|>", "  ", "<|a longer one|>"]


@pytest.fixture
def info_of(tmp_path: Path) -> Any:
    def info_of(tensors: Any = build.LLAMA_TENSORS, **changes: Raw | None) -> ModelInfo:
        path = tmp_path / "m.gguf"
        path.write_bytes(build_gguf(llama_pairs(**changes), tensors))
        return read_gguf_info(path)

    return info_of


def renamed(architecture: str, blocks: int = 12, /, **changes: Raw | None) -> dict[str, Raw | None]:
    """The sound llama as another architecture; keys of `changes` without a dot get its name in front."""
    moved: dict[str, Raw | None] = {}
    for key, value in llama_pairs().items():
        if key.startswith("llama."):
            moved[key] = None
            moved[f"{architecture}.{key.removeprefix('llama.')}"] = value
    moved["general.architecture"] = text(architecture)
    moved[f"{architecture}.block_count"] = u32(blocks)
    return moved | {f"{architecture}.{key.replace('__', '.')}": value for key, value in changes.items()}


def test_a_tiny_model_in_every_field(tmp_path: Path) -> None:
    path = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    info = read_gguf_info(path, family="tiny-family")
    assert info.format is ModelFormat.GGUF
    assert (info.architecture, info.name, info.quantization, info.family) == ("llama", "Tiny", "F32", "tiny-family")
    assert (info.context_length, info.layers, info.embedding_length, info.heads) == (2048, 2, 64, 4)
    assert (info.kv_heads, info.key_length, info.value_length) == ((2, 2), 16, 16)
    assert (info.sliding_window, info.sliding_window_layers) == (None, ())
    assert (info.vocabulary_size, info.tokenizer_model, info.tokenizer_pre) == (270, "gpt2", "gpt-2")
    assert info.tensor_types == (("F32", info.tensor_bytes),)
    assert info.tensor_bytes == 4 * info.parameters
    assert info.chat_template == build.CHATML
    special = info.special_tokens
    assert (special.bos, special.eos, special.unk, special.pad) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|im_end|>",
    )
    assert (special.bos_id, special.eos_id, special.add_bos) == (1, 2, False)
    assert [(file.path, file.size_bytes) for file in info.files] == [(path, path.stat().st_size)]
    assert info.warnings == ()
    assert read_control_tokens(path) == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def test_our_reader_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    import gguf

    path = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    theirs = gguf.GGUFReader(path)
    ours = read_gguf_header(path)
    assert [(t.name, t.dimensions, t.offset, t.size_bytes) for t in ours.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.data_offset, t.n_bytes) for t in theirs.tensors
    ]
    keys = [key for key in theirs.fields if not key.startswith("GGUF.")]
    assert list(ours.metadata) == keys
    assert ours.data_offset == theirs.data_offset


BAD_MODELS = [
    pytest.param({"llama.block_count": u32(0)}, "block_count is 0, and must be 1 to 512", id="faults_09-0"),
    pytest.param({"llama.block_count": u32(513)}, "block_count is 513", id="faults_09-513"),
    pytest.param({"llama.block_count": u32(2**32 - 1)}, "block_count is 4,294,967,295", id="faults_09-2e32"),
    pytest.param({"llama.block_count": None}, "lacks the metadata key llama.block_count", id="no-blocks"),
    pytest.param({"llama.block_count": text("2")}, "should be a whole number, and is of type string", id="blocks-text"),
    pytest.param({ATTENTION + "layer_norm_rms_epsilon": f32(math.nan)}, "epsilon is nan", id="faults_10-nan"),
    pytest.param({ATTENTION + "layer_norm_rms_epsilon": f32(-1e-5)}, "epsilon is -", id="faults_10-negative"),
    pytest.param({ATTENTION + "layer_norm_rms_epsilon": f32(math.inf)}, "epsilon is inf", id="faults_10-infinite"),
    pytest.param({ATTENTION + "layer_norm_rms_epsilon": f32(0)}, "epsilon is 0", id="faults_10-zero"),
    pytest.param({ATTENTION + "layer_norm_epsilon": f32(math.nan)}, "layer_norm_epsilon is nan", id="faults_10-layer"),
    pytest.param({ATTENTION + "layer_norm_rms_epsilon": None}, "lacks the metadata key", id="no-epsilon"),
    pytest.param({"llama.context_length": u32(2**31)}, "context_length is 2,147,483,648", id="faults_12-2e31"),
    pytest.param({"llama.context_length": u32(0)}, "context_length is 0", id="faults_12-0"),
    pytest.param({"llama.context_length": None}, "lacks the metadata key llama.context_length", id="no-context"),
    pytest.param({"llama.embedding_length": u32(0)}, "embedding_length is 0", id="embedding-0"),
    pytest.param({ATTENTION + "head_count": u32(0)}, "head_count is 0", id="heads-0"),
    pytest.param({ATTENTION + "head_count": None}, "lacks the metadata key llama.attention.head_count", id="no-heads"),
    pytest.param({ATTENTION + "head_count": u32(2**31)}, "not between 0 and 65,536", id="heads-2e31"),
    pytest.param({ATTENTION + "head_count": u32(128)}, "more than the embedding length", id="heads-128"),
    pytest.param({ATTENTION + "head_count_kv": u32(3)}, "3, which does not divide the 4 heads", id="kv-heads-3"),
    pytest.param(
        {ATTENTION + "head_count_kv": build.array(build.INT32, [2])}, "1 entries for 2 blocks", id="kv-heads-short"
    ),
    pytest.param({"llama.rope.scaling.type": text("odd")}, "rope.scaling.type is 'odd'", id="rope-scaling"),
    pytest.param({"llama.expert_used_count": u32(2)}, "expert_used_count is 2 of 0", id="experts-used-of-none"),
    pytest.param({"llama.expert_count": u32(4)}, "expert_used_count is 0 of 4", id="experts-not-used"),
    pytest.param({"llama.expert_count": u32(1025)}, "expert_count is 1,025", id="experts-1025"),
    pytest.param({"llama.expert_group_count": u32(2)}, "expert_group_count is 2", id="expert-groups"),
    pytest.param({"llama.nextn_predict_layers": u32(3)}, "nextn_predict_layers is 3 of 2", id="nextn"),
    pytest.param({"general.architecture": None}, "lacks the metadata key general.architecture", id="no-architecture"),
    pytest.param({"general.architecture": text("lama")}, "nearest known one is llama", id="architecture-unknown"),
    pytest.param({"general.architecture": text("clip")}, "projector", id="clip"),
    pytest.param({"general.type": text("adapter")}, "LoRA adapter", id="adapter"),
    pytest.param({"tokenizer.ggml.model": None}, "lacks the metadata key tokenizer.ggml.model", id="faults_13-missing"),
    pytest.param({"tokenizer.ggml.model": text("x")}, r"unknown tokenizer 'x' \(tokenizer", id="faults_13-unknown"),
    pytest.param({"tokenizer.ggml.tokens": None}, "there is no tokenizer.ggml.tokens", id="faults_13-tokens"),
    pytest.param({"tokenizer.ggml.merges": None}, "there is no tokenizer.ggml.merges", id="faults_11-merges"),
    pytest.param({"tokenizer.ggml.model": text("llama")}, "no tokenizer.ggml.scores", id="faults_11-scores"),
    pytest.param(
        {"tokenizer.ggml.model": text("llama"), "tokenizer.ggml.scores": build.array(build.FLOAT32, [0.0] * 6)},
        "the vocabulary has no token '<0x0A>'",
        id="faults_11-bytes",
    ),
    pytest.param({"tokenizer.ggml.model": text("bert")}, r"no token '\[UNK\]'", id="faults_11-bert"),
    pytest.param({"tokenizer.ggml.model": text("rwkv")}, "has no token", id="faults_11-rwkv"),
    pytest.param({"tokenizer.ggml.model": text("gemma4")}, "no token '<0x0A>'", id="faults_11-gemma4"),
    pytest.param(
        {"tokenizer.ggml.token_type": build.array(build.INT32, [1] * 5)}, "5 entries for a vocab", id="faults_11-types"
    ),
    pytest.param(
        {"tokenizer.ggml.scores": build.array(build.FLOAT32, [0.0] * 7)},
        "7 entries for a v",
        id="faults_11-long-scores",
    ),
    pytest.param(
        {"tokenizer.ggml.token_type": build.array(build.UINT32, [1] * 6)}, "holds uint32", id="faults_11-types-kind"
    ),
    pytest.param(
        {"tokenizer.ggml.tokens": build.array(build.STRING, [*TOKENS[:5], "a"])},
        "'a' comes twice",
        id="faults_11-twice",
    ),
    pytest.param({"tokenizer.ggml.tokens": build.array(build.STRING, [])}, "tokens is empty", id="faults_11-empty"),
    pytest.param({"tokenizer.ggml.tokens": build.array(build.INT32, [1])}, "should hold texts", id="faults_11-numbers"),
    pytest.param({"tokenizer.ggml.bos_token_id": u32(6)}, "bos_token_id is 6", id="faults_11-bos"),
    pytest.param({"tokenizer.ggml.eos_token_id": u32(10**6)}, "eos_token_id is 1,000,000", id="faults_11-eos"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_MODELS)
def test_headers_that_native_code_aborts_on(info_of: Any, changes: dict[str, Raw | None], words: str) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        info_of(**changes)
    assert caught.value.fix
    assert "\n" not in caught.value.message


def test_an_embedding_table_of_another_vocabulary(info_of: Any) -> None:
    with pytest.raises(ModelFileError, match="has 6 tokens, and its embedding table 7 rows"):
        info_of([Tensor("token_embd.weight", (64, 7))])


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        pytest.param({"tokenizer.ggml.bos_token_id": u32(2**32 - 1)}, "bos_token_id is 4,294,967,295", id="bos-none"),
        pytest.param({"tokenizer.ggml.padding_token_id": u32(6)}, "padding_token_id is 6", id="padding"),
        pytest.param({"general.name": text(b"\xff")}, "general.name is not valid UTF-8", id="faults_15"),
        pytest.param(
            {"tokenizer.chat_template": None, "tokenizer.chat_template.rag": text("x")}, "only rag", id="named-template"
        ),
    ],
)
def test_what_is_odd_but_goes_on(info_of: Any, changes: dict[str, Raw | None], warning: str) -> None:
    info = info_of(**changes)
    assert len(info.warnings) == 1
    assert warning in info.warnings[0]


def test_special_tokens_that_are_not_there(info_of: Any) -> None:
    special = info_of(**{"tokenizer.ggml.bos_token_id": None}).special_tokens
    assert (special.bos, special.bos_id, special.add_bos, special.eos, special.eos_id) == (
        None,
        None,
        None,
        "<|end|>",
        3,
    )


def test_named_chat_templates(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(build_gguf(llama_pairs(**{"tokenizer.chat_template.tool_use": text("T")})))
    assert read_chat_templates(read_gguf_header(path)) == {"default": build.CHATML, "tool_use": "T"}


@pytest.mark.parametrize(
    ("changes", "quantization"),
    [
        pytest.param({"general.file_type": u32(15)}, "Q4_K_M", id="known"),
        pytest.param({"general.file_type": u32(1024 + 7)}, "Q8_0", id="guessed"),
        pytest.param({"general.file_type": u32(999)}, "Q4_1", id="unknown"),
        pytest.param({"general.file_type": None}, "Q4_1", id="absent"),
    ],
)
def test_the_name_of_the_quantization(info_of: Any, changes: dict[str, Raw | None], quantization: str) -> None:
    tensors = [Tensor("token_embd.weight", (64, 6)), Tensor("w", (3200, 2), build.Q4_1), Tensor("v", (32,), build.Q8_0)]
    info = info_of(tensors, **changes)
    assert info.quantization == quantization
    assert info.tensor_types == (("Q4_1", 4000), ("F32", 1536), ("Q8_0", 34))
    assert info.parameters == 384 + 6400 + 32


@pytest.mark.parametrize(
    ("architecture", "changes", "kv_heads"),
    [
        pytest.param("llama", {}, (2,) * 4, id="same-for-all"),
        pytest.param("llama", {"attention__head_count_kv": None}, (4,) * 4, id="as-many-as-heads"),
        pytest.param(
            "jamba", {"attention__head_count_kv": build.array(build.INT32, [0, 2, 0, 2])}, (0, 2, 0, 2), id="each"
        ),
        pytest.param(
            "mamba", {"attention__head_count_kv": None, "attention__head_count": u32(0)}, (0,) * 4, id="mamba"
        ),
        pytest.param("bert", {}, (0,) * 4, id="encoder"),
        pytest.param("qwen3next", {}, (0, 0, 0, 2), id="every-fourth"),
        pytest.param("qwen35", {"full_attention_interval": u32(2)}, (0, 2, 0, 2), id="every-second"),
        pytest.param(
            "qwen35", {"attention__recurrent_layers": build.array(build.BOOL, [0, 1, 1, 0])}, (2, 0, 0, 2), id="listed"
        ),
        pytest.param("glm4moe", {"nextn_predict_layers": u32(1)}, (2, 2, 2, 0), id="blocks-that-guess-ahead"),
        pytest.param("gemma4", {"attention__shared_kv_layers": u32(3)}, (2, 0, 0, 0), id="shared"),
    ],
)
def test_kv_heads_of_each_block(
    info_of: Any, architecture: str, changes: dict[str, Raw | None], kv_heads: tuple[int, ...]
) -> None:
    assert info_of(**renamed(architecture, 4, **changes)).kv_heads == kv_heads


def windowed(pattern: str) -> tuple[bool, ...]:
    return tuple(character == "w" for character in pattern)


@pytest.mark.parametrize(
    ("architecture", "changes", "window", "blocks"),
    [
        pytest.param("gemma2", {}, 4096, "wfwfwfwfwfwf", id="gemma2-default"),
        pytest.param("gemma3", {"attention__sliding_window": u32(512)}, 512, "wwwwwfwwwwwf", id="gemma3"),
        pytest.param("gemma3", {}, None, "", id="gemma3-without-window"),
        pytest.param("gemma3n", {"attention__sliding_window": u32(512)}, 512, "wwwwfwwwwfww", id="gemma3n"),
        pytest.param("cohere2", {"attention__sliding_window": u32(64)}, 64, "wwwfwwwfwwwf", id="cohere2"),
        pytest.param("cohere2moe", {"attention__sliding_window": u32(64)}, 64, "fwwwfwwwfwww", id="full-first"),
        pytest.param("gpt-oss", {"attention__sliding_window": u32(128)}, 128, "wfwfwfwfwfwf", id="gpt-oss"),
        pytest.param("llama4", {}, 8192, "wwwfwwwfwwwf", id="llama4"),
        pytest.param("llama4", {"attention__sliding_window": u32(0)}, None, "", id="llama4-off"),
        pytest.param("phi3", {"attention__sliding_window": u32(2047)}, None, "", id="phi3-is-ignored"),
        pytest.param("llama", {"attention__sliding_window": u32(4096)}, None, "", id="mistral-is-ignored"),
        pytest.param("exaone4", {"attention__sliding_window": u32(4096)}, None, "", id="exaone4-small"),
        pytest.param(
            "gemma3",
            {"attention__sliding_window": u32(512), "attention__sliding_window_pattern": u32(3)},
            512,
            "wwfwwfwwfwwf",
            id="period-in-the-header",
        ),
        pytest.param(
            "gemma4",
            {
                "attention__sliding_window": u32(512),
                "attention__sliding_window_pattern": build.array(build.BOOL, windowed("wfwwwwwwwwwf")),
            },
            512,
            "wfwwwwwwwwwf",
            id="list-in-the-header",
        ),
    ],
)
def test_sliding_windows(
    info_of: Any, architecture: str, changes: dict[str, Raw | None], window: int | None, blocks: str
) -> None:
    info = info_of(**renamed(architecture, **changes))
    assert info.sliding_window == window
    assert info.sliding_window_layers == windowed(blocks)


def test_experts_and_head_lengths(info_of: Any) -> None:
    info = info_of(
        **renamed("qwen3moe", expert_count=u32(128), expert_used_count=u32(8), attention__key_length=u32(128))
    )
    assert (info.experts, info.experts_used, info.key_length, info.value_length) == (128, 8, 128, 16)
    latent = {"key_length": u32(576), "value_length": u32(512), "key_length_mla": u32(192), "head_count_kv": u32(1)}
    info = info_of(**renamed("deepseek2", 12, **{f"attention__{key}": value for key, value in latent.items()}))
    assert (info.kv_heads[0], info.key_length, info.value_length) == (1, 576, 0)


def test_any_part_of_a_split_model_leads_to_all(tmp_path: Path) -> None:
    whole = read_gguf_info(write_tiny_llama_gguf(tmp_path / "whole.gguf"))
    first = write_tiny_llama_gguf(tmp_path / "m.gguf", split_max_tensors=8)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert [part.name for part in parts] == [f"m-0000{index}-of-00003.gguf" for index in (1, 2, 3)]
    for part in parts:
        info = read_gguf_info(part)
        assert (info.parameters, info.tensor_bytes) == (whole.parameters, whole.tensor_bytes)
        assert [file.path for file in info.files] == parts
        assert read_gguf_header(part).path == first


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first = write_tiny_llama_gguf(tmp_path / "m.gguf", split_max_tensors=8)
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"the part m-00003-of-00003\.gguf is missing") as caught:
        read_gguf_info(first)
    assert "m-00003-of-00003.gguf" in (caught.value.fix or "")


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    first = write_tiny_llama_gguf(tmp_path / "m.gguf", split_max_tensors=8)
    second, third = (tmp_path / f"m-0000{index}-of-00003.gguf" for index in (2, 3))
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelFileError, match="name says part 3 of 3"):
        read_gguf_info(first)
    renamed_part = tmp_path / "other.gguf"
    renamed_part.write_bytes(second.read_bytes())
    with pytest.raises(ModelFileError, match=r"NAME-00001-of-00003\.gguf"):
        read_gguf_info(renamed_part)


@pytest.mark.parametrize("key", ["split.no", "split.count"])
def test_split_keys_of_a_wrong_type(info_of: Any, key: str) -> None:
    with pytest.raises(ModelFileError, match=f"{key} is not a 16-bit number"):
        info_of(**{"split.count": build.number(build.UINT16, 2), key: u32(1)})


@pytest.mark.engine
def test_the_real_model() -> None:
    path = Path(os.environ.get("LLMRUN_TEST_MODEL", ""))
    if not path.is_file():
        pytest.skip("LLMRUN_TEST_MODEL names no file")
    info = read_gguf_info(path)
    assert (info.architecture, info.layers, info.vocabulary_size, info.parameters) == ("llama", 30, 49152, 134_515_008)
    assert (info.heads, info.kv_heads, info.key_length) == (9, (3,) * 30, 64)
    assert (info.quantization, info.context_length) == ("Q4_1", 8192)
    assert (info.special_tokens.bos, info.special_tokens.eos) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_end|>" in read_control_tokens(path)
    assert len(read_control_tokens(path)) == 17
    assert info.warnings == ()


def test_sizes_that_memory_plans_need(info_of: Any) -> None:
    tensors = (*build.LLAMA_TENSORS, Tensor("blk.0.ffn_up_exps.weight", (64, 32, 4), build.F16))
    changes = {"llama.expert_count": u32(4), "llama.expert_used_count": u32(2)}
    info = info_of(tensors, **changes, **{"llama.expert_feed_forward_length": u32(96)})
    assert info.expert_bytes == 4 * 64 * 32 * 2
    assert info.feed_forward_length == 2 * 96
    assert info_of().expert_bytes == 0
    assert info_of().feed_forward_length == 128


def test_heads_of_another_size_in_layers_with_a_window(info_of: Any) -> None:
    changes = renamed("gemma4", 2, attention__sliding_window=u32(512), attention__key_length_swa=u32(8))
    changes |= {
        "gemma4.attention.sliding_window_pattern": build.array(build.BOOL, [True, False]),
        "gemma4.attention.value_length_swa": u32(8),
    }
    info = info_of(**changes)
    assert (info.window_key_length, info.window_value_length, info.key_length) == (8, 8, 16)
    assert (info_of().window_key_length, info_of().window_value_length) == (None, None)


@pytest.mark.parametrize(
    ("architecture", "keys", "elements"),
    [
        pytest.param(
            "mamba",
            {"conv_kernel": 4, "inner_size": 128, "state_size": 16, "time_step_rank": 4},
            12 * (3 * 128 + 128 * 16),
            id="mamba",
        ),
        pytest.param(
            "qwen3next",
            {"conv_kernel": 4, "inner_size": 128, "state_size": 16, "group_count": 2, "time_step_rank": 4},
            9 * (3 * (128 + 2 * 2 * 16) + 128 * 16),
            id="hybrid: three of four blocks",
        ),
    ],
)
def test_states_in_place_of_a_cache(info_of: Any, architecture: str, keys: dict[str, int], elements: int) -> None:
    changes = renamed(architecture) | {f"{architecture}.ssm.{name}": u32(value) for name, value in keys.items()}
    assert info_of(**changes).state_bytes == 4 * elements
    assert info_of().state_bytes == 0
