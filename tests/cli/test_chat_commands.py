"""The commands of a chat, and the turns around them: a scripted user, the fake engine in its real process."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import gguf_builder as build
import pytest

from llmrun.cli.chat import flow
from llmrun.cli.chat.commands import COMMANDS, command_words
from llmrun.cli.chat.flow import ChatRequest
from llmrun.cli.chat.model import ModelRequest
from llmrun.cli.chat.settings import OPTION_NAMES
from llmrun.cli.chat.state import Settings
from llmrun.cli.chat.turns import AnswerStatus
from llmrun.engines.conversation.conversation import Conversation, replay
from llmrun.engines.conversation.session_file import read_session
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName, SamplingOptions
from llmrun.errors import LlmrunError

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SAMPLING = SamplingOptions(
    temperature=0.7, top_p=0.95, top_k=40, min_p=0.05, repeat_penalty=1.0, max_tokens=None, seed=0
)


class Screen:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.cancelled: list[bool] = []
        self.notices: list[str] = []
        self.statuses: list[AnswerStatus] = []
        self.on_text: Callable[[], object] = lambda: None
        self.on_notice: Callable[[str], object] = lambda _text: None

    def begin(self) -> None:
        self.answers.append("")

    def feed(self, text: str) -> None:
        self.answers[-1] += text
        self.on_text()

    def end(self, *, cancelled: bool) -> None:
        self.cancelled.append(cancelled)

    def status(self, status: AnswerStatus) -> None:
        self.statuses.append(status)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.on_notice(text)


class User:
    """Types one line after another; a function in between is called instead."""

    def __init__(self, lines: list[str | Callable[[], object]]) -> None:
        self._lines = lines

    def read(self) -> str:
        while self._lines:
            line = self._lines.pop(0)
            if isinstance(line, str):
                return line
            line()
        raise EOFError


class Room:
    """Where a chat takes place."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.screen = Screen()
        self._monkeypatch = monkeypatch
        self.model = self.make_model("tiny")

    def make_model(self, name: str, context_length: int = 4096) -> Path:
        path = self.folder / f"{name}.gguf"
        pairs = build.llama_pairs(
            **{"llama.context_length": build.u32(context_length), "tokenizer.chat_template": build.text(TEMPLATE)}
        )
        path.write_bytes(build.build_gguf(pairs))
        return path

    def fake(self, **script: object) -> None:
        self._monkeypatch.setenv("LLMRUN_FAKE", json.dumps(script))

    def chat(self, *lines: str | Callable[[], object], session: str | None = "s", reference: str | None = None) -> None:
        """Hold a conversation."""

        def terminal(_request: ChatRequest) -> object:
            return True, self.screen, lambda _think: self.screen, lambda _chat: User(list(lines))

        self._monkeypatch.setattr(flow, "_terminal", terminal)
        flow.execute(
            ChatRequest(
                model=ModelRequest(
                    reference=str(self.model) if reference is None else reference,
                    engine=EngineName.FAKE,
                    plan=PlanRequest(),
                    draft=None,
                    keep_seconds=None,
                    offline=True,
                    fallback=True,
                    yes=False,
                    quiet=False,
                ),
                session=session,
                continues=session is None,
                settings=Settings(sampling=SAMPLING, seed=None, overflow="drop-oldest", think="dim"),
                system=None,
                files=(),
                plain=False,
            )
        )

    def said(self, text: str) -> bool:
        return any(text in notice for notice in self.screen.notices)

    def conversation(self, name: str = "s") -> Conversation:
        return replay(read_session(self.folder / "data" / "sessions" / f"{name}.jsonl").records)

    def texts(self, name: str = "s") -> list[str]:
        return [message.content for message in self.conversation(name).messages()]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    for name in [name for name in os.environ if name.startswith(("LLMRUN_", "HF_"))]:
        monkeypatch.delenv(name)
    for name, folder in (("LLMRUN_DATA_DIR", "data"), ("LLMRUN_CACHE_DIR", "cache"), ("HF_HOME", "huggingface")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    room = Room(tmp_path, monkeypatch)
    room.fake(answer="yes")
    return room


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("/help", ("help", ""), id="command"),
        pytest.param("/Set  top-p 0.5 ", ("set", "top-p 0.5"), id="argument"),
        pytest.param("/system two\nlines", ("system", "two\nlines"), id="lines"),
        pytest.param("/", ("", ""), id="slash"),
        pytest.param("/?", ("?", ""), id="question mark"),
        pytest.param("//text", None, id="two slashes"),
        pytest.param("/etc/passwd is what?", None, id="path"),
        pytest.param("text /help", None, id="text"),
        pytest.param(" /help", None, id="space"),
    ],
)
def test_what_is_a_command(line: str, expected: tuple[str, str] | None) -> None:
    assert command_words(line) == expected


def test_the_table_is_that_of_the_documentation() -> None:
    document = Path(__file__).parents[2].joinpath("docs", "chat.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        usage = f"/{command.name} {command.usage}".strip().replace("|", "\\|")
        assert f"| `{usage}` |" in document
    for name in OPTION_NAMES:
        assert name in document


def test_turns_and_help(room: Room) -> None:
    room.chat("one", "/help", "", "  ", "//two", "/etc/passwd")
    assert room.texts() == ["one", "yes", "/two", "yes", "/etc/passwd", "yes"]
    assert room.screen.answers == ["yes"] * 3
    assert all(room.said(f"/{command.name}") for command in COMMANDS)
    status = room.screen.statuses[0]
    assert (status.completion_tokens, status.context_length, status.engine) == (3, 4096, "fake")
    assert status.context_used == len("<user>one</s><assistant>") + 3


@pytest.mark.parametrize(
    ("line", "near"),
    [("/udno", "/undo"), ("/sesions", "/sessions"), ("/xyzzy", "/help"), ("/undo now", "takes nothing")],
)
def test_an_unknown_command_gets_the_nearest_name(room: Room, line: str, near: str) -> None:
    room.chat(line, "one")
    assert near in room.screen.notices[1]
    assert room.texts() == ["one", "yes"]  # and the chat went on


def test_system(room: Room) -> None:
    room.chat("/system be brief", "one", "/system", "/system none", "two")
    assert room.said("system message: be brief")
    assert room.texts() == ["one", "yes", "two", "yes"]
    room.fake()
    room.chat("/system be kind", "three")
    assert room.screen.answers[-1].startswith("<system>be kind</s><user>one</s>")


def test_undo_clear_and_what_stays_on_disk(room: Room) -> None:
    room.chat("/undo", "one", "two", "/undo", "/undo", "three", "/clear", "four", "/exit", "five")
    assert room.said("nothing was said yet")
    assert room.said("taken back: two")
    assert room.texts() == ["four", "yes"]
    data = (room.folder / "data" / "sessions" / "s.jsonl").read_text()
    assert all(f'"{text}"' in data for text in ("one", "two", "three", "four"))
    assert "five" not in data


def test_retry(room: Room) -> None:
    room.chat("/retry", "one", lambda: room.screen.answers.clear(), "/retry", "/set seed 7", "/retry", "/retry")
    assert room.texts() == ["one", "yes"]
    seeds = [
        record["seed"]
        for record in map(json.loads, (room.folder / "data" / "sessions" / "s.jsonl").read_text().splitlines())
        if record.get("role") == "assistant"
    ]
    assert seeds[-2:] == [9, 10]  # the second and the third time that it was tried again
    assert len(seeds) == 4


def editor(room: Room, replacement: str) -> str:
    program = room.folder / "editor.py"
    program.write_text(f"import sys, pathlib\npathlib.Path(sys.argv[1]).write_text({replacement!r})\n")
    return f"{sys.executable} {program}"


def test_edit(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", editor(room, "1 and a half\n"))
    room.chat("one", "two", "three", "/edit 2", "/edit 9", "/edit x")
    assert room.texts() == ["one", "yes", "1 and a half", "yes"]
    assert room.said("turns 1 to 2")
    assert room.said("'x'")
    monkeypatch.setenv("VISUAL", f'{sys.executable} -c "raise SystemExit(3)"')
    room.chat("/edit")
    assert room.said("exit code 3")
    monkeypatch.setenv("VISUAL", editor(room, ""))
    room.chat("/edit")
    assert room.texts() == ["one", "yes", "1 and a half", "yes"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param("/set", "temperature     0.7", id="all"),
        pytest.param("/set temperature 0", "temperature is 0", id="number"),
        pytest.param("/set --top_k 5", "top_k is 5", id="spelled otherwise"),
        pytest.param("/set max-tokens none", "max-tokens is none", id="none"),
        pytest.param("/set on-overflow stop", "on-overflow is stop", id="choice"),
        pytest.param("/set temperature", "wants a value", id="no value"),
        pytest.param("/set temperature nan", "finite", id="NaN"),
        pytest.param("/set temperature hot", "wants a number", id="no number"),
        pytest.param("/set top-p 1.5", "at least 0 and at most 1", id="too large"),
        pytest.param("/set max-tokens 0", "at least 1", id="too small"),
        pytest.param("/set repeat-penalty 0", "above 0", id="its own check"),
        pytest.param("/set stop ", "wants a value", id="empty stop"),
        pytest.param("/set on-overflow explode", "'explode'", id="no choice"),
        pytest.param("/set temprature 1", "/set temperature", id="unknown"),
        pytest.param("/show options", "repeat-penalty  1.0", id="show options"),
        pytest.param("/show model", "tiny.gguf", id="show model"),
        pytest.param("/show nothing", "prompt, system, options, model", id="show nothing"),
        pytest.param("/show", "nothing was said yet", id="show prompt"),
    ],
)
def test_set_and_show(room: Room, line: str, said: str) -> None:
    room.chat(line)
    assert said in room.screen.notices[1]


def test_what_is_set_is_used(room: Room) -> None:
    room.fake(answer="yes, and no")
    room.chat("one", "/set max-tokens 3", "two", "/set max-tokens none", "/set stop and", "three")
    assert room.screen.answers == ["yes, and no", "yes", "yes, "]
    assert room.said("cut at max-tokens 3")


def test_show_prompt_and_context_and_stats(room: Room) -> None:
    room.chat("/context", "one", "/show", "/context", "/stats")
    assert room.said("<user>one</s><assistant>yes</s><assistant>")
    assert room.said("0 of 4,096 tokens in use (0%), by 0 turns")
    assert room.said("of 4,096 tokens in use (1%), by 1 turn")
    assert room.said("1 turn, 3 tokens answered; session s")


def test_another_model(room: Room) -> None:
    other = room.make_model("other", 2048)
    room.chat("one", f"/model {other}", "two", "/model", "/model no-such-model", "three")
    assert room.texts() == ["one", "yes", "two", "yes", "three", "yes"]
    assert room.said("context 2,048 tokens")
    assert room.said("no-such-model")
    assert [status.context_length for status in room.screen.statuses] == [4096, 2048, 2048]
    model = room.conversation().model
    assert model is not None
    assert model.model == str(other)
    room.chat("four", reference="")
    assert room.screen.statuses[-1].context_length == 2048


def test_a_model_that_cannot_be_loaded_leaves_the_one_before(room: Room) -> None:
    other = room.make_model("other", 2048)
    room.screen.on_notice = lambda text: room.fake(answer="no") if "going back" in text else None
    room.chat("one", lambda: room.fake(load_error="it is damaged"), f"/model {other}", "two")
    assert room.said("it is damaged")
    assert room.texts() == ["one", "yes", "two", "no"]
    assert room.screen.statuses[-1].context_length == 4096


def test_another_model_counts_anew(room: Room) -> None:
    small, large = room.make_model("small", 256), room.model
    room.model = small
    turns = [f"turn {number} {'x' * 30}" for number in range(8)]
    room.chat(*turns, lambda: room.fake(), f"/model {large}", "last")
    assert room.said("oldest turn")
    assert "turn 0" in room.screen.answers[-1]


def test_save_load_and_sessions(room: Room) -> None:
    room.chat("one", "/save t", "two", "/load s", "three", "/sessions", "/save t", "/load u", "/load ../x", "/save a/b")
    assert room.texts("s") == ["one", "yes", "three", "yes"]
    assert room.texts("t") == ["one", "yes", "two", "yes"]
    assert room.said("there is a session t already")
    assert room.said("there is no session u")
    assert room.said("'../x'")
    assert room.said("tiny.gguf")


def test_export(room: Room) -> None:
    room.fake(answer="<think>hm\nhm</think>yes")
    markdown, document = room.folder / "a.md", room.folder / "a.json"
    exports = [f"/export {path}" for path in (markdown, document, markdown, "a.pdf", "")]
    room.chat("/export a.md", "/system be brief", "one", *exports)
    assert markdown.read_text() == (
        f"*{room.model}, on fake*\n\n## System\n\nbe brief\n\n## User\n\none\n\n## Assistant\n\n> hm\n> hm\n\nyes\n"
    )
    assert json.loads(document.read_text()) == {
        "version": 1,
        "model": str(room.model),
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "yes", "reasoning": "hm\nhm", "finish_reason": "stop"},
        ],
    }
    assert room.said("nothing was said yet")
    assert room.said("is there already")
    assert room.said("neither in .md nor in .json")


def test_files(room: Room) -> None:
    (room.folder / "a.txt").write_text("from a\n")
    (room.folder / "b.txt").write_bytes(b"from b \xff")
    os.mkfifo(room.folder / "fifo")
    a, b, fifo = (f"/file {room.folder / name}" for name in ("a.txt", "b.txt", "fifo"))
    room.chat(a, b, "one", "two", a, "/file", "three", fifo, f"/file {room.folder}", "/file /no/such/file")
    assert room.texts()[::2] == ["from a\n\nfrom b \ufffd\n\none", "two", "three"]
    assert room.said("not UTF-8")
    assert room.said("1 file taken back")
    assert room.said("not a regular file")
    assert room.said("/no/such/file cannot be read")


def test_copy(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = room.folder / "bin"
    folder.mkdir()
    program = folder / "wl-copy"
    program.write_text(f"#!/bin/sh\ncat > {room.folder / 'clipboard'}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    room.chat("/copy", "one", "/copy")
    assert room.said("there is no answer yet")
    assert room.said("copied 3 characters with wl-copy")
    assert (room.folder / "clipboard").read_text() == "yes"


def test_copy_where_there_is_no_clipboard(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(room.folder))
    for name in ("WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    room.chat("one", "/copy")
    assert room.said("there is no clipboard")


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


def test_every_command_has_its_line() -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    for command in COMMANDS:
        assert command.help
        assert callable(command.run)
        assert (command.argument == "none") == (command.usage == "")
