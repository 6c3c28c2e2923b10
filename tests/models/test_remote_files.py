"""Ranges of files in a repository: what is asked for, how often, and what is kept."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_servers as fake
import pytest
from fake_servers import SparseFile

from llmrun.errors import ModelFileError
from llmrun.models import download_http
from llmrun.models.hub_listing import hub_session, list_repository
from llmrun.models.remote_files import RemoteFolder
from llmrun.progress import SILENT

MIB = 1024 * 1024


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.setattr(download_http, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
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


def test_a_file_that_is_not_there_is_not_asked_for(hub: SimpleNamespace, folder: RemoteFolder) -> None:
    asked = len(hub.requests)
    with pytest.raises(ModelFileError, match="org/folder has no file other"):
        folder.read("other", 0, 1)
    assert len(hub.requests) == asked
