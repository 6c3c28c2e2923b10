"""`llmrun models cache` through the installed program."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.prefix_cache.store import PrefixCache

Run = Callable[..., Any]


@pytest.fixture
def folder(environment: dict[str, str]) -> Path:
    return Path(environment["LLMRUN_CACHE_DIR"], "prefixes")


@pytest.fixture
def filled(folder: Path) -> Path:
    """A cache with two entries of one model, used two hours and five days ago, and one of another, used now."""
    folder.mkdir(parents=True)
    one, two = (PrefixCache(folder, name, 1 << 30, label=f"{name}.gguf") for name in ("one", "two"))
    for begin, hours in ((0, 2), (5000, 120)):
        one.store(range(begin, begin + 1000), bytes(100_000))
        newest = max(folder.glob("*/*.prefix"), key=lambda path: path.stat().st_mtime)
        used = time.time() - hours * 3600
        os.utime(newest, (used, used))
    two.store(range(300), bytes(50_000))
    return folder


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_show(llmrun: Run, filled: Path) -> None:
    shown = llmrun("models", "cache", "show", env={"LLMRUN_PREFIX_CACHE_LIMIT": "2G"})
    assert (shown.code, shown.errors) == (0, "")
    head, table = shown.text.split("\n\n")
    facts = dict(line.split(maxsplit=1) for line in head.replace(f"\n{' ' * 15}", " ").splitlines())
    assert facts == {
        "folder": str(filled),
        "entries": "3",
        "size": f"{sizes(filled) / 1024:.1f} KiB of at most 2.0 GiB",
        "oldest": "used 5 days ago",
        "newest": "used just now",
    }
    assert [line.split() for line in table.splitlines()] == [
        ["SIZE", "ENTRIES", "TOKENS", "USED", "MODEL"],
        ["203.3", "KiB", "2", "2,000", "2", "h", "ago", "one.gguf"],
        ["50.1", "KiB", "1", "300", "just", "now", "two.gguf"],
    ]


def test_show_as_json(llmrun: Run, filled: Path) -> None:
    document = json.loads(llmrun("models", "cache", "show", "--json").text)
    assert document["oldest_used"] == pytest.approx(time.time() - 120 * 3600, abs=60)
    assert document["newest_used"] == pytest.approx(time.time(), abs=60)
    assert [(model["name"], model["entries"], model["tokens"]) for model in document["models"]] == [
        ("one.gguf", 2, 2000),
        ("two.gguf", 1, 300),
    ]
    assert sum(model["size_bytes"] for model in document["models"]) == sizes(filled)
    assert {name: document[name] for name in ("version", "folder", "entries", "size_bytes", "limit_bytes")} == {
        "version": 1,
        "folder": str(filled),
        "entries": 3,
        "size_bytes": sizes(filled),
        "limit_bytes": 4 << 30,
    }


def test_an_empty_cache(llmrun: Run, folder: Path) -> None:
    assert "entries        0\n" in llmrun("models", "cache", "show").text
    document = json.loads(llmrun("models", "cache", "show", "--json").text)
    assert (document["entries"], document["oldest_used"], document["models"]) == (0, None, [])
    cleared = llmrun("models", "cache", "clear")
    assert (cleared.code, cleared.errors) == (0, "llmrun: removed 0 entries, 0 B\n")


def test_damaged_files_count_as_size_and_not_as_entries(llmrun: Run, filled: Path) -> None:
    path = next(filled.glob("*/*.prefix"))
    path.write_bytes(b"\xff" * 1000)
    document = json.loads(llmrun("models", "cache", "show", "--json").text)
    assert (document["entries"], document["size_bytes"]) == (2, sizes(filled))


def test_clear_asks_for_yes_and_leaves_everything_else(llmrun: Run, filled: Path, environment: dict[str, str]) -> None:
    models = Path(environment["LLMRUN_CACHE_DIR"], "models", "pypi")
    models.mkdir(parents=True)
    other = [models / "model.gguf", filled / "note.txt", next(filled.iterdir()) / "note.txt"]
    for path in other:
        path.write_text("not the cache's")
    refused = llmrun("models", "cache", "clear")
    assert (refused.code, refused.text) == (2, "")
    assert "add --yes" in refused.errors
    size = sum(path.stat().st_size for path in filled.glob("*/*.prefix"))
    cleared = llmrun("models", "cache", "clear", "--yes", "--json")
    assert json.loads(cleared.text) == {"version": 1, "folder": str(filled), "removed": 3, "freed_bytes": size}
    assert list(filled.glob("*/*.prefix")) == []
    assert all(path.exists() for path in other)


def test_a_limit_that_is_no_size(llmrun: Run) -> None:
    result = llmrun("models", "cache", "show", env={"LLMRUN_PREFIX_CACHE_LIMIT": "plenty"})
    assert (result.code, result.text) == (2, "")
    assert "LLMRUN_PREFIX_CACHE_LIMIT is 'PLENTY', which is no size" in result.errors
