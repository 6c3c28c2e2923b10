"""The catalogue's legacy entries: each resolves to the right repository, file and model type."""

import pytest

from llmrun.models.catalogue import families, family_of_file, find_family, resolve_tag
from llmrun.models.ggml.kind import MODEL_TYPES, type_in_catalogue
from llmrun.models.types import ModelFormat

K_QUANTS = (
    "q2_K q3_K_L q3_K_M q3_K_S q4_0 q4_1 q4_K_M q4_K_S q5_0 q5_1 q5_K_M q5_K_S q6_K q8_0".split()  # noqa: SIM905
)
PLAIN = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
ROWS = [
    ("baichuan", "7b", "TheBloke/baichuan-llama-7B-GGML", "baichuan-llama-7b", K_QUANTS, 4096, "llama"),
    (
        *("wizardlm-v1.0", "7b", "TheBloke/WizardLM-7B-V1.0-Uncensored-GGML", "wizardlm-7b-v1.0-uncensored"),
        *(K_QUANTS, 2048, "llama"),
    ),
    (
        *("wizardlm-v1.0", "13b", "TheBloke/WizardLM-13B-V1.0-Uncensored-GGML", "wizardlm-13b-v1.0-uncensored"),
        *(K_QUANTS, 2048, "llama"),
    ),
    ("vicuna-v1.3", "7b", "TheBloke/vicuna-7B-v1.3-GGML", "vicuna-7b-v1.3", K_QUANTS, 2048, "llama"),
    ("vicuna-v1.3", "13b", "TheBloke/vicuna-13b-v1.3.0-GGML", "vicuna-13b-v1.3.0", K_QUANTS, 2048, "llama"),
    ("vicuna-v1.3", "33b", "TheBloke/vicuna-33B-GGML", "vicuna-33b", K_QUANTS, 2048, "llama"),
    ("orca", "3b", "TheBloke/orca_mini_3B-GGML", "orca-mini-3b", PLAIN, 2048, "llama"),
    ("orca", "7b", "TheBloke/orca_mini_7B-GGML", "orca-mini-7b", PLAIN, 2048, "llama"),
    ("orca", "13b", "TheBloke/orca_mini_13B-GGML", "orca-mini-13b", PLAIN, 2048, "llama"),
    ("llama-2-chat", "7b", "TheBloke/Llama-2-7B-Chat-GGML", "llama-2-7b-chat", K_QUANTS, 4096, "llama"),
    ("llama-2-chat", "13b", "TheBloke/Llama-2-13B-chat-GGML", "llama-2-13b-chat", K_QUANTS, 4096, "llama"),
    ("llama-2-chat", "70b", "TheBloke/Llama-2-70B-Chat-GGML", "llama-2-70b-chat", K_QUANTS, 4096, "llama"),
    ("llama-2", "7b", "TheBloke/Llama-2-7B-GGML", "llama-2-7b", K_QUANTS, 4096, "llama"),
    ("llama-2", "13b", "TheBloke/Llama-2-13B-GGML", "llama-2-13b", K_QUANTS, 4096, "llama"),
    ("llama-2", "70b", "TheBloke/Llama-2-70B-GGML", "llama-2-70b", K_QUANTS, 4096, "llama"),
    ("starcoder", "16b", "TheBloke/starcoder-GGML", "starcoder", PLAIN, 8192, "starcoder"),
]


@pytest.mark.parametrize(
    ("family", "size", "repo", "stem", "quantizations", "context", "model_type"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in ROWS],
)
def test_every_quantization_is_a_file_of_the_right_repository(
    family: str, size: str, repo: str, stem: str, quantizations: list[str], context: int, model_type: str
) -> None:
    found = resolve_tag(find_family(family), f"{size}-ggmlv3")
    assert sorted(candidate.quantization or "" for candidate in found) == sorted(quantizations)
    for candidate in found:
        assert candidate.variant.format is ModelFormat.GGML
        assert candidate.hub_repo == repo
        assert candidate.file_name == f"{stem}.ggmlv3.{candidate.quantization}.bin"
        assert candidate.variant.context_length == context
        assert candidate.variant.model_type == model_type
        assert family_of_file(candidate.file_name) == family
        tag = f"{size}-ggml-{candidate.quantization}"
        assert resolve_tag(find_family(family), tag) == [candidate]


def test_gpt_2_is_one_file() -> None:
    (found,) = resolve_tag(find_family("gpt-2"), None)
    assert (found.hub_repo, found.file_name, found.quantization) == ("marella/gpt-2-ggml", "ggml-model.bin", None)
    assert (found.variant.model_type, found.variant.context_length) == ("gpt2", 1024)


def test_no_other_entry_is_a_legacy_one() -> None:
    rows = [
        (family.name, variant.size_label)
        for family in families()
        for variant in family.variants
        if variant.format is ModelFormat.GGML
    ]
    assert sorted(rows) == sorted([("gpt-2", "124m"), *((row[0], row[1]) for row in ROWS)])


def test_every_legacy_entry_has_a_model_type_and_no_other_has() -> None:
    for family in families():
        for variant in family.variants:
            assert (variant.model_type in MODEL_TYPES) == (variant.format is ModelFormat.GGML)
    assert type_in_catalogue("starcoder") == "starcoder"
    assert type_in_catalogue("qwen3") is None
    assert type_in_catalogue("no-such-family") is None
