"""The prefix cache as a whole: what goes when room is needed, full disks, many writers at once, and emptying it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefix_helpers import LIMIT, LONG, cache, cache_at, files, only_file, taken

from llmrun.engines.prefix_cache import folder as prefix_cache_folder
from llmrun.engines.prefix_cache.folder import limit_bytes, remove_everything
from llmrun.engines.prefix_cache.store import PrefixCache
from llmrun.errors import UsageError

__all__ = ["cache"]


def test_the_least_recently_used_go_when_room_is_needed(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, limit=350_000)
    for number in range(3):
        cache.store([number] * 500, bytes(100_000))
        os.utime(
            max((file.path for file in files(tmp_path)), key=lambda path: path.stat().st_mtime_ns), (number, number)
        )
    assert taken(cache.find([0] * 500)) is not None, "now the latest used"
    other = cache_at(tmp_path, "other", limit=350_000)
    assert other.store([7] * 500, bytes(100_000)) is None
    left = [taken(cache.find([number] * 500)) is not None for number in range(3)]
    assert left == [True, False, True], "the limit is that of all models"
    assert sum(file.size_bytes for file in files(tmp_path)) <= 350_000
    assert "takes" in (cache.store([8] * 500, bytes(400_000)) or "")
    assert len(files(tmp_path)) == 3, "a state that can never fit throws nothing out"


def test_an_entry_in_use_can_go_without_harm(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, limit=150_000)
    cache.store(LONG, b"a" * 100_000)
    found = cache.find(LONG)
    assert found is not None
    cache.store([3] * 500, b"b" * 100_000)
    assert len(files(tmp_path)) == 1
    assert bytes(found.state) == b"a" * 100_000
    found.close()


def test_abandoned_parts_are_cleared_and_young_ones_are_left(cache: PrefixCache, tmp_path: Path) -> None:
    cache.store(LONG, b"x")
    folder = only_file(tmp_path).parent
    old, young = folder / f"{'a' * 32}.1.2.part", folder / f"{'b' * 32}.1.2.part"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.store([1] * 300, b"y")
    assert not old.exists()
    assert young.exists()


def strangers(root: Path) -> list[Path]:
    """Put old files of somebody else where the cache's own would be, and return them."""
    made = []
    for folder in ("engines", ".git", "f" * 32):
        for name in ("HEAD", "code.py", "half.part", "an.prefix", f"{'a' * 32}.py", f"{'a' * 31}.prefix"):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not the cache's" * 1000)
            os.utime(path, (0, 0))
            made.append(path)
    link = root / ".dev" / "link"
    link.parent.mkdir()
    link.symlink_to("..")
    return [*made, link]


def test_nothing_of_others_is_ever_removed(tmp_path: Path) -> None:
    """The cache pointed at a folder full of old files of others: neither eviction nor emptying touches one of them."""
    root = tmp_path / "project"
    theirs = strangers(root)
    cache = PrefixCache(root, "model", 10_000)
    for number in range(4):
        assert cache.store([number] * 400, bytes(3_000)) is None
    assert cache.find([0] * 400) is None, "evicted: the limit was reached"
    assert remove_everything(root)[0] > 0
    assert all(path.is_symlink() or path.read_bytes() for path in theirs)
    assert sorted(path for path in root.glob("*/*")) == sorted(theirs)


@pytest.mark.parametrize("folder", ["", ".", "prefixes", "../prefixes"])
def test_a_folder_that_depends_on_where_one_stands_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="absolute folder"):
        PrefixCache(Path(folder), "model", LIMIT)


def test_a_full_disk_is_a_reason_and_leaves_nothing(cache: PrefixCache, tmp_path: Path) -> None:
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom llmrun.engines.prefix_cache.store import PrefixCache\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "cache = PrefixCache(Path(sys.argv[1]), 'model', 1 << 30)\n"
        "print(cache.store(list(range(300)), bytes(100_000)))\n"
        "print(cache.store(list(range(300)), bytes(10_000)))\n"
    )
    folder = tmp_path / "prefixes"
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=30)
    assert done.stdout == "the state of the prompt was not kept: File too large\nNone\n", done.stderr
    assert [file.path.suffix for file in files(tmp_path)] == [".prefix"]


def test_a_disk_with_little_room_left_is_not_filled(
    cache: PrefixCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_cache_folder, "free_bytes", lambda folder: 100 << 20)
    assert "the disk has no room" in (cache.store(LONG, b"x") or "")
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_created_is_a_reason() -> None:
    cache = PrefixCache(Path("/proc/llmrun-prefixes"), "model", LIMIT)
    assert taken(cache.find(LONG)) is None
    assert (cache.store(LONG, b"x") or "").startswith("the state of the prompt was not kept: ")


def test_a_file_where_the_folder_should_be_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "prefixes").write_text("in the way")
    cache = cache_at(tmp_path)
    assert taken(cache.find(LONG)) is None
    assert (cache.store(LONG, b"x") or "").startswith("the state of the prompt was not kept: ")


def test_processes_at_once(tmp_path: Path) -> None:
    """Four processes store, find and evict in the same folder: whatever one finds is whole and the one it asked for."""
    program = (
        "import random, sys\nfrom pathlib import Path\nfrom llmrun.engines.prefix_cache.store import PrefixCache\n"
        "cache = PrefixCache(Path(sys.argv[1]), 'model', 200_000)\n"
        "chance = random.Random(int(sys.argv[2]))\n"
        "for _ in range(60):\n"
        "    number = chance.randrange(12)\n"
        "    problem = cache.store([number] * 300, bytes([number]) * 30_000)\n"
        "    assert problem is None, problem\n"
        "    found = cache.find([number] * 300 + [99])\n"
        "    if found:\n"
        "        assert (found.covered, bytes(found.state)) == (300, bytes([number]) * 30_000)\n"
        "        found.close()\n"
        "print('sound')\n"
    )
    folder = tmp_path / "prefixes"
    running = [
        subprocess.Popen([sys.executable, "-c", program, folder, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(4)
    ]
    assert [process.communicate(timeout=60)[0] for process in running] == ["sound\n"] * 4
    assert all(file.path.suffix == ".prefix" for file in files(tmp_path))


def test_remove_everything(tmp_path: Path) -> None:
    cache_at(tmp_path, "one").store(LONG, b"1")
    cache_at(tmp_path, "two").store(LONG, b"2")
    size = sum(file.size_bytes for file in files(tmp_path))
    assert remove_everything(tmp_path / "prefixes") == (2, size)
    assert list((tmp_path / "prefixes").iterdir()) == []
    assert remove_everything(tmp_path / "nowhere") == (0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", 4 << 30, id="default"),
        pytest.param("0", 0, id="none"),
        pytest.param("1500", 1500, id="bytes"),
        pytest.param("512M", 512 << 20, id="mebi"),
        pytest.param("2GiB", 2 << 30, id="gibi"),
        pytest.param("3gb", 3 << 30, id="small-letters"),
    ],
)
def test_the_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv("LLMRUN_PREFIX_CACHE_LIMIT", text)
    assert limit_bytes() == expected


@pytest.mark.parametrize("text", ["much", "-1", "1.5G", "5X", "G", "99999999999999999999"])
def test_a_limit_that_is_no_size(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LLMRUN_PREFIX_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="no size"):
        limit_bytes()
