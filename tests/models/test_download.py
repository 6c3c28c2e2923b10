"""The transfer of one file against servers that fail."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_servers as fake
import pytest

from llmrun.errors import LlmrunError, NetworkError, SecurityError, StorageError, UsageError
from llmrun.models.download import http as download_http
from llmrun.models.download import transfer as download_module
from llmrun.models.download.http import HttpSession, network_timeout_seconds
from llmrun.models.download.transfer import Digest, Transfer, download
from llmrun.progress import SILENT

DATA = bytes(range(256)) * 2048  # 512 KiB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Recorder:
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int | None, int]] = []
        self.notes: list[str] = []
        self.advanced = 0
        self.running = 0

    def begin(self, task: str, total: int | None, unit: str = "bytes", done: int = 0) -> None:
        self.begun.append((task, total, done))
        self.running += 1

    def advance(self, amount: int) -> None:
        self.advanced += amount

    def finish(self) -> None:
        self.running -= 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (download_http, download_module):
        monkeypatch.setattr(module, "RETRY_AFTER_SECONDS", (0.0, 0.0))


@pytest.fixture
def hub() -> Iterator[SimpleNamespace]:
    with fake.FakeHub() as server:
        server.add("org/repo", "a.gguf", DATA)
        yield server


@pytest.fixture
def transfer(hub: SimpleNamespace, tmp_path: Path) -> Transfer:
    return Transfer(
        url=f"{hub.url}/cdn/{SHA256}",
        target=tmp_path / "store" / "a.gguf",
        lock=tmp_path / "store" / "a.lock",
        title="a.gguf",
        size_bytes=len(DATA),
        digest=Digest("sha256", SHA256),
    )


def run(transfer: Transfer, recorder: Recorder | None = None) -> Path:
    with HttpSession() as session:
        return download(transfer, session, recorder or SILENT)


def part_of(transfer: Transfer) -> Path:
    return transfer.target.with_name("a.gguf.part")


def leave_part(transfer: Transfer, data: bytes) -> None:
    transfer.target.parent.mkdir(exist_ok=True)
    part_of(transfer).write_bytes(data)


def names_left(transfer: Transfer) -> set[str]:
    return {path.name for path in transfer.target.parent.iterdir()} - {"a.lock"}


def test_a_file_arrives_whole_private_and_with_progress(transfer: Transfer) -> None:
    recorder = Recorder()
    assert run(transfer, recorder).read_bytes() == DATA
    assert transfer.target.stat().st_mode & 0o777 == 0o600
    assert names_left(transfer) == {"a.gguf"}
    assert recorder.begun == [("a.gguf", len(DATA), 0)]
    assert (recorder.advanced, recorder.running) == (len(DATA), 0)


def test_a_file_that_is_there_is_not_asked_for(transfer: Transfer, hub: SimpleNamespace) -> None:
    run(transfer)
    hub.requests.clear()
    run(transfer)
    assert hub.requests == []


def test_a_lost_connection_goes_on_at_the_byte_it_had(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(drop_after=200_000, times=2)
    recorder = Recorder()
    assert run(transfer, recorder).read_bytes() == DATA
    ranges = [request.headers.get("range") for request in hub.asked("/cdn/")]
    assert ranges == [None, "bytes=200000-", "bytes=400000-"]
    assert hub.asked("/cdn/")[1].headers["if-range"] == f'"cdn-{len(DATA)}"'
    assert [done for _, _, done in recorder.begun] == [0, 200_000, 400_000]
    assert recorder.advanced == len(DATA)
    assert "going on after 195.3 KiB" in recorder.notes[0]


def test_a_later_run_goes_on_at_the_byte_an_earlier_one_had(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(drop_after=100_000)
    with pytest.raises(NetworkError, match=r"broke|ended before"):
        run(transfer)
    assert part_of(transfer).read_bytes() == DATA[:300_000]
    hub.faults = fake.Faults()
    hub.requests.clear()
    assert run(transfer).read_bytes() == DATA
    assert [request.headers["range"] for request in hub.asked("/cdn/")] == ["bytes=300000-"]


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        pytest.param({"ignore_range": True}, DATA[:300_000], id="server-ignores-range"),
        pytest.param({}, DATA + b"more", id="part-longer-than-the-file"),
        pytest.param({}, b"x" * 300_000, id="part-of-another-file"),
        pytest.param({}, b"x" * len(DATA), id="whole-part-of-another-file"),
    ],
)
def test_a_part_that_does_not_fit_is_replaced(
    transfer: Transfer, hub: SimpleNamespace, fault: dict[str, bool], part: bytes
) -> None:
    hub.faults = fake.Faults(**fault)
    leave_part(transfer, part)
    assert run(transfer).read_bytes() == DATA
    assert names_left(transfer) == {"a.gguf"}


def test_a_file_that_changed_between_tries_starts_over(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(drop_after=400_000, times=1, etag_each_time=True)
    assert run(transfer).read_bytes() == DATA
    second = hub.asked("/cdn/")[1]
    assert second.headers["range"] == "bytes=400000-"
    assert second.headers["if-range"] == f'"cdn-{len(DATA)}-1"'


def test_a_part_whose_size_is_not_announced_and_is_complete_already(
    transfer: Transfer, hub: SimpleNamespace, tmp_path: Path
) -> None:
    unsized = Transfer(
        url=transfer.url, target=transfer.target, lock=transfer.lock, title="a.gguf", digest=transfer.digest
    )
    leave_part(transfer, DATA)
    assert run(unsized).read_bytes() == DATA


def test_faults_46_a_flipped_byte_is_rejected_and_removed(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(flip_byte=1000)
    with pytest.raises(NetworkError, match=f"damaged: sha256 is [0-9a-f]{{64}}, and it must be {SHA256}"):
        run(transfer)
    assert names_left(transfer) == set()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param({"extra_bytes": 10}, "announced with 524,288 bytes, and the server sends 524,298", id="longer"),
        pytest.param({"status": 401}, "answered 401 Unauthorized", id="401"),
        pytest.param({"status": 404}, "answered 404 Not Found", id="404"),
        pytest.param({"status": 500}, "answered 500 Internal Server Error: the server failed", id="500"),
    ],
)
def test_faults_48_an_answer_that_cannot_be_used_tells_why(
    transfer: Transfer, hub: SimpleNamespace, fault: dict[str, int], message: str
) -> None:
    hub.faults = fake.Faults(**fault)
    with pytest.raises(NetworkError, match=message):
        run(transfer)
    assert not transfer.target.exists()


def test_faults_48_a_server_error_that_passes_is_tried_again(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(status=503, times=2)
    assert run(transfer).read_bytes() == DATA


def test_faults_48_a_stall_ends(transfer: Transfer, hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_NETWORK_TIMEOUT", "0.2")
    hub.faults = fake.Faults(stall_after=1000)
    started = time.monotonic()
    with pytest.raises(NetworkError, match=r"stalled: it sent nothing for 0\.2 s"):
        run(transfer)
    assert time.monotonic() - started < 5
    assert part_of(transfer).read_bytes() == DATA[: part_of(transfer).stat().st_size]
    hub.faults = fake.Faults()
    assert run(transfer).read_bytes() == DATA


def test_faults_48_nobody_listens(transfer: Transfer, hub: SimpleNamespace) -> None:
    closed = Transfer(url="http://127.0.0.1:9/a", target=transfer.target, lock=transfer.lock, title="a")
    with pytest.raises(NetworkError, match=r"cannot reach http://127\.0\.0\.1:9: Connection refused"):
        run(closed)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e9"])
def test_a_timeout_that_makes_no_sense_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_NETWORK_TIMEOUT", text)
    with pytest.raises(UsageError, match="LLMRUN_NETWORK_TIMEOUT"):
        network_timeout_seconds()


def test_faults_47_a_small_disk_is_refused_before_the_start(
    transfer: Transfer, hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_part(transfer, DATA[:1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=download_module.RESERVE_BYTES))
    with pytest.raises(StorageError, match=r"too full for a\.gguf: 511\.0 KiB needed"):
        run(transfer)
    assert part_of(transfer).read_bytes() == DATA[:1000]


def test_faults_47_a_disk_that_fills_up_keeps_what_is_there(transfer: Transfer, tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse the write in the middle, as a full disk does."""
    program = f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        from llmrun.errors import StorageError
        from llmrun.models.download.transfer import Digest, Transfer, download
        from llmrun.models.download.http import HttpSession
        from llmrun.progress import SILENT
        from pathlib import Path
        folder = Path({str(transfer.target.parent)!r})
        transfer = Transfer(url={transfer.url!r}, target=folder / "a.gguf", lock=folder / "a.lock", title="a.gguf",
                            size_bytes={len(DATA)}, digest=Digest("sha256", {SHA256!r}))
        with HttpSession() as session:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            try:
                download(transfer, session, SILENT)
            except StorageError as error:
                print(error.message)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30)
    assert "the disk is full: cannot write" in done.stdout, done.stderr
    assert "300,000 bytes that are there were kept" in done.stdout
    assert part_of(transfer).read_bytes() == DATA[:300_000]
    assert run(transfer).read_bytes() == DATA


def test_faults_45_a_killed_process_leaves_a_part_and_no_lock(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(stall_after=200_000, times=1)
    program = f"""
        from llmrun.models.download.transfer import Digest, Transfer, download
        from llmrun.models.download.http import HttpSession
        from llmrun.progress import SILENT
        from pathlib import Path
        folder = Path({str(transfer.target.parent)!r})
        with HttpSession() as session:
            download(Transfer(url={transfer.url!r}, target=folder / "a.gguf", lock=folder / "a.lock", title="a.gguf",
                              size_bytes={len(DATA)}, digest=Digest("sha256", {SHA256!r})), session, SILENT)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if part_of(transfer).exists() and part_of(transfer).stat().st_size == 200_000:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hub.requests.clear()
    assert run(transfer).read_bytes() == DATA
    assert hub.asked("/cdn/")[0].headers["range"] == "bytes=200000-"


def test_of_two_that_want_the_same_file_one_fetches_it(transfer: Transfer, hub: SimpleNamespace) -> None:
    hub.faults = fake.Faults(stall_after=1000, times=1)
    first, second = Recorder(), Recorder()
    results: list[Path] = []
    threads = [threading.Thread(target=lambda r=r: results.append(run(transfer, r))) for r in (first, second)]
    threads[0].start()
    while not hub.asked("/cdn/"):
        time.sleep(0.01)
    threads[1].start()
    deadline = time.monotonic() + 10
    while not second.notes and time.monotonic() < deadline:
        time.sleep(0.01)
    hub.stopping.set()
    for thread in threads:
        thread.join(timeout=10)
    assert results == [transfer.target, transfer.target]
    assert second.notes == ["another process is fetching a.gguf: waiting for it"]
    assert second.begun == []


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        pytest.param("http://example.invalid/x", SecurityError, "not https", id="plain-http"),
        pytest.param("file:///etc/passwd", SecurityError, "not https", id="file"),
        pytest.param("/cdn/loop", NetworkError, "redirected more than", id="loop"),
    ],
)
def test_a_redirect_to_a_wrong_place_is_refused(
    transfer: Transfer, hub: SimpleNamespace, location: str, error: type[LlmrunError], message: str
) -> None:
    hub.faults = fake.Faults(redirect_to=location)
    with pytest.raises(error, match=message):
        run(transfer)
    assert len(hub.requests) < 20


def test_plain_http_to_another_machine_is_refused(transfer: Transfer) -> None:
    remote = Transfer(url="http://192.0.2.1/a", target=transfer.target, lock=transfer.lock, title="a")
    with pytest.raises(SecurityError, match=r"http://192\.0\.2\.1 is not https"):
        run(remote)


def test_the_token_goes_to_its_own_host_and_to_no_other(hub: SimpleNamespace) -> None:
    with fake.FakeHub() as other:
        other.repositories = hub.repositories
        hub.cdn_url = other.url
        with HttpSession(token="secret", token_origin=hub.url) as session:
            with session.open(f"{hub.url}/org/repo/resolve/main/a.gguf") as reply:
                assert b"".join(reply.chunks()) == DATA
            with session.open(f"{other.url}/cdn/{SHA256}") as reply:
                reply.document()
        assert [request.headers.get("authorization") for request in hub.requests] == ["Bearer secret"]
        assert [request.headers.get("authorization") for request in other.requests] == [None, None]
