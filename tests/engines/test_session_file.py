"""Session files: what is written is what is read, whatever a crash, a foreign program or a second chat did to them."""

import json
import os
import resource
import stat
from pathlib import Path

import pytest

from llmrun.engines.conversation import sessions
from llmrun.engines.conversation.conversation import Conversation, replay
from llmrun.engines.conversation.records import (
    Header,
    MessageRecord,
    ModelRecord,
    Record,
    RewindRecord,
    SummaryRecord,
    WindowRecord,
    decode_record,
    encode_record,
)
from llmrun.engines.conversation.session_file import SessionFile, read_session
from llmrun.errors import ExitCode, LlmrunError, ModelFileError, StorageError, UsageError

HEADER = Header(created="2026-01-01T00:00:00Z", program="llmrun 0")
MODEL = ModelRecord(time="t", model="m", engine="fake", context_length=512)


def said(text: str) -> MessageRecord:
    return MessageRecord(time="t", role="user", content=text)


def answered(text: str) -> MessageRecord:
    return MessageRecord(time="t", role="assistant", content=text, finish_reason="stop", completion_tokens=3)


def rewound(messages: int) -> RewindRecord:
    return RewindRecord(time="t", messages=messages, reason="undo")


def texts(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMRUN_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "sessions"


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(MODEL, id="model"),
        pytest.param(said("line\nline\u2028\r\x00 日本 🙂 \ud800"), id="message"),
        pytest.param(
            MessageRecord(
                time="t",
                role="assistant",
                content="",
                reasoning="hm",
                finish_reason="cancelled",
                cancelled=True,
                seed=0,
            ),
            id="cancelled answer",
        ),
        pytest.param(rewound(2), id="rewind"),
        pytest.param(SummaryRecord(time="t", turns=3, content="s", model="m"), id="summary"),
        pytest.param(WindowRecord(time="t", turns=0, tokens=0), id="window"),
    ],
)
def test_a_record_is_one_line_and_comes_back(record: Record) -> None:
    line = encode_record(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_record(line) == record


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert decode_record(b'{"type":"message","time":"t","role":"user","content":"x","later":[1]}') == said("x")


def test_a_session_appears_with_its_first_record_and_is_private(folder: Path) -> None:
    with sessions.open_session("a") as session:
        assert not session.path.exists()
        session.append(MODEL, said("one"))
        assert stat.S_IMODE(session.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        session.append(answered("two"))
        assert read_session(session.path).records == (MODEL, said("one"), answered("two"))
    with sessions.open_session("a") as session:
        assert session.loaded is not None
        assert session.loaded.records[1] == said("one")
        assert session.loaded.header is not None
        assert session.loaded.header.program.startswith("llmrun ")


def test_each_record_is_on_the_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronized: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synchronized.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with SessionFile(tmp_path / "a.jsonl", HEADER) as session:
        for number in range(3):
            session.append(said(str(number)))
            assert session.path.stat().st_size in synchronized
    assert len(synchronized) == 4  # and the folder, once


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_last_line_is_removed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    with SessionFile(path, HEADER) as session:
        session.append(MODEL, said("one"), answered("two"))
    whole = path.read_bytes()
    torn = encode_record(said("three"))[:-cut]
    path.write_bytes(whole + torn)
    assert read_session(path).torn_bytes == len(torn)
    assert path.read_bytes() == whole + torn  # who only reads changes nothing
    with SessionFile(path, HEADER) as session:
        assert session.loaded is not None
        assert session.loaded.torn_bytes == len(torn)
        assert path.read_bytes() == whole
        session.append(said("four"))
    assert texts(replay(read_session(path).records)) == ["one", "two", "four"]


@pytest.mark.parametrize(
    ("line", "text", "why"),
    [
        pytest.param(1, b'{"type":"message"}', "session", id="no header"),
        pytest.param(1, b'{"type":"session","version":2,"created":"t","program":"p"}', "newer llmrun", id="newer"),
        pytest.param(1, b'{"type":"session","version":0,"created":"t","program":"p"}', "numbered 0", id="version 0"),
        pytest.param(1, b"# a text file", "not JSON", id="text"),
        pytest.param(3, b"\0\0\0", "not JSON", id="zeros"),
        pytest.param(3, b"[]", "not a JSON object", id="array"),
        pytest.param(3, b"[" * 100_000, "not JSON", id="nested"),
        pytest.param(3, b'{"type":"song"}', "'song'", id="unknown type"),
        pytest.param(3, b'{"type":"message","time":"t","role":"user"}', "'content'", id="missing key"),
        pytest.param(3, b'{"type":"message","time":"t","role":"bot","content":"x"}', "'bot'", id="unknown role"),
        pytest.param(3, b'{"type":"message","time":"t","role":"user","content":7}', "'content' is 7", id="wrong type"),
        pytest.param(3, b'{"type":"rewind","time":"t","messages":true,"reason":"x"}', "true", id="a boolean"),
        pytest.param(3, b'{"type":"rewind","time":"t","messages":-1,"reason":"x"}', "-1", id="negative"),
    ],
)
def test_a_damaged_file_is_refused_with_the_line(tmp_path: Path, line: int, text: bytes, why: str) -> None:
    path = tmp_path / "a.jsonl"
    lines = [encode_record(record).rstrip() for record in (HEADER, MODEL, said("one"), answered("two"))]
    lines[line - 1] = text
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(ModelFileError) as raised:
        SessionFile(path, HEADER)
    assert f"line {line}:" in raised.value.message
    assert why in raised.value.message
    assert raised.value.exit_code == ExitCode.MODEL_FILE
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [0, 1, 17, 18, 40])
def test_a_file_that_was_just_begun_is_begun_again(tmp_path: Path, size: int) -> None:
    """Killed between making the file and writing the end of its first line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode_record(HEADER)[:size])
    assert read_session(path).records == ()
    with SessionFile(path, HEADER) as session:
        assert not session.exists
        assert path.stat().st_size == 0
        session.append(MODEL, said("one"))
        assert session.exists
    assert read_session(path).header == HEADER
    assert read_session(path).records == (MODEL, said("one"))


@pytest.mark.parametrize("data", [b"some text", b"{", b'{"type": "message"'])
def test_a_file_of_another_kind_without_a_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data + b"x")
    with pytest.raises(ModelFileError, match="no whole line"):
        SessionFile(path, HEADER)
    assert path.read_bytes() == data + b"x"


def test_a_full_disk_at_the_beginning_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SessionFile(tmp_path / "a.jsonl", HEADER) as session:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
        try:
            with pytest.raises(StorageError):
                session.append(said("one"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not session.exists
        session.append(said("two"))
    assert read_session(tmp_path / "a.jsonl").records == (said("two"),)


def test_two_chats_cannot_have_one_session() -> None:
    with sessions.open_session("a") as first:
        first.append(said("one"))
        with pytest.raises(UsageError, match="another chat has the session a open"):
            sessions.open_session("a")
    with sessions.open_session("a") as again:
        assert again.loaded is not None


def test_two_chats_cannot_begin_one_session() -> None:
    with sessions.open_session("a") as first, sessions.open_session("a") as second:
        first.append(said("one"))
        with pytest.raises(UsageError, match="another chat"):
            second.append(said("two"))
        assert texts(replay(read_session(first.path).records)) == ["one"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target.jsonl").write_bytes(encode_record(HEADER))
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "target.jsonl")
    with pytest.raises(StorageError):
        SessionFile(tmp_path / "a.jsonl", HEADER)


def test_when_the_disk_is_full_nothing_half_written_stays(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    with SessionFile(tmp_path / "a.jsonl", HEADER) as session:
        session.append(said("one"))
        size = session.path.stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        try:
            with pytest.raises(StorageError):
                session.append(said("x" * 1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert session.path.stat().st_size == size
        session.append(said("two"))
    assert len(read_session(tmp_path / "a.jsonl").records) == 2


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\0b", "a b", "-a", ".a", "a" * 101, "日" * 90]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        sessions.session_path(name)


@pytest.mark.parametrize("name", ["a", "2026-01-01-120000", "work.notes_2", "日本語", "a..b"])
def test_what_is_a_name(name: str, folder: Path) -> None:
    assert sessions.session_path(name) == folder / f"{name}.jsonl"


def test_the_list_has_the_newest_first_and_damaged_ones_too(folder: Path) -> None:
    for number, name in enumerate(("old", "new", "broken")):
        with sessions.open_session(name) as session:
            session.append(MODEL, said(f"from {name}"))
        os.utime(session.path, (1000 + number, 1000 + number))
    (folder / "broken.jsonl").write_text("x\n")
    os.utime(folder / "broken.jsonl", (1, 1))
    (folder / "notes.txt").write_text("not a session")
    listed = sessions.list_sessions()
    assert [session.name for session in listed] == ["new", "old", "broken"]
    assert sessions.newest_session() == "new"
    assert listed[0].conversation is not None
    assert listed[0].conversation.turns[0].question.content == "from new"
    assert listed[2].conversation is None
    assert "line 1" in (listed[2].error or "")


def test_a_new_name_is_taken_by_no_session() -> None:
    names = set()
    for _ in range(3):
        name = sessions.new_name()
        with sessions.open_session(name) as session:
            session.append(said("x"))
        names.add(name)
    assert len(names) == 3


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([said("a"), answered("b")], ["a", "b"], id="a turn"),
        pytest.param([said("a"), answered("b"), rewound(2)], [], id="undo"),
        pytest.param([said("a"), answered("b"), rewound(1), answered("c")], ["a", "c"], id="retry"),
        pytest.param([said("a"), rewound(1), said("b")], ["b"], id="unanswered"),
        pytest.param(
            [said("a"), answered("b"), said("c"), answered("d"), rewound(3)], ["a"], id="an odd number of messages"
        ),
        pytest.param([said("a"), rewound(99), said("b")], ["b"], id="more than there are"),
        pytest.param([answered("b"), said("a")], ["a"], id="an answer to nothing"),
    ],
)
def test_what_the_records_come_to(records: list[Record], expected: list[str]) -> None:
    assert texts(replay(records)) == expected


def test_a_system_message_is_replaced_and_taken_away() -> None:
    system = MessageRecord(time="t", role="system", content="be brief")
    conversation = replay([said("a"), answered("b"), system])
    assert [message.role for message in conversation.messages()] == ["system", "user", "assistant"]
    assert texts(conversation.apply(MessageRecord(time="t", role="system", content=""))) == ["a", "b"]


def test_turns_outside_the_window_are_not_sent_and_not_lost() -> None:
    turns: list[Record] = [record for name in "abc" for record in (said(name), answered(name.upper()))]
    conversation = replay([*turns, WindowRecord(time="t", turns=2, tokens=9)])
    assert texts(conversation) == ["c", "C"]
    assert len(conversation.turns) == 3
    assert texts(conversation.apply(MODEL)) == ["a", "A", "b", "B", "c", "C"]  # another model has another context
    assert texts(conversation.apply(rewound(2))) == ["a", "A", "b", "B"]  # nothing would be left of it otherwise


def test_a_summary_stands_for_the_turns_that_left() -> None:
    turns: list[Record] = [record for name in "abc" for record in (said(name), answered(name.upper()))]
    conversation = replay([*turns, SummaryRecord(time="t", turns=2, content="a and b", model="m")])
    system, *rest = conversation.messages()
    assert system.role == "system"
    assert "a and b" in system.content
    assert [message.content for message in rest] == ["c", "C"]
    assert texts(conversation.apply(rewound(4))) == ["a", "A"]  # it does not stand for them any more
    assert texts(conversation.apply(MODEL))[1:] == ["c", "C"]


def test_the_schema_is_that_of_the_documentation() -> None:
    document = Path(__file__).parents[2].joinpath("docs", "sessions.md").read_text(encoding="utf-8")
    example = [line for line in document.splitlines() if line.startswith('{"type"')]
    assert len(example) > 5
    for line in example[1:]:
        assert json.loads(encode_record(decode_record(line.encode()))) == json.loads(line)


def test_errors_of_files_are_intended_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(LlmrunError):
        SessionFile(tmp_path / "a.jsonl", HEADER)
