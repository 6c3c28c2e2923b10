"""The commands of a chat: a scripted user, the fake engine in its real process."""

import json
import os
import sys
from pathlib import Path

import pytest
from chat_room import Room, room

from llmrun.cli.chat.commands import COMMANDS, command_words
from llmrun.cli.chat.settings import OPTION_NAMES

__all__ = ["room"]


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


def test_every_command_has_its_line() -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    for command in COMMANDS:
        assert command.help
        assert callable(command.run)
        assert (command.argument == "none") == (command.usage == "")
