"""The prefix cache's files: what is found, and what is refused."""

import ctypes
import os
import random
import socket
import stat
import struct
import time
from pathlib import Path

import pytest
from prefix_helpers import LIMIT, LONG, cache, cache_at, files, only_file, taken

from llmrun.engines.prefix_cache.folder import list_entries
from llmrun.engines.prefix_cache.store import PrefixCache

__all__ = ["cache"]


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
