"""Messages survive the pipe however it cuts them; anything else is noticed."""

import json
import random

import pytest

from llmrun.engines import wire
from llmrun.engines.types import Delta, Done, FinishReason, Notice, Stats
from llmrun.errors import EngineCrashedError, ModelFileError, SecurityError

STATS = Stats(prompt_tokens=3, completion_tokens=2, prefill_seconds=0.5, decode_seconds=0.25)


def test_frames_are_put_together_from_any_pieces() -> None:
    messages = [{"event": "delta", "text": "é😀\n" * n} for n in range(20)]
    data = b"".join(wire.frame(message) for message in messages)
    rng = random.Random(3)
    for _ in range(20):
        reader, got, at = wire.FrameReader(), [], 0
        while at < len(data):
            size = rng.randint(1, 90)
            got += list(reader.feed(data[at : at + size]))
            at += size
        assert got == messages


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(Delta(text="a\u2028b"), id="delta"),
        pytest.param(Notice(text="n"), id="notice"),
        pytest.param(Done(finish_reason=FinishReason.LENGTH, stats=STATS), id="done"),
    ],
)
def test_events_come_back_as_they_were(event: Delta | Notice | Done) -> None:
    assert wire.decode_event(json.loads(json.dumps(wire.encode_event(event)))) == event


def test_text_that_is_no_frame_is_named() -> None:
    with pytest.raises(EngineCrashedError, match="no message of llmrun"):
        list(wire.FrameReader().feed(b"Segmentation fault\n"))


def test_damaged_json_is_named() -> None:
    with pytest.raises(EngineCrashedError, match="damaged"):
        list(wire.FrameReader().feed((5).to_bytes(4, "big") + b"{]]]]"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("ModelFileError", ModelFileError, id="known"),
        pytest.param("SecurityError", SecurityError, id="known too"),
        pytest.param("IntEnum", EngineCrashedError, id="in the module, no error"),
        pytest.param("Nonsense", EngineCrashedError, id="unknown"),
    ],
)
def test_errors_keep_their_class(name: str, kind: type[Exception]) -> None:
    error = wire.error_from({"class": name, "message": "m", "fix": "f"})
    assert type(error) is kind
    assert (error.message, error.fix) == ("m", "f")
