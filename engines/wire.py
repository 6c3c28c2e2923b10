"""What the command line and the worker say to each other: JSON objects, each behind its length.

No pickle: the worker runs native code on files from strangers, so nothing it sends may be more than data.

Requests: `preload` (path), `load` (plan), `tokenize` (segments), `generate` (segments, options), `generate_many`
(parallel, ahead: requests that may wait), `more` (requests: id, segments, options of each; last: no more will come),
`cancel`, `keep` (seconds, target).
Answers: `ready` (when the process ran and the engine was imported, on the system's monotonic clock), `loading`
(fraction, phase: its name or nothing), `loaded` (context_length, seconds), `tokens` (ids), `prompt` (token count),
`delta`, `notice`, `done`, `kept`, `error` (class, message, fix). To `generate_many`: `wanted` (count), which `more`
answers, and `begun`, `delta`, `notice`, `done` and `failed` (class, message, fix), each with the id of its request,
then `complete`.

A warm worker is greeted first, with `attach` or `stop` (protocol, version), and answers `attached`, `busy` or
`stopping` (protocol, pid).
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from llmrun import errors
from llmrun.engines.types import (
    Delta,
    Done,
    EngineName,
    Event,
    FinishReason,
    LoadPlan,
    Notice,
    Prompt,
    SamplingOptions,
    Segment,
    Stats,
    TokenLogprob,
)

__all__ = [
    "EVIDENCE_BYTES",
    "FrameReader",
    "decode_event",
    "decode_plan",
    "decode_request",
    "encode_error",
    "encode_event",
    "error_from",
    "frame",
]

EVIDENCE_BYTES = 64 << 10
"""How much is kept of what an engine prints."""
_LIMIT_BYTES = 256 << 20
_to_json = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for every message


def frame(message: dict[str, Any]) -> bytes:
    """Return `message` as a frame: its length in four bytes, big-endian, then JSON."""
    data = _to_json(message).encode()
    return len(data).to_bytes(4, "big") + data


class FrameReader:
    """Put frames together from whatever pieces the pipe delivers."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield every message that is complete.

        Raises:
            EngineCrashedError: The other side wrote something that is no frame.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > _LIMIT_BYTES:
                raise errors.EngineCrashedError("the engine's process sent something that is no message of llmrun's")
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            try:
                message = json.loads(body)
            except ValueError as error:
                raise errors.EngineCrashedError("the engine's process sent a damaged message") from error
            yield message


def encode_event(event: Event) -> dict[str, Any]:
    """Return an event of an answer as a message."""
    match event:
        case Delta(text=text, logprobs=()):
            return {"event": "delta", "text": text}
        case Delta(text=text, logprobs=logprobs):
            return {"event": "delta", "text": text, "logprobs": [dataclasses.astuple(token) for token in logprobs]}
        case Notice(text=text):
            return {"event": "notice", "text": text}
        case Done():
            return {"event": "done", "reason": event.finish_reason, "stats": dataclasses.asdict(event.stats)}


def decode_event(message: dict[str, Any]) -> Event:
    """Return the event that a message stands for."""
    match message["event"]:
        case "delta":
            return Delta(text=message["text"], logprobs=tuple(map(_decode_logprob, message.get("logprobs", ()))))
        case "notice":
            return Notice(text=message["text"])
        case _:
            stats = message["stats"] | {"token_times": tuple(message["stats"]["token_times"])}
            return Done(finish_reason=FinishReason(message["reason"]), stats=Stats(**stats))


def _decode_logprob(values: list[Any]) -> TokenLogprob:
    number, text, logprob, top = values
    return TokenLogprob(id=number, text=text, logprob=logprob, top=tuple((i, t, p) for i, t, p in top))


def decode_plan(message: dict[str, Any]) -> LoadPlan:
    """Return the plan of a `load` request."""
    return LoadPlan(**{**message["plan"], "engine": EngineName(message["plan"]["engine"])})


def _decode_prompt(parts: list[Any]) -> Prompt:
    if parts and isinstance(parts[0], int):
        return [int(part) for part in parts]
    return [Segment(text=text, special=special) for text, special in parts]


def decode_request(message: dict[str, Any]) -> tuple[Prompt, SamplingOptions | None]:
    """Return the prompt, and for `generate` the options, of a request."""
    prompt = _decode_prompt(message["segments"])
    options = message.get("options")
    if options is None:
        return prompt, None
    return prompt, SamplingOptions(**{**options, "stop": tuple(options["stop"])})


def encode_error(error: errors.LlmrunError) -> dict[str, Any]:
    """Return the parts of a message that say what went wrong."""
    return {"class": type(error).__name__, "message": error.message, "fix": error.fix}


def error_from(message: dict[str, Any]) -> errors.LlmrunError:
    """Return the error that the worker reported, as the class it had there."""
    kind = getattr(errors, str(message["class"]), errors.EngineCrashedError)
    if not (isinstance(kind, type) and issubclass(kind, errors.LlmrunError)):
        kind = errors.EngineCrashedError
    return kind(message["message"], fix=message.get("fix"))
