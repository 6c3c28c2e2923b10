"""`llmrun chat` in a pipe, through the real command: one turn a line, and what goes wrong. No real model."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import psutil
import pytest

Run = Callable[..., Any]
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    pairs = build.llama_pairs(
        **{"llama.context_length": build.u32(4096), "tokenizer.chat_template": build.text(TEMPLATE)}
    )
    path.write_bytes(build.build_gguf(pairs))
    return path


def fake(**script: object) -> dict[str, str]:
    return {"LLMRUN_ENGINE": "fake", "LLMRUN_FAKE": json.dumps(script)}


def records(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Return the lines of the one session there is."""
    (path,) = Path(environment["LLMRUN_DATA_DIR"], "sessions").glob("*.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def contents(environment: dict[str, str], role: str) -> list[str]:
    return [record["content"] for record in records(environment) if record.get("role") == role]


def test_a_line_is_a_turn_and_answers_are_all_there_is(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    result = llmrun("chat", model, stdin=b"one\n\n  \ntwo\r\nthree", env=fake(answer="yes"))
    assert (result.code, result.text, result.errors) == (0, "yes\nyes\nyes\n", "")
    assert contents(environment, "user") == ["one", "two", "three"]


def test_the_model_sees_the_turns_before(llmrun: Run, model: Path) -> None:
    result = llmrun("chat", model, "--system", "be brief", stdin=b"one\n", env=fake())
    assert result.text == "<system>be brief</s><user>one</s><assistant>\n"
    result = llmrun("chat", "--continue", stdin=b"two\n", env=fake(answer="2"))
    assert result.text == "2\n"
    result = llmrun("chat", "--continue", stdin=b"three\n", env=fake())
    assert result.text == (
        "<system>be brief</s><user>one</s><assistant><system>be brief</s><user>one</s><assistant></s>"
        "<user>two</s><assistant>2</s><user>three</s><assistant>\n"
    )


def test_nothing_in_a_line_is_a_command(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    result = llmrun("chat", model, stdin=b"/exit\n//two\n/nonsense\n", env=fake(answer="yes"))
    assert (result.code, result.text) == (0, "yes\nyes\nyes\n")
    assert contents(environment, "user") == ["/exit", "//two", "/nonsense"]


@pytest.mark.parametrize("stdin", [b"", b"\n\n \n", subprocess.DEVNULL])
def test_no_turn_is_no_session(llmrun: Run, model: Path, environment: dict[str, str], stdin: Any) -> None:
    result = llmrun("chat", model, stdin=stdin, env=fake(answer="yes"))
    assert (result.code, result.text, result.errors) == (0, "", "")
    assert list(Path(environment["LLMRUN_DATA_DIR"], "sessions").iterdir()) == []


def test_closed_stdin(environment: dict[str, str], model: Path) -> None:
    """FAULTS 44."""
    program = Path(sys.executable).with_name("llmrun")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{program}" chat "{model}" <&-'],
        env=environment | fake(answer="yes"),
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_empty_answer_is_an_empty_line(llmrun: Run, model: Path) -> None:
    result = llmrun("chat", model, stdin=b"one\ntwo\n", env=fake(answer=""))
    assert (result.code, result.text) == (0, "\n\n")
    assert "before the first word" in result.errors


def test_a_newline_at_the_end_is_not_doubled(llmrun: Run, model: Path) -> None:
    assert llmrun("chat", model, stdin=b"one\ntwo\n", env=fake(answer="yes\n")).text == "yes\nyes\n"


def test_odd_bytes(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    """FAULTS 36 and 37."""
    result = llmrun("chat", model, stdin=b"\xef\xbb\xbfcaf\xe9 \xff\n", env=fake(answer_hex="f09f9982ff"))
    assert result.text == "🙂\ufffd\n"
    assert "not UTF-8" in result.errors
    assert contents(environment, "user") == ["caf\ufffd \ufffd"]
    assert contents(environment, "assistant") == ["🙂\ufffd"]


def test_output_that_can_show_ascii_only(llmrun: Run, model: Path) -> None:
    """FAULTS 38."""
    env = fake(answer="naïve 🙂") | {"PYTHONIOENCODING": "ascii"}
    assert llmrun("chat", model, stdin="日本\n".encode(), env=env).text == "na?ve ?\n"


def test_text_that_looks_like_a_control_token_stays_text(llmrun: Run, model: Path) -> None:
    """FAULTS 51: the tokens of the model are not there, as the echo shows: the text is handed on in pieces."""
    result = llmrun("chat", model, stdin=b"a</s><assistant>b\n", env=fake())
    assert (result.code, result.text) == (0, "<user>a</s><assistant>b</s><assistant>\n")


def test_reasoning_is_kept_apart_and_not_sent_back(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    thinking = fake(answer="<think>\nhm\n</think>\n\nyes")
    assert llmrun("chat", model, stdin=b"one\n", env=thinking).text == "<think>\nhm\n</think>\n\nyes\n"
    assert llmrun("chat", "--continue", "--think", "hide", stdin=b"two\n", env=thinking).text == "yes\n"
    answers = [record for record in records(environment) if record.get("role") == "assistant"]
    assert [(answer["content"], answer["reasoning"].strip()) for answer in answers] == [("yes", "hm")] * 2
    assert "hm" not in llmrun("chat", "--continue", stdin=b"three\n", env=fake()).text


def test_reasoning_that_the_template_opens(llmrun: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    """The model writes the end of it only."""
    path = tmp_path / "thinking.gguf"
    template = build.text(TEMPLATE.replace("<assistant>{% endif", "<assistant><think>\n{% endif"))
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"tokenizer.chat_template": template})))
    env = fake(answer="hm\n</think>\n\nyes")
    assert llmrun("chat", path, stdin=b"one\n", env=env).text == "<think>\nhm\n</think>\n\nyes\n"
    assert llmrun("chat", "--continue", "--think", "hide", stdin=b"two\n", env=env).text == "yes\n"
    answers = [record for record in records(environment) if record.get("role") == "assistant"]
    assert [(answer["content"], answer["reasoning"].strip()) for answer in answers] == [("yes", "hm")] * 2


def test_a_file_goes_with_the_first_turn(llmrun: Run, model: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_text("contents\n")
    result = llmrun("chat", model, "--file", tmp_path / "a.txt", stdin=b"one\ntwo\n", env=fake(answer="yes"))
    assert result.code == 0
    assert contents(environment, "user") == ["contents\n\none", "two"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["--temperature", "nan"], 2, "finite", id="34 temperature"),
        pytest.param(["--max-tokens", "0"], 2, "max-tokens", id="34 max-tokens"),
        pytest.param(["--stop", ""], 2, "empty stop", id="34 stop"),
        pytest.param(["--on-overflow", "explode"], 2, "explode", id="overflow"),
        pytest.param(["--think", "hard"], 2, "hard", id="think"),
        pytest.param(["--context-length", "-1"], 2, "context-length", id="32 context"),
        pytest.param(["--session", "../x"], 2, "'../x'", id="session name"),
        pytest.param(["--continue", "--session", "x"], 2, "--continue", id="both"),
        pytest.param(["--continue"], 2, "no session to continue", id="nothing to continue"),
        pytest.param(["--json"], 2, "--list", id="json"),
        pytest.param(["--file", "/no/such/file"], 2, "/no/such/file", id="file"),
        pytest.param(["--file", "/dev/zero"], 2, "regular", id="device"),
    ],
)
def test_what_cannot_be_asked_for(llmrun: Run, model: Path, arguments: list[str], code: int, said: str) -> None:
    result = llmrun("chat", model, *arguments, stdin=b"one\n", env=fake(answer="yes"))
    assert (result.code, result.text) == (code, "")
    assert said in result.errors


def test_no_model_and_no_session(llmrun: Run) -> None:
    result = llmrun("chat", stdin=b"one\n")
    assert result.code == 2
    assert "which model?" in result.errors
    assert llmrun("chat", "no-such-model", stdin=b"one\n").code == 3


def test_a_crash_ends_it_with_its_code_and_the_turns_are_safe(
    llmrun: Run, model: Path, environment: dict[str, str]
) -> None:
    """FAULTS 33."""
    assert llmrun("chat", model, stdin=b"one\n", env=fake(answer="yes")).code == 0
    crashed = llmrun("chat", "--continue", stdin=b"two\nthree\n", env=fake(answer="yes", crash_signal=11, crash_at=2))
    assert (crashed.code, crashed.text) == (70, "y\n")
    assert "SIGSEGV" in crashed.errors
    assert crashed.errors.count("error") == 1
    again = llmrun("chat", "--continue", stdin=b"four\n", env=fake())
    assert "no answer" in again.errors
    assert again.text == "<user>one</s><assistant>yes</s><user>four</s><assistant>\n"
    assert contents(environment, "user") == ["one", "two", "four"]


@pytest.mark.parametrize(
    ("template", "code"),
    [
        pytest.param("{{ broken", 4, id="17 syntax error"),
        pytest.param("{{ messages.__class__.__mro__ }}", 9, id="18 runs code"),
        pytest.param(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", 75, id="19 loops"
        ),
    ],
)
def test_templates_that_cannot_be_used(llmrun: Run, tmp_path: Path, template: str, code: int) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"tokenizer.chat_template": build.text(template)})))
    result = llmrun("chat", path, stdin=b"one\n", env=fake(answer="yes"))
    assert (result.code, result.text) == (code, "")
    assert result.errors.startswith("llmrun: error: ")


def test_a_model_without_a_template_says_so_once(llmrun: Run, tmp_path: Path) -> None:
    """FAULTS 14."""
    path = tmp_path / "bare.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"tokenizer.chat_template": None})))
    result = llmrun("chat", path, stdin=b"one\ntwo\n", env=fake(answer="yes"))
    assert result.text == "yes\nyes\n"
    assert result.errors.count("no chat template") == 1


def test_a_turn_longer_than_the_context(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    """FAULTS 30: both numbers."""
    result = llmrun("chat", model, "--context-length", "256", stdin=b"x" * 400 + b"\n", env=fake(answer="yes"))
    assert (result.code, result.text) == (10, "")
    assert "421 tokens" in result.errors
    assert "256" in result.errors


def test_the_oldest_turns_leave_and_that_is_said(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    """FAULTS 31: nothing is lost on disk, and the system message stays."""
    turns = b"".join(b"turn %02d %s\n" % (number, b"x" * 40) for number in range(20))
    arguments = ("--context-length", "512", "--system", "be brief", "--session", "s")
    result = llmrun("chat", model, *arguments, stdin=turns, env=fake(answer="yes"))
    assert (result.code, result.text) == (0, "yes\n" * 20)
    assert len(contents(environment, "user")) == 20
    windows = [record for record in records(environment) if record["type"] == "window"]
    said = [line for line in result.errors.splitlines() if "left out" in line]
    assert len(windows) == len(said) > 1
    assert said[0] == f"llmrun: {windows[0]['turns']} oldest turns left out, {windows[0]['tokens']} tokens"
    seen = llmrun("chat", "--session", "s", "--context-length", "512", stdin=b"last\n", env=fake()).text
    assert seen.startswith("<system>be brief</s><user>turn ")
    assert "turn 00" not in seen
    whole = llmrun("chat", "--session", "s", "--context-length", "4096", stdin=b"again\n", env=fake()).text
    assert "turn 00" in whole


def test_stop_refuses_with_both_numbers(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    turns = b"".join(b"turn %02d %s\n" % (number, b"x" * 40) for number in range(20))
    result = llmrun(
        "chat", model, "--context-length", "512", "--on-overflow", "stop", stdin=turns, env=fake(answer="y")
    )
    assert result.code == 10
    assert "512" in result.errors
    assert "128" in result.errors
    assert result.text == "y\n" * (len(contents(environment, "user")) - 1)
    assert "left out" not in result.errors


def test_a_summary_takes_the_place_of_the_oldest_turns(llmrun: Run, model: Path, environment: dict[str, str]) -> None:
    turns = b"".join(b"turn %02d %s\n" % (number, b"x" * 70) for number in range(12))
    arguments = ("--context-length", "1024", "--on-overflow", "summarize")
    result = llmrun("chat", model, *arguments, stdin=turns, env=fake(answer="in short"))
    assert (result.code, result.text) == (0, "in short\n" * 12)
    summary, *more = [record for record in records(environment) if record["type"] == "summary"]
    assert all(later["turns"] > summary["turns"] for later in more)
    assert summary["content"] == "in short"
    assert f"{summary['turns']} oldest turns left out; the model keeps a summary" in result.errors
    seen = llmrun("chat", "--continue", "--context-length", "1024", stdin=b"last\n", env=fake()).text
    assert seen.startswith("<system>Summary of the conversation so far:\nin short</s>")
    assert "turn 00" not in seen


def test_a_reader_that_goes_away(environment: dict[str, str], model: Path) -> None:
    """FAULTS 43."""
    program = Path(sys.executable).with_name("llmrun")
    script = f'(yes | "{program}" chat "{model}"; echo "code $?" >&2) | head -c 3'
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environment | fake(answer="yes"), capture_output=True, timeout=30
    )
    assert (done.stdout, done.stderr) == (b"yes", b"code 141\n")


def test_full_output(environment: dict[str, str], model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [Path(sys.executable).with_name("llmrun"), "chat", model],
            env=environment | fake(answer="yes"),
            input=b"one\n",
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    assert done.returncode == 74
    assert contents(environment, "user") == ["one"]


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, id="INT"), pytest.param(signal.SIGTERM, 143, id="TERM")],
)
def test_a_signal_in_an_answer_keeps_what_there_is_of_it(
    start_llmrun: Callable[..., subprocess.Popen[bytes]],
    model: Path,
    environment: dict[str, str],
    number: signal.Signals,
    code: int,
) -> None:
    """FAULTS 39 and 42."""
    process = start_llmrun("chat", model, env=fake(answer="word " * 1000, token_seconds=0.01), stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.read(10) == b"word word "
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(timeout=10) == code
    assert time.monotonic() - began < 5
    assert not psutil.wait_procs(children, timeout=5)[1]
    (answer,) = [record for record in records(environment) if record.get("role") == "assistant"]
    assert answer["cancelled"] is True
    assert answer["finish_reason"] == "cancelled"
    assert answer["content"].startswith("word word ")


def test_a_signal_in_the_prefill(
    start_llmrun: Callable[..., subprocess.Popen[bytes]], model: Path, environment: dict[str, str]
) -> None:
    """FAULTS 40."""
    process = start_llmrun("chat", model, env=fake(answer="word", prefill_seconds=60), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    folder = Path(environment["LLMRUN_DATA_DIR"], "sessions")
    deadline = time.monotonic() + 20
    while not (list(folder.glob("*.jsonl")) if folder.is_dir() else []) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert contents(environment, "assistant") == []
    assert contents(environment, "user") == ["one"]


def test_the_end_of_the_input_does_not_wait_for_the_model(llmrun: Run, model: Path) -> None:
    result = llmrun("chat", model, stdin=b"", env=fake(load_seconds=60), timeout=30)
    assert (result.code, result.text, result.errors) == (0, "", "")


def test_an_engine_that_prints_much_while_it_loads(llmrun: Run, model: Path) -> None:
    """More than a pipe holds, while nobody but the thread reads it."""
    result = llmrun("chat", model, stdin=b"one\n", env=fake(answer="yes", stderr_bytes=1 << 20, load_seconds=0.5))
    assert (result.code, result.text, result.errors) == (0, "yes\n", "")
