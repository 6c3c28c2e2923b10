"""The main job, on the real model and the real engine, through the installed program."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

Run = Callable[..., Any]
PROGRAM = Path(sys.executable).with_name("llmrun")
QUESTION = "What is the capital of France?"
# With the template's own default system message the model's first two choices are as good as equal, and the rounding
# of the processor decides: on some it says "The capital", on others it turns to French.
OPTIONS = ["--temperature", "0", "--system", "You are a helpful assistant."]


def test_paris_in_a_pipe(llmrun: Run, real_model: Path) -> None:
    result = llmrun("run", real_model, QUESTION, *OPTIONS)
    assert result.code == 0, result.errors
    assert "Paris" in result.text
    assert result.errors == ""


def test_paris_from_stdin(llmrun: Run, real_model: Path) -> None:
    result = llmrun("run", real_model, *OPTIONS, stdin=QUESTION.encode())
    assert "Paris" in result.text


def test_paris_in_a_terminal(in_terminal: Callable[..., tuple[str, int]], real_model: Path) -> None:
    text, code = in_terminal("run", real_model, QUESTION, *OPTIONS)
    assert (code, "Paris" in text) == (0, True), text


def test_paris_from_python_dash_m(environment: dict[str, str], real_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmrun", "run", real_model, QUESTION, *OPTIONS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=60,
    )
    assert (done.returncode, b"Paris" in done.stdout) == (0, True), done.stderr


def test_json_and_stats(llmrun: Run, real_model: Path) -> None:
    result = llmrun("run", real_model, QUESTION, *OPTIONS, "--json", "--stats")
    document = json.loads(result.stdout)
    assert "Paris" in document["text"]
    assert document["finish_reason"] == "stop"
    assert document["engine"]["name"] == "llama-cpp"
    assert document["template"] == "GGUF header"
    assert document["usage"]["prompt_tokens"] > 10
    assert document["timings"]["decode_tokens_per_second"] > 0
    assert "tokens/s" in result.errors


def test_the_same_seed_gives_the_same_answer(llmrun: Run, real_model: Path) -> None:
    ask = ["run", real_model, "Invent a name for a cat.", "--seed", "7", "--max-tokens", "24", "--quiet"]
    assert llmrun(*ask).text == llmrun(*ask).text


def test_dry_run_loads_no_weights(llmrun: Run, real_model: Path) -> None:
    result = llmrun("run", real_model, QUESTION, "--dry-run")
    assert result.text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert "37 tokens; template: GGUF header" in result.errors


def test_prompt_longer_than_the_context(llmrun: Run, real_model: Path) -> None:
    result = llmrun("run", real_model, "--context-length", "300", stdin=b"word " * 1000)
    assert result.code == 10
    assert "the context holds 300" in result.errors


def test_ctrl_c_during_a_long_prefill(start_llmrun: Callable[..., Any], real_model: Path) -> None:
    process = start_llmrun("run", real_model, "--file", "/dev/stdin", stdin=subprocess.PIPE)
    process.stdin.write(b"word " * 7000)
    process.stdin.close()
    process.stdin = None
    time.sleep(2.5)  # it is reading the prompt by now
    assert process.poll() is None
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert time.monotonic() - pressed < 2  # promised: 1 s; the rest is room for a busy machine
    assert (process.returncode, stdout) == (130, b""), stderr


def test_a_pipe_into_head(environment: dict[str, str], real_model: Path) -> None:
    command = (
        f'"{PROGRAM}" run "{real_model}" "Tell a long story." --seed 1 --quiet | head -c 10; echo " ${{PIPESTATUS[0]}}"'
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, timeout=60)
    assert done.stderr == b""
    assert done.stdout.endswith(b" 141\n")
    assert len(done.stdout) == 10 + len(" 141\n")


def test_help_imports_no_engine() -> None:
    program = (
        "import sys\nfrom llmrun.cli.app import run_here\n"
        "try:\n    run_here(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = ('torch', 'transformers', 'vllm', 'llama_cpp', 'ctransformers')\n"
        "heavy += ('numpy', 'rich', 'huggingface_hub', 'httpx')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"


def test_no_shared_memory_is_left(real_model: Path, llmrun: Run) -> None:
    def marks() -> set[Path]:
        return set(Path("/dev/shm").glob("__KMP_REGISTERED_LIB_*"))

    before = marks()
    assert llmrun("run", real_model, "hi", "--max-tokens", "4").code == 0
    assert not [mark for mark in marks() - before if not Path("/proc", mark.name.split("_")[-2]).exists()]
