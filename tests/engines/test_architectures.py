"""The shipped table, and the question to an installed engine, which is asked once per version."""

from pathlib import Path

import pytest

from llmrun.engines.installed.architectures import (
    architecture_of_family,
    ask_architectures,
    gguf_in_transformers,
    kept_architectures,
    shipped_architectures,
    shipped_version,
)
from llmrun.engines.installed.facts import probe_engine
from llmrun.engines.selection.reasons import ReasonCode
from llmrun.engines.types import EngineName
from llmrun.hardware.machine import probe_machine
from llmrun.models.catalogue import families
from llmrun.models.types import ModelFormat

ROOT = Path(__file__).parents[2]
VLLM_REGISTRY = """
print("INFO: a line that an engine prints")
print('llmrun-architectures: noise')
class ModelRegistry:
    @staticmethod
    def get_supported_archs():
        return {"LlamaForCausalLM", "NewForCausalLM"}
_PREVIOUSLY_SUPPORTED_MODELS = {"OldForCausalLM": "0.30.1"}
"""
MODELING_AUTO = """
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = {"llama": "LlamaForCausalLM", "two": ("AForCausalLM", "BForCausalLM")}
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = {"gemma3": "Gemma3ForConditionalGeneration"}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))


def package(folder: Path, module: str, text: str) -> Path:
    """Write a package that has one module, some levels deep."""
    path = folder / f"{module.replace('.', '/')}.py"
    path.parent.mkdir(parents=True)
    for parent in path.relative_to(folder).parents:
        if parent != Path():
            (folder / parent / "__init__.py").write_text("")
    path.write_text(text)
    return folder


@pytest.fixture
def vllm(tmp_path: Path) -> list[str]:
    return [str(package(tmp_path / "vllm-site", "vllm.model_executor.models.registry", VLLM_REGISTRY))]


def test_what_the_table_says_of_vllm() -> None:
    table = shipped_architectures(EngineName.VLLM)
    assert (table.source, shipped_version(EngineName.VLLM)) == ("shipped", "0.32.0")
    named = ["Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Qwen3Moe", "Gemma3", "Phi3", "Phi", "GptOss"]
    named += ["DeepseekV3", "Glm4", "SeedOss", "OPT", "Falcon", "GPTBigCode", "InternLM3"]
    assert {f"{name}ForCausalLM" for name in named} | {"GPT2LMHeadModel"} <= table.supported
    last = dict(table.last_versions)
    assert [last[f"{name}ForCausalLM"] for name in ("Baichuan", "BaiChuan", "InternLM")] == ["0.23.0"] * 3
    assert not table.supported & set(last)


def test_what_the_table_says_of_the_others() -> None:
    assert {"llama", "gpt_neox", "starcoder"} <= shipped_architectures(EngineName.CTRANSFORMERS).supported
    assert {"llama", "qwen3", "gpt-oss"} <= shipped_architectures(EngineName.LLAMA_CPP).supported
    assert "LlamaForCausalLM" in shipped_architectures(EngineName.PYTORCH).supported
    # The names are those of GGUF headers, so llama.cpp knows them too, but for what only transformers reads.
    known = shipped_architectures(EngineName.LLAMA_CPP).supported
    assert gguf_in_transformers() - known == {"mistral", "umt5"}


def test_every_pytorch_variant_of_the_catalogue_has_an_architecture() -> None:
    formats = (ModelFormat.GGUF, ModelFormat.GGML)
    missing = {
        family.name
        for family in families()
        for variant in family.variants
        if variant.format not in formats
        and not variant.architectures
        and architecture_of_family(family.name, variant.size_label) is None
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("family", "size", "architecture"),
    [
        pytest.param("llama-2-chat", "7b", "LlamaForCausalLM", id="llama-2-chat"),
        pytest.param("Baichuan", "7b", "BaiChuanForCausalLM", id="a size of its own"),
        pytest.param("baichuan", "13b", "BaichuanForCausalLM", id="the other size"),
        pytest.param("no-such-family", "7b", None, id="unknown"),
    ],
)
def test_families_without_a_recorded_architecture(family: str, size: str, architecture: str | None) -> None:
    assert architecture_of_family(family, size) == architecture


def test_vllm_is_asked_once_per_version(vllm: list[str]) -> None:
    found = ask_architectures(EngineName.VLLM, "0.33.0", path=vllm)
    assert found.source == "installed"
    assert found.supported == {"LlamaForCausalLM", "NewForCausalLM"}
    assert found.last_versions == (("OldForCausalLM", "0.30.1"),)
    assert kept_architectures(EngineName.VLLM, "0.33.0") == found
    assert ask_architectures(EngineName.VLLM, "0.33.0", python="/no/such/python") == found  # no process is started
    assert kept_architectures(EngineName.VLLM, "0.34.0") is None


def test_transformers_is_asked_too(tmp_path: Path) -> None:
    site = package(tmp_path / "site", "transformers.models.auto.modeling_auto", MODELING_AUTO)
    found = ask_architectures(EngineName.PYTORCH, "5.20.0", path=[str(site)])
    assert found.source == "installed"
    assert found.supported == {
        "LlamaForCausalLM",
        "AForCausalLM",
        "BForCausalLM",
        "Gemma3ForConditionalGeneration",
    }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("raise ImportError('libcuda')", id="cannot be imported"),
        pytest.param("import os; os.abort()", id="dies"),
        pytest.param("import time; time.sleep(60)", id="hangs"),
        pytest.param(
            "class ModelRegistry:\n get_supported_archs = staticmethod(lambda: [])", id="answers with nothing"
        ),
    ],
)
def test_without_an_answer_the_table_is_used(tmp_path: Path, vllm: list[str], text: str) -> None:
    site = package(tmp_path / "site", "vllm.model_executor.models.registry", text)
    found = ask_architectures(EngineName.VLLM, "0.33.0", path=[str(site)], timeout_seconds=1)
    assert found == shipped_architectures(EngineName.VLLM)
    assert kept_architectures(EngineName.VLLM, "0.33.0") is None
    assert ask_architectures(EngineName.VLLM, "0.33.0", path=vllm) == found  # it is not asked every time
    assert ask_architectures(EngineName.VLLM, "0.33.0", again=True, path=vllm).source == "installed"


def test_llama_cpp_is_never_asked() -> None:
    found = ask_architectures(EngineName.LLAMA_CPP, "0.3.36", python="/no/such/python")
    assert found == shipped_architectures(EngineName.LLAMA_CPP)


def test_the_kept_answer_is_among_the_facts(vllm: list[str], tmp_path: Path) -> None:
    (tmp_path / "vllm-site/vllm-0.33.0.dist-info").mkdir()
    machine = probe_machine()
    assert probe_engine(EngineName.VLLM, machine, path=vllm).architectures_source == "shipped"
    ask_architectures(EngineName.VLLM, "0.33.0", path=vllm)
    facts = probe_engine(EngineName.VLLM, machine, path=vllm)
    assert (facts.version, facts.architectures_source) == ("0.33.0", "installed")
    assert facts.architectures == frozenset({"LlamaForCausalLM", "NewForCausalLM"})


def test_every_reason_code_is_in_the_documentation() -> None:
    page = ROOT / "docs/reason-codes.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside the tests")
    rows = {line.split("|")[1].strip() for line in page.read_text().splitlines() if line.startswith("| `")}
    assert rows == {f"`{code.value}`" for code in ReasonCode}
