"""llmrun's own kernels in the installed build: against numpy, against llama.cpp's own, and on a real model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ggml_product import PLAIN, Library  # type: ignore[import-not-found, unused-ignore]

from llmrun.engines.install.wheels import read_installed_record

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libraries are called .so"),
]

PACKED = "CPU_LLMRUN"
# GGML type number, scales of a block, other bytes of a block. Source: ggml/src/ggml-common.h
FORMATS = {"Q4_0": (2, 1, 16), "Q4_1": (3, 2, 16), "Q5_0": (6, 1, 20), "Q5_1": (7, 2, 20), "Q8_0": (8, 1, 32)}
OTHERS = {"Q4_K": 12, "Q6_K": 14, "IQ4_NL": 20, "F16": 1}
SHAPES = [
    pytest.param(16, 32, id="one block"),
    pytest.param(64, 256, id="even"),
    pytest.param(100, 96, id="rows are no multiple of 16"),
    pytest.param(17, 32 * 9, id="one row in the last group"),
    pytest.param(577, 576, id="a prime number of rows"),
    pytest.param(48, 32 * 131, id="long rows"),
]


@pytest.fixture(scope="module")
def library() -> Library:
    spec = importlib.util.find_spec("llama_cpp")
    record = read_installed_record()
    if spec is None or not spec.submodule_search_locations or record is None or not record.get("kernels"):
        pytest.skip("the installed llama-cpp has no kernels of llmrun's")
    return Library(Path(next(iter(spec.submodule_search_locations))) / "lib")


def random_weights(name: str, rows: int, weights: int, seed: int = 0) -> bytes:
    """Return a matrix with scales as real ones have them."""
    random = np.random.default_rng(seed)
    _, scales, other = FORMATS[name]
    count = rows * weights // 32
    factors = random.uniform(0.005, 0.02, (count, scales)).astype(np.float16)
    factors[:, 1:] *= np.float16(-8)
    quants = random.integers(0, 256, (count, other), dtype=np.uint8)
    return bytes(np.concatenate([factors.view(np.uint8), quants], axis=1))


def unpack(name: str, matrix: bytes, rows: int) -> Any:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    blocks = np.frombuffer(matrix, np.uint8).reshape(rows, -1)
    return dequantize(blocks, GGMLQuantizationType[name]).astype(np.float64)


def errors(result: Any, activations: Any, unpacked: Any) -> Any:
    """Return the errors of a product, as parts of what its terms come to if their signs were chance."""
    size = np.sqrt((activations.astype(np.float64) ** 2) @ (unpacked.T**2))
    return (result - activations.astype(np.float64) @ unpacked.T) / size


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "weights"), SHAPES)
def test_products_are_as_exact_as_activations_of_8_bits_allow(
    library: Library, name: str, rows: int, weights: int
) -> None:
    matrix = random_weights(name, rows, weights)
    unpacked = unpack(name, matrix, rows)
    random = np.random.default_rng(1)
    kind = FORMATS[name][0]
    for columns in (1, 2, 3, 5, 16, 17, 70):
        activations = random.normal(size=(columns, weights)).astype(np.float32)
        ours = errors(library.multiply(PACKED, kind, matrix, (rows, weights), activations), activations, unpacked)
        theirs = errors(library.multiply(PLAIN, kind, matrix, (rows, weights), activations), activations, unpacked)
        assert np.abs(ours).max() < 0.04
        assert ours.std() < 1.1 * theirs.std() + 1e-4


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "weights"), SHAPES)
def test_a_column_is_the_same_whatever_else_is_computed(library: Library, name: str, rows: int, weights: int) -> None:
    matrix = random_weights(name, rows, weights)
    activations = np.random.default_rng(2).normal(size=(39, weights)).astype(np.float32)
    kind = FORMATS[name][0]
    library.set_threads(1)
    singles = [library.multiply(PACKED, kind, matrix, (rows, weights), column[None]) for column in activations]
    for threads in (1, 2, 3, 8):
        library.set_threads(threads)
        for columns in (1, 2, 4, 5, 8, 15, 16, 31, 39):
            found = library.multiply(PACKED, kind, matrix, (rows, weights), activations[:columns])
            assert np.array_equal(found, np.concatenate(singles[:columns])), (threads, columns)


@pytest.mark.parametrize("planes", [(3,), (2, 2)], ids=["3 dimensions", "4 dimensions"])
@pytest.mark.parametrize("columns", [1, 3, 20])
def test_planes_of_activations(library: Library, planes: tuple[int, ...], columns: int) -> None:
    matrix = random_weights("Q4_1", 40, 64)
    activations = np.random.default_rng(3).normal(size=(*planes, columns, 64)).astype(np.float32)
    kind = FORMATS["Q4_1"][0]
    found = library.multiply(PACKED, kind, matrix, (40, 64), activations)
    flat = library.multiply(PACKED, kind, matrix, (40, 64), activations.reshape(-1, 64))
    assert np.array_equal(found.reshape(-1, 40), flat)


@pytest.mark.parametrize("name", FORMATS)
def test_activations_of_every_size(library: Library, name: str) -> None:
    kind, rows, weights = FORMATS[name][0], 32, 128
    matrix = random_weights(name, rows, weights)
    unpacked = unpack(name, matrix, rows)
    activations = np.random.default_rng(4).normal(size=(6, weights)).astype(np.float32)
    activations *= np.array([1e-38, 1e-20, 1e-3, 1, 1e10, 1e30], dtype=np.float32)[:, None]
    found = library.multiply(PACKED, kind, matrix, (rows, weights), activations)
    assert np.isfinite(found).all()
    assert np.abs(errors(found, activations, unpacked)[1:]).max() < 0.04
    assert not library.multiply(PACKED, kind, matrix, (rows, weights), np.zeros_like(activations)).any()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_number_stays_so(library: Library, name: str) -> None:
    kind, rows, weights = FORMATS[name][0], 32, 64
    matrix = random_weights(name, rows, weights)
    activations: Any = np.ones((2, weights), dtype=np.float32)
    activations[1] = np.nan
    found = library.multiply(PACKED, kind, matrix, (rows, weights), activations)
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1]).any()


def test_what_has_no_kernel_is_left_to_llama_cpp(library: Library) -> None:
    for name, (kind, _, _) in FORMATS.items():
        assert library.supports(PACKED, kind, (16, 256)), name
        assert not library.supports(PACKED, kind, (15, 256)), name  # fewer rows than a group
        assert not library.supports(PACKED, kind, (2, 16, 256)), name  # three dimensions
    for name, kind in OTHERS.items():
        assert not library.supports(PACKED, kind, (16, 256)), name


def attention_case(
    sequences: int, tokens: int, heads: int, kv_heads: int, cells: int, length: int
) -> tuple[Any, Any, Any, Any]:
    """Return queries, keys, values and a causal mask; the last token sees all cells but three."""
    random = np.random.default_rng(5)
    queries = random.normal(size=(sequences, heads, tokens, length)).astype(np.float32)
    keys, values = random.normal(size=(2, sequences, cells, kv_heads, length)).astype(np.float16)
    last: Any = np.arange(cells - tokens, cells) - 3
    hidden = np.arange(cells)[None, :] > np.maximum(last, 0)[:, None]
    mask = np.where(hidden, -np.inf, 0.0).astype(np.float16)
    return queries, keys, values, np.broadcast_to(mask, (sequences, tokens, cells))


def exact_attention(queries: Any, keys: Any, values: Any, mask: Any) -> Any:
    shared = queries.shape[1] // keys.shape[2]
    k, v = (np.repeat(array.astype(np.float64), shared, axis=2) for array in (keys, values))
    scores = np.einsum("shtd,schd->shtc", queries.astype(np.float64), k) / queries.shape[-1] ** 0.5
    scores += 0 if mask is None else mask[:, None].astype(np.float64)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("shtc,schd->sthd", weights, v)


ATTENTIONS = [
    pytest.param(1, 1, 9, 3, 256, 64, id="one token"),
    pytest.param(1, 1, 8, 8, 1100, 128, id="one token, a long cache, heads of their own"),
    pytest.param(1, 5, 9, 3, 700, 64, id="a few tokens"),
    pytest.param(1, 100, 6, 2, 300, 80, id="a prompt, heads of 80"),
    pytest.param(2, 3, 4, 1, 77, 32, id="two sequences, cells that fill no tile"),
    pytest.param(1, 70, 4, 4, 512, 256, id="heads of 256"),
    pytest.param(1, 2, 2, 2, 4, 16, id="the least"),
]


@pytest.mark.parametrize(("sequences", "tokens", "heads", "kv_heads", "cells", "length"), ATTENTIONS)
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_attention_is_exact(
    library: Library, sequences: int, tokens: int, heads: int, kv_heads: int, cells: int, length: int, masked: bool
) -> None:
    queries, keys, values, mask = attention_case(sequences, tokens, heads, kv_heads, cells, length)
    mask = mask if masked else None
    expected = exact_attention(queries, keys, values, mask)
    for threads in (1, 2, 5):
        library.set_threads(threads)
        assert np.abs(library.attend(queries, keys, values, mask) - expected).max() < 2e-6


@pytest.mark.parametrize("cells", [256, 1280])
def test_a_token_attends_the_same_whatever_else_is_computed(library: Library, cells: int) -> None:
    queries, keys, values, mask = attention_case(1, 90, 6, 2, cells, 64)
    library.set_threads(1)
    together = library.attend(queries, keys, values, mask)
    for threads in (1, 2, 3):
        library.set_threads(threads)
        for first, last in ((0, 1), (17, 18), (40, 45), (60, 90), (89, 90)):
            part = library.attend(queries[:, :, first:last], keys, values, mask[:, first:last])
            assert np.array_equal(part, together[:, first:last]), (threads, first, last)
        padded: Any = np.zeros((1, 256, 2, 64), dtype=np.float16)
        hidden: Any = np.full((1, 90, 256), -np.inf, dtype=np.float16)
        longer = [np.concatenate([cache, padded], axis=1) for cache in (keys, values)]
        assert np.array_equal(library.attend(queries, *longer, np.concatenate([mask, hidden], axis=2)), together)


def test_a_token_that_sees_nothing_gets_zeros(library: Library) -> None:
    queries, keys, values, mask = attention_case(1, 4, 3, 1, 256, 64)
    mask = mask.copy()
    mask[0, 2] = -np.inf
    found = library.attend(queries, keys, values, mask)
    assert not found[0, 2].any()
    assert (
        np.abs(found - exact_attention(queries, keys, values, np.where(np.isinf(mask), -1e4, mask)))[0, [0, 1, 3]].max()
        < 2e-6
    )


def test_attention_of_what_is_no_number_stays_so(library: Library) -> None:
    queries, keys, values, mask = attention_case(1, 2, 3, 3, 256, 64)
    queries[0, 1, 1] = np.nan
    found = library.attend(queries, keys, values, mask)
    assert np.isnan(found[0, 1, 1]).all()
    assert np.isfinite(found[0, 0]).all()


@pytest.mark.parametrize("options", [{"cap": 30.0}, {"bias": 8.0}], ids=["cap", "bias by position"])
def test_other_attention_is_left_to_llama_cpp(library: Library, options: dict[str, float]) -> None:
    queries, keys, values, mask = attention_case(1, 3, 4, 4, 256, 64)
    plain = library.attend(queries, keys, values, mask)
    other = library.attend(queries, keys, values, mask, **options)
    assert np.isfinite(other).all()
    assert np.abs(other - plain).max() > 1e-4


_LOGITS = """
import ctypes, json, sys
from llmrun.engines.llama_cpp.native import load_native
api = load_native().api
params = api.llama_model_default_params()
params.use_extra_bufts = sys.argv[2] == "packed"
model = api.llama_model_load_from_file(sys.argv[1].encode(), params)
wanted = api.llama_context_default_params()
wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = 1024, 512, 512
wanted.n_threads = wanted.n_threads_batch = 2
context = api.llama_init_from_model(model, wanted)
vocabulary = api.llama_model_get_vocab(model)
text = sys.stdin.buffer.read()
room = (ctypes.c_int32 * 1024)()
count = api.llama_tokenize(vocabulary, text, len(text), room, len(room), True, False)
batch = api.llama_batch_init(count, 0, 1)
for index in range(count):
    batch.token[index], batch.pos[index], batch.logits[index] = room[index], index, 1
    batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
batch.n_tokens = count
assert api.llama_decode(context, batch) == 0
size = api.llama_vocab_n_tokens(vocabulary)
logits = ctypes.string_at(api.llama_get_logits(context), 4 * count * size)
print(json.dumps([count, size, list(room[:count])]), flush=True)
sys.stdout.buffer.write(logits)
"""
_TEXT = (Path(__file__).parents[2] / "docs" / "memory.md").read_bytes()[:1500]


def log_probabilities(model: Path, packing: str) -> tuple[Any, list[int]]:
    """Return the log-probabilities of every token of the vocabulary after each of the text, and the text's tokens."""
    done = subprocess.run(
        [sys.executable, "-c", _LOGITS, model, packing], input=_TEXT, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]
    head, _, data = done.stdout.partition(b"\n")
    count, size, tokens = json.loads(head)
    logits = np.frombuffer(data, np.float32).reshape(count, size).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), tokens


def test_a_real_model_reads_a_text_as_with_plain_weights(library: Library, real_model: Path) -> None:
    packed, tokens = log_probabilities(real_model, "packed")
    plain, _ = log_probabilities(real_model, "plain")
    following = np.arange(len(tokens) - 1), tokens[1:]
    perplexities = [np.exp(-found[following].mean()) for found in (packed, plain)]
    print(f"perplexity packed {perplexities[0]:.4f}, plain {perplexities[1]:.4f} over {len(tokens)} tokens")
    divergence = (np.exp(plain) * (plain - packed)).sum(axis=1)
    print(f"divergence mean {divergence.mean():.6f}, largest {divergence.max():.6f}")
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.02)
    # Each is 0.003 from the same weights in 32-bit floats, because activations are rounded to 8 bits.
    assert divergence.mean() < 0.01
    assert (packed.argmax(axis=1) == plain.argmax(axis=1)).mean() > 0.9
