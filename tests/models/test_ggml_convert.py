"""Conversion of a legacy llama to GGUF: the same weights under new names, and a file in place only when it is whole."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import legacy_models as legacy
import pytest
from legacy_models import Legacy

from llmrun.errors import ModelFileError, StorageError, UsageError
from llmrun.models.ggml import convert
from llmrun.models.ggml.convert import LlamaFacts, convert_llama, default_target, read_convertible, tensor_name
from llmrun.models.ggml.tokens import read_spm_vocabulary
from llmrun.models.gguf.header import read_gguf_header
from llmrun.models.gguf.info import read_gguf_info
from llmrun.models.gguf.vocabulary import read_control_tokens
from llmrun.progress import SILENT

FACTS = LlamaFacts(
    name="tiny", context_length=512, rms_epsilon=1e-5, rope_base=10_000.0, chat_template="{{ messages }}"
)
BYTES = [(bytes([byte]), 0.0) for byte in range(256)]
HEAD = [(b" \xe2\x81\x87 ", 0.0), (b"", 0.0), (b"", 0.0), *BYTES]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(model: Legacy, name: str = "m.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(legacy.write(model))
        return path

    return write


def run(
    path: Path, target: Path, *, overwrite: bool = False, check: Callable[[Path], None] = lambda _path: None
) -> None:
    convert_llama(read_convertible(path), target, FACTS, overwrite=overwrite, progress=SILENT, check=check)


@pytest.mark.parametrize("name", [name for name in legacy.ALL if name.startswith("llama")])
def test_every_llama_becomes_a_gguf_with_the_same_bytes(write: Any, tmp_path: Path, name: str) -> None:
    path, target = write(legacy.ALL[name]), tmp_path / "m.gguf"
    old = read_convertible(path)
    run(path, target)
    info, header = read_gguf_info(target), read_gguf_header(target)
    assert (info.architecture, info.name, info.context_length, info.chat_template) == (
        "llama",
        "tiny",
        512,
        "{{ messages }}",
    )
    assert (info.layers, info.embedding_length, info.heads, info.kv_heads) == (2, 32, 2, (2, 2))
    assert info.quantization == {0: "F32", 1: "F16", 2: "Q4_0", 7: "Q8_0"}[legacy.ALL[name].file_type]
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert header.metadata["llama.rope.freq_base"] == 10_000.0
    assert header.metadata["llama.feed_forward_length"] == 96
    assert info.special_tokens.add_bos is True
    before, after = path.read_bytes(), target.read_bytes()
    assert [tensor.name for tensor in header.tensors] == [tensor_name(tensor.name) for tensor in old.tensors]
    for legacy_tensor, tensor in zip(old.tensors, header.tensors, strict=True):
        assert tensor.dimensions == legacy_tensor.dimensions
        weights = before[legacy_tensor.offset : legacy_tensor.offset + legacy_tensor.size_bytes]
        assert after[tensor.offset : tensor.offset + tensor.size_bytes] == weights
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.gguf"]


def test_grouped_heads_are_kept(write: Any, tmp_path: Path) -> None:
    run(write(replace(legacy.ALL["llama-ggjt-3"], kv_heads=1)), tmp_path / "m.gguf")
    assert read_gguf_info(tmp_path / "m.gguf").kv_heads == (1, 1)


def test_the_vocabulary_is_spelled_as_sentencepiece_does() -> None:
    added = [(b" hello", -1.5), (b"\xc3\xa9", -2.0), (b"<|im_end|>", -1000.0), (b"  ", -1000.0), (b"", 0.0)]
    texts, scores, types = read_spm_vocabulary(Path("m"), [*HEAD, *added, (b" hello", -9.0)])
    assert texts[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert texts[258] == "<0xFF>"
    assert texts[259:] == ["\u2581hello", "é", "<|im_end|>", "  ", "<|control_263|>", "<|unused_264|>"]
    assert types[:4] == [2, 3, 3, 6]
    assert types[259:] == [1, 1, 3, 4, 3, 5]
    assert scores[259:] == [-1.5, -2.0, 0.0, -1000.0, 0.0, 0.0]


def test_control_tokens_are_marked_as_such(write: Any, tmp_path: Path) -> None:
    run(write(legacy.ALL["llama-ggjt-3"]), tmp_path / "m.gguf")
    assert set(read_control_tokens(read_gguf_header(tmp_path / "m.gguf"))) >= {"<s>", "</s>"}


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(ModelFileError, match="token 3 should be the byte 0x00"):
        read_spm_vocabulary(Path("m"), [(b"a", 0.0), (b"b", 0.0), (b"c", 0.0), (b"d", 0.0)])


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("llama-2-7b-chat.ggmlv3.q4_0.bin", "llama-2-7b-chat.q4_0.gguf"),
        ("ggml-model.bin", "ggml-model.gguf"),
        ("a.bin.b.bin", "a.bin.b.gguf"),
        ("model", "model.gguf"),
    ],
)
def test_where_it_goes_by_itself(name: str, target: str) -> None:
    assert default_target(Path("/x") / name) == Path("/x") / target


def test_only_llamas(write: Any) -> None:
    with pytest.raises(ModelFileError, match="is a gptj, and only models of the llama kind") as caught:
        read_convertible(write(legacy.ALL["gptj"]))
    assert "--engine ctransformers" in (caught.value.fix or "")


def test_nothing_is_overwritten_unasked(write: Any, tmp_path: Path) -> None:
    path, target = write(legacy.ALL["llama-ggjt-3"]), tmp_path / "m.gguf"
    target.write_text("mine")
    with pytest.raises(UsageError, match="is there already") as caught:
        run(path, target)
    assert "--force" in (caught.value.fix or "")
    assert target.read_text() == "mine"
    run(path, target, overwrite=True)
    assert read_gguf_info(target).layers == 2
    for wrong in (path, tmp_path, tmp_path / "none" / "m.gguf"):
        with pytest.raises(UsageError):
            run(path, wrong, overwrite=True)


def test_a_failed_check_leaves_what_was_there(write: Any, tmp_path: Path) -> None:
    path, target = write(legacy.ALL["llama-ggjt-3"]), tmp_path / "m.gguf"
    target.write_text("mine")
    seen = []

    def check(partial: Path) -> None:
        seen.append(read_gguf_info(partial).layers)
        raise ModelFileError("no")

    with pytest.raises(ModelFileError):
        run(path, target, overwrite=True, check=check)
    assert seen == [2]
    assert target.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.gguf"]


def test_faults_47_a_full_disk_is_noticed_before_and_while_writing(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = write(legacy.ALL["llama-ggjt-3"]), tmp_path / "m.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(convert, "free_bytes", lambda _folder: 1000)
        with pytest.raises(StorageError, match="1,000 are free"):
            run(path, target)

    def full(_descriptor: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convert, "_write", full)
        with pytest.raises(StorageError, match="the disk is full"):
            run(path, target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin"]


def test_a_file_that_shrinks_meanwhile(write: Any, tmp_path: Path) -> None:
    path = write(legacy.ALL["llama-ggjt-3"])
    header = read_convertible(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="became shorter"):
        convert_llama(header, tmp_path / "m.gguf", FACTS, overwrite=False, progress=SILENT, check=lambda _path: None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin"]


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
