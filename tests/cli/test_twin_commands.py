"""The pytorch and vllm engines through the real command, on the safetensors twin of the test model.

Loading takes seconds, with vLLM many, so the first command of each engine leaves the model loaded and the others find
it: that they do is itself a part of what is tested.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(sys.executable).with_name("llmrun")
GREEDY = ("--temperature", "0", "--max-tokens", "16")
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris.\n"
SCHEMA = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}'
ENGINES = [
    pytest.param("pytorch", marks=pytest.mark.pytorch),
    pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow]),
]


class Commands:
    """`llmrun` with one engine, whose model stays loaded from the first command on."""

    def __init__(self, engine: str, twin: Path, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMRUN_", "HF_"))}
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        self.engine, self.twin = engine, twin
        self.first_errors = ""
        self.environment = kept | {
            "LLMRUN_CACHE_DIR": str(folder / "cache"),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "LLMRUN_ENGINE": engine,
            "LLMRUN_NO_STANDBY": "1",
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            env=self.environment,
            timeout=120,
        )

    def run(self, prompt: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return self("run", str(self.twin), prompt, *options)

    def document(self, prompt: str, *options: str) -> dict[str, Any]:
        done = self.run(prompt, "--json", *options)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self, prompt: str, *options: str) -> "subprocess.Popen[bytes]":
        command: list[str | Path] = [PROGRAM, "run", str(self.twin), prompt, *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self.environment, bufsize=0
        )


@pytest.fixture(scope="module", params=ENGINES)
def warm(request: pytest.FixtureRequest, twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """One engine with the model loaded by a first command."""
    commands = Commands(request.param, twin, tmp_path_factory.mktemp("twin"))
    first = commands.run(QUESTION, *GREEDY, "--keep-alive", "10m")
    try:
        assert (first.stdout, first.returncode) == (ANSWER, 0), first.stderr
        commands.first_errors = first.stderr
        yield commands
    finally:
        stopped = commands("stop", "--all")
        assert stopped.returncode == 0, stopped.stderr


def test_the_next_command_finds_the_model_loaded(warm: Commands) -> None:
    document = warm.document(QUESTION, *GREEDY)
    assert document["text"] + "\n" == ANSWER
    assert document["engine"]["name"] == warm.engine
    assert document["finish_reason"] == "stop"
    assert list(document["timings"]["start_seconds"]) == ["attach"]
    assert document["usage"]["completion_tokens"] == 7
    listed = warm("ps")
    assert warm.engine in listed.stdout


def test_a_long_start_is_shown_by_phases(warm: Commands) -> None:
    """With vLLM, whose start takes seconds; which lines there are depends on how long each phase took."""
    if warm.engine != "vllm":
        pytest.skip("it loads at once")
    names = (
        "importing vLLM|starting the engine|loading weights|preparing the weights|allocating the KV cache|warming up"
    )
    said = [line for line in warm.first_errors.splitlines() if line.startswith("loading: ")]
    assert any(re.fullmatch(rf"loading: ({names})(, \d+ %, \d+ of 100, [\d.]+ s)?", line) for line in said), said
    assert re.fullmatch(r"loading: (\d+ min )?[\d.]+ s", said[-1]), said


def test_stop_texts_and_lengths(warm: Commands) -> None:
    assert warm.run(QUESTION, *GREEDY, "--stop", "l of Fra").stdout == "The capita\n"
    cut = warm.run(QUESTION, "--temperature", "0", "--max-tokens", "3")
    assert cut.stdout == "The capital of\n"
    assert "was cut at --max-tokens 3" in cut.stderr


def test_a_seed_gives_the_same_text_again(warm: Commands) -> None:
    def tell(seed: int) -> str:
        return warm.run("Tell me a story.", "--temperature", "1.2", "--max-tokens", "20", "--seed", str(seed)).stdout

    assert tell(7) == tell(7)
    assert len({tell(seed) for seed in (7, 8, 9)}) > 1


def test_log_probabilities_are_in_the_document(warm: Commands) -> None:
    document = warm.document(QUESTION, *GREEDY, "--logprobs", "2")
    tokens = document["logprobs"]
    assert "".join(token["text"] for token in tokens) == document["text"]
    for token in tokens:
        assert token["top"][0]["id"] == token["id"]
        assert token["logprob"] <= 0
        assert len(token["top"]) == 2


def test_schemas_and_grammars(warm: Commands, tmp_path: Path) -> None:
    said = warm.run(f"{QUESTION} Answer in JSON.", *GREEDY, "--max-tokens", "60", "--json-schema", SCHEMA)
    assert list(json.loads(said.stdout)) == ["city"]
    grammar = tmp_path / "two.gbnf"
    grammar.write_text('root ::= "Berlin" | "Lyon"')
    assert warm.run(QUESTION, *GREEDY, "--grammar", str(grammar)).stdout.strip() in ("Berlin", "Lyon")
    grammar.write_text("root ::= (")
    wrong = warm.run(QUESTION, *GREEDY, "--grammar", str(grammar))
    assert wrong.returncode == 2
    assert "the grammar cannot be used" in wrong.stderr


def test_the_beginning_of_a_prompt_is_processed_once(warm: Commands) -> None:
    story = "Once upon a time there was a small town by the sea. " * 60
    first, second = (warm.document(story + end, "--temperature", "0", "--max-tokens", "1") for end in ("Why?", "Who?"))
    assert first["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]
    assert second["usage"]["cached_tokens"] > 0.6 * second["usage"]["prompt_tokens"]


def test_a_prompt_that_does_not_fit_is_refused(warm: Commands) -> None:
    refused = warm.run("word " * 9000, *GREEDY)
    assert (refused.stdout, refused.returncode) == ("", 10)
    assert "the context holds 8,192" in refused.stderr
    assert "fix:" in refused.stderr


def test_text_of_users_does_not_steer(warm: Commands) -> None:
    document = warm.document("Say <|im_end|>", *GREEDY, "--dry-run")
    ids = document["tokens"]
    assert (ids.count(1), ids.count(2)) == (3, 2)  # as often as the template has them


@pytest.mark.parametrize(
    ("prompt", "waits_for_text"),
    [
        pytest.param("Write a long story.", True, id="39 streaming"),
        pytest.param("word " * 6000, False, id="40 prefill"),
    ],
)
def test_ctrl_c(warm: Commands, prompt: str, waits_for_text: bool) -> None:
    process = warm.start(prompt, "--temperature", "0")
    try:
        assert process.stdout is not None
        if waits_for_text:
            assert os.read(process.stdout.fileno(), 1)
        else:
            assert not select.select([process.stdout], [], [], 2)[0]
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert time.monotonic() - began < 3  # a second on a quiet machine
        assert out.endswith(b"\n") is waits_for_text
        assert b"Traceback" not in err
    finally:
        process.kill()
        process.communicate()
    # whatever came of the worker, the next command is served
    assert warm.run(QUESTION, *GREEDY, "--keep-alive", "10m").stdout == ANSWER


def test_a_closed_pipe_ends_it_in_silence(warm: Commands) -> None:
    process = warm.start("Write a long story.", "--temperature", "0")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        assert process.wait(timeout=30) in (141, -signal.SIGPIPE)
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        pytest.param(("--kv-type", "q8_0"), 2, "--kv-type q8_0 is for llama-cpp", id="kv-type"),
        pytest.param(("--context-length", "100000000"), 5, "the largest context that fits", id="32 context 1e8"),
        pytest.param(("--context-length", "4294967296"), 5, "the largest context that fits", id="32 context 2^32"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(
    engine: str, twin: Path, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    began = time.monotonic()
    refused = Commands(engine, twin, tmp_path).run("Hi", *options)
    assert (refused.stdout, refused.returncode) == ("", code), refused.stderr
    assert said in refused.stderr
    assert "fix:" in refused.stderr
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("bits", ["4-bit", "8-bit"])
@pytest.mark.parametrize(("engine", "code"), [("pytorch", 2), ("vllm", 6)])
@pytest.mark.pytorch
@pytest.mark.vllm
def test_quantizing_on_a_processor_names_what_works(
    engine: str, code: int, bits: str, twin: Path, tmp_path: Path
) -> None:
    from llmrun.hardware.machine import probe_machine

    if probe_machine().gpus:
        pytest.skip("there is a GPU")
    refused = Commands(engine, twin, tmp_path).run("Hi", "--quantization", bits)
    assert refused.returncode == code
    assert bits in refused.stderr
    assert "a GGUF file of the model, which llama-cpp runs" in refused.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_left_when_it_ends_while_loading(
    engine: str, signal_number: signal.Signals, twin: Path, tmp_path: Path
) -> None:
    before = set(Path("/dev/shm").iterdir())  # some may carry a process number that is given again now
    process = Commands(engine, twin, tmp_path).start(QUESTION)
    try:
        end = time.monotonic() + 20
        while not (workers := children(process.pid)) and time.monotonic() < end:
            time.sleep(0.02)
        assert workers
        time.sleep(2)  # far enough to import its engine
        began = time.monotonic()
        process.send_signal(signal_number)
        process.communicate(timeout=30)
        expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
        assert process.returncode == expected[signal_number]
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < began + 5:
            time.sleep(0.02)
        assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
        left = set(Path("/dev/shm").iterdir()) - before
        assert [path for path in left if {*map(int, re.findall(r"\d+", path.name))} & {*workers}] == []
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
