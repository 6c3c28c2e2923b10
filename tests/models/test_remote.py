"""Knowing a model of the hub before it is downloaded: what is read, what is refused, and that nothing is written."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_servers as fake
import gguf_builder as build
import pytest
from fake_servers import SparseFile
from gguf_builder import Tensor, build_gguf, llama_pairs, text, u32

from llmrun.errors import LlmrunError, ModelFileError, ModelNotFoundError, NetworkError, SecurityError, UsageError
from llmrun.models.download import http as download_http
from llmrun.models.download import transfer as download
from llmrun.models.gguf.info import read_gguf_info
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.remote import RemoteModel, look_up, look_up_source
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import fetch_found, find_on_disk
from llmrun.models.resolver.sources import HubSource

MIB = 1024 * 1024
TINY = build_gguf()
WORDS = [f"word{index}" * 4 for index in range(100_000)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    for module in (download, download_http):
        monkeypatch.setattr(module, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with fake.FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def look(typed: str, **options: Any) -> RemoteModel:
    return look_up(parse_reference(typed), **options)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def large_gguf(size_bytes: int) -> tuple[SparseFile, int]:
    """A file with a vocabulary like that of a 7B model, the length of its header, and zeros up to its size."""
    tokens = [*WORDS, "<s>", "</s>"]
    pairs = llama_pairs(
        **{
            "tokenizer.ggml.tokens": build.array(build.STRING, tokens),
            "tokenizer.ggml.token_type": build.array(build.INT32, [1] * len(tokens)),
            "tokenizer.ggml.merges": build.array(build.STRING, ["a b"] * 100_000),
            "tokenizer.ggml.eos_token_id": u32(len(WORDS) + 1),
        }
    )
    tensors = [Tensor("token_embd.weight", (64, len(tokens)), size_bytes=64 * len(tokens) * 4)]
    rest = size_bytes // 4 - 64 * len(tokens) - 2 * MIB  # in weights; the header is smaller than these
    tensors.append(Tensor("output.weight", (64, rest // 64), size_bytes=0))
    head = build_gguf(pairs, tensors, with_data=False)
    return SparseFile(head, size_bytes), len(head)


# What is read ---------------------------------------------------------------------------------------------------------


def test_a_header_says_of_a_remote_file_what_it_says_of_a_local_one(hub: SimpleNamespace, tmp_path: Path) -> None:
    local = tmp_path / "a.Q4_K_M.gguf"
    local.write_bytes(TINY)
    sha256 = hub.add("org/repo", local.name, TINY)
    remote = look("org/repo")
    (file,) = remote.info.files
    assert replace(remote.info, files=()) == replace(read_gguf_info(local), files=())
    assert (file.path, file.size_bytes, file.sha256) == (Path("org/repo/a.Q4_K_M.gguf"), len(TINY), sha256)
    assert (remote.label, remote.download_bytes) == ("org/repo:a.Q4_K_M.gguf", len(TINY))
    assert remote.info.special_tokens.bos == "<|end|>"


def test_40_gigabytes_are_known_from_their_header(hub: SimpleNamespace) -> None:
    data, header_bytes = large_gguf(40 * 1024 * MIB)
    hub.add("org/large", "sub/large-Q4_0.gguf", data)
    assert header_bytes > 5 * MIB
    remote = look("org/large")
    assert remote.info.vocabulary_size == len(WORDS) + 2
    assert remote.info.special_tokens.eos == "</s>"
    assert remote.info.tensor_bytes > 39 * 1024 * MIB
    assert remote.download_bytes == remote.missing_bytes == 40 * 1024 * MIB
    assert hub.bytes_served < header_bytes + 2 * MIB
    # the listing, one redirect, and then the storage alone, on and on
    paths = [request.path.split("/")[1] for request in hub.requests]
    assert paths == ["api", "org", *["cdn"] * (2 + header_bytes // (2 * MIB))]


def test_nothing_is_written(hub: SimpleNamespace, tmp_path: Path) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    look("org/repo@v1")
    assert files_below(tmp_path) == set()


def test_everything_is_of_one_commit(hub: SimpleNamespace) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    remote = look("org/repo@v1.0")
    assert [request.path for request in hub.asked("/api/")] == ["/api/models/org/repo/revision/v1.0?blobs=true"]
    assert [request.path for request in hub.asked("/org/")] == [f"/org/repo/resolve/{fake.COMMIT}/a.gguf"]
    assert (remote.listing.commit, remote.label) == (fake.COMMIT, "org/repo@v1.0:a.gguf")


def test_the_parts_of_a_split_model_are_one(hub: SimpleNamespace, tmp_path: Path) -> None:
    first = build.write_tiny_llama_gguf(tmp_path / "split-Q4_0.gguf", split_max_tensors=8)
    parts = sorted(tmp_path.glob("split-*-of-*.gguf"))
    for part in parts:
        hub.add("org/split", part.name, part.read_bytes())
    remote, local = look("org/split:q4_0"), read_gguf_info(first)
    assert len(parts) == 3
    assert replace(remote.info, files=()) == replace(local, files=())
    assert [file.path for file in remote.info.files] == [Path("org/split") / part.name for part in parts]
    assert remote.download_bytes == sum(part.stat().st_size for part in parts)
    assert len(hub.requests) == 1 + 2 * len(parts)


def test_other_files_of_the_repository_are_alternatives(hub: SimpleNamespace) -> None:
    sizes = {"m-Q8_0.gguf": 300, "m-Q4_K_S.gguf": 200, "sub/m-Q2_K.gguf": 100, "other-Q8_0.gguf": 250}
    for name, size in sizes.items():
        hub.add("org/repo", name, bytes(size))
    for name in ("m-Q3_K_M-00001-of-00002.gguf", "m-Q3_K_M-00002-of-00002.gguf", "m-F16-00001-of-00002.gguf"):
        hub.add("org/repo", name, bytes(20))
    for name in ("mmproj-F16.gguf", "red\x1b[31m-Q6_K.gguf"):
        hub.add("org/repo", name, bytes(5))
    hub.add("org/repo", "m-Q4_K_M.gguf", TINY)
    found = [(other.tag, other.quantization, other.size_bytes) for other in look("org/repo").alternatives]
    assert found == [
        ("Q3_K_M", "Q3_K_M", 40),
        ("Q2_K", "Q2_K", 100),
        ("Q4_K_S", "Q4_K_S", 200),
        ("other-Q8_0.gguf", "Q8_0", 250),
        ("m-Q8_0.gguf", "Q8_0", 300),
    ]


def test_a_hub_that_tells_no_sizes_is_asked_for_the_file(hub: SimpleNamespace) -> None:
    hub.tells_sizes = False
    hub.add("org/repo", "a-Q4_0.gguf", TINY)
    hub.add("org/repo", "a-Q8_0.gguf", TINY)
    remote = look("org/repo:Q4_0")
    assert (remote.download_bytes, remote.alternatives) == (len(TINY), ())
    assert [request.path.rpartition("/")[2] for request in hub.asked("/org/", "HEAD")] == ["a-Q4_0.gguf"]


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        pytest.param("", len(TINY), id="nothing"),
        pytest.param(".part", len(TINY) - 100, id="begun"),
        pytest.param("whole", 0, id="whole"),
    ],
)
def test_what_an_earlier_try_left_is_not_missing(hub: SimpleNamespace, there: str, missing: int) -> None:
    sha256 = hub.add("org/repo", "a.gguf", TINY)
    if there:
        blob = hub_cache.blob_path("org/repo", sha256)
        blob.parent.mkdir(parents=True)
        blob.with_name(blob.name + there.removeprefix("whole")).write_bytes(TINY[: 100 if there == ".part" else None])
    remote = look("org/repo")
    assert (remote.download_bytes, remote.missing_bytes) == (len(TINY), missing)


def test_a_pull_after_it_lists_nothing_again_and_records_the_branch(hub: SimpleNamespace) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    remote = look("org/repo")
    hub.commit = "f" * 40  # the branch moves on in the meantime
    hub.faults = fake.Faults(at="/org/", commit=fake.COMMIT)
    local = fetch_found(remote)
    assert len(hub.asked("/api/")) == 1
    assert local.path.read_bytes() == TINY
    assert hub_cache.cached_commit("org/repo", "main") == fake.COMMIT
    assert find_on_disk(parse_reference("org/repo")) == local


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "it is an empty file", id="faults_03-empty"),
        pytest.param(b"<!doctype html>" * 10, "it is a web page", id="faults_03-html"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer", id="faults_03-lfs"),
        pytest.param(build_gguf(version=1), "version 1, which no engine reads", id="faults_04-version"),
        pytest.param(build_gguf(version=3 << 24), "big-endian", id="faults_04-big-endian"),
        pytest.param(build_gguf()[:100], "end inside the metadata", id="faults_05-truncated"),
        pytest.param(build_gguf()[:-1], "1 bytes are missing", id="faults_06-one-byte-short"),
        pytest.param(build_gguf(tensor_count=2**64 - 1), "tensors, and 65,535", id="faults_07-count"),
        pytest.param(build_gguf(pair_count=300_000), "300,000 metadata pairs", id="faults_08-pairs"),
        pytest.param(build_gguf(llama_pairs(**{"llama.block_count": u32(0)})), "block_count is 0", id="faults_09"),
        pytest.param(
            build_gguf(llama_pairs(**{"llama.attention.layer_norm_rms_epsilon": build.f32(-1.0)})),
            "epsilon is -1",
            id="faults_10",
        ),
        pytest.param(
            build_gguf(llama_pairs(**{"tokenizer.ggml.model": text("llama")})), "tokenizer is 'llama'", id="faults_11"
        ),
        pytest.param(
            build_gguf(llama_pairs(**{"llama.context_length": u32(2**31)})), "context_length is 2,147", id="faults_12"
        ),
        pytest.param(
            build_gguf(llama_pairs(**{"tokenizer.ggml.model": None})), "lacks the metadata key", id="faults_13"
        ),
    ],
)
def test_a_file_that_is_no_model_is_refused_as_on_this_disk(
    hub: SimpleNamespace, tmp_path: Path, data: bytes, words: str
) -> None:
    (tmp_path / "bad.gguf").write_bytes(data)
    hub.add("org/repo", "bad.gguf", data)
    with pytest.raises(ModelFileError, match=words) as refused:
        look("hf:org/repo")
    with pytest.raises(ModelFileError) as local:
        read_gguf_info(tmp_path / "bad.gguf")
    assert refused.value.message == local.value.message.replace(str(tmp_path / "bad.gguf"), "org/repo/bad.gguf")
    assert refused.value.fix != "download the file again"


def test_a_server_that_ignores_ranges_is_left_after_the_header(hub: SimpleNamespace) -> None:
    data, header_bytes = large_gguf(1024 * MIB)
    hub.add("org/large", "large.gguf", data)
    hub.faults = fake.Faults(ignore_range=True)
    assert look("org/large").info.vocabulary_size == len(WORDS) + 2
    # Some megabytes are on their way in the buffers of each connection when it is left.
    assert len(hub.asked("/cdn/")) <= 4
    assert hub.bytes_served < 3 * header_bytes + len(hub.asked("/cdn/")) * 8 * MIB


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param({"content_range": "bytes 5-99/100"}, "the server answers 206 with bytes 5-99/100", id="other"),
        pytest.param({"content_range": "bytes 0-/x"}, "the server answers 206", id="odd"),
        pytest.param({"content_range": "bytes 0-99/*"}, "the server answers 206", id="short"),
        pytest.param({"extra_bytes": 7}, "the server answers 206", id="size-changed"),
        pytest.param({"extra_bytes": 7, "ignore_range": True}, "bytes were announced", id="whole-of-another-size"),
        pytest.param({"status": 416}, "the server answers 416 with no range", id="416"),
        pytest.param({"status": 204}, "the server answers 204", id="204"),
        pytest.param({"status": 500}, "500 Internal Server Error: the server failed", id="500"),
        pytest.param({"status": 403}, "needs authorization", id="403"),
        pytest.param({"drop_after": 50}, "the connection to", id="dropped"),
        pytest.param({"at": "/org/", "etag": "0" * 64}, "sends another file than it listed", id="another-file"),
        pytest.param({"at": "/org/", "commit": "f" * 40}, "sends another file than it listed", id="another-commit"),
        pytest.param({"at": "/org/", "redirect_to": "/org/loop"}, "redirected more than", id="redirects"),
        pytest.param({"at": "/org/", "status": 401, "error_code": "GatedRepo"}, "needs authorization", id="gated"),
        pytest.param({"at": "/api/", "status": 401}, "no such repository, or it needs", id="401"),
        pytest.param({"at": "/api/", "status": 404}, "no such repository, revision", id="404"),
    ],
)
def test_a_server_that_fails_is_said_to(hub: SimpleNamespace, fault: dict[str, Any], words: str) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    hub.faults = fake.Faults(**fault)
    with pytest.raises(NetworkError, match=words):
        look("org/repo")


def test_a_gated_repository_can_be_listed_and_not_read(hub: SimpleNamespace) -> None:
    hub.gated = True
    hub.add("org/repo", "a.gguf", TINY)
    with pytest.raises(NetworkError, match=r"org/repo needs authorization: .* 403") as refused:
        look("org/repo")
    assert "accept the licence at" in (refused.value.fix or "")


def test_the_token_goes_to_the_hub_only(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    data, _ = large_gguf(1024 * MIB)
    hub.add("org/repo", "a.gguf", data)
    with fake.FakeHub() as storage:
        storage.repositories = hub.repositories
        hub.cdn_url = storage.url
        assert look("org/repo").info.layers == 2
        assert {request.headers.get("authorization") for request in storage.requests} == {None}
        assert len(storage.requests) > 2
    assert {request.headers.get("authorization") for request in hub.requests} == {"Bearer hf_secret"}


def test_a_file_that_changes_between_two_requests_is_refused(hub: SimpleNamespace) -> None:
    data, _ = large_gguf(1024 * MIB)
    hub.add("org/repo", "a.gguf", data)
    hub.faults = fake.Faults(etag_each_time=True)
    with pytest.raises(NetworkError, match=r"org/repo/a\.gguf changed on the server while it was read"):
        look("org/repo")


def test_an_address_that_expires_is_asked_for_anew(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = large_gguf(1024 * MIB)
    hub.add("org/repo", "a.gguf", data)
    answers = []

    def fault_for(path: str) -> fake.Faults:
        answers.append(path)
        expired = [entry[:5] for entry in answers] == ["/api/", "/org/", "/cdn/", "/cdn/"]
        return fake.Faults(status=403 if expired else None)

    monkeypatch.setattr(hub, "fault_for", fault_for)
    assert look("org/repo").info.layers == 2
    assert [path[:5] for path in answers[1:6]] == ["/org/", "/cdn/", "/cdn/", "/org/", "/cdn/"]


def test_a_failure_that_passes_is_tried_again(hub: SimpleNamespace) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    hub.faults = fake.Faults(status=503, times=1)
    assert look("org/repo").info.layers == 2


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"at": "/api/", "status": 503, "times": 1}, id="listing-fails"),
        pytest.param({"status": 503, "times": 1}, id="storage-fails"),
        pytest.param({"stall_after": 20}, id="stall"),
        pytest.param({"drip_seconds": 0.01}, id="drip"),
        pytest.param({"at": "/api/", "drip_seconds": 0.01}, id="listing-drips"),
    ],
)
def test_who_cannot_wait_does_not(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    hub.faults = fake.Faults(**fault)
    begin = time.monotonic()
    with pytest.raises(NetworkError):
        look("org/repo", timeout_seconds=0.2)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("names", "typed", "error", "words"),
    [
        pytest.param(["a.gguf", "b.gguf"], "org/repo", UsageError, "several files", id="several"),
        pytest.param(["a.gguf"], "org/repo:Q4_0", ModelNotFoundError, "no file or quantization", id="no-such-file"),
        pytest.param(["m-00001-of-00002.gguf"], "org/repo", ModelFileError, "missing: 2", id="part-missing"),
        pytest.param(["config.json", "model.bin"], "org/repo", SecurityError, "only as pickles", id="pickles"),
        pytest.param(["README.md"], "org/repo", ModelFileError, "no model that llmrun knows", id="nothing"),
        pytest.param(["../a.gguf"], "org/repo", SecurityError, "no ordinary file name", id="faults_49-name"),
        pytest.param(["a.gguf"], "./org/repo", ModelNotFoundError, "no file or folder", id="path"),
        pytest.param(["a.gguf"], "pypi:weights", ModelNotFoundError, "must be fetched before", id="package"),
    ],
)
def test_what_cannot_be_looked_up(
    hub: SimpleNamespace, names: list[str], typed: str, error: type[LlmrunError], words: str
) -> None:
    hub.repositories = {"org/repo": dict.fromkeys(names, b"x")}
    with pytest.raises(error, match=words):
        look(typed)
    assert hub.asked("/org/") == hub.asked("/cdn/") == []


@pytest.mark.parametrize("commit", ["../../../tmp/x", "abc"])
def test_faults_49_an_odd_commit_is_refused(hub: SimpleNamespace, commit: str) -> None:
    hub.commit = commit
    hub.add("org/repo", "a.gguf", TINY)
    with pytest.raises(SecurityError, match="no ordinary commit"):
        look("org/repo")


def test_offline_nothing_is_asked(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="the network may not be used"):
        look("org/repo")
    assert hub.requests == []


# Names of the catalogue -----------------------------------------------------------------------------------------------


def test_a_name_of_the_catalogue_is_looked_up_where_it_would_come_from(hub: SimpleNamespace) -> None:
    hub.add("TheBloke/Llama-2-7B-Chat-GGUF", "llama-2-7b-chat.Q4_K_M.gguf", TINY)
    remote = look("llama-2-chat:7b-q4_k_m")
    assert remote.label == "TheBloke/Llama-2-7B-Chat-GGUF:llama-2-7b-chat.Q4_K_M.gguf"
    assert remote.info.family == "llama-2-chat"


def test_every_place_that_failed_is_named(hub: SimpleNamespace) -> None:
    with pytest.raises(NetworkError, match="any of its 2 places") as failed:
        look("smollm2-135m-instruct")
    assert "no such repository" in failed.value.message
    assert "must be fetched before" in failed.value.message


def test_one_place_can_be_looked_at(hub: SimpleNamespace) -> None:
    hub.add("org/repo", "a.gguf", TINY)
    ref = parse_reference("llama-2-chat")
    source = HubSource(repository="org/repo", tag="a.gguf")
    remote = look_up_source(source, ref=ref)
    assert (remote.ref, remote.source, remote.info.family) == (ref, source, "llama-2-chat")
    assert look_up_source(source).ref == parse_reference("hf:org/repo:a.gguf")
