"""A chat with a scripted user, for tests: everything is real but the terminal and the engine."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import gguf_builder as build
import pytest

from llmrun.cli.chat import flow
from llmrun.cli.chat.flow import ChatRequest
from llmrun.cli.chat.model import ModelRequest
from llmrun.cli.chat.state import Settings
from llmrun.cli.chat.turns import AnswerStatus
from llmrun.engines.conversation.conversation import Conversation, replay
from llmrun.engines.conversation.session_file import read_session
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName, SamplingOptions

__all__ = ["Room", "room"]

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
                    model=str(self.model) if reference is None else reference,
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
