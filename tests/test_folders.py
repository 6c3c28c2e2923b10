"""The cache folder: private at every level, elsewhere when asked, an error that says what to do when it cannot be."""

from pathlib import Path

import pytest

from llmrun.errors import StorageError
from llmrun.folders import cache_folder


def test_every_level_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "above" / "cache"
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(root))
    folder = cache_folder("models", "pypi")
    assert folder == root / "models" / "pypi"
    assert [path.stat().st_mode & 0o777 for path in (root, root / "models", folder)] == [0o700] * 3
    assert cache_folder("models", "pypi") == folder


def test_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot create the cache folder") as caught:
        cache_folder()
    assert caught.value.fix is not None
    assert "LLMRUN_CACHE_DIR" in caught.value.fix
