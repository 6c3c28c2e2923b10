"""Requests through the real command: odd values, odd input, odd output, interruptions. No real model is needed."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import psutil
import pytest

Run = Callable[..., Any]
ECHO = {"LLMRUN_ENGINE": "fake"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(4096)})))
    return path


def fake(**script: object) -> dict[str, str]:
    return ECHO | {"LLMRUN_FAKE": json.dumps(script)}


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--max-tokens", "0"], id="34 max-tokens 0"),
        pytest.param(["--max-tokens", "-1"], id="34 max-tokens -1"),
        pytest.param(["--temperature", "nan"], id="34 temperature NaN"),
        pytest.param(["--temperature", "inf"], id="34 temperature inf"),
        pytest.param(["--temperature", "-1"], id="34 temperature negative"),
        pytest.param(["--top-p", "1.5"], id="34 top-p above 1"),
        pytest.param(["--min-p", "nan"], id="34 min-p NaN"),
        pytest.param(["--repeat-penalty", "0"], id="34 repeat penalty 0"),
        pytest.param(["--seed", "-1"], id="34 seed -1"),
        pytest.param(["--seed", "4294967295"], id="34 seed 2^32-1"),
        pytest.param(["--seed", "x"], id="34 seed x"),
        pytest.param(["--stop", ""], id="34 empty stop"),
        pytest.param(["--context-length", "0"], id="32 context 0"),
        pytest.param(["--context-length", "-1"], id="32 context -1"),
        pytest.param(["--threads", "0"], id="threads 0"),
        pytest.param(["--kv-type", "f8"], id="unknown KV type"),
        pytest.param(["--engine", "ollama"], id="unknown engine"),
        pytest.param(["--no-such-option"], id="unknown option"),
        pytest.param(["--file", "/no/such/file"], id="file that is not there"),
    ],
)
def test_values_that_cannot_be_honoured(llmrun: Run, model: Path, arguments: list[str]) -> None:
    result = llmrun("run", model, "hi", *arguments, env=ECHO if "--engine" not in arguments else {})
    assert result.code == 2, result.errors
    assert result.stdout == b""
    assert "Traceback" not in result.errors


@pytest.mark.parametrize("context_length", [10**6, 10**8, 2**32, 2**63])
def test_contexts_that_do_not_fit(llmrun: Run, tmp_path: Path, context_length: int) -> None:
    wide = build.llama_pairs(**{"llama.block_count": build.u32(512), "llama.attention.key_length": build.u32(8192)})
    path = tmp_path / "wide.gguf"
    path.write_bytes(build.build_gguf(wide))
    result = llmrun("run", path, "hi", "--context-length", str(context_length), env=ECHO)
    assert result.code == 5, result.errors
    assert f"{context_length:,} tokens needs" in result.errors
    assert "are available" in result.errors
    assert "largest context that fits" in result.errors


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        pytest.param([], subprocess.DEVNULL, 2, id="35 no prompt at all"),
        pytest.param([""], subprocess.DEVNULL, 2, id="35 empty argument"),
        pytest.param(["  \n"], subprocess.DEVNULL, 2, id="35 blank argument"),
        pytest.param([], b"", 2, id="35 empty stdin"),
        pytest.param(["", "--raw"], subprocess.DEVNULL, 2, id="35 empty and raw"),
    ],
)
def test_empty_prompts(llmrun: Run, model: Path, arguments: list[str], stdin: int | bytes, code: int) -> None:
    result = llmrun("run", model, *arguments, stdin=stdin, env=ECHO)
    assert result.code == code
    assert "the prompt is empty" in result.errors


def test_the_prompt_is_files_then_stdin_then_the_argument(llmrun: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("from a file\n")
    result = llmrun("run", model, "asked", "--raw", "--file", tmp_path / "a.txt", stdin=b"piped\n", env=ECHO)
    assert (result.code, result.text) == (0, "from a file\n\npiped\n\nasked\n"), result.errors


def test_stdin_that_is_not_utf8_is_replaced_and_said(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "--raw", stdin=b"caf\xe9 ol\xe9", env=ECHO)
    assert (result.code, result.text) == (0, "caf� ol�\n"), result.errors
    assert "standard input is not UTF-8 (byte 3)" in result.errors


def test_an_argument_that_is_not_utf8(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, b"caf\xe9", "--raw", env=ECHO)
    assert (result.code, result.text) == (0, "caf�\n"), result.errors


def test_closed_stdin(environment: dict[str, str], model: Path) -> None:
    import sys

    program = Path(sys.executable).with_name("llmrun")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{program}" run "{model}" hello --raw <&-'],
        capture_output=True,
        env=environment | ECHO,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr


def test_prompt_longer_than_the_context(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "--raw", stdin=b"x" * 5000, env=ECHO)
    assert result.code == 10
    assert "5,000 tokens" in result.errors
    assert "4,096" in result.errors
    assert result.stdout == b""


def test_whole_characters_and_replaced_bytes(llmrun: Run, model: Path) -> None:
    data = "é😀".encode() + b"\xff!"
    result = llmrun("run", model, "hi", env=fake(answer_hex=data.hex()))
    assert result.text == "é😀�!\n"


def test_stdout_that_can_only_be_ascii(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", env=fake(answer="é ok") | {"PYTHONIOENCODING": "ascii"})
    assert (result.code, result.stdout) == (0, b"? ok\n")


def test_json_holds_everything_and_stdout_nothing_else(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", "--json", "--seed", "5", env=fake(answer="zwölf", stdout="noise"))
    document = json.loads(result.stdout)
    assert result.code == 0
    assert (document["version"], document["text"], document["finish_reason"]) == (1, "zwölf", "stop")
    assert document["usage"] == {
        "prompt_tokens": document["usage"]["prompt_tokens"],
        "completion_tokens": 6,
        "cached_tokens": 0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
    }
    assert set(document["timings"]["start_seconds"]) == {"spawn", "import", "load"}
    assert document["sampling"]["seed"] == 5
    assert document["engine"]["name"] == "fake"


def test_a_cut_answer_is_said(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", "--max-tokens", "3", env=fake(answer="abcdef"))
    assert (result.code, result.text) == (0, "abc\n")
    assert "cut at --max-tokens 3" in result.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--gpu-layers", "5"], "--gpu-layers has no effect", id="GPU layers without a GPU"),
        pytest.param(["--raw", "--system", "Be kind."], "--system is left out", id="system message with --raw"),
    ],
)
def test_options_that_have_no_effect_are_said(llmrun: Run, model: Path, arguments: list[str], said: str) -> None:
    if "--gpu-layers" in arguments and list(Path("/dev").glob("nvidia*")):
        pytest.skip("this machine has a GPU")
    result = llmrun("run", model, "hi", *arguments, env=fake(answer="ok"))
    assert (result.code, result.text) == (0, "ok\n")
    assert said in result.errors


def test_an_empty_answer_is_said(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", env=fake(answer=""))
    assert (result.code, result.stdout) == (0, b"")
    assert "ended its answer before the first word" in result.errors


def test_quiet_says_nothing_but_errors(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", "--max-tokens", "3", "--quiet", env=fake(answer="abcdef"))
    assert (result.code, result.text, result.errors) == (0, "abc\n", "")


def test_stop_text_is_left_out(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", "--stop", "DE", "--stop", "X", env=fake(answer="abcDEf"))
    assert (result.code, result.text) == (0, "abc\n")


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        pytest.param({"crash_signal": 11, "crash_at": 3}, 70, "SIGSEGV", id="33 segv in mid-answer"),
        pytest.param({"crash_signal": 9, "crash_at": 3}, 70, "memory ran out", id="33 killed for memory"),
        pytest.param({"crash_signal": 7, "crash_at": 3}, 70, "model file", id="28 SIGBUS"),
        pytest.param({"crash_signal": 4, "crash_at": 0}, 6, "instructions", id="29 SIGILL"),
        pytest.param(
            {"crash_signal": 6, "crash_at": 0, "stderr": "GGML_ASSERT(x) failed"}, 70, "_ASSERT(x", id="abort"
        ),
        pytest.param({"raise_at": 3}, 70, "ZeroDivisionError", id="41 a bug while streaming"),
        pytest.param({"load_error": "cannot read it"}, 4, "cannot read it", id="load error"),
    ],
)
def test_engines_that_fail(llmrun: Run, model: Path, script: dict[str, Any], code: int, said: str) -> None:
    result = llmrun("run", model, "hi", env=fake(answer="abcdef", **script))
    assert result.code == code
    assert said in result.errors
    assert "Traceback" not in result.errors
    expected = b"ab\n" if script.get("crash_at") == 3 or "raise_at" in script else b""
    assert result.stdout == expected


def test_an_engine_that_hangs(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", env=fake(answer="abc", hang_at=2) | {"LLMRUN_ENGINE_TIMEOUT": "0.5"})
    assert (result.code, result.stdout) == (75, b"a\n")
    assert "said nothing" in result.errors


def test_a_flood_on_stderr_reaches_nobody(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, "hi", env=fake(answer="ok", stderr_bytes=2_000_000))
    assert (result.code, result.text, result.errors) == (0, "ok\n", "")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param({"token_seconds": 0.05, "answer": "x" * 600}, id="39 while streaming"),
        pytest.param({"prefill_seconds": 30}, id="40 during prefill"),
        pytest.param({"hang_at": 1}, id="a deaf engine"),
        pytest.param({"load_seconds": 30}, id="while loading"),
    ],
)
def test_ctrl_c_ends_within_a_second_with_130(
    start_llmrun: Callable[..., Any], model: Path, script: dict[str, Any]
) -> None:
    process = start_llmrun("run", model, "hi", env=fake(**({"answer": "abc"} | script)))
    worker = find_worker(process.pid)
    if "token_seconds" in script:
        assert select.select([process.stdout], [], [], 10)[0]
    time.sleep(0.3)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert time.monotonic() - pressed < 2  # promised: 1 s; the rest is room for a busy machine
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    if "token_seconds" in script:
        assert stdout.startswith(b"x")
        assert stdout.endswith(b"x\n")
    assert wait_for(lambda: not psutil.pid_exists(worker))


def find_worker(parent: int) -> int:
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [child for child in psutil.Process(parent).children() if "worker" in " ".join(child.cmdline())]
        return bool(found)

    assert wait_for(look)
    return found[0].pid


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="42 TERM"),
        pytest.param(signal.SIGHUP, 129, id="42 HUP"),
        pytest.param(signal.SIGKILL, -9, id="42 KILL"),
    ],
)
@pytest.mark.parametrize("hang", [True, False], ids=["deaf engine", "streaming"])
def test_no_orphan_is_left(
    start_llmrun: Callable[..., Any], model: Path, number: signal.Signals, code: int, hang: bool
) -> None:
    script = {"hang_at": 2} if hang else {"token_seconds": 0.05}
    process = start_llmrun("run", model, "hi", env=fake(answer="x" * 600, **script))
    worker = find_worker(process.pid)
    assert select.select([process.stdout], [], [], 10)[0]
    process.send_signal(number)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert wait_for(lambda: not psutil.pid_exists(worker))


def test_a_reader_that_goes_away_ends_it_silently(start_llmrun: Callable[..., Any], model: Path) -> None:
    process = start_llmrun("run", model, "hi", env=fake(answer="x" * 600, token_seconds=0.01))
    worker = find_worker(process.pid)
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    assert process.wait(timeout=10) == 141
    assert process.stderr.read() == b""
    assert wait_for(lambda: not psutil.pid_exists(worker))


def test_a_full_disk_behind_stdout(start_llmrun: Callable[..., Any], model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start_llmrun("run", model, "hi", env=fake(answer="abc"), stdout=full.fileno())
        _, stderr = process.communicate(timeout=10)
    assert process.returncode == 74
    assert b"standard output cannot be written: No space left on device" in stderr
    assert b"Traceback" not in stderr
