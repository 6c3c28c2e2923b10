"""What the tests of the prefix cache share: a cache in a folder, and a look at its files."""

from pathlib import Path

import pytest

from llmrun.engines.prefix_cache.folder import StoredFile, list_files
from llmrun.engines.prefix_cache.store import CachedPrefix, PrefixCache

LIMIT = 1 << 30
LONG = list(range(1000, 2000))


def cache_at(folder: Path, key: str = "model", limit: int = LIMIT, cut_limit: int | None = None) -> PrefixCache:
    return PrefixCache(folder / "prefixes", key, limit, label=f"{key}.gguf", cut_limit=cut_limit)


@pytest.fixture
def cache(tmp_path: Path) -> PrefixCache:
    return cache_at(tmp_path)


def files(folder: Path) -> list[StoredFile]:
    return list_files(folder / "prefixes")


def only_file(folder: Path) -> Path:
    (file,) = files(folder)
    return file.path


def taken(found: CachedPrefix | None) -> tuple[int, int, bytes] | None:
    """Return (covered, tokens, state) of what was found, and close it."""
    if found is None:
        return None
    result = (found.covered, len(found.tokens), bytes(found.state))
    found.close()
    return result
