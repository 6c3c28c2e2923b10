"""Every engine gets a verdict with all its reasons; the choice follows from them."""

from dataclasses import replace

import pytest

from llmrun.engines.selection import select_engine
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError
from llmrun.models.types import ModelFormat, ModelInfo

INFO = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="llama",
    parameters=1,
    quantization=None,
    context_length=None,
    layers=1,
    embedding_length=1,
    heads=1,
    kv_heads=(1,),
    key_length=1,
    value_length=1,
    vocabulary_size=1,
    tensor_bytes=1,
    tensor_types=(),
)
ALL = dict.fromkeys(EngineName, True)
NONE = dict.fromkeys(EngineName, False)


def test_gguf_goes_to_llama_cpp_and_every_engine_has_a_verdict() -> None:
    selection = select_engine(INFO, ALL)
    assert selection.chosen is EngineName.LLAMA_CPP
    assert {verdict.engine for verdict in selection.verdicts} == set(EngineName) - {EngineName.FAKE}
    assert all(verdict.reasons for verdict in selection.verdicts if not verdict.eligible)


def test_nothing_installed_says_what_to_install() -> None:
    with pytest.raises(NoUsableEngineError, match="is not installed") as caught:
        select_engine(INFO, NONE)
    assert caught.value.fix == "llmrun install llama-cpp"


def test_all_reasons_are_collected_not_the_first() -> None:
    with pytest.raises(NoUsableEngineError) as caught:
        select_engine(INFO, NONE, EngineName.VLLM)
    assert "does not read gguf" in caught.value.message
    assert "is not installed" in caught.value.message
    assert caught.value.fix is None  # installing it would not help


@pytest.mark.parametrize("format_", [ModelFormat.GGML, ModelFormat.PYTORCH, ModelFormat.AWQ])
def test_formats_that_no_adapter_here_reads_are_refused(format_: ModelFormat) -> None:
    with pytest.raises(NoUsableEngineError, match=f"no engine can run this {format_} model"):
        select_engine(replace(INFO, format=format_), ALL)
