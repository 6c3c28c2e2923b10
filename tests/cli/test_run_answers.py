"""`run` with a schema, a grammar or log probabilities, and models in folders, through the real command."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
DATA = Path(__file__).parents[1] / "data"
ASKED = "Question: What is the capital of Norway?\nAnswer:"


@pytest.fixture
def gguf() -> Path:
    path = os.environ.get("LLMRUN_TEST_MODEL")
    if not path:
        pytest.skip("LLMRUN_TEST_MODEL names no file (make test sets it)")
    return Path(path)


@pytest.mark.engine
def test_a_schema_gives_a_value(llmrun: Run, gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    for given in (json.dumps(SCHEMA), str(tmp_path / "schema.json")):
        result = llmrun(
            "run", gguf, "A person.", "--json-schema", given, "--json", "--max-tokens", "200", "--seed", "1"
        )
        assert result.code == 0, result.errors
        document = json.loads(result.text)
        assert document["value"] == json.loads(document["text"])
        assert set(document["value"]) == {"name", "age"}


@pytest.mark.engine
def test_an_answer_that_was_cut_is_no_value(llmrun: Run, gguf: Path) -> None:
    given = json.dumps(SCHEMA)
    result = llmrun("run", gguf, "A person.", "--json-schema", given, "--json", "--max-tokens", "3")
    document = json.loads(result.text)
    assert (document["value"], document["finish_reason"]) == (None, "length")


@pytest.mark.engine
def test_a_grammar_and_log_probabilities(llmrun: Run, gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"')
    result = llmrun("run", gguf, "Is it?", "--grammar", tmp_path / "yes.gbnf", "--json", "--logprobs", "2")
    document = json.loads(result.text)
    assert document["text"] in ("yes", "no")
    assert "".join(token["text"] for token in document["logprobs"]) == document["text"]
    assert all(len(token["top"]) == 2 for token in document["logprobs"])
    shown = llmrun("run", gguf, "Is it?", "--logprobs", "1", "--max-tokens", "1")
    assert "--logprobs has no effect" in shown.errors


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--json-schema", "no-such-file.json"], "no-such-file.json", id="missing schema"),
        pytest.param(["--json-schema", "{"], "not JSON", id="no JSON"),
        pytest.param(["--json-schema", '{"type": "nonsense"}'], "schema", id="no schema"),
        pytest.param(["--grammar", "/no/such/file"], "/no/such/file", id="missing grammar"),
        pytest.param(["--grammar", __file__], "grammar", id="no grammar"),
        pytest.param(["--logprobs", "-1"], "logprobs", id="fewer than none"),
        pytest.param(["--dtype", "int3"], "int3", id="no type"),
        pytest.param(["--quantization", "3-bit"], "3-bit", id="no quantization"),
        pytest.param(["--model-type", "nonsense"], "nonsense", id="no model type"),
    ],
)
def test_what_cannot_be_used(llmrun: Run, gguf: Path, arguments: list[str], said: str) -> None:
    result = llmrun("run", gguf, "x", "--max-tokens", "5", *arguments)
    assert result.code == 2, result.errors
    assert said in result.errors
    assert "Traceback" not in result.errors


@pytest.mark.pytorch
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_a_folder_is_answered_by_pytorch(llmrun: Run, name: str) -> None:
    """LLaMA goes through the forward pass of ours, GPT-2 through that of transformers."""
    options = ("--engine", "pytorch", "--raw", "--temperature", "0", "--json", "--dtype", "float32")
    result = llmrun("run", DATA / name, ASKED, *options, timeout=180)
    assert result.code == 0, result.errors
    document = json.loads(result.text)
    assert (document["text"], document["engine"]["name"]) == (" Oslo.", "pytorch")


@pytest.mark.pytorch
def test_a_context_that_is_too_small(llmrun: Run) -> None:
    options = ("--engine", "pytorch", "--raw", "--context-length", "16")
    result = llmrun("run", DATA / "tiny-llama", ASKED, *options, timeout=180)
    assert result.code == 10
    assert "16" in result.errors


@pytest.mark.pytorch
def test_damaged_weights_are_named(llmrun: Run, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(DATA / "tiny-llama", folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8 : 8 + size])["model.norm.weight"]["data_offsets"]
    data[8 + size + begin : 8 + size + end] = b"\xff\x7f" * ((end - begin) // 2)
    weights.write_bytes(data)
    result = llmrun("run", folder, "x", "--engine", "pytorch", "--raw", timeout=180)
    assert (result.code, result.text) == (4, "")
    assert "look damaged" in result.errors


@pytest.mark.pytorch
def test_quantizing_on_a_processor_is_refused(llmrun: Run) -> None:
    result = llmrun("run", DATA / "tiny-llama", "x", "--engine", "pytorch", "--quantization", "4-bit", timeout=180)
    assert result.code in (0, 2), result.errors
    if result.code == 2:
        assert "GGUF" in result.errors


@pytest.mark.ctransformers
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_legacy_file_is_answered_by_ctransformers(llmrun: Run, tmp_path: Path, kind: str) -> None:
    from trained_models import legacy_gpt2, legacy_llama

    path = tmp_path / f"{kind}.bin"
    path.write_bytes(legacy_llama() if kind == "llama" else legacy_gpt2())
    result = llmrun("run", path, ASKED, "--raw", "--temperature", "0", "--json", timeout=120)
    assert result.code == 0, result.errors
    document = json.loads(result.text)
    assert (document["text"], document["engine"]["name"]) == (" Oslo.", "ctransformers")
    refused = llmrun("run", path, "x", "--raw", "--json-schema", "{}", timeout=120)
    assert refused.code == 2
    assert "cannot keep" in refused.errors


@pytest.mark.pytorch
def test_pickles_are_read_only_when_asked_for(llmrun: Run, tmp_path: Path) -> None:
    from importlib import import_module

    torch: Any = import_module("torch")
    safetensors: Any = import_module("safetensors.torch")
    folder = tmp_path / "pickled"
    shutil.copytree(DATA / "tiny-llama", folder)
    weights = folder / "model.safetensors"
    torch.save(safetensors.load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    refused = llmrun("run", folder, ASKED, "--raw")
    assert (refused.code, refused.text) == (9, "")
    assert "--allow-pickle" in refused.errors
    result = llmrun("run", folder, ASKED, "--raw", "--temperature", "0", "--allow-pickle", timeout=180)
    assert (result.code, result.text) == (0, " Oslo.\n"), result.errors
