"""Read ranges of files in a repository of the hub, so that headers are known before anything is downloaded.

What is asked for are the beginnings of files, so each file keeps the beginning that has arrived and is asked only for
what comes after it; small files come whole. Nothing is written to the disk. The address that the hub redirects to is
used again for the same file, because every redirect costs one more answer.
Refuses to go on when the bytes may be of something else: another size than the hub announced, another ETag than before,
another range than asked for. A server that ignores ranges and sends the whole file is read as far as needed and left.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import LlmrunError, ModelFileError, NetworkError
from llmrun.models.download.http import HttpError, HttpReply, HttpSession, retried
from llmrun.models.hub.listing import HubFile, HubRepository, file_url
from llmrun.progress import Progress

__all__ = ["RemoteFolder"]

_SHARD_SUFFIXES = (".safetensors", ".gguf")
_MAX_SHARDS = 2_000
_CONNECTIONS = 8
_FIRST_READ_BYTES = 256 * 1024  # holds the header of most files without a vocabulary
_WHOLE_BYTES = 512 * 1024  # smaller files come whole
_GAP_BYTES = 1024 * 1024  # so much unwanted is read rather than asking for a second range
_MAX_SKIPPED_BYTES = 128 * 1024 * 1024  # of a file whose server cannot begin in the middle
_WHOLE_FILE, _PART = 200, 206
_EXPIRED = (400, 401, 403, 404, 410)  # what storage says to an address that was signed for a while
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(slots=True)
class _Beginning:
    """What has arrived of a file. `address` is where the hub redirected to, `etag` what that server calls the bytes."""

    data: bytes = b""
    address: str | None = None
    etag: str | None = None
    ranges_ignored: bool = False


class RemoteFolder:
    """Files of one commit, as a `FileSource`.

    Attributes:
        path: `ORG/NAME`, for messages.
        sizes: Size in bytes of the files that may be read, by name.
    """

    def __init__(
        self,
        session: HttpSession,
        repository: HubRepository,
        files: Mapping[str, HubFile],
        *,
        progress: Progress,
        patient: bool = True,
    ) -> None:
        """Read files of a commit.

        Args:
            session: From `hub_session`.
            repository: The commit.
            files: Those that may be read.
            progress: Is told of bytes that arrive.
            patient: Try again what fails in a way that passes.
        """
        self.path = Path(repository.name)
        self.sizes: Mapping[str, int] = {name: file.size_bytes for name, file in files.items()}
        self._session = session
        self._repository = repository
        self._hashes = {name: file.etag for name, file in files.items()}
        self._beginnings: dict[str, _Beginning] = {}
        self._progress = progress
        self._patient = patient

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes of a file from `start` on; fewer only at its end.

        Raises:
            ModelFileError: The repository has no such file.
            NetworkError: The server failed, or sends something else than it announced.
        """
        size_bytes = self.sizes.get(name)
        if size_bytes is None:
            raise ModelFileError(f"{self.path} has no file {name}")
        end = min(start + length, size_bytes)
        if end <= start:
            return b""
        if start == 0 and name not in self._beginnings and name.endswith(_SHARD_SUFFIXES):
            self._begin_shards(name, length)
        beginning = self._beginnings.setdefault(name, _Beginning())
        have = len(beginning.data)
        if start > have + _GAP_BYTES:
            return self._fetch(name, beginning, start, end)
        if end > have:
            beginning.data += self._fetch(name, beginning, have, self._worth_reading(name, beginning, end))
        return beginning.data[start:end]

    def _worth_reading(self, name: str, beginning: _Beginning, end: int) -> int:
        """Return up to where to read when the bytes up to `end` are wanted."""
        size_bytes = self.sizes[name]
        if size_bytes <= _WHOLE_BYTES:
            return size_bytes
        # A server that sends the whole file again each time must be asked fewer times.
        again = 2 * len(beginning.data) if beginning.ranges_ignored else 0
        return min(max(end, again, _FIRST_READ_BYTES), size_bytes)

    def _begin_shards(self, wanted: str, length: int) -> None:
        """Read the beginnings of all weight files at once: who reads one of many reads all, and each costs two answers.

        What fails here in a way that passes is left to the read that wants it.
        """
        names = [name for name in self.sizes if name.endswith(_SHARD_SUFFIXES) and name not in self._beginnings]
        if not 2 <= len(names) <= _MAX_SHARDS:
            return
        for name in names:
            self._beginnings[name] = _Beginning()

        def begin(name: str) -> bytes:
            beginning = self._beginnings[name]
            end = self._worth_reading(name, beginning, length if name == wanted else 0)
            return self._fetch_once(name, beginning, 0, end)

        failure: LlmrunError | None = None
        for name, outcome in _each_in_threads(names, begin):
            if isinstance(outcome, LlmrunError):
                passing = isinstance(outcome, HttpError) and outcome.passing
                failure = failure or (None if passing else outcome)
            else:
                self._beginnings[name].data = outcome
                self._progress.advance(len(outcome))
        if failure is not None:
            raise failure

    def _fetch(self, name: str, beginning: _Beginning, start: int, end: int) -> bytes:
        def action() -> bytes:
            return self._fetch_once(name, beginning, start, end)

        data = retried(action, self._progress) if self._patient else action()
        self._progress.advance(len(data))
        return data

    def _fetch_once(self, name: str, beginning: _Beginning, start: int, end: int) -> bytes:
        if beginning.address is not None:
            try:
                return self._fetch_from(beginning.address, name, beginning, start, end)
            except HttpError as error:
                if error.status not in _EXPIRED:
                    raise
                beginning.address = None
        return self._fetch_from(file_url(self._repository, name), name, beginning, start, end)

    def _fetch_from(self, url: str, name: str, beginning: _Beginning, start: int, end: int) -> bytes:
        with self._session.open(url, headers={"range": f"bytes={start}-{end - 1}"}) as reply:
            self._check_identity(name, beginning, reply)
            self._check_range(name, reply, start, end)
            beginning.ranges_ignored = reply.status == _WHOLE_FILE
            skipped = start if beginning.ranges_ignored else 0
            body = self._take(name, reply, skipped + end - start)
            beginning.address = reply.url
        return body[skipped:]

    def _check_identity(self, name: str, beginning: _Beginning, reply: HttpReply) -> None:
        """Refuse bytes of another commit, of another file, or of a file that changed since it was last asked for."""
        commit, linked = reply.header("x-repo-commit"), reply.header("x-linked-etag")
        etag = reply.headers.get("etag", "").removeprefix("W/") or None
        hashes = (None, f'"{self._hashes[name]}"', self._hashes[name])
        if commit not in (None, self._repository.commit) or linked not in hashes:
            raise NetworkError(f"{self.path}/{name}: the hub sends another file than it listed")
        if beginning.etag is not None and etag != beginning.etag:
            raise NetworkError(f"{self.path}/{name} changed on the server while it was read", fix="try again")
        beginning.etag = etag

    def _check_range(self, name: str, reply: HttpReply, start: int, end: int) -> None:
        """Refuse an answer that is neither the range that was asked for nor the whole file."""
        size_bytes = self.sizes[name]
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise NetworkError(f"{self.path}/{name}: the server sends it compressed, which was not asked for")
        if reply.status == _WHOLE_FILE:
            found = reply.headers.get("content-length", str(size_bytes))
            if found != str(size_bytes):
                raise NetworkError(f"{self.path}/{name}: {size_bytes:,} bytes were announced, and {found} are sent")
            if start > _MAX_SKIPPED_BYTES:
                raise NetworkError(f"{self.path}/{name}: the server cannot send a part of a file")
            return
        match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
        whole = (str(start), str(end - 1), str(size_bytes))
        if reply.status != _PART or match is None or match.groups() not in (whole, (*whole[:2], "*")):
            answer = reply.headers.get("content-range", "no range")[:80]
            raise NetworkError(
                f"{self.path}/{name}: asked for bytes {start:,} to {end - 1:,} of {size_bytes:,}, "
                f"and the server answers {reply.status} with {answer}"
            )

    def _take(self, name: str, reply: HttpReply, wanted: int) -> bytes:
        """Return the first `wanted` bytes of the body, and leave the rest."""
        body = bytearray()
        for chunk in reply.steady_chunks():
            body += chunk
            # A range is read to its end, so that the connection can be used again.
            if len(body) > wanted or (len(body) == wanted and reply.status == _WHOLE_FILE):
                break
        if len(body) < wanted:
            raise HttpError(f"{self.path}/{name}: the connection ended before the bytes did", passing=True)
        return bytes(body[:wanted])


def _each_in_threads(names: Sequence[str], action: Callable[[str], bytes]) -> Iterator[tuple[str, bytes | LlmrunError]]:
    """Do something with every name in a few threads; yield what came of each, until one has failed for good.

    The threads die with the process: an interrupt need not wait for a server.
    """
    from queue import SimpleQueue
    from threading import Thread

    waiting = deque(names)
    done: SimpleQueue[tuple[str, bytes | LlmrunError] | None] = SimpleQueue()

    def work() -> None:
        try:
            while waiting:
                name = waiting.popleft()
                try:
                    done.put((name, action(name)))
                except LlmrunError as error:
                    done.put((name, error))
                    if not isinstance(error, HttpError) or not error.passing:
                        waiting.clear()
        except IndexError:  # another thread took the last one
            pass
        finally:
            done.put(None)

    threads = [Thread(target=work, daemon=True) for _ in range(min(_CONNECTIONS, len(names)))]
    for thread in threads:
        thread.start()
    for _ in threads:
        while (outcome := done.get()) is not None:
            yield outcome
