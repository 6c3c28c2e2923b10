"""`llmrun run` on files from before GGUF, on ctransformers, by the real program: answers, options, and bad requests."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_servers
import legacy_models as legacy
import pytest
import trained_models as trained
from chain_model import chain_gpt2
from legacy_models import Legacy

pytestmark = pytest.mark.ctransformers
Run = Callable[..., Any]
KINDS = {"llama": trained.legacy_llama, "gpt2": trained.legacy_gpt2, "gpt_neox": trained.legacy_gpt_neox}
GREEDY = ("--raw", "--temperature", "0")
QUESTION = trained.QUESTION


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("legacy") / f"tiny-{request.param}.bin"
    path.write_bytes(KINDS[request.param]())
    return path


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("legacy") / "tiny-gpt2.bin"
    path.write_bytes(trained.legacy_gpt2())
    return path


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred million random weights: some seconds for a thousand tokens."""
    path = tmp_path_factory.mktemp("legacy") / "slow.bin"
    shape = Legacy(model_type="llama", magic="ggjt", version=3, file_type=2, width=1024, layers=8)
    path.write_bytes(legacy.write(shape))
    return path


def test_the_answer_is_the_only_output(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, QUESTION, *GREEDY)
    assert (result.code, result.text, result.errors) == (0, f"{trained.ANSWER}\n", "")


def test_the_document(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, QUESTION, *GREEDY, "--json", "--logprobs", "2", "--threads", "1", "--seed", "7")
    assert result.code == 0, result.errors
    document = json.loads(result.text)
    assert (document["text"], document["finish_reason"]) == (trained.ANSWER, "stop")
    assert (document["engine"]["name"], document["model"]["format"]) == ("ctransformers", "ggml")
    assert (document["plan"]["threads"], document["sampling"]["seed"]) == (1, 7)
    assert document["model"]["architecture_source"] in ("header", "file name")
    assert "".join(token["text"] for token in document["logprobs"]) == trained.ANSWER
    assert all(token["top"][0]["id"] == token["id"] for token in document["logprobs"])


def test_what_the_model_sees(llmrun: Run, model: Path) -> None:
    result = llmrun("run", model, QUESTION, "--dry-run", "--json")
    assert result.code == 0, result.errors
    document = json.loads(result.text)
    assert (document["prompt"], document["template"]) == (QUESTION, "none (raw completion)")
    answered = json.loads(llmrun("run", model, QUESTION, *GREEDY, "--json").text)
    assert len(document["tokens"]) == answered["usage"]["prompt_tokens"]
    assert "no chat template" in result.errors


def test_counts_stop_and_seed(llmrun: Run, model: Path) -> None:
    stopped = llmrun("run", model, QUESTION, *GREEDY, "--stop", "lo", "--stats")
    assert stopped.text == " Os\n"
    assert "ctransformers; prompt " in stopped.errors
    assert "; stop" in stopped.errors
    drawn = ("--raw", "--temperature", "30", "--max-tokens", "12", "--json")
    texts = [json.loads(llmrun("run", model, "x", *drawn, "--seed", seed).text)["text"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_the_catalogue_has_the_template(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "vicuna-7b-v1.3.ggmlv3.q8_0.bin"
    path.write_bytes(legacy.write(legacy.ALL["llama-ggjt-3-q8_0"]))
    result = llmrun("run", path, "Hello", "--dry-run")
    assert result.code == 0, result.errors
    assert result.text.endswith("USER: Hello ASSISTANT:\n")
    assert "template: catalogue: vicuna" in result.errors


@pytest.mark.parametrize("name", legacy.ALL)
def test_every_type_answers_and_says_which_it_is(llmrun: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.bin"
    path.write_bytes(legacy.write(legacy.ALL[name]))
    result = llmrun("run", path, "hello world", "--raw", "--max-tokens", "3", "--json")
    assert result.code == 0, result.errors
    found = json.loads(result.text)["model"]
    assert found["architecture"] == legacy.ALL[name].model_type
    assert found["architecture_source"] in ("header", "file name")


def test_model_type_settles_it(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(legacy.write(legacy.ALL["gpt2"]))
    assumed = llmrun("run", path, "x", "--raw", "--max-tokens", "1", "--json")
    assert "--model-type says otherwise" in assumed.errors
    assert json.loads(assumed.text)["model"]["architecture_source"] == "assumed"
    settled = llmrun("run", path, "x", "--raw", "--max-tokens", "1", "--json", "--model-type", "starcoder")
    document = json.loads(settled.text)["model"]
    assert (document["architecture"], document["architecture_source"]) == ("starcoder", "--model-type")
    assert "says otherwise" not in settled.errors
    wrong = llmrun("run", path, "x", "--raw", "--model-type", "llama")
    assert (wrong.code, wrong.text) == (4, "")
    assert "by its tensors, and no llama" in wrong.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--json-schema", '{"type": "object"}'], "JSON schema or a grammar", id="schema"),
        pytest.param(["--grammar", "yes.gbnf"], "JSON schema or a grammar", id="grammar"),
        pytest.param(["--quantization", "4-bit"], "--quantization", id="quantization"),
        pytest.param(["--kv-type", "q8_0"], "--kv-type", id="type of the cache"),
    ],
)
def test_what_it_cannot_do_is_refused(llmrun: Run, gpt2: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"')
    given = [str(tmp_path / word) if word.endswith(".gbnf") else word for word in arguments]
    result = llmrun("run", gpt2, "x", "--raw", *given)
    assert (result.code, result.text) == (2, ""), result.errors
    assert said in result.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--gpu-layers", "5"], "--gpu-layers has no effect", id="gpu layers"),
        pytest.param(["--gpu-layers", "-1"], "--gpu-layers has no effect", id="all gpu layers"),
        pytest.param(["--dtype", "float16"], "--dtype has no effect", id="dtype"),
        pytest.param(["--lookup", "on"], "--lookup", id="lookup"),
        pytest.param(["--context-length", "1000"], "a gpt2 file has room for 256 tokens", id="context"),
    ],
)
def test_what_has_no_effect_is_said(llmrun: Run, gpt2: Path, arguments: list[str], said: str) -> None:
    if arguments[0] == "--gpu-layers" and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    result = llmrun("run", gpt2, QUESTION, *GREEDY, *arguments)
    assert (result.code, result.text) == (0, f"{trained.ANSWER}\n"), result.errors
    assert said in result.errors
    assert result.errors.count("\n") == 1  # said once


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["x" * 300, "--raw"], 10, "has 300 tokens and the context holds 256", id="30 prompt too long"),
        pytest.param(["x" * 30, "--raw", "--context-length", "20"], 10, "holds 20", id="30 context too small"),
        pytest.param(["x", "--context-length", str(2**32)], 5, "the largest context that fits is 256", id="32 2^32"),
        pytest.param(["x", "--context-length", "100000000"], 5, "GiB", id="32 1e8"),
        pytest.param(["x", "--context-length", "-1"], 2, "--context-length", id="32 negative"),
        pytest.param(["x", "--max-tokens", "0"], 2, "--max-tokens", id="34 no tokens"),
        pytest.param(["x", "--max-tokens", "-1"], 2, "--max-tokens", id="34 fewer than none"),
        pytest.param(["x", "--temperature", "nan"], 2, "--temperature", id="34 NaN"),
        pytest.param(["x", "--seed", "-5"], 2, "--seed", id="34 odd seed"),
        pytest.param(["x", "--stop", ""], 2, "--stop", id="34 empty stop"),
        pytest.param(["x", "--threads", "0"], 2, "--threads", id="no threads"),
        pytest.param([""], 2, "prompt", id="35 empty prompt"),
        pytest.param(["x", "--model-type", "bert"], 2, "bert", id="no model type"),
    ],
)
def test_faults_30_to_35_requests(llmrun: Run, gpt2: Path, arguments: list[str], code: int, said: str) -> None:
    result = llmrun("run", gpt2, *arguments)
    assert (result.code, result.text) == (code, ""), result.errors
    assert said in result.errors
    assert "Traceback" not in result.errors


def test_faults_32_a_llama_takes_any_context_that_fits(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "tiny-llama.bin"
    path.write_bytes(trained.legacy_llama())
    result = llmrun("run", path, QUESTION, *GREEDY, "--context-length", "4096", "--json")
    assert (json.loads(result.text)["text"], json.loads(result.text)["plan"]["context_length"]) == (" Oslo.", 4096)
    assert llmrun("run", path, "x", "--raw", "--context-length", str(2**32)).code == 5


def test_faults_36_invalid_utf8_on_standard_input(llmrun: Run, gpt2: Path) -> None:
    result = llmrun("run", gpt2, "--raw", "--max-tokens", "2", stdin=b"caf\xe9 \xff\xfe")
    assert result.code == 0, result.errors
    assert "UTF-8" in result.errors
    result.stdout.decode()


def test_a_nul_character_is_refused(llmrun: Run, gpt2: Path) -> None:
    result = llmrun("run", gpt2, "--raw", stdin=b"a\0b")
    assert (result.code, result.text) == (2, ""), result.errors
    assert "NUL" in result.errors


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        pytest.param("😀é.".encode(), 21, "😀é." * 3, id="whole characters"),
        pytest.param("😀é.".encode(), 9, "😀é.�", id="cut inside one"),
        pytest.param(b"ab\xff.", 8, "ab�.ab�.", id="invalid bytes"),
    ],
)
def test_faults_37_characters(llmrun: Run, tmp_path: Path, text: bytes, tokens: int, expected: str) -> None:
    path = tmp_path / "gpt2.bin"
    path.write_bytes(chain_gpt2(text))
    result = llmrun("run", path, ".", *GREEDY, "--max-tokens", str(tokens))
    assert (result.code, result.text) == (0, f"{expected}\n"), result.errors


def test_faults_38_an_output_that_knows_ascii_only(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "gpt2.bin"
    path.write_bytes(chain_gpt2("😀é.".encode()))
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = llmrun("run", path, ".", *GREEDY, "--max-tokens", "7", env=ascii_only)
    assert (result.code, result.text) == (0, "??.\n"), result.errors


@pytest.mark.parametrize("prompt", [pytest.param("x", id="39 streaming"), pytest.param("x" * 1900, id="40 prefill")])
def test_faults_39_and_40_ctrl_c(start_llmrun: Callable[..., Any], slow: Path, prompt: str) -> None:
    process = start_llmrun("run", slow, prompt, *GREEDY, "--threads", "1")
    if prompt == "x":
        assert select.select([process.stdout], [], [], 30)[0]
    else:
        worker = find_child(process.pid)
        assert wait_for(lambda: processor_seconds(worker) > 1.5)  # it is past the import, in the middle of the prompt
        assert not select.select([process.stdout], [], [], 0)[0]
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert time.monotonic() - pressed < 2  # promised: 1 s; the rest is room for a busy machine
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert stdout.endswith(b"\n") is (prompt == "x")  # the answer so far is kept, and its line ended


def find_child(parent: int) -> int:
    found: list[int] = []

    def look() -> bool:
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        found[:] = [int(pid) for pid in listed if "engines" in Path(f"/proc/{pid}/cmdline").read_text()]
        return bool(found)

    assert wait_for(look)
    return found[0]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_reader_that_has_enough(start_llmrun: Callable[..., Any], slow: Path) -> None:
    process = start_llmrun("run", slow, "x", *GREEDY)
    head = subprocess.run(["head", "-c", "10"], stdin=process.stdout, capture_output=True, timeout=60)
    process.stdout.close()
    assert len(head.stdout) == 10
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""


def test_the_model_stays_loaded(llmrun: Run, model: Path) -> None:
    try:
        first = llmrun("run", model, QUESTION, *GREEDY, "--json", "--keep-alive", "1m")
        assert first.code == 0, first.errors
        assert f"{model.name}  ctransformers" in llmrun("ps").text
        again = llmrun("run", model, QUESTION, *GREEDY, "--json")
        document = json.loads(again.text)
        assert document["text"] == trained.ANSWER
        assert document["usage"]["cached_tokens"] == document["usage"]["prompt_tokens"] - 1
    finally:
        llmrun("stop", "--all")


def test_which_backend_names_the_way_out(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "vicuna-7b-v1.3.ggmlv3.q8_0.bin"
    path.write_bytes(legacy.write(legacy.ALL["llama-ggjt-3-q8_0"]))
    document = json.loads(llmrun("which-backend", path, "--json").text)
    assert (document["chosen"], document["architecture_source"]) == ("ctransformers", "header")
    reasons = {verdict["engine"]: verdict["reasons"][0] for verdict in document["verdicts"] if verdict["reasons"]}
    assert reasons["llama-cpp"]["detail"] == "reads GGUF only, since August 2023"
    assert reasons["llama-cpp"]["fix"] == "llmrun models convert FILE"
    (suggestion,) = document["suggestions"]
    assert suggestion["command"] == f"llmrun models convert {path}"
    assert "measured for Q8_0: prompts " in suggestion["text"]
    shown = llmrun("which-backend", path).text
    assert "model type: llama (told by: header)" in shown
    assert "fix: llmrun models convert FILE" in shown


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("llama-2-chat:7b-ggml-q4_0", "llmrun run llama-2-chat:7b-q4_0"),
        ("vicuna-v1.3:7b-ggml-q4_0", "llmrun models pull vicuna-v1.3:7b-q4_0, and then llmrun models convert FILE"),
        ("gpt-2", None),
    ],
)
def test_which_backend_before_a_download(llmrun: Run, name: str, command: str | None) -> None:
    """A GGUF of the same model is taken where the catalogue has one; only llamas can be converted."""
    document = json.loads(llmrun("which-backend", name, "--json").text)
    assert document["chosen"] == "ctransformers"
    assert [suggestion["command"] for suggestion in document["suggestions"]] == ([command] if command else [])


def test_a_catalogue_name_is_fetched_and_the_catalogue_tells_its_type(llmrun: Run, environment: dict[str, str]) -> None:
    with fake_servers.FakeHub() as hub:
        environment["HF_ENDPOINT"] = hub.url
        hub.add("marella/gpt-2-ggml", "ggml-model.bin", trained.legacy_gpt2())
        result = llmrun("run", "gpt-2", QUESTION, *GREEDY, "--json")
    assert result.code == 0, result.errors
    document = json.loads(result.text)
    assert document["text"] == trained.ANSWER
    assert document["model"]["path"].endswith("ggml-model.bin")
    assert (document["model"]["architecture"], document["model"]["architecture_source"]) == ("gpt2", "catalogue")
