"""One HTTP client for the hub and for packages, so that one set of rules holds for every byte from the network.

- https only; plain http only to this machine itself, and never by a redirect from elsewhere;
- redirects are followed here, a bounded number of them; the token goes to the origin it belongs to and to no other;
- no wait without an end: a server that sends nothing for `LLMRUN_NETWORK_TIMEOUT` seconds (20) has stalled, and
  one that sends a small document in drops is left;
- a failure says what really happened (no such host, refused, stalled, status 503), never "check your connection".

httpx is imported when a session opens. Proxies and certificates of the environment are honoured.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from llmrun.errors import NetworkError, SecurityError, UsageError
from llmrun.progress import Progress

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["HttpError", "HttpReply", "HttpSession", "network_timeout_seconds", "retried"]

DEFAULT_TIMEOUT_SECONDS = 20.0
MAX_REDIRECTS = 8
SLOWEST_BYTES_PER_SECOND = 4 << 10  # of an answer that someone waits for
MAX_REDIRECT_BYTES = 16 << 10
MAX_DOCUMENT_BYTES = 64 << 20
RETRY_AFTER_SECONDS = (0.3, 1.0)  # then the failure is final
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")

_Result = TypeVar("_Result")


class HttpError(NetworkError):
    """A request that failed.

    Attributes:
        status: The HTTP status, or None when no answer came.
        passing: Whether the same request may well succeed a moment later.
        stalled: The server stopped sending.
        code: What the hub calls the refusal (`GatedRepo`, `RepoNotFound`), or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        passing: bool = False,
        stalled: bool = False,
        code: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.passing = passing
        self.stalled = stalled
        self.code = code


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer whose body has not been read.

    Attributes:
        status: 200, 206, 416, or a redirect that `stop_at` ended on.
        headers: Of the last answer, names in lower case.
        chain: Headers of every answer on the way, the first one first.
    """

    status: int
    headers: Mapping[str, str]
    chain: tuple[Mapping[str, str], ...]
    _response: "httpx.Response"
    _session: "HttpSession"

    def header(self, name: str) -> str | None:
        """Return a header of the first answer in the chain that has it."""
        return next((headers[name] for headers in self.chain if name in headers), None)

    @property
    def url(self) -> str:
        """Where the answer came from, after all redirects."""
        return str(self._response.url)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, not decoded.

        Raises:
            HttpError: The connection broke or stalled.
        """
        with self._session.errors(str(self._response.url)):
            yield from self._response.iter_raw()

    def steady_chunks(self) -> Iterator[bytes]:
        """Yield the body of an answer that someone waits for: it must come faster than in drops.

        Raises:
            HttpError: The connection broke, stalled, or brings next to nothing.
        """
        begin, received = time.monotonic(), 0
        for chunk in self.chunks():
            received += len(chunk)
            yield chunk
            seconds = time.monotonic() - begin
            if seconds > self._session.timeout_seconds + received / SLOWEST_BYTES_PER_SECOND:
                raise HttpError(f"{_host(self._response.url)} sent only {received:,} bytes in {seconds:.0f} s")

    def document(self) -> bytes:
        """Return the whole body of a small document."""
        body = bytearray()
        for chunk in self.steady_chunks():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise HttpError(
                    f"{_host(self._response.url)} sent more than {MAX_DOCUMENT_BYTES >> 20} MiB of metadata"
                )
        return bytes(body)


class HttpSession:
    """Connections that are kept open over several requests. Use it as a context manager."""

    def __init__(
        self, *, token: str | None = None, token_origin: str | None = None, timeout_seconds: float | None = None
    ) -> None:
        """Open a session; `token` is sent to `token_origin` (`https://host:port`) only.

        `timeout_seconds` is how long a server may take to answer, and be silent; None: what the environment says.
        """
        import httpx

        self._httpx = httpx
        self._token = token
        self._token_origin = _origin(httpx.URL(token_origin)) if token_origin else None
        self.timeout_seconds = network_timeout_seconds() if timeout_seconds is None else timeout_seconds
        self._client = httpx.Client(
            timeout=self.timeout_seconds,
            verify=_certificates(),
            follow_redirects=False,
            headers={"user-agent": "llmrun", "accept-encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    @contextmanager
    def open(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, stop_at: str | None = None
    ) -> Iterator[HttpReply]:
        """Send a request, follow its redirects, and give the answer to the caller's block.

        Args:
            url: Where to.
            method: `GET` or `HEAD`.
            headers: Beyond the session's own.
            stop_at: A header on which a redirect is an answer and is not followed.

        Raises:
            HttpError: No answer, or a status of 400 and above other than 416.
            SecurityError: An address that must not be used.
        """
        target, chain, first = self._httpx.URL(url), [], self._httpx.URL(url)
        trusted = True
        for _ in range(MAX_REDIRECTS + 1):
            self._refuse_unsafe(target, first)
            trusted = trusted and _origin(target) == self._token_origin
            with self._send(method, target, headers or {}, trusted) as response:
                chain.append({name.lower(): value for name, value in response.headers.items()})
                location = chain[-1].get("location")
                if not response.is_redirect or not location or (stop_at and stop_at in chain[-1]):
                    self._raise_for_status(response)
                    yield HttpReply(response.status_code, chain[-1], tuple(chain), response, self)
                    return
                with self.errors(str(target)):
                    _read_to_end(response, chain[-1].get("content-length", ""))
                    target = target.join(location)
        raise HttpError(f"{_host(first)} redirected more than {MAX_REDIRECTS} times")

    @contextmanager
    def errors(self, url: str) -> Iterator[None]:
        """Turn what httpx raises inside the block into an HttpError that tells the cause."""
        httpx = self._httpx
        host = _host(httpx.URL(url))
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise HttpError(f"cannot reach {host}: no answer in {self.timeout_seconds:g} s") from error
        except httpx.TimeoutException as error:
            raise HttpError(
                f"{host} stalled: it sent nothing for {self.timeout_seconds:g} s",
                stalled=True,
                fix="try again (it goes on where it stopped), or set LLMRUN_NETWORK_TIMEOUT to more seconds",
            ) from error
        except httpx.ConnectError as error:
            raise HttpError(f"cannot reach {host}: {_cause(error)}", fix=_certificate_fix(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HttpError(f"the connection to {host} broke: {_cause(error)}", passing=True) from error

    @contextmanager
    def _send(
        self, method: str, url: "httpx.URL", headers: Mapping[str, str], trusted: bool
    ) -> Iterator["httpx.Response"]:
        # An address with a password keeps it: httpx sends it as basic authorization, to that host only.
        own = {"authorization": f"Bearer {self._token}"} if trusted and self._token else {}
        if self._client.is_closed:  # a thread that nobody waits for any more
            raise HttpError(f"the session with {_host(url)} has ended")
        with self.errors(str(url)):
            request = self._client.build_request(method, url, headers={**headers, **own})
            response = self._client.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    def _raise_for_status(self, response: "httpx.Response") -> None:
        status = response.status_code
        if status < 400 or status == 416:
            return
        what = f"{_host(response.url)} answered {status} {response.reason_phrase}".rstrip()
        if status >= 500:
            raise HttpError(f"{what}: the server failed, not this machine", status=status, passing=True)
        code = response.headers.get("x-error-code")
        raise HttpError(f"{what} for {response.url.path}", status=status, passing=status in (408, 429), code=code)

    def _refuse_unsafe(self, url: "httpx.URL", first: "httpx.URL") -> None:
        if url.scheme == "https":
            return
        if url.scheme == "http" and _is_loopback(url.host) and _is_loopback(first.host):
            return
        by = "" if url == first else f" (a redirect from {_host(first)})"
        raise SecurityError(f"refused: {url.scheme}://{url.host}{by} is not https")


def network_timeout_seconds() -> float:
    """Return after how many seconds without a byte a server counts as stalled (`LLMRUN_NETWORK_TIMEOUT`)."""
    text = os.environ.get("LLMRUN_NETWORK_TIMEOUT")
    if not text:
        return DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise UsageError(f"LLMRUN_NETWORK_TIMEOUT is {text!r}, and it must be seconds between 0 and 86400")
    return seconds


def retried(action: Callable[[], _Result], progress: Progress) -> _Result:
    """Run a small request; when it fails in a way that passes, wait a little and try again, a few times."""
    for wait_seconds in RETRY_AFTER_SECONDS:
        try:
            return action()
        except HttpError as error:
            if not error.passing:
                raise
            progress.note(f"{error.message}; trying again")
            time.sleep(wait_seconds)
    return action()


@cache
def _certificates() -> "ssl.SSLContext":
    """Trust what httpx ships, what the system trusts, and the bundles that the user's environment names."""
    import httpx

    context = httpx.create_ssl_context()
    context.load_default_certs()
    for bundle in (os.environ.get(name) for name in CERTIFICATE_VARIABLES):
        if bundle:
            try:
                context.load_verify_locations(bundle)
            except OSError as error:
                raise NetworkError(f"the certificates in {bundle} cannot be read: {error}") from error
    return context


def _read_to_end(response: "httpx.Response", length: str) -> None:
    """Read a short body that nobody wants, so that its connection can be used again."""
    if length.isascii() and length.isdigit() and int(length) <= MAX_REDIRECT_BYTES:
        for _ in response.iter_raw():
            pass


def _origin(url: "httpx.URL") -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _host(url: "httpx.URL") -> str:
    return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}"


def _is_loopback(host: str) -> bool:
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cause(error: BaseException) -> str:
    """Return the innermost text: httpx wraps the operating system's own words."""
    while isinstance(error.__cause__ or error.__context__, Exception):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _certificate_fix(error: BaseException) -> str | None:
    if "CERTIFICATE" not in str(error).upper():
        return None
    return "set SSL_CERT_FILE to the file with your organization's certificates"
