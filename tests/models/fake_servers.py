"""A small model hub and a small package index on loopback, which can fail in every way that real ones do.

Both run in threads of the test on ports of the system's choice, remember what they were asked, and stop with the test.
"""

import base64
import hashlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIXES = (".gguf", ".safetensors", ".bin")
STALL_SECONDS = 20.0  # bounded: a test that waits this long has failed


@dataclass
class Faults:
    """What goes wrong, for the requests whose path begins with `at`; each may be limited to a number of `times`."""

    at: str = "/cdn/"
    times: int = 10**9
    status: int | None = None
    error_code: str | None = None
    drop_after: int | None = None
    stall_after: int | None = None
    flip_byte: int | None = None
    ignore_range: bool = False
    etag_each_time: bool = False
    extra_bytes: int = 0
    redirect_to: str | None = None
    etag: str | None = None
    commit: str | None = None
    size: int | None = None
    content_range: str | None = None
    drip_seconds: float | None = None


@dataclass(frozen=True)
class SparseFile:
    """A file that begins with `head` and goes on with zeros up to `size`, which no test could hold in memory."""

    head: bytes
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self.size)
        found = self.head[start:end]
        return found + bytes(min(end - start - len(found), 1 << 26))


Content = bytes | SparseFile


def sha256_of(data: Content) -> str:
    """The name of a file's bytes; a sparse file's zeros are left out of it."""
    if isinstance(data, SparseFile):
        return hashlib.sha256(data.head + str(data.size).encode()).hexdigest()
    return hashlib.sha256(data).hexdigest()


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]


class _QuietServer(ThreadingHTTPServer):
    """A server whose clients may go away at any moment: here they are killed, or they have read enough."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Server:
    """The shared half: a server in a thread, a record of requests, and sending bytes with faults."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests: list[Request] = []
        self.bytes_served = 0
        self.stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = STALL_SECONDS

            def do_GET(self) -> None:
                outer.requests.append(
                    Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                outer.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def asked(self, prefix: str, method: str = "GET") -> list[Request]:
        return [request for request in self.requests if request.method == method and request.path.startswith(prefix)]

    def fault_for(self, path: str) -> Faults:
        if path.startswith(self.faults.at) and self.faults.times > 0:
            self.faults.times -= 1
            return self.faults
        return Faults()

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            for at in range(0, len(body), 1 << 16):
                self.bytes_served += handler.wfile.write(body[at : at + (1 << 16)])

    def send_file(self, handler: BaseHTTPRequestHandler, data: Content, etag: str, fault: Faults) -> None:
        if fault.etag_each_time:
            etag = f"{etag}-{len(self.requests)}"
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        ranged = bool(wanted) and not fault.ignore_range and condition in (None, f'"{etag}"')
        first, _, last = (wanted or "").removeprefix("bytes=").partition("-")
        start = int(first) if ranged else 0
        end = min(int(last) + 1, len(data)) if ranged and last else len(data)
        if start and start >= len(data):
            self.send(handler, 416, headers={"Content-Range": f"bytes */{len(data)}"})
            return
        body = data[start:end]
        if fault.flip_byte is not None:
            at = fault.flip_byte - start
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        body += bytes(fault.extra_bytes)
        headers = {"ETag": f'"{etag}"', "Content-Length": str(end - start + fault.extra_bytes)}
        if ranged:
            whole = len(data) + fault.extra_bytes
            headers["Content-Range"] = fault.content_range or f"bytes {start}-{end + fault.extra_bytes - 1}/{whole}"
        self._send_slowly(handler, 206 if ranged else 200, body, headers, fault)

    def _send_slowly(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], fault: Faults
    ) -> None:
        if fault.drip_seconds is not None:
            self._send_drops(handler, status, body, headers, fault.drip_seconds)
            return
        cut = next((at for at in (fault.drop_after, fault.stall_after) if at is not None), None)
        if cut is None or handler.command == "HEAD":
            self.send(handler, status, body, headers)
            return
        self.send(handler, status, body[:cut], headers)
        handler.wfile.flush()
        if fault.stall_after is not None:
            self.stopping.wait(STALL_SECONDS)
        handler.close_connection = True

    def _send_drops(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], seconds: float
    ) -> None:
        self.send(handler, status, b"", headers)
        for at in range(len(body)):
            handler.wfile.write(body[at : at + 1])
            if self.stopping.wait(seconds):
                break
        handler.close_connection = True


class FakeHub(_Server):
    """The parts of the hub that llmrun and huggingface_hub use.

    Attributes:
        repositories: Files by repository and path.
        cdn_url: Where large files are redirected to.
        token: When set, everything but the bytes themselves needs it.
        gated: Reading files is refused to everyone; listing them is not.
        tells_sizes: The listing has sizes and hashes when it is asked for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, dict[str, Content]] = {}
        self.commit = COMMIT
        self.cdn_url = self.url
        self.token: str | None = None
        self.gated = False
        self.tells_sizes = True

    def add(self, repository: str, path: str, data: Content) -> str:
        self.repositories.setdefault(repository, {})[path] = data
        return sha256_of(data)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        fault = self.fault_for(path)
        if fault.status is not None:
            headers = {"X-Error-Code": fault.error_code} if fault.error_code else {}
            self.send(handler, fault.status, b"no", headers)
        elif fault.redirect_to is not None:
            self.send(handler, 302, headers={"Location": fault.redirect_to})
        elif path.startswith("/cdn/"):
            data = next(
                data
                for files in self.repositories.values()
                for data in files.values()
                if sha256_of(data) == path.removeprefix("/cdn/")
            )
            self.send_file(handler, data, f"cdn-{len(data)}", fault)
        elif self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            self.send(handler, 401, b"no", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            self._list(handler, path, fault)
        elif self.gated:
            self.send(handler, 403, b"no", {"X-Error-Code": "GatedRepo"})
        else:
            self._resolve(handler, path, fault)

    def _list(self, handler: BaseHTTPRequestHandler, path: str, fault: Faults) -> None:
        with_sizes = "blobs=true" in handler.path and self.tells_sizes
        repository = path.removeprefix("/api/models/").partition("/revision/")[0]
        files = self.repositories.get(repository)
        if files is None:
            self.send(handler, 404, b"no", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [
            {"rfilename": name} | (_size_and_hashes(name, data) if with_sizes else {}) for name, data in files.items()
        ]
        document = json.dumps({"id": repository, "sha": self.commit, "siblings": siblings}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(document))}
        self._send_slowly(handler, 200, document, headers, fault)

    def _resolve(self, handler: BaseHTTPRequestHandler, path: str, fault: Faults) -> None:
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        data = self.repositories.get(repository, {}).get(rest.partition("/")[2])
        if data is None:
            self.send(handler, 404, b"no", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": fault.commit or self.commit}
        if not rest.endswith(LFS_SUFFIXES):
            small = data[: len(data)]
            self.send(handler, 200, small, headers | {"ETag": f'"{fault.etag or git_sha1_of(small)}"'})
            return
        sha256 = sha256_of(data)
        size = str(len(data) if fault.size is None else fault.size)
        headers |= {"X-Linked-Etag": f'"{fault.etag or sha256}"', "X-Linked-Size": size}
        self.send(handler, 302, headers=headers | {"Location": f"{self.cdn_url}/cdn/{sha256}", "ETag": '"pointer"'})


def git_sha1_of(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _size_and_hashes(name: str, data: Content) -> dict[str, Any]:
    if name.endswith(LFS_SUFFIXES):
        pointer = git_sha1_of(b"pointer")
        lfs = {"sha256": sha256_of(data), "size": len(data), "pointerSize": 135}
        return {"size": len(data), "blobId": pointer, "lfs": lfs}
    return {"size": len(data), "blobId": git_sha1_of(data[: len(data)])}


class FakeIndex(_Server):
    """A package index with the simple pages that pip reads."""

    def __init__(self) -> None:
        super().__init__()
        self.wheels: dict[str, bytes] = {}
        self.hashes = True

    @property
    def simple_url(self) -> str:
        return f"{self.url}/simple"

    def add(self, wheel_name: str, data: bytes) -> None:
        self.wheels[wheel_name] = data

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        fault = self.fault_for(path)
        if fault.status is not None:
            self.send(handler, fault.status, b"no")
        elif path.startswith("/simple/"):
            self._page(handler, path.strip("/").rpartition("/")[2])
        elif path.endswith(".metadata"):
            self.send(handler, 200, _metadata_of(self.wheels[path.removeprefix("/files/").removesuffix(".metadata")]))
        else:
            self.send_file(handler, self.wheels[path.removeprefix("/files/")], "wheel", fault)

    def _page(self, handler: BaseHTTPRequestHandler, distribution: str) -> None:
        links = []
        for name, data in self.wheels.items():
            if name.partition("-")[0].replace("_", "-").lower() == distribution:
                fragment = f"#sha256={hashlib.sha256(data).hexdigest()}" if self.hashes else ""
                metadata = hashlib.sha256(_metadata_of(data)).hexdigest()
                links.append(
                    f'<a href="/files/{name}{fragment}" data-dist-info-metadata="sha256={metadata}">{name}</a>'
                )
        status = 200 if links else 404
        page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        self.send(handler, status, page, {"Content-Type": "text/html"})


@dataclass
class WheelPlan:
    """A wheel to be made, honest unless told otherwise.

    Attributes:
        members: Name and content, in order; a name may come twice.
        record: Lines to put in place of the honest RECORD's for a member name; None leaves the member out.
        without_record: Make no RECORD at all.
    """

    distribution: str = "tiny-weights"
    version: str = "1.0"
    members: list[tuple[str, bytes]] = field(default_factory=list)
    record: dict[str, str | None] = field(default_factory=dict)
    without_record: bool = False

    @property
    def name(self) -> str:
        return f"{self.distribution.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def build(self) -> bytes:
        info = f"{self.distribution.replace('-', '_')}-{self.version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {self.distribution}\nVersion: {self.version}\n"
        members = [
            *self.members,
            (f"{info}/METADATA", metadata.encode()),
            (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ]
        lines = [self.record.get(name, record_line(name, data)) for name, data in members]
        lines.append(f"{info}/RECORD,,")
        if not self.without_record:
            members.append((f"{info}/RECORD", "\n".join(line for line in lines if line is not None).encode()))
        return zip_of(members)


def record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def zip_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            # ZipInfo, because writestr would warn about a name that comes twice.
            info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.NameToInfo.pop(name, None)
            archive.writestr(info, data)
    return buffer.getvalue()


def _metadata_of(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name)
