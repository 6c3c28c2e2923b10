"""Workers that stay after their command, with the model loaded, for the next one: find, attach, list, stop.

A worker is kept by `WorkerClient.keep` and ends by itself: when nobody came for as long as it was asked to wait, when
the model's files or llmrun change, when the machine runs short of memory, or when it is told to stop. It serves one
command at a time. One that finds it busy starts a worker of its own: nobody knows how long an answer will take, and
two processes that share a machine are no slower than one after the other.

What is found here is never trusted to be alive: a process may have been killed, its id given to another. Whatever is
left of such a worker is removed on the way.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmrun.engines.client import WorkerClient
from llmrun.engines.warm.folder import find_names, process_born
from llmrun.engines.warm.place import unix_sockets
from llmrun.engines.warm.record import WarmTarget, WarmWorker

__all__ = ["attach", "find_warm", "list_warm", "resident_bytes", "select_warm", "stop_idle", "stop_warm"]

_END_SECONDS = 5.0


def list_warm() -> list[WarmWorker]:
    """Return every warm worker that is alive, the oldest first; what is left of dead ones is removed.

    Raises:
        SecurityError: The runtime folder is open to others, or belongs to somebody else.
    """
    if not unix_sockets():
        return []
    return sorted(_living(), key=lambda worker: worker.started)


def find_warm(target: WarmTarget) -> WarmWorker | None:
    """Return a worker that has loaded what is wanted, one that is idle if there is a choice.

    Workers whose model or code has changed are told to end.

    Raises:
        SecurityError: The runtime folder is open to others, or belongs to somebody else.
    """
    found = []
    for worker in list_warm():
        if worker.target.key == target.key and worker.target.change() is None:
            found.append(worker)
        elif worker.target.change() is not None:
            _ask_to_stop(worker)
    return min(found, key=lambda worker: worker.busy, default=None)


def attach(worker: WarmWorker) -> WorkerClient | None:
    """Return a client of a warm worker, or None if it is busy, or gone meanwhile.

    Raises:
        SecurityError: Another user's process listens on its socket.
    """
    from llmrun.engines.warm.link import SocketLink, connect

    began = time.monotonic()
    reached = connect(worker, "attach")
    if reached is None:
        return None
    connection, answer = reached
    if answer["event"] != "attached":
        connection.close()
        return None
    client = WorkerClient(worker.plan.engine, SocketLink(worker, connection))
    client.attached(worker.plan, int(answer["context_length"]), time.monotonic() - began)
    return client


def stop_warm(worker: WarmWorker, *, force: bool = False) -> bool:
    """End a worker, after the answer that it is writing unless forced. Return whether it has ended.

    Raises:
        SecurityError: Another user's process listens on its socket.
    """
    busy = not force and _ask_to_stop(worker)
    if busy:
        return False
    if not force and _wait_for_end(worker, _END_SECONDS):
        return True
    if process_born(worker.pid) == worker.born:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    ended = _wait_for_end(worker, _END_SECONDS)
    if ended:
        _remove_files(worker.record_path)
    return ended


def select_warm(workers: Sequence[WarmWorker], text: str) -> list[WarmWorker]:
    """Return the workers that a text means: the model as it was typed, the path of its file or folder, or a pid."""
    path = os.path.realpath(text) if text else ""
    return [
        worker
        for worker in workers
        if text in (worker.target.reference, str(worker.pid)) or path == os.path.realpath(worker.target.path)
    ]


def resident_bytes(worker: WarmWorker) -> int | None:
    """Return the main memory that a worker and the processes of its engine take, or None if that cannot be read."""
    import psutil

    try:
        process = psutil.Process(worker.pid)
        return sum(int(each.memory_info().rss) for each in (process, *process.children(recursive=True)))
    except psutil.Error:
        return None


def stop_idle() -> int:
    """End every worker that is not busy, so that another model fits in memory; return how many have ended.

    Raises:
        SecurityError: The runtime folder is open to others, or belongs to somebody else.
    """
    return sum(stop_warm(worker) for worker in list_warm() if not worker.busy)


def _ask_to_stop(worker: WarmWorker) -> bool:
    """Tell a worker to end as soon as it is idle; return whether it is busy."""
    from llmrun.engines.warm.link import connect

    reached = connect(worker, "stop")
    if reached is None:
        return False
    connection, answer = reached
    connection.close()
    return bool(answer.get("busy"))


def _wait_for_end(worker: WarmWorker, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process_born(worker.pid) == worker.born:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _living() -> Iterator[WarmWorker]:
    for path, pid in find_names():
        worker = WarmWorker.read(path)
        if worker is not None and worker.pid == pid and process_born(pid) == worker.born:
            if Path(worker.socket_path).is_socket():
                yield worker
                continue
        elif worker is None and process_born(pid) is not None:
            continue  # not written yet, or by another version, which this one does not understand
        _remove_files(path)


def _remove_files(record: str | Path) -> None:
    """Remove what is left of a worker; one that is alive after all sees it, and ends."""
    for ending in (".sock", ".log", ".part", ".json"):
        with contextlib.suppress(OSError):
            Path(record).with_suffix(ending).unlink(missing_ok=True)
