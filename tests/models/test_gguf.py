"""The header reader: sound files in every detail, damaged ones refused in one sentence."""

import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from gguf_builder import Raw, Tensor, build_gguf, llama_pairs, text, u32

from llmrun.errors import LlmrunError, ModelFileError, ModelNotFoundError
from llmrun.models.gguf.header import GgufArray, ValueType, read_gguf_header
from llmrun.models.gguf.info import read_gguf_info
from llmrun.models.gguf.vocabulary import read_control_tokens, read_texts

HUGE = 2**63


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(data: bytes, name: str = "m.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("version", [2, 3])
def test_a_sound_file(write: Any, version: int) -> None:
    data = build_gguf(version=version)
    header = read_gguf_header(write(data))
    assert (header.version, header.alignment, header.file_size_bytes) == (version, 32, len(data))
    assert header.metadata["llama.block_count"] == 2
    assert header.value_types["llama.block_count"] is ValueType.UINT32
    assert header.metadata["general.architecture"] == "llama"
    first, second = header.tensors
    assert (first.name, first.dimensions, first.type_name) == ("token_embd.weight", (64, 6), "F32")
    assert (first.elements, first.size_bytes, first.offset) == (384, 1536, header.data_offset)
    assert second.offset == header.data_offset + 1536
    assert second.offset + second.size_bytes == len(data)
    assert header.warnings == ()


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        pytest.param(build.number(build.UINT8, 255), 255, id="u8"),
        pytest.param(build.number(build.INT8, -1), -1, id="i8"),
        pytest.param(build.number(build.UINT16, 65535), 65535, id="u16"),
        pytest.param(build.number(build.INT16, -2), -2, id="i16"),
        pytest.param(build.number(build.INT32, -3), -3, id="i32"),
        pytest.param(build.number(build.UINT64, 2**64 - 1), 2**64 - 1, id="u64"),
        pytest.param(build.number(build.INT64, -(2**63)), -(2**63), id="i64"),
        pytest.param(build.number(build.FLOAT32, 0.5), 0.5, id="f32"),
        pytest.param(build.number(build.FLOAT64, 0.1), 0.1, id="f64"),
        pytest.param(build.number(build.BOOL, 1), True, id="bool"),
        pytest.param(text(""), "", id="empty-text"),
        pytest.param(text("x" * 1024), "x" * 1024, id="faults_16-text-of-1024-bytes"),
        pytest.param(text("ü" * 100_000), "ü" * 100_000, id="long-text"),
    ],
)
def test_every_kind_of_value(write: Any, raw: Raw, value: object) -> None:
    found = read_gguf_header(write(build_gguf(llama_pairs(extra=raw)))).metadata["extra"]
    assert found == value
    assert type(found) is type(value)


def test_small_arrays_are_made_and_large_ones_stay_in_the_file(write: Any) -> None:
    pairs = llama_pairs(
        small=build.array(build.INT32, range(4096)),
        large=build.array(build.INT32, range(4097)),
        none=build.array(build.FLOAT32, []),
        bools=build.array(build.BOOL, [True, False]),
    )
    header = read_gguf_header(write(build_gguf(pairs)))
    arrays = {key: value for key, value in header.metadata.items() if isinstance(value, GgufArray)}
    assert arrays["small"].values == tuple(range(4096))
    assert (arrays["large"].values, arrays["large"].count, arrays["large"].size_bytes) == (None, 4097, 4 * 4097)
    assert arrays["none"].values == ()
    assert arrays["bools"].values == (True, False)


def test_single_texts_of_an_array(write: Any) -> None:
    words = [f"w{index}" * (index % 5) for index in range(1000)]
    header = read_gguf_header(write(build_gguf(llama_pairs(words=build.array(build.STRING, words)))))
    array = header.metadata["words"]
    assert isinstance(array, GgufArray)
    wanted = [0, 1, 255, 256, 257, 700, 999]
    assert read_texts(header, array, [*wanted, 1000, -1]) == {index: words[index] for index in wanted}
    assert read_texts(header, array, [999]) == {999: words[999]}
    assert read_texts(header, array, []) == {}


def test_a_header_larger_than_the_first_read(write: Any) -> None:
    words = ["ab" * (index % 40) for index in range(60_000)]
    data = build_gguf(llama_pairs(words=build.array(build.STRING, words), after=u32(7)))
    assert len(data) > 2 * 1024 * 1024
    header = read_gguf_header(write(data))
    assert header.metadata["after"] == 7
    assert isinstance(header.metadata["words"], GgufArray)
    assert read_texts(header, header.metadata["words"], [59_999]) == {59_999: words[59_999]}


def test_text_that_is_not_utf8_is_replaced_and_said(write: Any) -> None:
    header = read_gguf_header(write(build_gguf(llama_pairs(**{"general.name": text(b"caf\xe9")}))))
    assert header.metadata["general.name"] == "caf�"
    assert header.metadata["tokenizer.chat_template"] == build.CHATML
    assert header.warnings == ("general.name is not valid UTF-8: what could not be read is replaced",)


PAIRS = list(llama_pairs().items())
DAMAGED = [
    pytest.param(b"", "is an empty file|it is an empty file", id="faults_03-empty"),
    pytest.param(b"hello\n", "it is a text file", id="faults_03-text"),
    pytest.param(b"<!doctype html>", "it is a web page", id="faults_03-html"),
    pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer", id="faults_03-lfs"),
    pytest.param(struct.pack("<Q", 8) + b'{"a": 1}', "safetensors", id="faults_03-safetensors"),
    pytest.param(build_gguf(magic=b"GGUG"), "is not a GGUF file", id="faults_04-magic"),
    pytest.param(build_gguf(version=0), "version 0", id="faults_04-version-0"),
    pytest.param(build_gguf(version=1), "version 1, which no engine reads", id="faults_04-version-1"),
    pytest.param(build_gguf(version=4), "version 4, and versions 2 and 3", id="faults_04-version-4"),
    pytest.param(build_gguf(version=3 << 24), "big-endian GGUF file \\(version 3\\)", id="faults_04-big-endian"),
    pytest.param(build_gguf()[:4], "end inside the header", id="faults_05-magic-only"),
    pytest.param(build_gguf()[:20], "end inside the header", id="faults_05-header"),
    pytest.param(build_gguf()[:100], "end inside the metadata", id="faults_05-metadata"),
    pytest.param(build_gguf(with_data=False)[:-60], "end inside the tensor table", id="faults_05-tensor-table"),
    pytest.param(build_gguf()[:-1], "incomplete: 1 bytes are missing", id="faults_06-one-byte-short"),
    pytest.param(build_gguf(with_data=False), "incomplete: 1,792 bytes are missing", id="faults_06-no-data"),
    pytest.param(build_gguf(tensor_count=2**40), "tensors, and 65,535", id="faults_07-tensors-2e40"),
    pytest.param(build_gguf(tensor_count=2**64 - 1), "tensors, and 65,535", id="faults_07-tensors-2e64"),
    pytest.param(build_gguf(pair_count=2**64 - 1), "metadata pairs, and 4,096", id="faults_07-pairs-2e64"),
    pytest.param(build_gguf(pair_count=2**40), "metadata pairs, and 4,096", id="faults_07-pairs-2e40"),
    pytest.param(
        build_gguf([*PAIRS, ("x", Raw(build.STRING, struct.pack("<Q", 2**40)))]),
        "'x' would be 1,099,511,627,776 bytes",
        id="faults_07-text-2e40",
    ),
    pytest.param(
        build_gguf([*PAIRS, ("x", Raw(build.STRING, struct.pack("<Q", 2**64 - 1)))]),
        "'x' would be",
        id="faults_07-text-2e64",
    ),
    pytest.param(
        build_gguf([*PAIRS, ("x", build.array(build.UINT8, [], count=2**40))]),
        "would have 1,099,511,627,776 entries",
        id="faults_07-array-2e40",
    ),
    pytest.param(
        build_gguf([*PAIRS, ("x", build.array(build.STRING, [], count=2**64 - 1))]),
        "and 8,388,608 is the limit",
        id="faults_07-array-2e64",
    ),
    pytest.param(
        build_gguf([*PAIRS, ("x", build.array(build.STRING, [], count=8 * 2**20))]),
        "end inside the metadata",
        id="faults_07-array-at-the-limit",
    ),
    pytest.param(
        build_gguf([*PAIRS, ("x", Raw(build.ARRAY, struct.pack("<IQQ", build.STRING, 1, 2**60)))]),
        "a text in 'x' would be",
        id="faults_07-text-in-array",
    ),
    pytest.param(
        build_gguf([(b"k" * 70_000, u32(1))]), "name of metadata pair 0 would be 70,000 bytes", id="faults_07-key"
    ),
    pytest.param(build_gguf([("", u32(1))]), "has an empty name", id="empty-key"),
    pytest.param(build_gguf([*PAIRS, ("general.name", text("b"))]), "'general.name' comes twice", id="key-twice"),
    pytest.param(build_gguf([("x", Raw(13, b""))]), "unknown value type 13", id="value-type"),
    pytest.param(
        build_gguf([("x", Raw(build.ARRAY, struct.pack("<IQ", build.ARRAY, 1) + bytes(64)))]),
        "arrays inside an array",
        id="nested-array",
    ),
    pytest.param(build_gguf(llama_pairs(**{"general.alignment": u32(0)})), "not a power of two", id="alignment-0"),
    pytest.param(build_gguf(llama_pairs(**{"general.alignment": u32(48)})), "not a power of two", id="alignment-48"),
    pytest.param(build_gguf(llama_pairs(**{"general.alignment": text("32")})), "32-bit number", id="alignment-text"),
    pytest.param(build_gguf(tensors=[Tensor("a", (1,) * 5)]), "5 dimensions", id="dimensions"),
    pytest.param(build_gguf(tensors=[Tensor("a", (HUGE, 4, 4))]), "impossible shape", id="faults_07-shape-overflows"),
    pytest.param(build_gguf(tensors=[Tensor("a", (2**62,))]), "impossible shape", id="faults_07-size-overflows"),
    pytest.param(build_gguf(tensors=[Tensor("a", (2**40,))]), "bytes are missing", id="faults_07-larger-than-the-file"),
    pytest.param(build_gguf(tensors=[Tensor("a", kind=43)]), "unknown type number 43", id="tensor-type-unknown"),
    pytest.param(build_gguf(tensors=[Tensor("a", kind=31)]), "unknown type number 31", id="tensor-type-removed"),
    pytest.param(
        build_gguf(tensors=[Tensor("a", (100,), kind=build.Q4_K)]), "Q4_K packs 256 at once", id="broken-block"
    ),
    pytest.param(build_gguf(tensors=[Tensor("a" * 64)]), "would be 64 bytes long", id="tensor-name-64"),
    pytest.param(build_gguf(tensors=[Tensor("a"), Tensor("a")]), "'a' comes twice", id="tensor-twice"),
    pytest.param(build_gguf(tensors=[Tensor("a"), Tensor("b", offset=0)]), "overlaps the one before", id="overlap"),
    pytest.param(build_gguf(tensors=[Tensor("a"), Tensor("b", offset=260)]), "alignment 32", id="misaligned"),
    pytest.param(build_gguf(tensors=[Tensor("a"), Tensor("b", offset=512)]), "before it ends at 256", id="gap"),
    pytest.param(build_gguf(tensors=[Tensor("a", offset=2**64 - 32)]), "begins at", id="faults_07-offset-2e64"),
    pytest.param(build_gguf(tensors=[]), "holds no weights", id="no-tensors"),
]


@pytest.mark.parametrize(("data", "words"), DAMAGED)
def test_damaged_files_are_refused(write: Any, data: bytes, words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ModelFileError, match=words) as caught:
        read_gguf_header(write(data))
    assert time.monotonic() - begin < 1
    assert caught.value.exit_code == 4
    assert caught.value.fix
    assert "\n" not in caught.value.message


def test_300000_metadata_pairs(write: Any) -> None:
    path = write(build_gguf([("k", u32(1))], pair_count=300_000) + bytes(5_000_000))
    with pytest.raises(ModelFileError, match="300,000 metadata pairs, and 4,096 is the limit"):
        read_gguf_header(path)


def test_4096_metadata_pairs_are_read(write: Any) -> None:
    rows = [(f"k{index}", u32(index)) for index in range(4_096)]
    assert len(read_gguf_header(write(build_gguf(rows))).metadata) == 4_096


def test_65535_tensors_are_read(write: Any) -> None:
    tensors = [Tensor(f"blk.{index}.weight", (8,)) for index in range(65_535)]
    path = write(build_gguf(tensors=tensors))
    begin = time.monotonic()
    assert len(read_gguf_header(path).tensors) == 65_535
    assert time.monotonic() - begin < 5  # a guard against a hang, not a measurement


def test_every_cut_of_a_header_is_refused(write: Any) -> None:
    data = build_gguf()
    for end in range(0, len(data) - 1, 13):
        with pytest.raises(ModelFileError):
            read_gguf_header(write(data[:end]))


def test_a_vocabulary_alone_is_read_when_asked_for(write: Any) -> None:
    path = write(build_gguf(tensors=[]))
    assert read_gguf_header(path, vocabulary_only=True).tensors == ()
    assert read_control_tokens(path) == ("<|a longer one|>", "<|end|>")


def test_a_data_section_that_native_code_cannot_map(write: Any) -> None:
    for filler in range(4):  # the header's length decides where the data begins
        pairs = llama_pairs(**{"general.alignment": u32(8), "filler": text("x" * 8 * filler)})
        data = build_gguf(pairs, alignment=8)
        header_bytes = len(data) - 1792
        if header_bytes % 32:
            with pytest.raises(ModelFileError, match="not a multiple of 32"):
                read_gguf_header(write(data))
        else:
            assert read_gguf_header(write(data)).data_offset == header_bytes


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_gguf_header(tmp_path / "missing.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_gguf_header(tmp_path)
    os.mkfifo(tmp_path / "fifo.gguf")
    with pytest.raises(ModelFileError, match="named pipe"):
        read_gguf_header(tmp_path / "fifo.gguf")


def test_control_and_user_defined_tokens(write: Any) -> None:
    header = read_gguf_header(write(build_gguf()))
    assert read_control_tokens(header) == ("<|a longer one|>", "<|end|>")
    assert read_control_tokens(header, user_defined=True) == ("  ",)


def test_a_file_that_changed_after_its_header_was_read(write: Any) -> None:
    path = write(build_gguf())
    header = read_gguf_header(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelFileError, match="changed while it was read"):
        read_control_tokens(header)


def test_a_vocabulary_of_262144_tokens(write: Any) -> None:
    words = [f"w{index}" for index in range(262_144)]
    types = [3 if index % 50_000 == 0 else 1 for index in range(262_144)]
    pairs = llama_pairs(
        **{
            "tokenizer.ggml.tokens": build.array(build.STRING, words),
            "tokenizer.ggml.token_type": build.array(build.INT32, types),
            "tokenizer.ggml.merges": build.array(build.STRING, ["a b"] * 500_000),
        }
    )
    tensors = [Tensor("token_embd.weight", (64, 262_144), size_bytes=0), Tensor("output_norm.weight", (64,))]
    path = write(build_gguf(pairs, tensors[:1], with_data=False))
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 64 * 262_144 * 4)
    begin = time.monotonic()
    info = read_gguf_info(path)
    tokens = read_control_tokens(path)
    assert time.monotonic() - begin < 2  # a guard against a hang, not a measurement
    assert info.vocabulary_size == 262_144
    assert tokens == ("w100000", "w150000", "w200000", "w250000", "w50000", "w0")


def test_mutated_headers_raise_nothing_but_our_errors(write: Any) -> None:
    sound = build_gguf()
    header_bytes = len(build_gguf(with_data=False))
    generator = random.Random(20_240_817)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(sound)
        for _ in range(generator.randrange(1, 4)):
            place = generator.randrange(4, header_bytes)
            if generator.random() < 0.5:
                data[place] = generator.randrange(256)
            else:
                width = generator.choice([4, 8])
                data[place : place + width] = generator.choice([b"\xff", b"\x00", b"\x7f", b"\x80"]) * width
        if generator.random() < 0.2:
            del data[generator.randrange(len(data)) :]
        path = write(bytes(data))
        try:
            read_gguf_info(path)
            read_control_tokens(path)
            outcomes["read"] += 1
        except LlmrunError as error:
            assert error.exit_code == 4  # noqa: PT017 - both outcomes are right, other exceptions are not
            outcomes["refused"] += 1
    assert outcomes["refused"] > 80
    assert outcomes["read"] > 40
