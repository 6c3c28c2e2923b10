"""The turns of a chat when something goes wrong: crashes, refusals, Ctrl-C. The fake engine in its real process."""

import os
import signal
import threading
import time

import gguf_builder as build
import pytest
from chat_room import Room, room

from llmrun.errors import LlmrunError

__all__ = ["room"]


def test_a_crash_is_survived(room: Room) -> None:
    """The engine is started again, once for a turn, and the conversation goes on."""
    room.fake(answer="yes", crash_signal=11, crash_at=2)
    room.screen.on_text = lambda: room.fake(answer="no")  # what the next process says
    room.chat("one", "two")
    crashes = [notice for notice in room.screen.notices if "SIGSEGV" in notice]
    assert len(crashes) == 1
    assert "nothing of the conversation is lost" in crashes[0]
    assert room.screen.answers == ["y", "no", "no"]
    assert room.screen.cancelled == [True, False, False]
    assert room.texts() == ["one", "no", "two", "no"]


def test_an_engine_that_hangs_is_started_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_ENGINE_TIMEOUT", "2")
    room.fake(answer="some words", hang_at=6)
    room.screen.on_text = lambda: room.fake(answer="yes")
    room.chat("one", "two")
    assert room.said("has said nothing for 2 s")
    assert room.texts() == ["one", "yes", "two", "yes"]


def test_a_second_crash_leaves_the_turn_for_later(room: Room) -> None:
    room.fake(answer="yes", crash_signal=11, crash_at=2)
    room.chat("one", lambda: room.fake(answer="yes"), "/retry", "two")
    assert len([notice for notice in room.screen.notices if "SIGSEGV" in notice]) == 2
    assert room.texts() == ["one", "yes", "two", "yes"]


def test_a_model_that_never_loads_ends_the_chat(room: Room) -> None:
    room.fake(load_error="it is damaged")
    with pytest.raises(LlmrunError, match="it is damaged"):
        room.chat("one", "two")
    assert room.texts() == ["one"]


def test_a_template_that_refuses_costs_a_line(room: Room) -> None:
    template = "{% if messages|length > 2 %}{{ raise_exception('no more') }}{% endif %}{{ messages[-1]['content'] }}"
    pairs = build.llama_pairs(**{"tokenizer.chat_template": build.text(template)})
    room.model.write_bytes(build.build_gguf(pairs))
    room.chat("one", "two", "/clear", "three")
    assert room.said("no more")
    assert room.texts() == ["three", "yes"]


def test_a_turn_that_is_too_long_costs_a_line(room: Room) -> None:
    room.model = room.make_model("small", 256)
    room.chat("x" * 500, "two")
    assert room.said("521 tokens")
    assert room.texts() == ["two", "yes"]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_what_was_said(room: Room) -> None:
    """FAULTS 39."""
    room.fake(answer="word " * 400, token_seconds=0.005)
    room.screen.on_text = lambda: interrupt() if len(room.screen.answers[-1]) > 20 else None
    began = time.monotonic()
    room.chat("one")
    assert time.monotonic() - began < 8
    (turn,) = room.conversation().turns
    assert turn.answer is not None
    assert turn.answer.cancelled
    assert turn.answer.finish_reason == "cancelled"
    assert turn.answer.content == room.screen.answers[0].removesuffix("") != ""
    assert room.screen.cancelled == [True]


def test_ctrl_c_before_the_first_word(room: Room) -> None:
    """FAULTS 40: in the prefill; the worker stays, and the next turn is answered in its place."""
    room.fake(answer="yes", prefill_seconds=30)
    began = time.monotonic()
    timers = [threading.Timer(3, interrupt), threading.Timer(5, interrupt)]
    for timer in timers:
        timer.start()
    room.chat("one", lambda: room.fake(answer="no"), "/stats", "two")
    for timer in timers:
        timer.join()
    assert time.monotonic() - began < 15
    assert len([notice for notice in room.screen.notices if "before the first word" in notice]) == 2
    assert [turn.question.content for turn in room.conversation().turns] == ["two"]


def test_ctrl_c_while_the_model_loads(room: Room) -> None:
    room.fake(answer="yes", load_seconds=4)
    timer = threading.Timer(1.5, interrupt)
    timer.start()
    room.chat("one", "/retry")
    timer.join()
    assert room.said("before the first word")
    assert room.texts() == ["one", "yes"]


def test_a_deaf_engine_is_ended_and_loaded_again(room: Room) -> None:
    room.fake(answer="some words", hang_at=6)

    def stop() -> None:
        room.fake(answer="yes")
        threading.Timer(0.2, interrupt).start()
        room.screen.on_text = lambda: None

    room.screen.on_text = stop
    room.chat("one", "two")
    assert room.said("did not stop within a second")
    assert room.texts()[2:] == ["two", "yes"]
    assert room.texts()[1].startswith("s")


def test_a_session_goes_on_with_its_model(room: Room) -> None:
    room.chat("one")
    room.chat("two", session=None, reference="")
    assert room.texts() == ["one", "yes", "two", "yes"]
    assert room.said("session s: 1 turn")
