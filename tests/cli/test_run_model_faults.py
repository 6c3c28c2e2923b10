"""Broken model files through the real command: one clear line, the right exit code, at once, and nothing native run."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from gguf_builder import Raw, Tensor, array, build_gguf, f32, llama_pairs, text, u32

PAIRS = list(llama_pairs().items())


def with_pairs(**changes: Raw | None) -> Any:
    return build_gguf(llama_pairs(**{key.replace("__", "."): value for key, value in changes.items()}))


BROKEN = [
    pytest.param(b"", "empty", id="03 empty"),
    pytest.param(b"hello\n" * 10, "text file", id="03 text"),
    pytest.param(b"<!DOCTYPE html><html>", "web page", id="03 HTML"),
    pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS", id="03 LFS pointer"),
    pytest.param(struct.pack("<Q", 8) + b'{"a": 1}', "safetensors", id="03 safetensors named gguf"),
    pytest.param(build_gguf(magic=b"GGUG"), "not a GGUF file", id="04 bad magic"),
    pytest.param(build_gguf(version=1), "version 1", id="04 v1"),
    pytest.param(build_gguf(version=4), "version 4", id="04 v4"),
    pytest.param(build_gguf(version=3 << 24), "big-endian", id="04 big-endian"),
    pytest.param(build_gguf()[:20], "inside the header", id="05 truncated header"),
    pytest.param(build_gguf()[:100], "inside the metadata", id="05 truncated metadata"),
    pytest.param(build_gguf(with_data=False)[:-60], "inside the tensor table", id="05 truncated tensor table"),
    pytest.param(build_gguf()[:-1], "incomplete", id="06 one byte short"),
    pytest.param(build_gguf(tensor_count=2**40), "tensors", id="07 2^40 tensors"),
    pytest.param(build_gguf(pair_count=2**64 - 1), "metadata pairs", id="07 2^64 pairs"),
    pytest.param(
        build_gguf([*PAIRS, ("x", Raw(build.STRING, struct.pack("<Q", 2**63)))]), "'x'", id="07 string of 2^63"
    ),
    pytest.param(build_gguf([*PAIRS, ("x", array(build.UINT8, [], count=2**40))]), "'x'", id="07 array of 2^40"),
    pytest.param(build_gguf(tensors=[Tensor("a", (2**63, 4, 4))]), "'a'", id="07 shape of 2^67"),
    pytest.param(build_gguf([("k", u32(1))], pair_count=300_000) + bytes(5_000_000), "300,000", id="08 300,000 pairs"),
    pytest.param(with_pairs(llama__block_count=u32(0)), "block_count", id="09 no blocks"),
    pytest.param(with_pairs(llama__block_count=u32(513)), "block_count", id="09 513 blocks"),
    pytest.param(
        with_pairs(llama__attention__layer_norm_rms_epsilon=f32(float("nan"))), "epsilon", id="10 epsilon NaN"
    ),
    pytest.param(with_pairs(llama__attention__layer_norm_rms_epsilon=f32(-1.0)), "epsilon", id="10 epsilon negative"),
    pytest.param(
        with_pairs(tokenizer__ggml__token_type=array(build.INT32, [1])), "token_type", id="11 types contradict tokens"
    ),
    pytest.param(with_pairs(tokenizer__ggml__merges=None), "merges", id="11 gpt2 without merges"),
    pytest.param(with_pairs(tokenizer__ggml__eos_token_id=u32(999)), "eos_token_id", id="11 eos beyond the vocabulary"),
    pytest.param(with_pairs(llama__context_length=u32(2**31)), "context_length", id="12 context 2^31"),
    pytest.param(with_pairs(tokenizer__ggml__model=None), "tokenizer.ggml.model", id="13 no tokenizer"),
    pytest.param(with_pairs(tokenizer__ggml__model=text("nonsense")), "nonsense", id="13 unknown tokenizer"),
    pytest.param(with_pairs(general__architecture=text("no-such-arch")), "no-such-arch", id="unknown architecture"),
]


COMMANDS = pytest.mark.parametrize(
    "command",
    [
        pytest.param(lambda path: ("run", path, "hi", "--engine", "fake"), id="run"),
        pytest.param(lambda path: ("which-backend", path), id="which-backend"),
    ],
)


@COMMANDS
@pytest.mark.parametrize(("data", "said"), BROKEN)
def test_broken_file(llmrun: Callable[..., Any], tmp_path: Path, command: Any, data: bytes, said: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    result = llmrun(*command(path))
    assert result.code == 4, result.errors
    assert result.stdout == b""
    lines = result.errors.splitlines()
    assert said in lines[0]
    assert len(lines) <= 2
    assert all(line.startswith(("llmrun: error: ", "  fix: ")) for line in lines)
    assert result.seconds < 5  # a guard against hangs: it takes a fraction of a second


@COMMANDS
@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        pytest.param(lambda path: None, 3, "m.gguf", id="01 missing"),
        pytest.param(Path.mkdir, 4, "no model", id="02 empty folder"),
        pytest.param(os.mkfifo, 4, "is a pipe", id="02 FIFO"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), 4, "is a device", id="02 device"),
        pytest.param(lambda path: path.symlink_to(path), 4, "m.gguf", id="02 link to itself"),
    ],
)
def test_paths_that_are_no_file(
    llmrun: Callable[..., Any], tmp_path: Path, command: Any, make: Callable[[Path], None], code: int, said: str
) -> None:
    path = tmp_path / "m.gguf"
    make(path)
    result = llmrun(*command(path), timeout=20)
    assert result.code == code, result.errors
    assert said in result.errors.splitlines()[0]


def test_metadata_that_is_not_utf8_is_replaced_and_the_answer_comes(llmrun: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(build_gguf(llama_pairs(**{"general.name": text(b"caf\xe9")})))
    result = llmrun("run", path, "hi", "--engine", "fake", env={"LLMRUN_FAKE": '{"answer": "yes"}'})
    assert (result.code, result.text) == (0, "yes\n"), result.errors
    assert "general.name is not valid UTF-8" in result.errors


def test_an_unknown_name_offers_the_nearest(llmrun: Callable[..., Any]) -> None:
    result = llmrun("run", "llama-2-chatt", "hi", "--offline", "--engine", "fake")
    assert result.code == 3
    assert "llama-2-chat" in result.errors
