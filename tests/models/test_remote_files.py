"""Ranges of files in a repository: what is asked for, how often, and what is kept."""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_servers as fake
import pytest
from fake_servers import SparseFile

from llmrun.errors import LlmrunError, ModelFileError, NetworkError, SecurityError
from llmrun.models.download import http as download_http
from llmrun.models.hub.listing import hub_session, list_repository
from llmrun.models.hub.remote import look_up
from llmrun.models.hub.remote_files import RemoteFolder
from llmrun.models.reference import parse_reference
from llmrun.progress import SILENT

MIB = 1024 * 1024


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.setattr(download_http, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake.FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def folder(hub: SimpleNamespace) -> Iterator[RemoteFolder]:
    """A repository of three shards with 1 GiB each, and two other files."""
    for number in (1, 2, 3):
        head = bytes([number]) * MIB
        hub.add("org/folder", f"model-0000{number}-of-00003.safetensors", SparseFile(head, 1024 * MIB))
    hub.add("org/folder", "config.json", b'{"a": 1}')
    hub.add("org/folder", "tokenizer.model", b"t" * 300_000)
    with hub_session() as session:
        found = list_repository(session, "org/folder", "main", with_sizes=True)
        yield RemoteFolder(session, found, found.files, progress=SILENT)


def test_the_same_bytes_are_asked_for_once(hub: SimpleNamespace, folder: RemoteFolder) -> None:
    assert folder.path == Path("org/folder")
    assert folder.sizes["model-00001-of-00003.safetensors"] == 1024 * MIB
    for _ in range(2):
        assert folder.read("config.json", 0, 8) == b'{"a": 1}'
        assert folder.read("tokenizer.model", 299_999, 100) == b"t"
        assert folder.read("tokenizer.model", 300_000, 100) == b""
    assert [request.path.rpartition("/")[2] for request in hub.asked("/org/")] == ["config.json", "tokenizer.model"]


def test_the_beginnings_of_all_shards_come_together(hub: SimpleNamespace, folder: RemoteFolder) -> None:
    first, second, third = sorted(name for name in folder.sizes if name.startswith("model"))
    assert folder.read(first, 0, 8) == bytes([1]) * 8
    asked = len(hub.requests)
    assert (folder.read(second, 0, 1000), folder.read(third, 5, 3)) == (bytes([2]) * 1000, bytes([3]) * 3)
    assert len(hub.requests) == asked
    assert folder.read(second, 1000, 400_000) == bytes([2]) * 400_000
    assert [request.path[:5] for request in hub.requests[asked:]] == ["/cdn/"]


def test_a_place_far_inside_a_file_is_read_alone(hub: SimpleNamespace, folder: RemoteFolder) -> None:
    served = hub.bytes_served
    assert folder.read("model-00001-of-00003.safetensors", 1023 * MIB, 2 * MIB) == bytes(MIB)
    assert hub.bytes_served - served < 2 * MIB


def test_a_shard_that_fails_in_passing_is_read_when_it_is_wanted(hub: SimpleNamespace, folder: RemoteFolder) -> None:
    hub.faults = fake.Faults(status=503, times=2)
    for number in (1, 2, 3):
        assert folder.read(f"model-0000{number}-of-00003.safetensors", 0, 3) == bytes([number]) * 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param({"status": 403, "times": 1}, "403", id="refused"),
        pytest.param({"content_range": "bytes 1-2/3"}, "the server answers 206", id="other-range"),
    ],
)
def test_a_shard_that_fails_for_good_ends_it(
    hub: SimpleNamespace, folder: RemoteFolder, fault: dict[str, Any], words: str
) -> None:
    hub.faults = fake.Faults(**fault)
    with pytest.raises(NetworkError, match=words):
        folder.read("model-00001-of-00003.safetensors", 0, 3)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"<html>", id="no-json"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b'{"sha": "%s"}' % fake.COMMIT.encode(), id="no-files"),
        pytest.param(b'{"sha": "%s", "siblings": ["a.gguf"]}' % fake.COMMIT.encode(), id="names-alone"),
        pytest.param(
            b'{"sha": "%s", "siblings": [{"rfilename": "a", "size": 1, "lfs": 5}]}' % fake.COMMIT.encode(), id="odd-lfs"
        ),
    ],
)
def test_a_listing_that_is_none(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, document: bytes) -> None:
    monkeypatch.setattr(hub, "answer", lambda handler: hub.send(handler, 200, document))
    with hub_session() as session, pytest.raises(NetworkError, match="does not answer like a model hub"):
        list_repository(session, "org/folder", "main", with_sizes=True)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param('{"rfilename": "a"}', id="nothing"),
        pytest.param('{"rfilename": "a", "size": -1, "blobId": "%s"}' % ("0" * 40), id="negative"),
        pytest.param('{"rfilename": "a", "size": true, "blobId": "%s"}' % ("0" * 40), id="truth"),
        pytest.param('{"rfilename": "a", "size": 5, "blobId": "abc"}', id="short-hash"),
        pytest.param('{"rfilename": "a", "size": 5, "lfs": {"sha256": 7}}', id="hash-of-another-type"),
    ],
)
def test_a_size_without_a_hash_is_not_used(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    document = f'{{"sha": "{fake.COMMIT}", "siblings": [{row}]}}'.encode()
    monkeypatch.setattr(hub, "answer", lambda handler: hub.send(handler, 200, document))
    with hub_session() as session:
        found = list_repository(session, "org/folder", "main", with_sizes=True)
    assert (found.paths, found.files) == (("a",), {})


def test_a_hash_that_would_be_a_path_is_refused(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"rfilename": "a", "size": 5, "blobId": "../" * 13 + "x"}
    document = json.dumps({"sha": fake.COMMIT, "siblings": [row]}).encode()
    monkeypatch.setattr(hub, "answer", lambda handler: hub.send(handler, 200, document))
    with hub_session() as session, pytest.raises(SecurityError, match="no ordinary ETag"):
        list_repository(session, "org/folder", "main", with_sizes=True)


# Models in Hugging Face format ----------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
SHAPES = {
    "model.embed_tokens.weight": [32000, 4096],
    **{f"model.layers.0.self_attn.{name}_proj.weight": [4096, 4096] for name in "qkvo"},
    "model.layers.0.mlp.gate_proj.weight": [11008, 4096],
    "model.layers.0.mlp.up_proj.weight": [11008, 4096],
    "model.layers.0.mlp.down_proj.weight": [4096, 11008],
    "model.layers.0.input_layernorm.weight": [4096],
    "model.layers.0.post_attention_layernorm.weight": [4096],
    "model.norm.weight": [4096],
    "lm_head.weight": [32000, 4096],
}


def shard(names: Iterable[str]) -> SparseFile:
    rows, end = {}, 0
    for name in names:
        size = 2 * math.prod(SHAPES[name])
        rows[name] = {"dtype": "BF16", "shape": SHAPES[name], "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(rows).encode()
    return SparseFile(struct.pack("<Q", len(header)) + header, 8 + len(header) + end)


@pytest.fixture
def model(hub: SimpleNamespace) -> SimpleNamespace:
    """A model in two shards, with its configuration; nearly a gigabyte."""
    half = len(SHAPES) // 2
    shards = {
        "model-00001-of-00002.safetensors": list(SHAPES)[:half],
        "model-00002-of-00002.safetensors": list(SHAPES)[half:],
    }
    for name, tensors in shards.items():
        hub.add("org/llama", name, shard(tensors))
    index = {"weight_map": {tensor: name for name, tensors in shards.items() for tensor in tensors}}
    hub.add("org/llama", "model.safetensors.index.json", json.dumps(index).encode())
    hub.add("org/llama", "config.json", json.dumps(CONFIG).encode())
    hub.add("org/llama", "tokenizer.json", b"{}" + b" " * 8 * MIB)
    hub.add("org/llama", "README.md", b"hello")
    return hub


def test_a_folder_is_known_from_its_headers(model: SimpleNamespace) -> None:
    remote = look_up(parse_reference("hf:org/llama"))
    assert (remote.label, remote.alternatives) == ("org/llama", ())
    assert (remote.info.format, remote.info.architecture, remote.info.layers) == ("pytorch", "LlamaForCausalLM", 1)
    assert remote.info.tensor_bytes == 2 * sum(math.prod(shape) for shape in SHAPES.values())
    assert remote.download_bytes == sum(
        len(data) for name, data in model.repositories["org/llama"].items() if name != "README.md"
    )
    assert {file.path.parent for file in remote.info.files} == {Path("org/llama")}
    assert sorted(request.path.rpartition("/")[2] for request in model.asked("/org/")) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert model.bytes_served < MIB


@pytest.mark.parametrize(
    ("name", "data", "error", "words"),
    [
        pytest.param("config.json", b"{", ModelFileError, "org/llama/config.json is not valid JSON", id="config"),
        pytest.param(
            "model-00002-of-00002.safetensors",
            shard([]),
            ModelFileError,
            "org/llama is incomplete",
            id="faults_22-tensors",
        ),
        pytest.param(
            "model-00002-of-00002.safetensors",
            b"\xff" * 999,
            ModelFileError,
            "00002.safetensors",
            id="faults_23-header",
        ),
        pytest.param(
            "model-00002-of-00002.safetensors", None, ModelFileError, "files are missing", id="faults_23-shard"
        ),
        pytest.param(
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "../a.safetensors"}}',
            SecurityError,
            "outside the model's folder",
            id="faults_24",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    model: SimpleNamespace, name: str, data: fake.Content | None, error: type[LlmrunError], words: str
) -> None:
    if data is None:
        del model.repositories["org/llama"][name]
    else:
        model.add("org/llama", name, data)
    with pytest.raises(error, match=words) as refused:
        look_up(parse_reference("hf:org/llama"))
    assert "download" not in (refused.value.fix or "")


def test_a_file_that_is_not_there_is_not_asked_for(hub: SimpleNamespace, folder: RemoteFolder) -> None:
    asked = len(hub.requests)
    with pytest.raises(ModelFileError, match="org/folder has no file other"):
        folder.read("other", 0, 1)
    assert len(hub.requests) == asked
