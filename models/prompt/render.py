"""Renders chat templates in a child process, and turns everything that can go wrong there into one clear error.

The child is started by the constructor and imports Jinja while this process does other work, so start it early. It is
kept for further calls, and replaced when a template had to be ended. What a template may do is in `render_child`.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, Self

from llmrun.errors import EngineTimeoutError, LlmrunError, ModelFileError, SecurityError, UsageError

__all__ = ["RenderProcess", "TemplateRefusalError", "TemplateRenderer"]

_CHILD = Path(__file__).with_name("render_child.py")
_START_SECONDS = 30.0
_RENDER_SECONDS = 2.0
_MAX_ANSWER_BYTES = 80 << 20
# Nothing that could be a secret; TZ because templates may print the date.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH")
_FIX = "--raw sends the prompt without the template"


class TemplateRefusalError(UsageError):
    """The template itself refuses this conversation: roles that do not alternate, no system role, and the like."""


class RenderProcess(Protocol):
    """What is used of a process; `subprocess.Popen` has it."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> int:
        """Wait for its end, and return its exit status as `subprocess` does."""


class TemplateRenderer:
    """A process that renders templates. Not for use from several threads.

    Attributes:
        process: It, or None when it was ended.
    """

    def __init__(self) -> None:
        self.process: RenderProcess | None = None
        self._ready = False
        self._start()

    def render(
        self,
        source: str,
        messages: Sequence[Mapping[str, str]],
        special_tokens: Mapping[str, str],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return what the template makes of a conversation.

        Args:
            source: Jinja.
            messages: `role` and `content` of each.
            special_tokens: `bos_token`, `eos_token`, …, as far as the model has them.
            add_generation_prompt: End with the opening of the assistant's turn.
            variables: More for the template, such as `enable_thinking`.

        Raises:
            ModelFileError: The template is not valid, fails, or takes too much memory.
            SecurityError: It tries to reach what it has no business with.
            EngineTimeoutError: It does not end.
            TemplateRefusalError: It says that it does not take this conversation.
        """
        context = {
            "tools": None,
            "documents": None,
            **(variables or {}),
            **special_tokens,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        answer = self._ask({"source": source, "variables": context})
        text = answer.get("text")
        if isinstance(text, str):
            return text
        raise _error_from(answer)

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            _close_quietly(stream)
        process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        import subprocess

        # -I and -S: no environment variables of Python's, no site hooks; what Jinja needs is found where we find it.
        folders = [os.path.abspath(folder) for folder in sys.path if folder and os.path.isdir(folder)]  # noqa: PTH100, PTH112
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(_CHILD), *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        self._ready = False

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer; a child that does not answer in time is killed."""
        if self.process is None:
            self._start()
        assert self.process is not None
        if not self._ready:
            self._receive(_START_SECONDS, starting=True)
            self._ready = True
        body = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(len(body).to_bytes(4, "big") + body)
            self.process.stdin.flush()
        except OSError:
            pass  # it is gone; reading says how
        return self._receive(_RENDER_SECONDS, starting=False)

    def _receive(self, seconds: float, *, starting: bool) -> dict[str, Any]:
        import threading

        process = self.process
        assert process is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            message = _read_message(process.stdout)
        finally:
            timer.cancel()
        if message is not None:
            return message
        status = process.wait()
        self.close()
        raise _error_of_death(status, starting=starting, late=late.is_set())


def _read_message(stream: IO[bytes]) -> dict[str, Any] | None:
    """Return the next message, or None when there is no whole, valid one."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > _MAX_ANSWER_BYTES:
        return None
    body = stream.read(size)
    if len(body) < size:
        return None
    try:
        message = json.loads(body.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _close_quietly(stream: IO[bytes] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:
        pass  # what could not be flushed was for a process that is gone


def _error_of_death(status: int, *, starting: bool, late: bool) -> LlmrunError:
    if starting:
        return ModelFileError(
            f"the process that renders chat templates did not start (status {status}): is jinja2 installed?", fix=_FIX
        )
    # RLIMIT_CPU ends it with SIGXCPU (24 on Linux and macOS).
    if late or status == -24:
        return EngineTimeoutError(
            f"the chat template of this model did not end within {_RENDER_SECONDS:g} seconds", fix=_FIX
        )
    return ModelFileError(f"the chat template of this model crashed its process (status {status})", fix=_FIX)


def _error_from(answer: Mapping[str, Any]) -> LlmrunError:
    """Return the error that an answer of the child stands for."""
    kind, line = answer.get("error"), answer.get("line")
    # A stranger's words: nothing in them may steer the terminal that shows them.
    message = "".join(c if c.isprintable() else " " for c in str(answer.get("message"))).strip()
    where = f" in line {line}" if line else ""
    match kind:
        case "refused":
            return TemplateRefusalError(f"the model's chat template refuses this conversation: {message}", fix=_FIX)
        case "security":
            return SecurityError(
                f"the model's chat template tries to reach what is outside it{where}: {message}",
                fix="get the model from a source that you trust",
            )
        case "syntax":
            return ModelFileError(f"the model's chat template has a syntax error{where}: {message}", fix=_FIX)
        case "memory":
            return ModelFileError(f"the model's chat template takes too much memory{where}", fix=_FIX)
        case "output":
            return ModelFileError("the model's chat template writes more than 16 million characters", fix=_FIX)
        case "recursion":
            return ModelFileError(f"the model's chat template calls itself without end{where}", fix=_FIX)
    return ModelFileError(f"the model's chat template fails{where}: {message}", fix=_FIX)
