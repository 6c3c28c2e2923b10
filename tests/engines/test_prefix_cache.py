"""The prefix cache's files: what is found, what is refused, what goes when room is needed, and many writers at once."""

import ctypes
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrun.engines.prefix_cache import folder as prefix_cache_folder
from llmrun.engines.prefix_cache.folder import StoredFile, limit_bytes, list_entries, list_files, remove_everything
from llmrun.engines.prefix_cache.store import CachedPrefix, PrefixCache
from llmrun.errors import UsageError

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


def test_what_was_stored_is_found_by_a_prompt_that_begins_like_it(cache: PrefixCache) -> None:
    state = random.Random(1).randbytes(100_000)
    assert cache.store(LONG, state) is None
    assert taken(cache.find(LONG)) == (1000, 1000, state)
    assert taken(cache.find(LONG + [5] * 500)) == (1000, 1000, state)
    assert taken(cache.find(LONG[:300] + [5] * 500)) == (300, 1000, state)
    assert taken(cache.find(LONG[:255] + [5] * 500)) is None
    assert taken(cache.find([*LONG[:20], 5], least=20)) is None, "not worth loading a state fifty times as long"
    assert taken(cache.find(LONG, most=999)) is None
    assert taken(cache.find([5, *LONG])) is None
    assert taken(cache.find([])) is None


def test_the_state_reaches_native_code_without_a_copy_and_the_file_never_changes(
    cache: PrefixCache, tmp_path: Path
) -> None:
    cache.store(LONG, b"state" * 1000)
    before = only_file(tmp_path).read_bytes()
    found = cache.find(LONG)
    assert found is not None
    array = (ctypes.c_uint8 * found.state.nbytes).from_buffer(found.state)
    array[0] = 0
    assert found.state[0] == 0
    found.close()  # while it is still shown: no error
    del array
    assert only_file(tmp_path).read_bytes() == before


def test_the_longest_common_prefix_wins_and_of_equals_the_shorter_entry(cache: PrefixCache) -> None:
    cache.store(LONG[:300] + [1] * 100, b"a")
    cache.store(LONG[:600] + [2] * 900, b"b")
    cache.store(LONG[:600] + [3] * 200, b"c")
    assert taken(cache.find(LONG)) == (600, 800, b"c")
    assert taken(cache.find([*LONG[:600], 2, 2, 4])) == (602, 1500, b"b")


@pytest.mark.parametrize(
    ("cut_limit", "prompt", "expected"),
    [
        pytest.param(0, [*LONG[:500], 5], (500, 500), id="recurrent-all-of-it"),
        pytest.param(0, [*LONG[:499], 5, 5], None, id="recurrent-one-token-differs"),
        pytest.param(512, [*LONG[:499], 5, 5], (499, 500), id="shorter-than-the-window"),
        pytest.param(499, [*LONG[:499], 5, 5], None, id="longer-than-the-window"),
    ],
)
def test_a_state_that_cannot_be_cut_helps_only_when_all_of_it_is_wanted(
    tmp_path: Path, cut_limit: int, prompt: list[int], expected: tuple[int, int] | None
) -> None:
    cache = cache_at(tmp_path, cut_limit=cut_limit)
    cache.store(LONG[:500], b"x")
    found = taken(cache.find(prompt))
    assert (found and found[:2]) == expected
    assert cache.longest_common(prompt) >= 499


def test_entries_that_would_add_nothing_are_not_written(cache: PrefixCache, tmp_path: Path) -> None:
    cache.store(LONG[:950], b"x")
    assert not cache.wants(LONG, 10)
    assert cache.store(LONG, b"y") is None
    assert cache.store(LONG[:950], b"z") is None
    assert taken(cache.find(LONG)) == (950, 950, b"x")
    assert cache.wants(LONG + [1] * 200, 10)
    assert not cache.wants([1] * 500, LIMIT + 1)


def test_without_cutting_only_the_same_beginning_counts_as_there(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, cut_limit=0)
    cache.store(LONG[:990], b"x")
    assert cache.wants(LONG[:980], 10)
    assert not cache.wants(LONG, 10)


def test_a_longer_entry_replaces_the_ones_it_begins_with(cache: PrefixCache, tmp_path: Path) -> None:
    cache.store(LONG[:300], b"short")
    cache.store(LONG[:600], b"middle")
    assert len(files(tmp_path)) == 1, "300 of 600 are half of it"
    cache.store(LONG[:600] + [1] * 1000, b"long")
    assert len(files(tmp_path)) == 2, "600 of 1600 are cheaper to load"
    whole = cache_at(tmp_path, "other", cut_limit=0)
    whole.store(LONG[:300], b"short")
    whole.store(LONG[:500], b"longer")
    assert taken(whole.find([*LONG[:300], 7])) == (300, 300, b"short")


def test_models_do_not_see_each_other(tmp_path: Path) -> None:
    cache_at(tmp_path, "one").store(LONG, b"1")
    other = cache_at(tmp_path, "two")
    assert taken(other.find(LONG)) is None
    other.store(LONG, b"2")
    assert taken(cache_at(tmp_path, "one").find(LONG)) == (1000, 1000, b"1")
    assert {(head.label, len(head.tokens)) for head in list_entries(tmp_path / "prefixes")} == {
        ("one.gguf", 1000),
        ("two.gguf", 1000),
    }


def test_a_file_of_another_model_under_this_ones_name_is_removed(tmp_path: Path) -> None:
    cache, other = cache_at(tmp_path), cache_at(tmp_path, "other")
    cache.store(LONG, b"mine")
    mine = only_file(tmp_path)
    other.store(LONG, b"theirs")
    theirs = next(file.path for file in files(tmp_path) if file.path != mine)
    mine.write_bytes(theirs.read_bytes())
    assert taken(cache.find(LONG)) is None
    assert not mine.exists()
    assert theirs.exists()


def test_everything_is_private(cache: PrefixCache, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache.store(LONG, b"x")
    finally:
        os.umask(before)
    path = only_file(tmp_path)
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def corrupt(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with one random thing done to it that leaves it different."""
    changed = bytearray(data)
    match chance.randrange(6):
        case 0:
            del changed[chance.randrange(len(changed)) :]
        case 1:
            changed += chance.randbytes(chance.randrange(1, 5000))
        case 2:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        case 3:
            changed[chance.randrange(128)] ^= 1 << chance.randrange(8)
        case 4:
            begin = chance.randrange(len(changed))
            del changed[begin : begin + chance.randrange(1, 300)]
        case _:
            huge = chance.choice([0, 1, 2**31 - 1, 2**31, 2**40, 2**63, 2**64 - 1])
            struct.pack_into("<Q", changed, 8 * chance.randrange(16), huge)
    return bytes(changed)


def test_500_damaged_files_are_ignored_and_removed(cache: PrefixCache, tmp_path: Path) -> None:
    chance = random.Random(7)
    cache.store(LONG, chance.randbytes(20_000))
    path = only_file(tmp_path)
    sound = path.read_bytes()
    for number in range(500):
        damaged = corrupt(sound, chance)
        path.write_bytes(damaged)
        found = taken(cache.find(LONG))
        assert found is None or damaged == sound, f"damage {number} was not seen"
        assert path.exists() == (damaged == sound)
        path.write_bytes(sound)
        path.chmod(0o600)
    assert taken(cache.find(LONG)) is not None


def test_a_damaged_entry_gives_way_to_the_next_best(cache: PrefixCache, tmp_path: Path) -> None:
    cache.store(LONG[:400] + [1] * 50, b"sound")
    sound = only_file(tmp_path)
    cache.store(LONG[:800] + [2] * 50, b"damaged" * 100)
    best = next(file.path for file in files(tmp_path) if file.path != sound)
    with best.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"X")
    assert taken(cache.find(LONG)) == (400, 450, b"sound")
    assert not best.exists()
    assert cache.store(LONG[:800] + [2] * 50, b"again") is None
    assert taken(cache.find(LONG)) == (800, 850, b"again")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "socket", "writable", "unreadable", "empty"])
def test_what_is_no_file_of_this_user_is_ignored(
    cache: PrefixCache, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(LONG, b"x" * 1000)
    path = only_file(tmp_path)
    aside = tmp_path / "aside"
    path.rename(aside)
    if kind == "link":
        path.symlink_to(aside)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    elif kind == "empty":
        path.touch(0o600)
    else:
        path.write_bytes(aside.read_bytes())
        path.chmod(0o666 if kind == "writable" else 0o000)
    expected = os.geteuid() == 0 and kind == "unreadable"  # nothing is unreadable for root
    began = time.monotonic()
    assert (taken(cache.find(LONG)) is not None) == expected
    assert time.monotonic() - began < 1
    assert aside.read_bytes()
    if kind != "folder":
        assert path.exists() == expected
        assert cache.store(LONG, b"new") is None


def test_files_of_another_user_are_ignored(cache: PrefixCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(LONG, b"x")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert taken(cache.find(LONG)) is None
    assert "only this user" in (cache.store(LONG + [1] * 500, b"x") or "")
    monkeypatch.undo()
    assert taken(cache.find(LONG)) is not None


def test_a_model_folder_that_is_a_link_is_not_used(cache: PrefixCache, tmp_path: Path) -> None:
    cache.store(LONG, b"x")
    folder = only_file(tmp_path).parent
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    assert taken(cache.find(LONG)) is None
    assert "only this user" in (cache.store([9] * 300, b"y") or "")
    assert len(list(moved.iterdir())) == 1


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
