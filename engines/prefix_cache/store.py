"""The state of long prompts, kept on disk: what one run has processed, the next one with the same beginning loads.

Prefill computes a state that depends on nothing but the tokens, the weights and the engine. A script that asks about
the same file twice pays for it once: loading a state takes about a hundredth of the time of computing it.

One file for each prompt, below a folder for each model (see `file`); the limit and the eviction are those
of the whole cache (`folder`). An entry helps every prompt that begins like it, because an engine can cut a
state back to the common prefix, unless the model's memory forbids that. Nothing here raises for what it finds on disk:
a file that fails its checks is removed, and a cache that cannot be written costs time and nothing else.

Processes share the cache without locks: entries appear by renaming, are never changed, and go by unlinking.
"""

import hashlib
import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmrun.engines.prefix_cache import folder as prefix_cache_folder
from llmrun.engines.prefix_cache.file import (
    DamagedEntryError,
    EntryHead,
    MappedState,
    key_hash,
    map_state,
    read_head,
    write_entry,
)
from llmrun.engines.prefix_cache.folder import SUFFIX

__all__ = ["CachedPrefix", "PrefixCache"]

_ENOUGH = 0.9  # an entry that covers so much of a prompt makes another one superfluous
_REPLACED_FROM = 0.5  # a longer entry replaces those it begins with, from this share of its length
_WORTH_LOADING = 16  # loading a token's state costs less than a sixteenth of computing it
_SPARE_BYTES = 256 << 20  # left free on the disk for everything else


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrefix:
    """An entry that begins like a prompt, verified and mapped.

    Attributes:
        tokens: All tokens of the entry, in the state's order.
        covered: How many of them the prompt begins with.
        state: The engine's state after `tokens`; writable memory, for ctypes, of which nothing reaches the file.
        path: Its file.
        mapped: What holds the state.
    """

    tokens: list[int]
    covered: int
    state: memoryview
    path: Path
    mapped: MappedState

    def close(self) -> None:
        """Give the memory back."""
        self.mapped.close()


class PrefixCache:
    """The entries of one model.

    Args:
        folder: The cache's folder, shared by all models; absolute, so that no working directory can be meant.
        model_key: Everything that a state depends on besides the tokens: the model file, the engine build, types.
        limit_bytes: How large the cache may become, all models together.
        label: A name of the model for people.
        cut_limit: States of more tokens cannot be cut back, so that an entry helps only a prompt that begins with all
            of it: 0 for recurrent models, the window of models with sliding windows; None: every state can be.

    Raises:
        ValueError: The folder is not absolute.
    """

    def __init__(
        self, folder: Path, model_key: str, limit_bytes: int, *, label: str = "", cut_limit: int | None = None
    ) -> None:
        if not folder.is_absolute():
            raise ValueError(f"the prefix cache needs an absolute folder, not {str(folder)!r}")
        self._root = folder
        self._key = key_hash(model_key)
        self._folder = folder / self._key.hex()[:32]
        self._limit_bytes = limit_bytes
        self._label = label
        self._cut_limit = cut_limit

    def find(self, tokens: Sequence[int], least: int = 256, *, most: int | None = None) -> CachedPrefix | None:
        """Return the entry that shares the longest beginning with `tokens`, of at least `least` tokens, or None.

        Entries of more than `most` tokens are left out. Close what is returned.
        """
        wanted = _ids(tokens)
        found: list[tuple[int, int, EntryHead]] = []
        for head in self._heads():
            count, common = len(head.tokens), _common(head.tokens, wanted)
            fits = most is None or count <= most
            worth = common >= max(least, 1) and common * _WORTH_LOADING >= count
            if fits and worth and self._helps(count, common):
                found.append((-common, count, head))
        for negative, _, head in sorted(found, key=lambda candidate: candidate[:2]):
            if entry := self._load(head, -negative):
                return entry
        return None

    def discard(self, entry: CachedPrefix) -> None:
        """Remove an entry that the engine refused."""
        _remove(entry.path)

    def longest_common(self, tokens: Sequence[int]) -> int:
        """Return how many tokens the entry most like `tokens` shares with it, whether or not it can be used."""
        wanted = _ids(tokens)
        return max((_common(head.tokens, wanted) for head in self._heads()), default=0)

    def wants(self, tokens: Sequence[int], state_bytes: int) -> bool:
        """Return whether `store` would keep a state of this size: ask before making a copy of it."""
        return state_bytes <= self._limit_bytes and not self._is_covered(_ids(tokens))

    def store(self, tokens: Sequence[int], state: "memoryview | bytes | bytearray") -> str | None:
        """Keep the state after `tokens`, unless an entry covers it already; return why that failed, or None.

        May be called from any thread, and never raises for what the disk does.
        """
        ids = _ids(tokens)
        data = memoryview(state).cast("B")
        try:
            return self._store(ids, data)
        except OSError as error:
            return f"the state of the prompt was not kept: {error.strerror or error}"
        finally:
            data.release()

    def _store(self, ids: "array[int]", data: memoryview) -> str | None:
        size = data.nbytes + 4 * len(ids) + 4096
        if size > self._limit_bytes:
            return f"the state of the prompt was not kept: it takes {size:,} bytes of a cache of {self._limit_bytes:,}"
        if not ids or not data.nbytes or self._is_covered(ids):
            return None
        self._make_folder()
        self._remove_replaced(ids)
        prefix_cache_folder.make_room(self._root, self._limit_bytes, size)
        if prefix_cache_folder.free_bytes(self._folder) < size + _SPARE_BYTES:
            return f"the state of the prompt was not kept: the disk has no room for {size:,} bytes"
        name = hashlib.sha256(ids.tobytes()).hexdigest()[:32] + SUFFIX
        write_entry(self._folder / name, self._key, self._label, ids, data)
        return None

    def _is_covered(self, ids: "array[int]") -> bool:
        """Return whether an entry serves `ids` about as well as one of its own would; it then counts as used."""
        for head in self._heads():
            count, common = len(head.tokens), _common(head.tokens, ids)
            if head.tokens == ids or (common >= _ENOUGH * len(ids) and self._helps(count, common)):
                _touch(head.path)
                return True
        return False

    def _remove_replaced(self, ids: "array[int]") -> None:
        """Remove the entries that the new one begins with: cut back, it does what they did."""
        if not self._helps(len(ids), 0):
            return
        for head in self._heads():
            count = len(head.tokens)
            if count >= _REPLACED_FROM * len(ids) and _common(head.tokens, ids) == count:
                _remove(head.path)

    def _helps(self, count: int, common: int) -> bool:
        """Return whether the state of `count` tokens can be used for a prompt that shares `common` of them."""
        return common == count or self._cut_limit is None or count <= self._cut_limit

    def _heads(self) -> Iterator[EntryHead]:
        """Yield the heads of this model's entries; what is no entry is removed."""
        if not self._is_own_folder():
            return
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix == SUFFIX]
        except OSError:
            return
        for path in paths:
            try:
                yield read_head(path, self._key)
            except DamagedEntryError:
                _remove(path)
            except OSError:  # another process has removed it, or this one has too many files open
                continue

    def _load(self, head: EntryHead, covered: int) -> CachedPrefix | None:
        try:
            mapped = map_state(head, self._key)
        except DamagedEntryError:
            _remove(head.path)
            return None
        except OSError:
            return None
        _touch(head.path)
        return CachedPrefix(
            tokens=head.tokens.tolist(), covered=covered, state=mapped.view, path=head.path, mapped=mapped
        )

    def _is_own_folder(self) -> bool:
        """Return whether the model's folder is one that only this user can write, and no link."""
        try:
            status = self._folder.lstat()
        except OSError:
            return False
        private = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISDIR(status.st_mode) and private

    def _make_folder(self) -> None:
        """Create the model's folder.

        Raises:
            OSError: That is not possible, or somebody else's is there.
        """
        self._root.mkdir(mode=0o700, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if not self._is_own_folder():
            raise PermissionError(f"{self._folder} is not a folder that only this user can write")


def _ids(tokens: Sequence[int]) -> "array[int]":
    return tokens if isinstance(tokens, array) else array("i", tokens)


def _common(one: "array[int]", other: "array[int]") -> int:
    """Return how many tokens both begin with, by halving: comparing slices is a comparison of memory."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _touch(path: Path) -> None:
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
