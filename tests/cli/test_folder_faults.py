"""Hugging Face folders that are broken or unsafe, through the real command: one clear line and the right exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder_builder import sharded

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(sharded().write(tmp_path / "model"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def promise_another_tensor(folder: Path) -> None:
    edit(folder / INDEX, lambda index: index["weight_map"].update({"model.extra": "model-00001-of-00002.safetensors"}))


def remove_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def cut_a_shard(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def point_outside(folder: Path) -> None:
    edit(folder / INDEX, lambda index: index["weight_map"].update({"model.norm.weight": "../outside.safetensors"}))


def leave_only_a_pickle(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")


def quantize_by_magic(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(quantization_config={"quant_method": "magic"}))


def write_an_error_page(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")


@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        pytest.param(promise_another_tensor, 4, "model.extra", id="22 a tensor is missing"),
        pytest.param(remove_a_shard, 4, "model-00002-of-00002.safetensors", id="23 a shard is missing"),
        pytest.param(cut_a_shard, 4, "incomplete", id="23 a shard is cut short"),
        pytest.param(point_outside, 9, "../outside.safetensors", id="24 a shard outside the folder"),
        pytest.param(leave_only_a_pickle, 9, "pickle", id="25 pickles only"),
        pytest.param(quantize_by_magic, 4, "magic", id="27 unknown quantization method"),
        pytest.param(write_an_error_page, 4, "web page", id="03 an error page for a shard"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["which-backend"], ["run"], ["run", "--engine", "pytorch"], ["run", "--engine", "vllm"]],
    ids=["which-backend", "run", "pytorch", "vllm"],
)
def test_broken_folder(
    llmrun: Callable[..., Any], folder: Path, command: list[str], damage: Callable[[Path], None], code: int, said: str
) -> None:
    damage(folder)
    result = llmrun(*command, folder, *(["hi"] if command[0] == "run" else []))
    assert result.code == code, result.errors
    assert result.stdout == b""
    lines = result.errors.splitlines()
    assert said in lines[0]
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("brings_code", "reason"),
    [pytest.param(True, "[remote-code]", id="with its code"), pytest.param(False, "[architecture]", id="without")],
)
def test_an_unknown_architecture(llmrun: Callable[..., Any], folder: Path, brings_code: bool, reason: str) -> None:
    code = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}} if brings_code else {}
    edit(folder / "config.json", lambda config: config.update(architectures=["HomemadeForCausalLM"], **code))
    result = llmrun("which-backend", folder)
    assert result.code == 6
    assert reason in " ".join(result.text.split())


@pytest.mark.parametrize("engine", ["pytorch", "vllm"])
@pytest.mark.pytorch
@pytest.mark.vllm
def test_faults_26_code_of_the_models_own_is_not_run(llmrun: Callable[..., Any], folder: Path, engine: str) -> None:
    trap = folder.parent / "it-ran"
    (folder / "modeling.py").write_text(f"open({str(trap)!r}, 'w')")
    edit(
        folder / "config.json",
        lambda config: config.update(
            architectures=["HomemadeForCausalLM"], auto_map={"AutoModelForCausalLM": "modeling.Model"}
        ),
    )
    result = llmrun("run", folder, "hi", "--engine", engine)
    assert result.code == 9, result.errors
    refusal, fix = result.errors.splitlines()
    assert refusal.startswith(f"llmrun: error: {engine} ")
    assert "HomemadeForCausalLM" in refusal
    assert refusal.endswith("the code that the model brings along: it is not run unasked")
    assert "--trust-remote-code" in fix
    assert not trap.exists()


def test_show_reads_the_headers(llmrun: Callable[..., Any], folder: Path) -> None:
    result = llmrun("models", "show", folder)
    assert result.code == 0, result.errors
    assert "LlamaForCausalLM" in result.text
    assert "2 layers, width 16" in result.text
