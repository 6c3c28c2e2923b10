"""Sessions through the real command: listed, continued, locked, and whole after a kill at any moment."""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

from llmrun.engines.conversation.conversation import replay
from llmrun.engines.conversation.session_file import read_session

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
KILLS, LANES = 200, 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    pairs = build.llama_pairs(
        **{
            "llama.context_length": build.u32(2048),
            "tokenizer.chat_template": build.text("{% for m in messages %}{{ m['content'] }}|{% endfor %}"),
        }
    )
    path.write_bytes(build.build_gguf(pairs))
    return path


def fake(**script: object) -> dict[str, str]:
    return {"LLMRUN_ENGINE": "fake", "LLMRUN_FAKE": json.dumps(script)}


def folder_of(environment: dict[str, str]) -> Path:
    return Path(environment["LLMRUN_DATA_DIR"], "sessions")


def test_the_list(llmrun: Run, model: Path) -> None:
    result = llmrun("chat", "--list")
    assert (result.code, result.text) == (0, "")
    assert "no sessions yet" in result.errors
    llmrun("chat", model, "--session", "work", stdin=b"What is it?\nAnd then?\n", env=fake(answer="yes"))
    llmrun("chat", model, "--session", "play", stdin=b"Hello\n", env=fake(answer="yes"))
    lines = llmrun("chat", "--list").text.splitlines()
    assert [line.split()[0] for line in lines] == ["play", "work"]
    assert "2 turns  tiny.gguf  What is it?" in lines[1]
    document = json.loads(llmrun("chat", "--list", "--json").text)
    assert document["version"] == 1
    assert [session["turns"] for session in document["sessions"]] == [1, 2]
    assert document["sessions"][1]["first"] == "What is it?"
    assert Path(document["sessions"][1]["path"]).is_file()


def test_a_path_means_the_same_in_another_folder(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    program = Path(sys.executable).with_name("llmrun")
    for folder, arguments in ((model.parent, [model.name]), (Path("/"), ["--continue"])):
        done = subprocess.run(
            [program, "chat", *arguments],
            cwd=folder,
            input=b"x\n",
            env=environment | fake(answer="y"),
            capture_output=True,
        )
        assert (done.returncode, done.stdout) == (0, b"y\n"), done.stderr


def test_a_session_in_use(llmrun: Run, start_llmrun: Start, model: Path, environment: dict[str, str]) -> None:
    llmrun("chat", model, "--session", "s", stdin=b"one\n", env=fake(answer="yes"))
    process = start_llmrun("chat", model, "--session", "s", env=fake(answer="yes"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"two\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"yes\n"
    refused = llmrun("chat", model, "--session", "s", stdin=b"three\n", env=fake(answer="yes"))
    assert (refused.code, refused.text) == (2, "")
    assert "another chat has the session s open" in refused.errors
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert llmrun("chat", "--session", "s", stdin=b"three\n", env=fake(answer="yes")).code == 0


def test_a_damaged_session(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    llmrun("chat", model, "--session", "s", stdin=b"one\n", env=fake(answer="yes"))
    path = folder_of(environment) / "s.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"rubbish\n", *lines[2:]]))
    before = path.read_bytes()
    refused = llmrun("chat", "--session", "s", stdin=b"two\n", env=fake(answer="yes"))
    assert (refused.code, refused.text) == (4, "")
    assert "line 3" in refused.errors
    assert path.read_bytes() == before
    listed = llmrun("chat", "--list")
    assert listed.code == 0
    assert "damaged" in listed.text


def test_a_torn_line_is_removed_and_said(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    llmrun("chat", model, "--session", "s", stdin=b"one\n", env=fake(answer="yes"))
    path = folder_of(environment) / "s.jsonl"
    path.write_bytes(path.read_bytes() + b'{"type": "mess')
    result = llmrun("chat", "--session", "s", stdin=b"two\n", env=fake(answer="yes"))
    assert (result.code, result.text) == (0, "yes\n")
    assert "14 bytes" in result.errors
    assert len(replay(read_session(path).records).turns) == 2


def test_a_folder_that_cannot_be_written(llmrun: Run, model: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = llmrun("chat", model, stdin=b"one\n", env=fake(answer="yes") | {"LLMRUN_DATA_DIR": str(tmp_path / "file")})
    assert result.code == 8
    assert "LLMRUN_DATA_DIR" in result.errors


def kill_at_random(
    start: Start, model: Path, folder: Path, lane: int, random_numbers: random.Random
) -> tuple[int, int, int]:
    """Go on with one session again and again, and kill it each time; return kills, finished turns, torn ends."""
    path = folder / f"lane{lane}.jsonl"
    finished, torn, expected = 0, 0, []
    for kill in range(KILLS // LANES):
        process = start(
            *("chat", model, "--session", path.stem, "--context-length", "512"),
            env=fake(answer="an answer of some words", token_seconds=0.0002),
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        questions = [f"{lane}-{kill}-{number} " + "é" * random_numbers.randrange(200) for number in range(100)]
        process.stdin.write("".join(question + "\n" for question in questions).encode())
        process.stdin.flush()
        waited: list[bytes] = []
        if kill % 3 == 0:  # at any moment from its start
            time.sleep(random_numbers.uniform(0, 0.5))
        else:  # in the midst of the conversation
            waited = [process.stdout.readline() for _ in range(random_numbers.randrange(4))]
            process.stdout.read(1)
            time.sleep(random_numbers.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        lines = len(waited) + process.stdout.read().count(b"\n")
        process.wait()
        process.stdin.close()
        process.stdout.close()
        expected += questions[:lines]
        finished += lines
        if path.exists():
            loaded = read_session(path)
            torn += loaded.torn_bytes > 0
            conversation = replay(loaded.records)
            answered = [turn.question.content for turn in conversation.turns if turn.answer is not None]
            assert [question for question in expected if question not in set(answered)] == []
            assert all(turn.answer is not None for turn in conversation.turns[:-1])
            assert all(turn.answer.content == "an answer of some words" for turn in conversation.turns if turn.answer)
    last = start("chat", model, "--session", path.stem, env=fake(answer="the end"), stdin=subprocess.PIPE)
    assert last.communicate(b"and now?\n")[0] == b"the end\n"
    assert last.returncode == 0
    return KILLS // LANES, finished, torn


@pytest.mark.slow
def test_killed_at_200_random_moments(start_llmrun: Start, model: Path, environment: dict[str, str]) -> None:
    """The file always loads, and holds every turn whose answer had its newline."""
    seed = random.randrange(2**32)
    with ThreadPoolExecutor(LANES) as pool:
        lanes = [
            pool.submit(kill_at_random, start_llmrun, model, folder_of(environment), lane, random.Random(seed + lane))
            for lane in range(LANES)
        ]
        results = [lane.result() for lane in lanes]
    assert sum(kills for kills, _, _ in results) == KILLS
    assert sum(finished for _, finished, _ in results) > KILLS // 2  # in the midst of conversations, as was waited for


@pytest.mark.engine
def test_a_model_that_stays_loaded(llmrun: Run, real_model: Path, environment: dict[str, str]) -> None:
    """--keep-alive: the next chat finds the model, and what it has processed of the conversation."""
    arguments = ("--session", "s", "--temperature", "0", "--max-tokens", "8")
    with tempfile.TemporaryDirectory() as runtime:  # whose path is short enough for a socket
        own = {"XDG_RUNTIME_DIR": runtime}
        try:
            hello = b"Hello there, how are you?\n"
            first = llmrun("chat", real_model, *arguments, "--keep-alive", "1m", stdin=hello, env=own)
            assert first.code == 0, first.errors
            listed = json.loads(llmrun("ps", "--json", env=own).text)["workers"]
            assert [worker["engine"] for worker in listed] == ["llama-cpp"]
            second = llmrun("chat", *arguments, stdin=b"And you?\n", env=own)
            assert second.code == 0, second.errors
        finally:
            assert llmrun("stop", "--all", env=own).code == 0
    lines = (folder_of(environment) / "s.jsonl").read_bytes().splitlines()
    one, two = [record for record in map(json.loads, lines) if record.get("role") == "assistant"]
    assert two["cached_tokens"] >= one["prompt_tokens"] + one["completion_tokens"] - 1
