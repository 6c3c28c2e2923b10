"""Headers of safetensors files: read with one or two reads, and refused when anything does not add up."""

import json
import time

import pytest
from folder_builder import MemoryFolder, Tensors, header_of, rows_of

from llmrun.errors import ModelFileError
from llmrun.models.huggingface.safetensors import MAX_TENSORS, read_safetensors_header

NAME = "model.safetensors"
TENSORS: Tensors = {"b": ("BF16", (2, 3)), "a": ("F32", (4,)), "none": ("I8", (0, 5)), "scalar": ("F32", ())}


def put(rows: object, data: int = 32) -> MemoryFolder:
    header = header_of(rows)
    return MemoryFolder().put(NAME, header, len(header) + data)


def refused(folder: MemoryFolder) -> ModelFileError:
    start = time.monotonic()
    with pytest.raises(ModelFileError) as caught:
        read_safetensors_header(folder, NAME)
    assert time.monotonic() - start < 5
    assert str(folder.path / NAME) in caught.value.message
    return caught.value


def test_reads_what_is_there() -> None:
    folder = MemoryFolder().put_tensors(NAME, TENSORS)
    header = read_safetensors_header(folder, NAME)
    assert header.metadata == {"format": "pt"}
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes) for tensor in header.tensors] == [
        ("b", "BF16", (2, 3), 12),
        ("a", "F32", (4,), 16),
        ("none", "I8", (0, 5), 0),
        ("scalar", "F32", (), 4),
    ]
    assert sum(tensor.elements for tensor in header.tensors) == 11
    assert len(folder.reads) == 1


def test_a_long_header_costs_two_reads() -> None:
    tensors: Tensors = {f"model.layers.{index}.mlp.experts.weight": ("BF16", (1,)) for index in range(9_000)}
    folder = MemoryFolder().put_tensors(NAME, tensors)
    assert len(read_safetensors_header(folder, NAME).tensors) == 9_000
    assert len(folder.reads) == 2


@pytest.mark.parametrize(
    ("content", "said", "fix"),
    [
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer", "lfs", id="lfs"),
        pytest.param(b"<!DOCTYPE html><html>no</html>", "web page", "download", id="html"),
        pytest.param(b"GGUF\x03\0\0\0" + bytes(80), "GGUF file (version 3)", ".gguf", id="gguf"),
        pytest.param(b"", "an empty file", "again", id="empty"),
        pytest.param(b"PK\x03\x04archive/data.pkl" + bytes(40), "PyTorch checkpoint", "safetensors", id="pickle"),
        pytest.param(bytes(200), "zero bytes only", "again", id="zeros"),
        pytest.param(b"\x10\0\0", "unknown kind", "again", id="three bytes"),
    ],
)
def test_another_kind_of_file_is_named(content: bytes, said: str, fix: str) -> None:
    error = refused(MemoryFolder().put(NAME, content))
    assert said in error.message
    assert fix in (error.fix or "")


@pytest.mark.parametrize("lost", [1, 47, 48, 49, 120, 250])
def test_a_truncated_file_is_incomplete(lost: int) -> None:
    folder = MemoryFolder().put_tensors(NAME, TENSORS)
    folder.sizes[NAME] -= lost
    error = refused(folder)
    assert "is incomplete: its" in error.message
    assert error.fix == "download the file again"


def test_bytes_after_the_last_tensor_are_refused() -> None:
    folder = MemoryFolder().put_tensors(NAME, TENSORS)
    folder.sizes[NAME] += 7
    assert "7 bytes follow its last tensor" in refused(folder).message


def test_a_length_beyond_reason_is_refused_without_reading_it() -> None:
    folder = MemoryFolder().put(NAME, (2**40).to_bytes(8, "little") + b"{", 2**41)
    assert "its header would have 1,099,511,627,776 bytes" in refused(folder).message
    assert sum(length for _, _, length in folder.reads) <= 256 * 1024


def row(**changes: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]} | changes}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param(row(dtype="Q9"), "type 'Q9', which is not known", id="unknown type"),
        pytest.param(row(dtype=["F32"]), "which is not known", id="type a list"),
        pytest.param(row(shape=[2**62, 2**62]), "more bytes than any disk has", id="product overflows"),
        pytest.param(row(shape=[7]), "needs 28 bytes and has 32", id="shape against data"),
        pytest.param(row(shape=[-8]), "shape", id="negative"),
        pytest.param(row(shape=[True] * 3), "shape", id="booleans"),
        pytest.param(row(shape=[1] * 100), "shape", id="100 dimensions"),
        pytest.param(row(shape=8), "shape", id="no list"),
        pytest.param(row(data_offsets=[32, 0]), "offsets", id="backwards"),
        pytest.param(row(data_offsets=[0, 32, 64]), "offsets", id="three offsets"),
        pytest.param(row(data_offsets=None), "offsets", id="no offsets"),
        pytest.param({"x": 5}, "not described by an object", id="a number"),
        pytest.param({"__metadata__": {"a": 1}}, "not made of texts", id="metadata"),
        pytest.param(b'{"x": {}, "x": {}}', "a name appears twice", id="duplicate"),
        pytest.param(b'{"x": ' + b"[" * 200_000, "nested too deeply", id="depth bomb"),
        pytest.param(b'{"x": "\xff"}', "it is not UTF-8", id="not UTF-8"),
        pytest.param(b'{"x": ' + b"9" * 9_000 + b"}", "not what the format wants", id="long number"),
        pytest.param(b'{"x": 1', "not what the format wants", id="cut"),
        pytest.param(b'{"x": [' + b"[]," * (4 * MAX_TENSORS) + b"1]}", "more than 262,140 tensors", id="width bomb"),
    ],
)
def test_a_damaged_header_is_refused(rows: object, said: str) -> None:
    assert said in refused(put(rows)).message


@pytest.mark.parametrize(
    ("second", "said"),
    [pytest.param([8, 24], "overlaps", id="overlap"), pytest.param([20, 36], "after a gap", id="gap")],
)
def test_data_must_lie_end_to_end(second: list[int], said: str) -> None:
    rows = rows_of({"first": ("F32", (4,)), "second": ("F32", (4,))})
    rows["second"]["data_offsets"] = second
    assert said in refused(put(rows)).message


def test_a_file_that_shrinks_while_it_is_read() -> None:
    folder = MemoryFolder().put_tensors(NAME, TENSORS)
    folder.read = lambda name, start, length: folder.heads[name][: length // 2][:40]
    assert "became shorter" in refused(folder).message


def test_padding_after_the_header_is_allowed() -> None:
    text = json.dumps(rows_of({"x": ("F32", (8,))})).encode()
    assert len(read_safetensors_header(put(text + b" " * 5), NAME).tensors) == 1
