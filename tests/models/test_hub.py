"""Fetching from the hub into the shared cache, checked with huggingface_hub's own functions."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_servers as fake
import pytest
from huggingface_hub import scan_cache_dir, try_to_load_from_cache

from llmrun.errors import (
    LlmrunError,
    ModelFileError,
    ModelNotFoundError,
    NetworkError,
    SecurityError,
    StorageError,
    UsageError,
)
from llmrun.models.download import http as download_http
from llmrun.models.download import transfer as download
from llmrun.models.hub import cache as hub_cache
from llmrun.models.hub.choice import choose_gguf, gguf_sets, hugging_face_files, quantization_of
from llmrun.models.hub.pull import pull_from_hub
from llmrun.progress import SILENT

Q4, Q8 = b"GGUF four" * 1000, b"GGUF eight" * 2000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    for module in (download, download_http):
        monkeypatch.setattr(module, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake.FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add("org/repo", "README.md", b"hello")
        server.add("org/repo", "a.Q4_K_M.gguf", Q4)
        server.add("org/repo", "a.Q8_0.gguf", Q8)
        yield server


def pull(tag: str | None = None, revision: str = "main", repository: str = "org/repo") -> tuple[Path, ...]:
    return pull_from_hub(repository, revision, tag, SILENT).files


def blobs() -> set[str]:
    folder = hub_cache.repository_folder("org/repo") / "blobs"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_pulled_file_is_what_other_tools_find(hub: SimpleNamespace) -> None:
    (path,) = pull()
    cache = hub_cache.hub_cache_folder()
    assert path.read_bytes() == Q4
    assert try_to_load_from_cache("org/repo", "a.Q4_K_M.gguf", cache_dir=cache) == str(path)
    (repository,) = scan_cache_dir(cache).repos
    assert (repository.repo_id, repository.size_on_disk) == ("org/repo", len(Q4))
    (revision,) = repository.revisions
    assert (revision.commit_hash, set(revision.refs)) == (fake.COMMIT, {"main"})
    assert scan_cache_dir(cache).warnings == []
    assert blobs() == {hashlib.sha256(Q4).hexdigest()}
    assert not path.readlink().is_absolute()
    assert hub_cache.recorded_sha256(path) == hashlib.sha256(Q4).hexdigest()


def test_every_file_is_fetched_by_the_commit(hub: SimpleNamespace) -> None:
    pull(revision="v1.0")
    assert [request.path for request in hub.asked("/api/")] == ["/api/models/org/repo/revision/v1.0"]
    paths = {request.path for request in hub.requests if "/resolve/" in request.path}
    assert paths == {f"/org/repo/resolve/{fake.COMMIT}/a.Q4_K_M.gguf"}
    assert hub_cache.cached_commit("org/repo", "v1.0") == fake.COMMIT


def test_a_file_that_is_there_is_not_fetched_again(hub: SimpleNamespace) -> None:
    pull()
    hub.requests.clear()
    pull()
    assert [request.path.partition("/models/")[0] for request in hub.requests] == ["/api"]


def test_a_small_file_is_verified_by_gits_hash(hub: SimpleNamespace) -> None:
    hub.add("org/folder", "config.json", b"{}")
    hub.add("org/folder", "model.safetensors", b"weights")
    hub.add("org/folder", "modeling.py", b"print()")
    hub.add("org/folder", "pytorch_model.bin", b"pickle")
    pulled = pull_from_hub("org/folder", "main", None, SILENT)
    assert pulled.is_folder
    assert sorted(path.name for path in pulled.folder.iterdir()) == ["config.json", "model.safetensors"]
    hub.faults = fake.Faults(at="/org/folder/resolve", etag="0" * 40)
    shutil.rmtree(hub_cache.repository_folder("org/folder"))
    with pytest.raises(NetworkError, match="damaged: git-sha1"):
        pull_from_hub("org/folder", "main", None, SILENT)


def test_all_parts_of_a_split_file_come_together(hub: SimpleNamespace) -> None:
    parts = {f"big-Q4_0-0000{number}-of-00003.gguf": bytes([number]) * 1000 for number in (1, 2, 3)}
    for name, data in parts.items():
        hub.add("org/big", name, data)
    files = pull(tag="Q4_0", repository="org/big")
    assert {path.name: path.read_bytes() for path in files} == parts
    assert [path.name for path in files] == sorted(parts)


def test_the_token_of_the_environment_opens_a_gated_repository(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(NetworkError, match="401 Unauthorized") as refused:
        pull()
    assert "set HF_TOKEN" in (refused.value.fix or "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with fake.FakeHub() as cdn:
        cdn.repositories = hub.repositories
        hub.cdn_url = cdn.url
        assert pull()[0].read_bytes() == Q4
        assert [request.headers.get("authorization") for request in cdn.requests] == [None]


@pytest.mark.parametrize(
    ("fault", "message", "fix"),
    [
        pytest.param(
            {"at": "/api/", "status": 401}, "no such repository, or it needs authorization", "HF_TOKEN", id="401"
        ),
        pytest.param(
            {"at": "/api/", "status": 401, "error_code": "GatedRepo"},
            "needs authorization",
            "licence at",
            id="401-gated",
        ),
        pytest.param({"at": "/org/repo/resolve", "status": 403}, "needs authorization", "licence at", id="403"),
        pytest.param({"at": "/api/", "status": 404}, "no such repository, revision", "look at", id="404"),
        pytest.param({"at": "/api/", "status": 500}, "500 Internal Server Error: the server failed", "", id="500"),
        pytest.param({"at": "/cdn/", "status": 503}, "503 Service Unavailable: the server failed", "", id="cdn-503"),
        pytest.param({"at": "/cdn/", "flip_byte": 5}, "damaged: sha256", "pull it again", id="flipped-byte"),
        pytest.param({"at": "/org/repo/resolve", "size": 5}, "announced with 5 bytes", "", id="wrong-size"),
    ],
)
def test_faults_46_and_48_name_the_true_cause(
    hub: SimpleNamespace, fault: dict[str, str | int], message: str, fix: str
) -> None:
    hub.faults = fake.Faults(**fault)
    with pytest.raises(NetworkError, match=message) as failed:
        pull()
    assert fix in (failed.value.fix or "")
    assert blobs() <= {f"{hashlib.sha256(Q4).hexdigest()}.part"}
    assert try_to_load_from_cache("org/repo", "a.Q4_K_M.gguf", cache_dir=hub_cache.hub_cache_folder()) is None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"etag": "../../../../etc/passwd"}, id="etag-path"),
        pytest.param({"etag": "abc"}, id="etag-short"),
        pytest.param({"etag": "A" * 64}, id="etag-upper-case"),
        pytest.param({"commit": "../../x"}, id="commit-path"),
        pytest.param({"commit": "f" * 40}, id="another-commit"),
    ],
)
def test_faults_49_an_odd_header_is_refused(hub: SimpleNamespace, fault: dict[str, str]) -> None:
    hub.faults = fake.Faults(at="/org/repo/resolve", **fault)
    with pytest.raises(SecurityError, match="refused"):
        pull()
    assert blobs() == set()


@pytest.mark.parametrize(
    "name", ["../../../evil.Q4_K_M.gguf", "/etc/evil.gguf", "a/../b.gguf", "a\x1b[31m.gguf", "..\\e.gguf"]
)
def test_faults_49_an_odd_file_name_is_refused(hub: SimpleNamespace, name: str, tmp_path: Path) -> None:
    hub.repositories = {"org/odd": {name: Q4}}
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SecurityError, match="no ordinary file name"):
        pull(repository="org/odd")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_faults_49_an_odd_commit_in_the_listing_is_refused(hub: SimpleNamespace) -> None:
    hub.commit = "../../../tmp/x"
    with pytest.raises(SecurityError, match="no ordinary commit"):
        pull()


def test_faults_47_the_whole_set_must_fit_before_it_starts(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=download.RESERVE_BYTES + 10))
    with pytest.raises(StorageError, match="too full for org/repo"):
        pull()
    assert hub.asked("/cdn/") == []


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        pytest.param(["pytorch_model.bin", "config.json"], SecurityError, "only as pickles", id="pickle-only"),
        pytest.param(["README.md"], ModelFileError, "no model that llmrun knows", id="no-weights"),
    ],
)
def test_a_repository_without_a_usable_model(
    hub: SimpleNamespace, paths: list[str], error: type[LlmrunError], message: str
) -> None:
    hub.repositories = {"org/repo": dict.fromkeys(paths, b"x")}
    with pytest.raises(error, match=message):
        pull()


def test_a_server_that_is_no_hub_is_said_to_be_none(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/cdn/{hashlib.sha256(Q4).hexdigest()}#")
    with pytest.raises(NetworkError, match="does not answer like a model hub"):
        pull()


# Choosing among names ------------------------------------------------------------------------------------------------

NAMES = ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "mmproj-m-f16.gguf", "sub/m-Q4_K_M.gguf", "README.md"]


@pytest.mark.parametrize(
    ("names", "tag", "chosen"),
    [
        pytest.param(NAMES, None, "m-Q4_K_M.gguf", id="default"),
        pytest.param(NAMES, "q8_0", "m-Q8_0.gguf", id="quantization-any-case"),
        pytest.param(NAMES, "Q4_K_S", "m-Q4_K_S.gguf", id="quantization-whole-word"),
        pytest.param(NAMES, "m-Q8_0.gguf", "m-Q8_0.gguf", id="file-name"),
        pytest.param(NAMES, "M-q8_0.GGUF", "m-Q8_0.gguf", id="file-name-any-case"),
        pytest.param(NAMES, "sub/m-Q4_K_M.gguf", "sub/m-Q4_K_M.gguf", id="path"),
        pytest.param(NAMES, "mmproj-m-f16.gguf", "mmproj-m-f16.gguf", id="projector-only-by-name"),
        pytest.param(["m-f16.gguf", "m-q5_1.gguf"], None, "m-q5_1.gguf", id="smaller-first"),
        pytest.param(["only.gguf", "mmproj-x.gguf"], None, "only.gguf", id="the-only-one"),
        pytest.param(["old.ggmlv3.q4_0.bin"], "old.ggmlv3.q4_0.bin", "old.ggmlv3.q4_0.bin", id="legacy-by-name"),
        pytest.param(
            ["x-Q4_0-00001-of-00001.gguf"], "x-q4_0.gguf", "x-Q4_0-00001-of-00001.gguf", id="split-by-whole-name"
        ),
    ],
)
def test_a_tag_chooses(names: list[str], tag: str | None, chosen: str) -> None:
    assert choose_gguf(names, tag, "org/repo").name == chosen


@pytest.mark.parametrize(
    ("names", "tag", "error", "message"),
    [
        pytest.param(
            NAMES, "Q4_K", ModelNotFoundError, 'no file or quantization "Q4_K"; it has m-Q4_K_M', id="part-of-word"
        ),
        pytest.param(NAMES, "other.gguf", ModelNotFoundError, "it has m-Q4_K_M.gguf", id="no-such-file"),
        pytest.param(["README.md"], "Q4_0", ModelNotFoundError, "it has no GGUF files", id="nothing"),
        pytest.param(["a-Q4_0.gguf", "b-Q4_0.gguf"], None, UsageError, "several files that match", id="ambiguous"),
        pytest.param(["a.gguf", "b.gguf"], None, UsageError, "a.gguf, b.gguf", id="no-quantization"),
        pytest.param(
            ["m-Q4_0-00001-of-00003.gguf", "m-Q4_0-00003-of-00003.gguf"],
            "Q4_0",
            ModelFileError,
            "missing: 2",
            id="part",
        ),
        pytest.param(["m-Q4_0-00001-of-99999.gguf"], None, ModelFileError, "missing: 2, 3", id="absurd-part-count"),
    ],
)
def test_a_tag_that_cannot_choose(names: list[str], tag: str | None, error: type[LlmrunError], message: str) -> None:
    with pytest.raises(error, match=message):
        choose_gguf(names, tag, "org/repo")


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        pytest.param("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M", id="k-quant"),
        pytest.param("qwen2.5-0.5b-instruct-q4_0.gguf", "Q4_0", id="lower-case"),
        pytest.param("m-UD-IQ2_XXS.gguf", "IQ2_XXS", id="i-quant"),
        pytest.param("m.fp16.gguf", "F16", id="fp16"),
        pytest.param("gpt-oss-20b-MXFP4.gguf", "MXFP4", id="mxfp4"),
        pytest.param("Qwen2-7B.gguf", None, id="none"),
    ],
)
def test_the_quantization_of_a_name(name: str, quantization: str | None) -> None:
    assert quantization_of(name) == quantization


def test_a_folder_model_is_its_top_files_without_pickles_and_code() -> None:
    names = ["config.json", "model.safetensors", "x.py", "a/config.json", "pytorch_model.bin", "tokenizer.model"]
    assert hugging_face_files(names) == ("config.json", "model.safetensors", "tokenizer.model")
    assert hugging_face_files(["config.json", "pytorch_model.bin"]) == ()
    twice = ["config.json", "consolidated.safetensors", "model-00001-of-00001.safetensors"]
    assert hugging_face_files(twice) == ("config.json", "model-00001-of-00001.safetensors")
    assert hugging_face_files(twice[:2]) == ("config.json", "consolidated.safetensors")
    assert gguf_sets(names) == ()
