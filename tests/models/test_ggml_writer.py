"""Files of the formats before GGUF: what is written can be read back by the published layout, byte for byte."""

import struct

from llmrun.models.ggml_writer import GgmlTensor, LlamaShape, write_ggjt_llama, write_ggml

TENSORS = (
    GgmlTensor(name="norm.weight", type_number=0, shape=(4,), data=struct.pack("<4f", 1, 2, 3, 4)),
    GgmlTensor(name="tok_embeddings.weight", type_number=2, shape=(32, 3), data=bytes(range(54))),
)
SHAPE = LlamaShape(embedding_length=256, multiple=256, heads=4, layers=1, rope_dimensions=64, file_type=2)


def test_a_llama_has_scores_and_aligned_tensors() -> None:
    data = write_ggjt_llama(SHAPE, [(b"<s>", 0.5), ("é".encode(), -1.0)], TENSORS)
    assert struct.unpack_from("<9I", data) == (0x67676A74, 3, 2, 256, 256, 4, 1, 64, 2)
    words = struct.pack("<I", 3) + b"<s>" + struct.pack("<fI", 0.5, 2) + "é".encode() + struct.pack("<f", -1.0)
    assert data[36 : 36 + len(words)] == words
    position = 36 + len(words)
    for tensor in TENSORS:
        dimensions, length, kind = struct.unpack_from("<3I", data, position)
        shape = struct.unpack_from(f"<{dimensions}I", data, position + 12)
        start = position + 12 + 4 * dimensions
        assert (kind, shape, data[start : start + length]) == (tensor.type_number, tensor.shape, tensor.name.encode())
        start += length
        start += -start % 32
        assert data[start : start + len(tensor.data)] == tensor.data
        position = start + len(tensor.data)
    assert position == len(data)


def test_the_feed_forward_length_is_what_loaders_compute() -> None:
    assert SHAPE.feed_forward_length == 768
    seven_b = LlamaShape(embedding_length=4096, multiple=256, heads=32, layers=32, rope_dimensions=128, file_type=2)
    assert seven_b.feed_forward_length == 11008


def test_an_unversioned_file_counts_its_tokens_and_aligns_nothing() -> None:
    data = write_ggml((2, 64, 256, 4, 1, 1), [b"a", b"bc"], TENSORS[:1])
    head = struct.pack("<I6iiI", 0x67676D6C, 2, 64, 256, 4, 1, 1, 2, 1) + b"a" + struct.pack("<I", 2) + b"bc"
    tensor = struct.pack("<4I", 1, len("norm.weight"), 0, 4) + b"norm.weight" + TENSORS[0].data
    assert data == head + tensor
