"""Small answers kept on disk: whatever lies in their place, it is as good as nothing, and never an error."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrun.engines.installed.kept import forget, keep, read_kept

KEY = "engine\nwhat it depends on"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path))
    assert keep("folder", KEY, [1, 2])
    (path,) = (tmp_path / "folder").iterdir()
    return path


def huge(path: Path) -> None:
    path.write_text(json.dumps({"key": KEY, "value": 1}))
    os.truncate(path, 1 << 40)  # a file of holes: reading it would not end


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), id="no text"),
        pytest.param(lambda path: path.write_text('{"key":'), id="cut"),
        pytest.param(lambda path: path.write_text("[" * 100_000), id="deep"),
        pytest.param(lambda path: path.write_text("[1]"), id="a list"),
        pytest.param(lambda path: path.write_text('{"key": 1, "value": 2}'), id="of another key"),
        pytest.param(huge, id="huge"),
        pytest.param(replaced(lambda path: path.mkdir()), id="a folder"),
        pytest.param(replaced(os.mkfifo), id="a pipe"),
        pytest.param(replaced(lambda path: path.symlink_to(path)), id="a link to itself"),
    ],
)
def test_what_is_damaged_is_nothing(file: Path, spoil: Callable[[Path], object]) -> None:
    assert read_kept("folder", KEY) == [1, 2]
    spoil(file)
    assert read_kept("folder", KEY) is None
    forget("folder", KEY)


def test_what_cannot_be_kept_is_said_and_leaves_nothing(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "in it").touch()
    assert not keep("folder", KEY, [3])
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert not keep(f"folder/{file.name}/in it", KEY, [3])


@pytest.mark.usefixtures("file")
def test_keys_are_names_of_files_which_need_not_be_text() -> None:
    key = os.fsdecode(b"/folder/\xff.gguf")
    assert keep("folder", key, 5)
    assert read_kept("folder", key) == 5


def test_what_is_forgotten_is_gone(file: Path) -> None:
    forget("folder", KEY)
    assert not file.exists()
    assert read_kept("folder", KEY) is None
